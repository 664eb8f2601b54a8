"""Step 2. Count words and phrases of up to three words, in memory that does not grow with the comments.

Lossy counting (Manku and Motwani 2002): after every WIDTH phrases, those that cannot have been frequent are
forgotten. A count is exact as long as no more than WIDTH phrases were seen; after N phrases it is short by at most
N / WIDTH, and no phrase with more than N / WIDTH occurrences is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tmcr.tags.building.clean import FIRST, INSIDE
from tmcr.tags.building.parallel import chunked, ordered_map
from tmcr.tags.building.table import write_table
from tmcr.tags.words import Kind, Names, analyse

WIDTH = 1_000_000
CHUNK = 20_000
# Function words that may stand first in a phrase ("too dark", "out of focus") and inside one ("depth of field").
OPENERS = frozenset(["too", "out", "over", "under", "well", "not", "no", "off"])
LINKS = frozenset(["of", "in", "on", "and", "the", "with", "for", "to", "at", "by"])
_MARKS = INSIDE + FIRST
_FIRST: frozenset[Kind] = frozenset(("content", "adverb"))


class LossyCounter:
    """Counts of frequent items among endlessly many."""

    def __init__(self, width: int = WIDTH) -> None:
        self.width = width
        self.seen = 0
        self._counts: dict[str, int] = {}
        self._missed: dict[str, int] = {}  # how often an item may have occurred before it was taken up (again)
        self._bucket = 0

    def __len__(self) -> int:
        return len(self._counts)

    @property
    def error(self) -> int:
        """By how much a count can be short at most."""
        return self._bucket

    def update(self, found: Counter[str]) -> None:
        """Add the counts of more items."""
        counts, missed, bucket = self._counts, self._missed, self._bucket
        for item, count in found.items():
            if item in counts:
                counts[item] += count
            else:
                counts[item] = count
                if bucket:
                    missed[item] = bucket
        self.seen += found.total()
        if self.seen // self.width > self._bucket:
            self._bucket = self.seen // self.width
            self._forget()

    def _forget(self) -> None:
        for item in [i for i, n in self._counts.items() if n + self._missed.get(i, 0) <= self._bucket]:
            del self._counts[item]
            self._missed.pop(item, None)

    def items(self, least: int) -> Iterator[tuple[str, int]]:
        """Items counted at least `least` times, most frequent first."""
        frequent = [(item, count) for item, count in self._counts.items() if count >= least]
        return iter(sorted(frequent, key=lambda pair: (-pair[1], pair[0])))


def count_phrases(lines: Iterable[str], *, workers: int = 1, width: int = WIDTH) -> tuple[LossyCounter, int]:
    """Count the phrases of cleaned comments; returns the counts and the number of words."""
    counter = LossyCounter(width)
    words = 0
    for found, total in ordered_map(count_chunk, chunked(lines, CHUNK), workers):
        counter.update(found)
        words += total
    return counter, words


def count_chunk(lines: list[str]) -> tuple[Counter[str], int]:
    """Phrases of some cleaned comments, and the number of their words.

    A word with a capital is counted as it is marked, too: that tells proper names (`names_in`).
    """
    found: Counter[str] = Counter()
    total = 0
    for line in lines:
        for run in line.split("|"):
            marked = run.split()
            words = [word.lstrip(_MARKS) for word in marked]
            total += len(words)
            found.update(words)
            found.update(phrases(words))
            found.update(word for word in marked if word[0] in _MARKS)
    return found, total


def names_in(counts: Mapping[str, int]) -> frozenset[str]:
    """The proper names among counted words."""
    names = Names()
    for marked, capital in counts.items():
        if marked[0] == INSIDE:
            word = marked[1:]
            names.capital[word] = capital
            names.small[word] = max(counts.get(word, 0) - capital - counts.get(FIRST + word, 0), 0)
    return frozenset(word for word in names.capital if word in names)


def phrases(words: list[str]) -> Iterator[str]:
    """Phrases of two and three words that could be tags.

    They end in a noun or adjective, begin with one, with an adverb or with one of `OPENERS`, and hold nothing else
    than those and `LINKS` between.
    """
    kinds = [analyse(word).kind for word in words]
    for start, first in enumerate(words[:-1]):
        if kinds[start] not in _FIRST and first not in OPENERS:
            continue
        if kinds[start + 1] == "content":
            yield f"{first} {words[start + 1]}"
        if start + 2 < len(words) and kinds[start + 2] == "content":
            middle = words[start + 1]
            if kinds[start + 1] in _FIRST or middle in LINKS:
                yield f"{first} {middle} {words[start + 2]}"


def write_counts(counter: LossyCounter, words: int, out: Path, *, least: int) -> dict[str, Any]:
    """Write phrases that occur at least `least` times."""
    written = write_table(out, ("phrase", "count"), counter.items(least))
    return {"words": words, "phrases": written, "seen": counter.seen, "error": counter.error}
