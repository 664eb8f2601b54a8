"""Step 3. Candidates for tags: frequent nouns and adjectives, and phrases whose words belong together."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from tmcr.tags.building.collocation import npmi
from tmcr.tags.building.count import names_in
from tmcr.tags.check import variant_key
from tmcr.tags.words import american, analyse

CONTAINED = 0.9  # a phrase that nearly always is part of a longer one is left to that one


@dataclass(frozen=True)
class Candidate:
    """What could become a tag.

    Attributes:
        tag: the form that most comments write.
        count: occurrences in all its forms.
        strength: collocation strength (NPMI), 1 for single words.
    """

    tag: str
    count: int
    strength: float


def propose(
    counts: Mapping[str, int],
    words: int,
    *,
    least: int,
    strength: float = 0.2,
    most: int = 10_000,
) -> list[Candidate]:
    """The most frequent candidates, by falling count.

    Args:
        counts: phrases of one to three words with their occurrences, words with a capital also as marked.
        words: number of all words.
        least: occurrences that a candidate needs in all its forms.
        strength: NPMI that a phrase needs.
        most: how many candidates at most.
    """
    names = names_in(counts)
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    for phrase, count in counts.items():
        parts = phrase.split()
        if phrase[0].isalpha() and names.isdisjoint(parts) and (len(parts) > 1 or _can_stand_alone(phrase)):
            forms[variant_key(phrase)][phrase] += count

    found = []
    for written in forms.values():
        tag, total = _best_form(written), written.total()
        if total < least:
            continue
        parts = tag.split()
        strong = 1.0
        if len(parts) > 1:
            form, together = written.most_common(1)[0]
            strong = npmi(together, [counts.get(part, together) for part in form.split()], words)
            if strong < strength:
                continue
        found.append(Candidate(tag, total, round(strong, 4)))
    found = _without_contained(found)
    return sorted(found, key=lambda candidate: (-candidate.count, candidate.tag))[:most]


def _can_stand_alone(word: str) -> bool:
    return len(word) > 2 and analyse(word).kind == "content"


def _best_form(written: Counter[str]) -> str:
    """The most frequent form, in US spelling."""
    best = min(written, key=lambda phrase: (-written[phrase], phrase))
    return " ".join(american(word) for word in best.split())


def _without_contained(candidates: list[Candidate]) -> list[Candidate]:
    """Leave out phrases of two words that are nearly always the beginning or end of one of three."""
    longer: dict[str, int] = {}
    for candidate in candidates:
        parts = candidate.tag.split()
        if len(parts) == 3:
            for part in (" ".join(parts[:2]), " ".join(parts[1:])):
                longer[part] = max(longer.get(part, 0), candidate.count)
    return [
        candidate
        for candidate in candidates
        if " " not in candidate.tag or longer.get(candidate.tag, 0) < CONTAINED * candidate.count
    ]
