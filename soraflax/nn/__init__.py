"""Flax Linen modules: the only place where parameters are made."""
