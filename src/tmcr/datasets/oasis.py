"""OASIS (Kurdi et al. 2017) with the beauty ratings of Brielmann and Pelli (2019): 1..7, split by theme."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.ratings import load_ratings
from tmcr.errors import DataError


def load_oasis(folder: Path, photos: Path | None = None) -> Manifest:
    """Read FOLDER/ratings.csv (file, theme, split, votes_1 … votes_7) and FOLDER/images/.

    The seven votes are stretched to 1, 2.5, … 10.

    Raises:
        DataError: the folder does not look like that.
    """
    ratings = folder / "ratings.csv"
    if not ratings.is_file():
        raise DataError(f"oasis@{folder}: no ratings.csv there; give the folder that has it and images/")
    manifest = load_ratings(f"{ratings}?file=file&split=split&group=theme")
    paths = tuple((photos or folder / "images") / name for name in manifest.ids)
    return replace(
        manifest, paths=paths, source="oasis", namespace="oasis", description=f"OASIS: {manifest.description}"
    )
