"""From an analysis's name to scores that are kept in the lake."""
