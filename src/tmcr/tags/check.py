"""Are the tag libraries right? Rules they must keep, and how well they cover what people say about photos.

Coverage of a vocabulary is the share of content-word mass (see `tmcr.tags.words`) whose lemma occurs in at least
one tag. It is measured on each half of the comments, split by the hash of the photo's name (`Comment.half`): who
picks tags by what one half says finds out on the other how well they do on comments not looked at.

A tag's frequency is the number of comments that hold it: the lemmas of its words one after the other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from tmcr.tags.comments import Comment, Half
from tmcr.tags.library import LibraryName, TagLibraries, TagLibrary
from tmcr.tags.words import Names, Token, american, analyse, lemmas, lexicon, singular, tokens

MOST_WORDS = 5
NEAR = 0.95  # cosine of two tags that an encoder hardly tells apart
_TAG = re.compile(r"[^\W_]+(?:[ '&-][^\W_]+)*", re.ASCII)
_MOST_NEAR = 200


# --- rules ---


@dataclass(frozen=True)
class Problem:
    """A rule that a tag breaks."""

    library: LibraryName
    tag: str
    rule: str
    what: str


def broken_rules(libraries: TagLibraries) -> list[Problem]:
    """Everything that is wrong with the libraries, in their order; none when all rules hold.

    The rules: a tag is small letters, one space between words, at most 5 words, no brand; no tag is another one
    in other spelling, number, comparison or with other gaps ("back light", "backlight"), in either library;
    every tag has a facet; attribute tags have a polarity, semantic ones have none; an opposite is a tag of
    the same library, another one, and names the first as its opposite.
    """
    problems: list[Problem] = []
    first: dict[str, tuple[LibraryName, str]] = {}
    for library in (libraries.semantic, libraries.attribute):
        opposite_of = dict(zip(library.tags, library.opposites, strict=True))

        def broken(tag: str, rule: str, what: str, name: LibraryName = library.name) -> None:
            problems.append(Problem(name, tag, rule, what))

        for row in library.rows():
            if not _TAG.fullmatch(row.tag) or row.tag != row.tag.lower():
                broken(row.tag, "form", "is not small letters with single spaces between the words")
            if len(row.tag.split()) > MOST_WORDS:
                broken(row.tag, "length", f"has more than {MOST_WORDS} words")
            if brands := set(row.tag.split()) & lexicon().words["names"]:
                broken(row.tag, "names", f"names a brand: {min(brands)}")
            seen_in, seen_as = first.setdefault(variant_key(row.tag), (library.name, row.tag))
            if seen_as != row.tag:
                where = "" if seen_in == library.name else f" of the {seen_in} library"
                broken(row.tag, "duplicate", f"is {seen_as!r}{where} in another form")
            if not row.facet:
                broken(row.tag, "facet", "has no facet")
            if (library.name == "attribute") != bool(row.polarity):
                needs = "needs a polarity" if library.name == "attribute" else f"has the polarity {row.polarity!r}"
                broken(row.tag, "polarity", needs)
            if row.opposite:
                if row.opposite == row.tag or row.opposite not in opposite_of:
                    broken(row.tag, "opposite", f"its opposite {row.opposite!r} is no other tag of this library")
                elif opposite_of[row.opposite] != row.tag:
                    other = opposite_of[row.opposite] or "none"
                    broken(row.tag, "opposite", f"its opposite {row.opposite!r} has another opposite: {other}")
    return problems


def variant_key(tag: str) -> str:
    """What a tag shares with its variants by spelling, plural, comparison, hyphens and gaps.

    Participles keep their ending: "layered" and "layers" say different things.
    """
    parts = []
    for token in tokens(tag):
        word = american(token.text)
        participle = word.endswith(("ed", "ing"))
        parts.append(singular(word) if participle else analyse(token.text).lemma)
    return "".join(parts) or tag


# --- coverage ---


@dataclass
class WordCounts:
    """Content words of comments.

    Attributes:
        comments: how many were counted.
        words: all words, of every kind.
        content: lemma → occurrences.
        names: occurrences of words left aside as proper names.
    """

    comments: int = 0
    words: int = 0
    content: Counter[str] = field(default_factory=Counter)
    names: int = 0

    @property
    def mass(self) -> int:
        """Occurrences of content words."""
        return self.content.total()


class _ContentCounter:
    def __init__(self) -> None:
        self._comments = 0
        self._names = Names()
        self._texts: Counter[str] = Counter()

    def add(self, comment: Comment) -> None:
        found = list(tokens(comment.text))
        self._names.add(found)
        self._texts.update(token.text for token in found)
        self._comments += 1

    def counts(self) -> WordCounts:
        counts = WordCounts(self._comments)
        for text, count in self._texts.items():
            counts.words += count
            word = analyse(text)
            if word.kind == "name" or (word.kind == "content" and text in self._names):
                counts.names += count
            elif word.kind == "content":
                counts.content[word.lemma] += count
        return counts


def count_content(comments: Iterable[Comment]) -> WordCounts:
    """Count the content words of comments; proper names are those of these comments."""
    counter = _ContentCounter()
    for comment in comments:
        counter.add(comment)
    return counter.counts()


def count_halves(comments: Iterable[Comment]) -> dict[Half, WordCounts]:
    """Count the content words of either half, in one go."""
    counters: dict[Half, _ContentCounter] = {half: _ContentCounter() for half in get_args(Half)}
    for comment in comments:
        counters[comment.half].add(comment)
    return {half: counter.counts() for half, counter in counters.items()}


def library_words(library: TagLibrary) -> set[str]:
    """The lemmas of all words in a library's tags."""
    return {lemma for tag in library.tags for lemma in lemmas(tag)}


