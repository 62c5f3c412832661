"""Output -> trained weights and numbers. Knows nothing of faces or of any method."""

from .recipe import Recipe
from .train import run

__all__ = ["Recipe", "run"]
