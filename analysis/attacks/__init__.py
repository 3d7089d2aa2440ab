"""Scores that claim membership; one attack a file."""
