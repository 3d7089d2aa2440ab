"""``losslake sql``: one query, a file or a shell, and how answers are shown."""
