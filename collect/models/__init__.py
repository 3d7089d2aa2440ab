"""The models that come with losslake."""
