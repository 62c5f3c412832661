"""The paper's numbers, once, as data."""

from .paper import PublishedNumber, published, published_for

__all__ = ["PublishedNumber", "published", "published_for"]
