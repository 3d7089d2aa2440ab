"""Scores that rank records by exposure without claiming membership; one a file, or a few of a kind."""
