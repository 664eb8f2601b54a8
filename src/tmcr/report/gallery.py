"""A ranking as one HTML file: thumbnails inside, no network, works from a folder, a mail or a share.

The page is `gallery.html`; this file only streams the verdicts into it, so that memory does not grow with
the number of photos.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from tmcr.assessment import Assessment
from tmcr.disk import write_whole
from tmcr.errors import DataError, ImageError
from tmcr.images import decode

THUMBNAIL = 360  # pixels of the longer side
_QUALITY = 80
_PAGE = Path(__file__).with_name("gallery.html")


def write_gallery(
    verdicts: Iterable[Assessment],
    out: Path,
    *,
    title: str = "Ranked photos",
    open_photo: Callable[[str], Image.Image] | None = None,
) -> int:
    """Write the gallery of `verdicts`, in whatever order they come; returns their number.

    Args:
        open_photo: gives the picture behind an Assessment's `photo`; by default it is a path.

    Raises:
        DataError: the file cannot be written; what stood at `out` before is untouched.
    """
    open_photo = open_photo or (lambda name: decode(name, target_side=THUMBNAIL))
    before, after = _PAGE.read_text(encoding="utf-8").split("<!--PHOTOS-->")
    count = 0

    def fill(part: Path) -> None:
        nonlocal count
        with part.open("w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(before.replace("{{title}}", html.escape(title)))
            for verdict in verdicts:
                file.write(f'<script type="application/json" class="photo">{_embedded(verdict, open_photo)}</script>\n')
                count += 1
            file.write(after)

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, fill)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{out}: the gallery cannot be written ({reason}); choose another place") from None
    return count


def _embedded(verdict: Assessment, open_photo: Callable[[str], Image.Image]) -> str:
    values: dict[str, Any] = {
        "photo": verdict.photo,
        "name": Path(verdict.photo).name,
        "width": verdict.width,
        "height": verdict.height,
        "model": f"{verdict.model} {verdict.model_hash[:12]}",
    }
    if verdict.error is not None:
        values["error"] = verdict.error
    else:
        values |= {
            "score": _short(verdict.score),
            "std": _short(verdict.std),
            "percentile": _short(verdict.percentile),
            "kind": list(verdict.kind),
            "distribution": [_short(share) for share in verdict.distribution],
            "values": [_short(value) for value in verdict.score_values],
            "semantic": [[tag.name, _short(tag.z), tag.facet] for tag in verdict.semantic_tags],
            "attribute": [[tag.name, _short(tag.z), tag.facet] for tag in verdict.attribute_tags],
            "own": [[tag.name, _short(tag.z), ""] for tag in verdict.own_tags],
            "facets": [[f.name, _short(f.contribution), list(f.tags)] for f in verdict.facets],
            "sums": [
                _short(verdict.reference_score),
                _short(verdict.semantic_contribution),
                _short(verdict.attribute_contribution),
                _short(verdict.encoder_contribution),
            ],
            "thumbnail": _thumbnail(verdict.photo, open_photo),
        }
    # "</script>" in a file name must not end the element.
    return json.dumps(values, ensure_ascii=True, separators=(",", ":")).replace("<", "\\u003c")


def _thumbnail(photo: str, open_photo: Callable[[str], Image.Image]) -> str:
    try:
        image = open_photo(photo).convert("RGB")
    except (ImageError, OSError):  # it was there a moment ago; the verdict still counts
        return ""
    image.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _short(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
