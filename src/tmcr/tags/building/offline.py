"""Step 4, without a network: what the shipped libraries' labels say about a candidate.

1. A candidate that is a labelled tag, in any form, has its label.
2. A word of the lexicon's `neither` (talk about the contest and its people), or a phrase that ends in one, is
   neither.
3. Else linear classifiers decide, trained on all labelled tags: library, then facet, then polarity. They see the
   words by lemma, which of them is first and last, runs of letters, and, where an encoder is at hand, the tag's
   place among the labelled tags in its space.
4. A word of the lexicon's `praise words` or `fault words` overrules the classifier's polarity; "no", "not" and
   "too" find fault.

`measure` trains on four fifths of the labelled tags and reports precision and recall on the rest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import TagError
from tmcr.tags.building.label import Label, Where
from tmcr.tags.check import variant_key
from tmcr.tags.library import Polarity, TagLibraries
from tmcr.tags.words import lemmas, lexicon

Embed = Callable[[Sequence[str]], NDArray[np.float32]]

_COST = 0.2  # of the support vector machines; chosen on the training part
_EMBEDDING_WEIGHT = 1.5
_DENIALS = frozenset(("no", "not", "too", "without", "lack", "lacking"))


@dataclass(frozen=True)
class Labelled:
    """A tag whose label is known."""

    tag: str
    label: Label


def labelled_tags(libraries: TagLibraries) -> list[Labelled]:
    """The libraries' tags, and the lexicon's words that are neither."""
    found = [
        Labelled(row.tag, Label(library.name, row.facet, row.polarity, by="labelled"))
        for library in (libraries.semantic, libraries.attribute)
        for row in library.rows()
    ]
    taken = {variant_key(item.tag) for item in found}
    words = sorted(lexicon().words["neither"])
    return found + [Labelled(w, Label("neither", by="labelled")) for w in words if variant_key(w) not in taken]


class OfflineClassifier:
    """Labels candidates by rules and by the labelled tags they resemble."""

    name = "offline"

    def __init__(self, examples: Sequence[Labelled], embed: Embed | None = None) -> None:
        """Train.

        Args:
            embed: texts → (T, E), L2-normalised; makes words that no labelled tag holds understood.

        Raises:
            TagError: there is nothing to learn from.
        """
        if len({example.label.library for example in examples if example.label.library != "neither"}) < 2:
            raise TagError("the offline classifier needs labelled semantic and attribute tags to learn from")
        self._neither = {example.tag for example in examples if example.label.library == "neither"}
        self._known = {variant_key(example.tag): example.label for example in examples}
        self._features = _Features([example.tag for example in examples], embed)
        x = self._features.training
        self._library = _Machine(x, [example.label.library for example in examples])
        self._facet = {}
        for library in ("semantic", "attribute"):
            rows = [i for i, example in enumerate(examples) if example.label.library == library]
            self._facet[library] = _Machine(x[rows], [examples[i].label.facet for i in rows])
        rows = [i for i, example in enumerate(examples) if example.label.polarity]
        self._polarity = _Machine(x[rows], [examples[i].label.polarity for i in rows]) if rows else None

    def classify(self, tags: Sequence[str]) -> list[Label]:
        """A label for each tag."""
        if not tags:
            return []
        x = self._features(tags)
        libraries = self._library(x)
        facets = {library: machine(x) for library, machine in self._facet.items()}
        polarities = self._polarity(x) if self._polarity else [("neutral", 1.0)] * len(tags)
        labels = []
        for i, tag in enumerate(tags):
            known = self._known.get(variant_key(tag))
            if known is not None:
                labels.append(known)
                continue
            library, sure = libraries[i]
            if library == "neither" or not self._neither.isdisjoint(lemmas(tag)[-1:]):
                labels.append(Label("neither", confidence=sure, by=self.name))
                continue
            facet, facet_sure = facets[library][i]
            polarity = polarity_by_words(tag) or polarities[i][0] if library == "attribute" else ""
            where: Where = "attribute" if library == "attribute" else "semantic"
            labels.append(Label(where, facet, _polarity(polarity), round(sure * facet_sure, 3), self.name))
        return labels


def polarity_by_words(tag: str) -> Polarity:
    """What single words say: fault before praise, a denied praise is a fault; "" where they say nothing."""
    written = set(tag.split())
    words = written | set(lemmas(tag))
    if words & lexicon().words["fault words"]:
        return "fault"
    if words & lexicon().words["praise words"]:
        return "fault" if words & _DENIALS else "praise"
    return "fault" if written & _DENIALS else ""


def _polarity(text: str) -> Polarity:
    return "praise" if text == "praise" else "fault" if text == "fault" else "neutral" if text else ""


class _Machine:
    """Linear support vector machines, one class against the others, with a confidence."""

    def __init__(self, x: Any, labels: Sequence[str]) -> None:
        from sklearn.svm import LinearSVC

        self._only = labels[0] if len(set(labels)) == 1 else None
        if self._only is None:
            self._svm = LinearSVC(C=_COST, random_state=0).fit(x, labels)

    def __call__(self, x: Any) -> list[tuple[str, float]]:
        """The class of each row, and how clearly it wins (0..1, a softmax of the margins)."""
        if self._only is not None:
            return [(self._only, 1.0)] * x.shape[0]
        margins = self._svm.decision_function(x)
        if margins.ndim == 1:
            margins = np.stack([-margins, margins], axis=1)
        odds = np.exp(2 * (margins - margins.max(axis=1, keepdims=True)))
        shares = odds / odds.sum(axis=1, keepdims=True)
        best = shares.argmax(axis=1)
        return [(str(self._svm.classes_[b]), float(shares[i, b])) for i, b in enumerate(best)]


class _Features:
    """Sparse features of tags, fitted to the training tags."""

    def __init__(self, tags: Sequence[str], embed: Embed | None) -> None:
        from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer

        self._embed = embed
        self._words = CountVectorizer(analyzer=_word_features, binary=True).fit(tags)
        self._letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True, min_df=2).fit(tags)
        embedded = embed(tags) if embed else None
        self._centre = np.zeros(0) if embedded is None else embedded.mean(axis=0)
        self.training = self._stack(tags, embedded)

    def __call__(self, tags: Sequence[str]) -> Any:
        return self._stack(tags, self._embed(tags) if self._embed else None)

    def _stack(self, tags: Sequence[str], embedded: NDArray[np.float32] | None) -> Any:
        from scipy import sparse

        blocks = [self._words.transform(tags), self._letters.transform(tags)]
        if embedded is not None:
            # An encoder's texts point much the same way; what tells them apart is left without their mean.
            away = embedded - self._centre
            away /= np.maximum(np.linalg.norm(away, axis=1, keepdims=True), 1e-6)
            blocks.append(sparse.csr_matrix(_EMBEDDING_WEIGHT * away))
        return sparse.hstack(blocks).tocsr()


def _word_features(tag: str) -> list[str]:
    words = lemmas(tag) or (tag,)
    return [*words, f"first:{words[0]}", f"last:{words[-1]}"]


# --- how good it is ---


@dataclass(frozen=True)
class Score:
    """Precision and recall (0..1) of one class, and how many held-out tags have it."""

    task: str
    name: str
    precision: float
    recall: float
    count: int


@dataclass(frozen=True)
class Measured:
    """The offline classifier on held-out labelled tags.

    Attributes:
        trained, held_out: number of tags.
        accuracy: task → share of right answers; facet and polarity among tags whose library is right.
        scores: every class of every task.
    """

    trained: int
    held_out: int
    accuracy: dict[str, float]
    scores: tuple[Score, ...]


def is_held_out(tag: str) -> bool:
    """One fifth of the tags, by the hash of what they share with their variants."""
    return hashlib.sha256(variant_key(tag).encode()).digest()[0] % 5 == 0


def measure(libraries: TagLibraries, embed: Embed | None = None) -> Measured:
    """Train on four fifths of the labelled tags, classify the rest."""
    examples = labelled_tags(libraries)
    train = [example for example in examples if not is_held_out(example.tag)]
    test = [example for example in examples if is_held_out(example.tag)]
    guessed = OfflineClassifier(train, embed).classify([example.tag for example in test])
    pairs = [(example.label, guess) for example, guess in zip(test, guessed, strict=True)]
    right = [(label, guess) for label, guess in pairs if label.library == guess.library != "neither"]
    tasks: dict[str, list[tuple[str, str]]] = {
        "library": [(label.library, guess.library) for label, guess in pairs],
        "facet": [(f"{label.library}: {label.facet}", f"{guess.library}: {guess.facet}") for label, guess in right],
        "polarity": [(label.polarity, guess.polarity) for label, guess in right if label.polarity],
    }
    return Measured(
        len(train),
        len(test),
        {task: sum(a == b for a, b in answers) / max(len(answers), 1) for task, answers in tasks.items()},
        tuple(score for task, answers in tasks.items() for score in precision_recall(task, answers)),
    )


def precision_recall(task: str, answers: Sequence[tuple[str, str]]) -> list[Score]:
    """Of (true, guessed) pairs; the classes by falling frequency. Without a guess, a class has precision 0."""
    found = []
    for name in sorted({true for true, _ in answers}):
        true = sum(a == name for a, _ in answers)
        guessed = sum(b == name for _, b in answers)
        both = sum(a == b == name for a, b in answers)
        found.append(Score(task, name, both / guessed if guessed else 0.0, both / true, true))
    return sorted(found, key=lambda score: -score.count)
