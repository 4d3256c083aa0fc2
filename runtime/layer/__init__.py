"""A spec as a layer: `attndsl.nn.Attention`."""
