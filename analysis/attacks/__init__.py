"""Scores that claim membership; one attack a file, or a few of a kind."""
