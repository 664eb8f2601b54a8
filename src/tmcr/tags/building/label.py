"""What a classifier says of a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tmcr.tags.library import Polarity, TagLibraries

Where = Literal["semantic", "attribute", "neither"]


@dataclass(frozen=True)
class Label:
    """Where a candidate belongs.

    Attributes:
        library: semantic, attribute, or neither.
        facet: of that library, "" for neither.
        polarity: of attribute tags, else "".
        confidence: 0..1.
        by: which classifier said so.
    """

    library: Where
    facet: str = ""
    polarity: Polarity = ""
    confidence: float = 1.0
    by: str = ""


def facets_of(libraries: TagLibraries) -> dict[Where, tuple[str, ...]]:
    """The facets that a candidate can be put into, in the order of the libraries."""
    return {
        library.name: tuple(dict.fromkeys(facet for facet in library.facets if facet))
        for library in (libraries.semantic, libraries.attribute)
    }
