"""Step 5. One candidate for what is the same thing: misspellings and variants go to the form most people write.

Variants by spelling, plural and gaps were brought together when candidates were proposed. Here follow words that
differ from a far more frequent one by one letter (inserted, left out, replaced, or two swapped). What merely lies
close in an encoder's space ("subject on the left", "subject on the right") is not merged but shown in the review.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from tmcr.tags.building.label import Label
from tmcr.tags.building.propose import Candidate

_SHORTEST = 6  # letters; among shorter words a change of one letter is another word too often
_TIMES = 30  # how much more frequent the right spelling is
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class Merged:
    """A candidate with its label and the forms that were merged into it."""

    candidate: Candidate
    label: Label
    variants: tuple[str, ...] = field(default=())


def merge(candidates: Sequence[Candidate], labels: Sequence[Label]) -> list[Merged]:
    """Merge misspelt candidates into the right ones; counts add up, order and label are those of the right ones."""
    count_of = {candidate.tag: candidate.count for candidate in candidates}
    target = {candidate.tag: _right_spelling(candidate, count_of) for candidate in candidates}
    variants: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        if (right := target[candidate.tag]) is not None:
            variants.setdefault(right, []).append(candidate)
    merged = []
    for candidate, label in zip(candidates, labels, strict=True):
        if target[candidate.tag] is not None:
            continue
        others = variants.get(candidate.tag, [])
        total = candidate.count + sum(other.count for other in others)
        merged.append(Merged(replace(candidate, count=total), label, tuple(other.tag for other in others)))
    return sorted(merged, key=lambda item: (-item.candidate.count, item.candidate.tag))


def _right_spelling(candidate: Candidate, count_of: dict[str, int]) -> str | None:
    tag = candidate.tag
    if len(tag) < _SHORTEST or " " in tag:
        return None
    near = {word for word in one_letter_off(tag) if count_of.get(word, 0) >= _TIMES * candidate.count}
    # A misspelling of a misspelling would chain; the most frequent form is never one itself.
    return max(near, key=lambda word: (count_of[word], word), default=None)


def one_letter_off(word: str) -> Iterator[str]:
    """Words one insertion, deletion, replacement or swap of neighbours away; the first letter stays."""
    for i in range(1, len(word)):
        yield word[:i] + word[i + 1 :]
        if i + 1 < len(word):
            yield word[:i] + word[i + 1] + word[i] + word[i + 2 :]
        for letter in _LETTERS:
            yield word[:i] + letter + word[i + 1 :]
            yield word[:i] + letter + word[i:]
    for letter in _LETTERS:
        yield word + letter
