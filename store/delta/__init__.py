"""A Delta Lake log over the lake's files, for other engines."""
