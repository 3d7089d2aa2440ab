"""Looking after a lake: verify, compact, collect garbage, forget, migrate, export."""
