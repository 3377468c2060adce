"""fledge: raise a small language model on your own PC until it can fly on its own."""

__version__ = "0.1.0"

__all__ = ["__version__"]
