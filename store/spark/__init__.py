"""The lake's views and queries on Spark."""
