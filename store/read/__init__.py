"""What the manifests of a lake list, and reading it while others write."""
