"""The lake's views for DuckDB and Polars, behind a read-only connection."""
