"""Specs inside other libraries: `attndsl.integrations.transformers`."""
