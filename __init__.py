"""losslake: which of my training records does this model expose?"""

__version__ = "0.1.0"
