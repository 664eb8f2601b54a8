"""The shipped tag libraries: size, balance, form, and that they cover what people say about photos."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from pathlib import Path
from types import ModuleType

import pytest

from tmcr.tags import TagLibraries, TagLibrary
from tmcr.tags.check import broken_rules, count_content, count_tags, coverage, variant_key
from tmcr.tags.comments import Comment, read_comments
from tmcr.tags.library import DATA_FOLDER, read_table
from tmcr.tags.words import lemmas

REPOSITORY = Path(__file__).resolve().parent.parent

# What the libraries must speak of at least; they may have more facets.
SEMANTIC_FACETS = {
    "people", "body", "animals", "plants", "food", "household", "clothing", "activities", "sports", "objects",
    "technology", "buildings", "places", "vehicles", "landscape", "water", "sky", "weather", "time and season",
    "events", "art and culture", "materials", "genres",
}  # fmt: skip
ATTRIBUTE_FACETS = {
    "composition", "light", "exposure", "color", "focus", "sharpness", "texture", "motion", "perspective",
    "processing", "faults", "mood", "verdict",
}  # fmt: skip

# One pattern for each kind of word that has no place in a tag.
BLOCKED = {
    "brand": r"canon|nikon|sony|fuji\w*|leica|pentax|kodak|polaroid|lensbaby|iphone|lightroom|adobe|lego|coca|flickr",
    "person's name": r"rembrandt|weston|adams|picasso|monet|dali|mona|jesus|santa",
    "title of a person": r"mr|mrs|saint|st",
    "looks of people as a fault": r"fat|obese|skinny|(?:ugly|bald) (?:face|head|person|woman|man)|unattractive|wrinkly",
    "origin or skin color of people": r"(?:dark|black|white|pale|yellow|red|brown) (?:face|skin|man|woman|people)",
    "slur or insult": r"gyps(?:y|ies)|midget|retarded|lame|hobo|bum|freak|idiot|moron|savage|cripple\w*",
}


@pytest.fixture(scope="module")
def shipped() -> TagLibraries:
    return TagLibraries.default()


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    """recipes/tags/frequencies.py, which is no part of the package."""
    path = REPOSITORY / "recipes" / "tags" / "frequencies.py"
    spec = importlib.util.spec_from_file_location("frequencies", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spoken(*texts: str) -> list[Comment]:
    return [Comment(text, photo=text) for text in texts]


# --- sizes and balance ---


def test_the_libraries_are_as_large_as_the_papers(shipped: TagLibraries) -> None:
    assert 2145 <= len(shipped.semantic) <= 2600
    assert 1659 <= len(shipped.attribute) <= 2000


def test_every_facet_is_there_and_none_outweighs_the_others(shipped: TagLibraries) -> None:
    semantic, attribute = Counter(shipped.semantic.facets), Counter(shipped.attribute.facets)
    assert set(semantic) == SEMANTIC_FACETS
    assert set(attribute) == ATTRIBUTE_FACETS
    assert max(semantic.values()) <= 0.14 * len(shipped.semantic)
    assert max(attribute.values()) <= 0.14 * len(shipped.attribute)
    assert min(semantic.values()) >= 25
    assert min(attribute.values()) >= 60


def test_facets_stand_together(shipped: TagLibraries) -> None:
    for library in (shipped.semantic, shipped.attribute):
        changes = sum(a != b for a, b in zip(library.facets, library.facets[1:], strict=False))
        assert changes == len(set(library.facets)) - 1


def test_praise_and_fault_are_both_well_served(shipped: TagLibraries) -> None:
    count = Counter(shipped.attribute.polarities)
    assert set(count) == {"praise", "fault", "neutral"}
    assert count["fault"] >= 300
    assert 0.5 <= count["fault"] / count["praise"] <= 1


def test_every_facet_but_faults_can_praise_and_all_can_find_fault(shipped: TagLibraries) -> None:
    found = {(row.facet, row.polarity) for row in shipped.attribute.rows()}
    assert {facet for facet, polarity in found if polarity == "fault"} == ATTRIBUTE_FACETS
    assert {facet for facet, polarity in found if polarity == "praise"} >= ATTRIBUTE_FACETS - {"faults"}


# --- opposites ---


def test_opposites_are_mutual_and_never_on_the_same_side_of_praise(shipped: TagLibraries) -> None:
    rows = {row.tag: row for row in shipped.attribute.rows()}
    pairs = {tuple(sorted((row.tag, row.opposite))) for row in rows.values() if row.opposite}
    assert len(pairs) >= 250
    for one, other in pairs:
        assert rows[one].opposite == other
        assert rows[other].opposite == one
        assert {rows[one].polarity, rows[other].polarity} != {"praise"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("underexposed", "overexposed"),
        ("sharp", "soft"),
        ("tack sharp", "blurry"),
        ("cluttered background", "clean background"),
        ("in focus", "out of focus"),
        ("low angle", "high angle"),
        ("warm colors", "cool colors"),
    ],
)
def test_opposites_that_everyone_expects(shipped: TagLibraries, one: str, other: str) -> None:
    assert dict(zip(shipped.attribute.tags, shipped.attribute.opposites, strict=True))[one] == other


# --- form ---


def test_the_rules_of_tags_check_hold(shipped: TagLibraries) -> None:
    assert broken_rules(shipped) == []


def test_a_tag_is_one_to_four_plain_words(shipped: TagLibraries) -> None:
    assert [tag for tag in shipped.names if not re.fullmatch(r"[a-z]+(?:[ '-][a-z]+)*", tag)] == []
    assert [tag for tag in shipped.names if len(tag.split()) > 4] == []
    shares = Counter(len(tag.split()) for tag in shipped.names)
    assert (shares[1] + shares[2]) / len(shipped.names) >= 0.9


def test_no_tag_is_another_one_in_lemma_plural_spelling_or_with_other_gaps(shipped: TagLibraries) -> None:
    for same in (lemmas, variant_key):
        forms: dict[object, list[str]] = {}
        for tag in shipped.names:
            forms.setdefault(same(tag), []).append(tag)
        assert [tags for tags in forms.values() if len(tags) > 1] == []


def test_spelling_is_american(shipped: TagLibraries) -> None:
    british = re.compile(
        r"\b(?:(?:col|fav|flav|harb|hum|neighb|vap)our\w*|\w*(?:al|an|or|er|yl|ol|ic)is(?:e|ed|ing|ation)"
        r"|grey\w*|\w*focuss\w*|centred?|theatre|fibre|metre|jewellery|tyre|aeroplane|moustache|pyjamas|aluminium|cosy)\b"
    )
    assert [tag for tag in shipped.names if british.search(tag)] == []


@pytest.mark.parametrize("kind", BLOCKED)
def test_blocked_words(shipped: TagLibraries, kind: str) -> None:
    blocked = re.compile(rf"\b(?:{BLOCKED[kind]})\b")
    assert [tag for tag in shipped.names if blocked.search(tag)] == []


def test_tables_hold_the_same_tags_in_the_same_order() -> None:
    for name in ("semantic", "attribute"):
        tags = (DATA_FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
        assert list(read_table(DATA_FOLDER / f"{name}.tsv")) == tags


# --- frequencies ---


def test_most_tags_occur_in_the_comments(shipped: TagLibraries) -> None:
    for library in (shipped.semantic, shipped.attribute):
        assert library.frequencies.count(0) / len(library) <= 0.35


def test_a_frequency_is_the_number_of_comments_that_hold_the_lemmas_in_a_row() -> None:
    libraries = TagLibraries(
        TagLibrary("semantic", ("cat", "shadow")), TagLibrary("attribute", ("harsh shadows", "rule of thirds"))
    )
    found = count_tags(
        libraries,
        spoken(
            "Harsh shadow here, and a harsher shadow there",  # a comment counts once
            "harsh, shadows",  # punctuation parts
            "It breaks the rule of thirds.",
            "The cat's shadow",
            "",
        ),
    )
    assert found == {"harsh shadows": 1, "shadow": 3, "rule of thirds": 1, "cat": 1}


def test_tags_are_counted_like_the_plainest_search_counts_them(shipped: TagLibraries) -> None:
    comments = ["a soft light on the old stone wall and soft light again", "stone wall", "walls of stone", "softly"]
    plain = {
        tag: count
        for tag in shipped.names
        if (count := sum(f" {' '.join(lemmas(tag))} " in f" {' '.join(lemmas(comment))} " for comment in comments))
    }
    assert plain["soft light"] == 1
    assert plain["stone wall"] == 2
    found = count_tags(shipped, spoken(*comments))
    assert {tag: count for tag, count in found.items() if count} == plain


def test_a_table_with_other_tags_than_the_list_is_reported(recipe: ModuleType, tmp_path: Path) -> None:
    libraries = TagLibraries(TagLibrary("semantic", ("dog", "sea")), TagLibrary("attribute", ("sharp",)))
    libraries.save(tmp_path)
    assert recipe.rows_without_tag(libraries, tmp_path) == []
    (tmp_path / "semantic.txt").write_text("sea\ndog\n", encoding="utf-8")
    assert len(recipe.rows_without_tag(TagLibraries.load(tmp_path), tmp_path)) == 1


# --- coverage of real comments ---


@pytest.fixture(scope="module")
def corpora(shared_data: Path) -> list[Path]:
    return [shared_data / "comments" / name for name in ("dpc_captions.jsonl", "pccd.jsonl")]


def test_the_libraries_cover_nine_tenths_of_what_held_out_comments_say(
    shipped: TagLibraries, corpora: list[Path]
) -> None:
    held_out = (comment for comment in read_comments(corpora) if comment.half == "held-out")
    measured = coverage(shipped, count_content(held_out))
    assert measured.together >= 0.9
    assert measured.attribute >= 0.7
    assert measured.semantic >= 0.3


def test_the_frequency_column_is_what_the_comments_give(shipped: TagLibraries, corpora: list[Path]) -> None:
    found = count_tags(shipped, read_comments(corpora))
    known = dict(zip(shipped.names, shipped.frequencies, strict=True))
    stale = {tag: (known[tag], found[tag]) for tag in shipped.names if found[tag] != known[tag]}
    assert not stale, "the word rules or the tags changed: run recipes/tags/frequencies.py"
