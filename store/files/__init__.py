"""Where a lake lies: a local disk or an object store."""
