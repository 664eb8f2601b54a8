"""Step 1. Comments in, stretches of words out: one comment a line, repeated ones once.

A line holds the words in small letters. "|" stands where a phrase cannot go on (punctuation, numbers,
possessives); a word written with a capital has INSIDE before it, or FIRST where it begins a sentence.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tmcr.tags.building.parallel import chunked, ordered_map
from tmcr.tags.comments import Comment
from tmcr.tags.words import Token, tokens

CHUNK = 4000
INSIDE, FIRST = "^", "<"
_REMEMBERED = 4_000_000  # comments known by their hash, about 400 MB


@dataclass
class Cleaned:
    """How many comments were written, and how many were left out because they were there already."""

    comments: int = 0
    repeated: int = 0


def clean(comments: Iterable[Comment], out: Path, *, workers: int = 1) -> Cleaned:
    """Write the cleaned comments to `out`."""
    done = Cleaned()
    with out.open("w", encoding="utf-8") as file:
        for lines in ordered_map(clean_chunk, chunked(_once(comments, done), CHUNK), workers):
            file.writelines(f"{line}\n" for line in lines)
            done.comments += len(lines)
    return done


def clean_chunk(texts: list[str]) -> list[str]:
    """The lines of some comments."""
    return [" ".join(map(_piece, tokens(text))).removeprefix("| ") for text in texts]


def _piece(token: Token) -> str:
    mark = "" if not token.capital else INSIDE if token.inside else FIRST
    return f"{mark}{token.text}" if token.joined else f"| {mark}{token.text}"


def _once(comments: Iterable[Comment], done: Cleaned) -> Iterator[str]:
    """Texts without exact repetitions, as far as memory for their hashes goes."""
    seen: set[int] = set()
    for comment in comments:
        key = int.from_bytes(hashlib.blake2b(comment.text.encode("utf-8", "replace"), digest_size=8).digest())
        if key in seen:
            done.repeated += 1
            continue
        if len(seen) < _REMEMBERED:
            seen.add(key)
        yield comment.text
