"""The tag files that a checkpoint was trained with."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from tmcr.errors import TagError
from tmcr.tags import TagLibraries
from tmcr.tags.library import TagLibrary


def read_official_tags(semantic: Path, attribute: Path, expected: int) -> tuple[TagLibraries, tuple[str, ...]]:
    """Two files of one tag a line → the libraries, and the tags as they were written, semantic first.

    A library may not hold a tag twice, the authors' files may: a repeated tag is shown with a number behind it and
    compared with photos as it was written.

    Args:
        expected: number of tags in both that the checkpoint was trained with.

    Raises:
        TagError: a file cannot be read, or they hold another number of tags.
    """
    files = {}
    for path in (semantic, attribute):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise TagError(f"{path}: cannot be read as tags ({reason}); give a text file with one tag a line") from None
        files[path] = [line.strip() for line in lines if line.strip()]
    written = (*files[semantic], *files[attribute])
    if len(written) != expected:
        raise TagError(
            f"{semantic.name} has {len(files[semantic]):,} tags and {attribute.name} {len(files[attribute]):,}, but "
            f"the checkpoint was trained with {expected:,}; give the two files that belong to it, in full"
        )
    shown: list[str] = []
    taken: set[str] = set()
    for tag in written:
        name = next(name for name in _numbered(tag.lstrip("# ")) if name not in taken)  # "#" would be a comment
        taken.add(name)
        shown.append(name)
    middle = len(files[semantic])
    libraries = TagLibraries(
        TagLibrary("semantic", tuple(shown[:middle])), TagLibrary("attribute", tuple(shown[middle:]))
    )
    return libraries, written


def _numbered(tag: str) -> Iterator[str]:
    yield tag
    yield from (f"{tag} ({number})" for number in itertools.count(2))
