"""Predicts how people would rate a photo, says why, and compares it with others of its kind.

    import tmcr
    model = tmcr.load("starter")
    verdict = model.assess("photo.jpg")
    verdict.score, verdict.distribution, verdict.reasons

Importing this package is cheap: torch and transformers are loaded with the first model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tmcr.assessment import Assessment, Cluster, Facet, Reason, Tag
from tmcr.errors import ImageError, ModelError, TmcrError

if TYPE_CHECKING:
    from tmcr.assessor import Assessor, load

__version__ = "0.1.0"
__all__ = [
    "Assessment",
    "Assessor",
    "Cluster",
    "Facet",
    "ImageError",
    "ModelError",
    "Reason",
    "Tag",
    "TmcrError",
    "load",
]


def __getattr__(name: str) -> object:
    if name in ("Assessor", "load"):
        import tmcr.assessor

        return getattr(tmcr.assessor, name)
    raise AttributeError(f"module 'tmcr' has no attribute {name!r}")
