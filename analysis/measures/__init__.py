"""Scores that rank records by exposure without claiming membership; one a file."""
