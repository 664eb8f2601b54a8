"""Contact sheets: photos side by side with a line below each, to look at what a model likes, misses and names.

They show the photos that were judged; whether they may be passed on is a matter of those photos' terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from tmcr.assessment import Assessment
from tmcr.assessor import Assessor
from tmcr.datasets.manifest import Manifest
from tmcr.images import decode

CELL, CAPTION, COLUMNS = 200, 34, 6


def write_sheets(assessor: Assessor, manifest: Manifest, part: str, folder: Path, *, top: int = 18) -> list[Path]:
    """Best, worst, most over- and under-rated photos of a part, and the photos of its most telling tags."""
    tested = manifest.part(part)
    verdicts = list(assessor.assess_many(tested.paths))
    scores = np.array([verdict.score if verdict.ok else np.nan for verdict in verdicts], dtype=np.float64)
    readable = np.flatnonzero(~np.isnan(scores))
    error = scores - tested.scores
    folder.mkdir(parents=True, exist_ok=True)

    def line(row: int) -> str:
        verdict = verdicts[row]
        tags = ", ".join(tag.name for tag in (*verdict.semantic_tags[:3], *verdict.attribute_tags[:2]))
        return f"{scores[row]:.1f}  (rated {tested.scores[row]:.1f})\n{tags}"

    orders = {
        "best": readable[np.argsort(-scores[readable])],
        "worst": readable[np.argsort(scores[readable])],
        "over-rated": readable[np.argsort(-error[readable])],
        "under-rated": readable[np.argsort(error[readable])],
    }
    written = []
    for name, order in orders.items():
        rows = order[:top].tolist()
        written.append(_sheet([tested.paths[row] for row in rows], [line(row) for row in rows], folder / f"{name}.png"))
    for library in ("semantic", "attribute"):
        written.append(_tag_sheet(tested, verdicts, library, folder / f"{library}-tags.png"))
    return written


def _tag_sheet(tested: Manifest, verdicts: Sequence[Assessment], library: str, path: Path) -> Path:
    """A row of photos for each of the dozen tags that are shown most often."""
    holders: dict[str, list[tuple[float, int]]] = {}
    for row, verdict in enumerate(verdicts):
        for tag in verdict.semantic_tags if library == "semantic" else verdict.attribute_tags:
            holders.setdefault(tag.name, []).append((tag.z, row))
    common = sorted(holders, key=lambda name: -len(holders[name]))[:12]
    photos, lines = [], []
    for name in common:
        best = sorted(holders[name], reverse=True)[:COLUMNS]
        photos += [tested.paths[row] for _, row in best] + [None] * (COLUMNS - len(best))
        lines += [f"{name}  z {z:.1f}" for z, _ in best] + [""] * (COLUMNS - len(best))
    return _sheet(photos, lines, path)


def _sheet(photos: Sequence[Path | None], lines: Sequence[str], path: Path) -> Path:
    rows = max(1, -(-len(photos) // COLUMNS))
    sheet = Image.new("RGB", (COLUMNS * CELL, rows * (CELL + CAPTION)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (photo, line) in enumerate(zip(photos, lines, strict=True)):
        left, top = place % COLUMNS * CELL, place // COLUMNS * (CELL + CAPTION)
        if photo is not None:
            image = decode(photo, target_side=CELL)
            image.thumbnail((CELL - 6, CELL - 6))
            sheet.paste(image, (left + 3, top + 3))
        draw.multiline_text((left + 4, top + CELL), "\n".join(each[:34] for each in line.splitlines()), fill="black")
    sheet.save(path)
    return path
