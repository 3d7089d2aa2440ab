"""Charts, one kind a file."""
