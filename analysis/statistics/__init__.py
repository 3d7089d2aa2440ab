"""Rates, intervals, correlations and densities of plain arrays; nothing here knows the lake."""
