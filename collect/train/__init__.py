"""The built-in trainer: one run, from recipe to commit."""
