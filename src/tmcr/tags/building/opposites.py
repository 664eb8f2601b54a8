"""Which attribute tags say the contrary of each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tmcr.tags.library import TagLibrary

# One word of a pair in one tag, the other in the other tag, all else equal.
_PAIRS = (
    ("over", "under"), ("dark", "bright"), ("soft", "sharp"), ("low", "high"), ("warm", "cool"), ("good", "bad"),
    ("strong", "weak"), ("tight", "loose"), ("shallow", "deep"), ("simple", "complex"), ("too little", "too much"),
    ("small", "large"), ("horizontal", "vertical"), ("left", "right"), ("front", "back"), ("soft", "harsh"),
)  # fmt: skip
_PREFIXES = (("", "un"), ("", "im"), ("over", "under"), ("", "in"), ("", "a"))


def find_opposites(tags: Sequence[str], known: TagLibrary) -> dict[str, str]:
    """Tag → its opposite among the tags, both ways: pairs of a known library first, then by rule."""
    there = set(tags)
    found: dict[str, str] = {}
    pairs = ((row.tag, row.opposite) for row in known.rows() if row.opposite)
    for one, other in [*pairs, *_by_rule(tags)]:
        if one != other and one in there and other in there and one not in found and other not in found:
            found[one], found[other] = other, one
    return found


def _by_rule(tags: Iterable[str]) -> Iterator[tuple[str, str]]:
    for tag in tags:
        for first, second in _PREFIXES:
            if not first:
                yield tag, second + tag
            elif tag.startswith(first):
                yield tag, second + tag.removeprefix(first)
        padded = f" {tag} "
        for first, second in _PAIRS:
            if f" {first} " in padded:
                yield tag, padded.replace(f" {first} ", f" {second} ").strip()
