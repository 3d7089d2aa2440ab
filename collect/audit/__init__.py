"""A finished model: asked about records it was trained on and others, with shadow models fitted like it."""
