"""Scores from what a language model says of each token of a text; one a file, or a few of a kind."""
