"""Parts of a set that a list names: a published subset of the test photos, or photos to leave out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.tables import read_table, refuse_repeated
from tmcr.errors import DataError, LeakageError

ID_COLUMNS = ("image_id", "id", "file", "image", "name", "ids")
REGION_COLUMNS = ("shot", "region")
REGION = "region"


def test_on(manifest: Manifest, path: Path) -> Manifest:
    """Keep of the test part only the photos that a list names, in the list's order, after all others.

    A column `Shot` or `region` with many, med and few (as in TMCR's balanced list) becomes the attribute "region".

    Raises:
        LeakageError: a listed photo is in a training part.
        DataError: one is in no part.
    """
    ids, regions = _read(path)
    row_of = {photo: row for row, photo in enumerate(manifest.ids)}
    unknown = [photo for photo in ids if photo not in row_of]
    if unknown:
        raise DataError(
            f"{path}: {len(unknown)} of {len(ids)} listed photos are not in the data ({unknown[0]}, …); "
            "is it a list of another set?"
        )
    learnt = [photo for photo in ids if manifest.splits[row_of[photo]] != "test"]
    if learnt:
        raise LeakageError(
            f"{path}: {len(learnt)} of {len(ids)} listed photos are in a training part of {manifest.source} "
            f"({learnt[0]}, …); the list belongs to another split"
        )
    others = np.flatnonzero(np.array(manifest.splits) != "test")
    chosen = manifest.take(np.concatenate([others, np.array([row_of[photo] for photo in ids], dtype=np.int64)]))
    attributes = dict(chosen.attributes)
    if regions is not None:
        attributes[REGION] = np.array([""] * len(others) + regions, dtype=object)
    return replace(
        chosen, attributes=attributes, description=f"{manifest.description}; tested on the {len(ids):,} of {path.name}"
    )


def leave_out(manifest: Manifest, path: Path) -> Manifest:
    """Drop the photos that a list names; ids that the set does not have are passed over."""
    dropped = set(_read(path)[0])
    kept = [row for row, photo in enumerate(manifest.ids) if photo not in dropped]
    if not kept:
        raise DataError(f"{path}: lists every photo of the set")
    gone = len(manifest) - len(kept)
    return replace(manifest.take(kept), description=f"{manifest.description}; without {gone:,} of {path.name}")


def _read(path: Path) -> tuple[list[str], list[str] | None]:
    """Ids of a list (a table with a column of ids, or one id a line), and the region of each where it says so."""
    if path.suffix.lower() not in (".csv", ".tsv", ".parquet"):
        try:
            ids = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise DataError(f"{path}: cannot be read as a list of ids ({reason}); give one id a line") from None
        regions = None
    else:
        columns = read_table(path)
        lower = {name.lower(): name for name in columns}
        column = next((lower[name] for name in ID_COLUMNS if name in lower), None)
        if column is None:
            raise DataError(f"{path}: which column has the ids? There is none of {', '.join(ID_COLUMNS)}")
        ids = [str(value).strip() for value in columns[column]]
        shot = next((lower[name] for name in REGION_COLUMNS if name in lower), None)
        regions = [str(value).strip().lower() for value in columns[shot]] if shot else None
        if regions is not None and not set(regions) <= {"many", "med", "few"}:
            raise DataError(f"{path}: column {shot} has other values than many, med and few")
    if not ids:
        raise DataError(f"{path}: lists no photo")
    refuse_repeated(ids, path)
    return ids, regions
