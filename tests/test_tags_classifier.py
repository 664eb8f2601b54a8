"""The tag builder's offline classifier: labels, polarity, precision."""

from __future__ import annotations

import pytest

from tmcr.errors import TagError
from tmcr.tags import TagLibraries
from tmcr.tags.building.label import Label
from tmcr.tags.building.offline import (
    Labelled,
    OfflineClassifier,
    labelled_tags,
    measure,
    polarity_by_words,
    precision_recall,
)


@pytest.fixture(scope="module")
def classifier() -> OfflineClassifier:
    return OfflineClassifier(labelled_tags(TagLibraries.default()))


def test_a_labelled_tag_keeps_its_label_in_any_form(classifier: OfflineClassifier) -> None:
    shipped = TagLibraries.default()
    labels = classifier.classify(list(shipped.semantic.tags[:50]))
    assert [label.facet for label in labels] == list(shipped.semantic.facets[:50])
    one, other = classifier.classify(["dog", "dogs"])
    assert one == other
    assert one.library == "semantic"


def test_unknown_phrases_go_where_their_words_belong(classifier: OfflineClassifier) -> None:
    fault, praise, neither = classifier.classify(
        ["distracting reddish color cast", "wonderfully soft evening light", "my honest opinion"]
    )
    assert (fault.library, fault.polarity) == ("attribute", "fault")
    assert (praise.library, praise.facet, praise.polarity) == ("attribute", "light", "praise")
    assert neither.library == "neither"
    assert classifier.classify([]) == []


@pytest.mark.parametrize(
    ("tag", "polarity"),
    [("beautiful tones", "praise"), ("not sharp", "fault"), ("too dark", "fault"), ("harsh but beautiful", "fault"),
     ("wide angle", "")],
)  # fmt: skip
def test_words_that_praise_and_find_fault(tag: str, polarity: str) -> None:
    assert polarity_by_words(tag) == polarity


def test_nothing_to_learn_from_is_said() -> None:
    with pytest.raises(TagError, match="needs labelled semantic and attribute tags"):
        OfflineClassifier([Labelled("dog", Label("semantic", "animals"))])


def test_precision_and_recall_by_hand() -> None:
    answers = [("a", "a"), ("a", "b"), ("a", "a"), ("b", "b"), ("b", "c"), ("c", "c")]
    found = {score.name: (score.precision, score.recall, score.count) for score in precision_recall("t", answers)}
    assert found == {"a": (1.0, 2 / 3, 3), "b": (1 / 2, 1 / 2, 2), "c": (1 / 2, 1.0, 1)}


def test_the_classifier_is_much_better_than_guessing_on_tags_it_has_not_seen() -> None:
    measured = measure(TagLibraries.default())
    assert measured.held_out > 500
    assert measured.accuracy["library"] > 0.75  # without an encoder; always "semantic" has about 0.55
    assert measured.accuracy["facet"] > 0.45