@dataclass(frozen=True)
class Coverage:
    """Share of content-word mass, 0..1, that the tags' words cover.

    Attributes:
        semantic: by the semantic library alone.
        attribute: by the attribute library alone.
        together: by either.
        comments: comments of the half that was measured.
        mass: occurrences of content words in them.
        missed: words that no tag holds, with their occurrences, most frequent first.
    """

    semantic: float
    attribute: float
    together: float
    comments: int
    mass: int
    missed: tuple[tuple[str, int], ...]


def coverage(libraries: TagLibraries, counts: WordCounts) -> Coverage:
    """How much of the counted words the libraries cover."""
    semantic, attribute = library_words(libraries.semantic), library_words(libraries.attribute)
    total = counts.mass or 1
    missed = [(word, n) for word, n in counts.content.items() if word not in semantic and word not in attribute]
    return Coverage(
        semantic=sum(n for word, n in counts.content.items() if word in semantic) / total,
        attribute=sum(n for word, n in counts.content.items() if word in attribute) / total,
        together=1 - sum(n for _, n in missed) / total,
        comments=counts.comments,
        mass=counts.mass,
        missed=tuple(sorted(missed, key=lambda item: (-item[1], item[0]))),
    )


# --- frequency ---


def count_tags(libraries: TagLibraries, comments: Iterable[Comment]) -> dict[str, int]:
    """How many comments hold each tag; a longer tag's words count for the shorter tags in it, too."""
    tag_of = {lemmas(tag): tag for tag in libraries.names}
    longest = max(map(len, tag_of))
    starts = {key[0] for key in tag_of if key}
    found: Counter[str] = Counter(dict.fromkeys(libraries.names, 0))
    for comment in comments:
        held: set[str] = set()
        for run in _runs(tokens(comment.text)):
            for start, lemma in enumerate(run):
                if lemma in starts:
                    phrases = (tuple(run[start:end]) for end in range(start + 1, start + longest + 1))
                    held.update(tag_of[phrase] for phrase in phrases if phrase in tag_of)
        found.update(held)
    return dict(found)


