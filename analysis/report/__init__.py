"""The report: one file for people."""
