"""Output -> trained weights and numbers. Knows nothing of faces or of DAN."""

from .recipe import Recipe, run

__all__ = ["Recipe", "run"]
