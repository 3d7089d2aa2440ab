"""What lies in a lake: paths, manifests, schemas."""
