"""Tag libraries: what can be in a photo, and how it can look."""

from tmcr.tags.library import TagLibraries, TagLibrary

__all__ = ["TagLibraries", "TagLibrary"]
