"""``losslake analyze gate``: limits that a pipeline enforces."""
