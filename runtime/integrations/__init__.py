"""Other libraries' hooks: what they ask of an attention, and whether a spec honours it."""