def with_frequencies(libraries: TagLibraries, found: Mapping[str, int]) -> TagLibraries:
    """The same libraries with another frequency column."""
    return TagLibraries(
        *(
            replace(library, frequencies=tuple(found[tag] for tag in library.tags))
            for library in (libraries.semantic, libraries.attribute)
        )
    )


def _runs(found: Iterable[Token]) -> Iterable[list[str]]:
    """Lemmas in unbroken stretches of text."""
    run: list[str] = []
    for token in found:
        if not token.joined and run:
            yield run
            run = []
        run.append(analyse(token.text).lemma)
    if run:
        yield run


# --- near-duplicates ---


def near_duplicates(
    tags: Sequence[str], embeddings: NDArray[np.float32], *, least: float = NEAR
) -> list[tuple[float, str, str]]:
    """Pairs of tags whose embeddings (T, E), L2-normalised, have a cosine of `least` or more; closest first."""
    pairs = []
    for start in range(0, len(tags), 512):
        cosine = embeddings[start : start + 512] @ embeddings.T
        rows, columns = np.nonzero(cosine >= least)
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
            if start + row < column:
                pairs.append((float(cosine[row, column]), tags[start + row], tags[column]))
    return sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))


# --- all of it ---


@dataclass(frozen=True)
class Check:
    """All that `tmcr tags check` found out.

    Attributes:
        sizes: library → number of tags.
        facets: library → facet → number of tags.
        balance: polarity → number of attribute tags.
        never: library → tags whose frequency is 0.
        problems: broken rules.
        coverage: of either half of the comments; empty where none were given.
        near: pairs of tags that the encoder hardly tells apart, or None where none was asked.
        encoder: which encoder was asked.
    """

    hash: str
    sizes: dict[str, int]
    facets: dict[str, dict[str, int]]
    balance: dict[str, int]
    never: dict[str, tuple[str, ...]]
    problems: tuple[Problem, ...]
    coverage: dict[Half, Coverage] = field(default_factory=dict)
    near: tuple[tuple[float, str, str], ...] | None = None
    encoder: str = ""

    @property
    def ok(self) -> bool:
        """Whether all rules hold."""
        return not self.problems

    def to_dict(self, *, most_missed: int = 500) -> dict[str, Any]:
        """Plain values for JSON; of the missed words the most frequent."""
        plain = asdict(self) | {"ok": self.ok}
        for half in plain["coverage"].values():
            half["missed"] = [list(item) for item in half["missed"][:most_missed]]
        if self.near is not None:
            plain["near"] = [[round(cosine, 4), a, b] for cosine, a, b in self.near[:_MOST_NEAR]]
            plain["near_count"] = len(self.near)
        return plain


def check_libraries(
    libraries: TagLibraries,
    *,
    counts: Mapping[Half, WordCounts] | None = None,
    embeddings: NDArray[np.float32] | None = None,
    encoder: str = "",
    least: float = NEAR,
) -> Check:
    """Check rules, and coverage and near-duplicates where there is something to measure them with.

    Args:
        counts: content words of either half of the comments.
        embeddings: (T, E) of the tags in library order, L2-normalised.
    """
    both = (libraries.semantic, libraries.attribute)
    near = None if embeddings is None else tuple(near_duplicates(libraries.names, embeddings, least=least))
    return Check(
        hash=libraries.hash,
        sizes={library.name: len(library) for library in both},
        facets={library.name: dict(Counter(library.facets).most_common()) for library in both},
        balance=dict(Counter(libraries.attribute.polarities).most_common()),
        never={library.name: tuple(row.tag for row in library.rows() if not row.frequency) for library in both},
        problems=tuple(broken_rules(libraries)),
        coverage={half: coverage(libraries, found) for half, found in (counts or {}).items() if found.comments},
        near=near,
        encoder=encoder,
    )
