"""Pure functions on arrays: no Flax, no configuration, no files."""
