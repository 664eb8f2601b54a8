"""Rules of tag libraries, and coverage against counting by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tmcr.cli.main import run
from tmcr.errors import TagError
from tmcr.tags import TagLibraries, TagLibrary
from tmcr.tags.check import (
    broken_rules,
    check_libraries,
    count_content,
    count_tags,
    coverage,
    near_duplicates,
    variant_key,
)
from tmcr.tags.comments import Comment
from tmcr.tags.search import search

SEMANTIC = TagLibrary("semantic", ("dog", "stormy sea"), ("animals", "water"), frequencies=(4, 0))
ATTRIBUTE = TagLibrary(
    "attribute",
    ("underexposed", "overexposed", "soft light"),
    ("exposure", "exposure", "light"),
    ("fault", "fault", "praise"),
    ("overexposed", "underexposed", ""),
    (1, 2, 3),
)
GOOD = TagLibraries(SEMANTIC, ATTRIBUTE)


def comments(*texts: str) -> list[Comment]:
    return [Comment(text, text) for text in texts]


def test_good_libraries_break_no_rule() -> None:
    assert broken_rules(GOOD) == []
    assert check_libraries(GOOD).ok


def with_tag(tag: str, facet: str = "light", polarity: str = "neutral", opposite: str = "") -> TagLibraries:
    """The good libraries and one more attribute tag."""
    return TagLibraries(
        SEMANTIC,
        replace(
            ATTRIBUTE,
            tags=(*ATTRIBUTE.tags, tag),
            facets=(*ATTRIBUTE.facets, facet),
            polarities=(*ATTRIBUTE.polarities, polarity),  # type: ignore[arg-type]
            opposites=(*ATTRIBUTE.opposites, opposite),
            frequencies=(*ATTRIBUTE.frequencies, 0),
        ),
    )


@pytest.mark.parametrize(
    ("libraries", "rule"),
    [
        (with_tag("Soft Glow"), "form"),
        (with_tag("soft  glow"), "form"),
        (with_tag("a glow that is very soft"), "length"),
        (with_tag("photoshop look"), "names"),
        (with_tag("dogs", polarity="neutral"), "duplicate"),
        (with_tag("softer lights"), "duplicate"),
        (with_tag("soft-light"), "duplicate"),
        (with_tag("stormy seas"), "duplicate"),
        (with_tag("glow", facet=""), "facet"),
        (with_tag("glow", polarity=""), "polarity"),
        (with_tag("glow", opposite="glow"), "opposite"),
        (with_tag("glow", opposite="dog"), "opposite"),
        (with_tag("glow", opposite="overexposed"), "opposite"),
    ],
)
def test_each_rule_is_found_broken(libraries: TagLibraries, rule: str) -> None:
    assert [(problem.rule, problem.library) for problem in broken_rules(libraries)] == [(rule, "attribute")]


def test_semantic_tags_have_no_polarity() -> None:
    problems = broken_rules(TagLibraries(replace(SEMANTIC, polarities=("praise", "")), ATTRIBUTE))
    assert [(problem.tag, problem.rule) for problem in problems] == [("dog", "polarity")]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("color", "colours", True),
        ("black and white", "black-and-white", True),
        ("back light", "backlight", True),
        ("dark", "darker", True),
        ("layers", "layered", False),
        ("light", "lighting", False),
        ("sea", "see", False),
    ],
)
def test_variants(one: str, other: str, same: bool) -> None:
    assert (variant_key(one) == variant_key(other)) is same


def test_coverage_is_counted_by_hand() -> None:
    # content words: dog, sea, dog, light, overexposed, cat, cat = 7; "light" and "sea" lie in phrases of tags
    counts = count_content(comments("The dog looks at the sea.", "Dogs in very nice light, overexposed", "cats, cat"))
    assert counts.content == {"dog": 2, "sea": 1, "nice": 1, "light": 1, "overexposed": 1, "cat": 2}
    assert counts.words == 14
    found = coverage(GOOD, counts)
    assert found.mass == 8
    assert found.semantic == pytest.approx(3 / 8)
    assert found.attribute == pytest.approx(2 / 8)
    assert found.together == pytest.approx(5 / 8)
    assert found.missed == (("cat", 2), ("nice", 1))


def test_proper_names_are_no_content() -> None:
    counts = count_content(comments("I know what Tilda did to her dog", "here Tilda shows her dog in photoshop"))
    assert counts.content == {"dog": 2}
    assert counts.names == 3


def test_comments_that_hold_a_tag_in_any_form_are_counted_but_not_over_punctuation() -> None:
    found = count_tags(
        GOOD, comments("Two dogs, a dog. Softer light on stormy seas", "soft, light dog", "under-exposed")
    )
    assert found == {"dog": 2, "stormy sea": 1, "underexposed": 0, "overexposed": 0, "soft light": 1}


def test_near_duplicates_are_all_pairs_over_the_cosine() -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(600, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    tags = [f"tag {i}" for i in range(600)]
    cosine = embeddings @ embeddings.T
    expected = {(tags[i], tags[j]) for i in range(600) for j in range(i + 1, 600) if cosine[i, j] >= 0.99}
    found = near_duplicates(tags, embeddings, least=0.99)
    assert {(one, other) for _, one, other in found} == expected
    assert [pair[0] for pair in found] == sorted((pair[0] for pair in found), reverse=True)


def test_the_shipped_libraries_keep_all_rules() -> None:
    assert broken_rules(TagLibraries.default()) == []


# --- search ---


def test_search_by_word_facet_library_and_polarity() -> None:
    def tags(**given: str) -> list[str]:
        return [row.tag for _, row in search(GOOD, **given)]

    assert tags(word="seas") == ["stormy sea"]
    assert tags(word="expos") == ["underexposed", "overexposed"]
    assert tags(facet="light") == ["soft light"]
    assert tags(library="semantic") == ["dog", "stormy sea"]
    assert tags(polarity="fault", word="over") == ["overexposed"]
    with pytest.raises(TagError, match="no facet is called 'lihgt'; there are: animals, exposure, light, water"):
        tags(facet="lihgt")


# --- commands ---


@pytest.fixture
def tmcr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", "tags", *map(str, arguments)])
        code = 0
        try:
            run()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


def test_check_writes_a_report_and_says_so_with_its_exit_code(tmcr, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    GOOD.save(tmp_path / "tags")
    rows = [{"image": f"{i}.jpg", "comment": "The dog in soft light, a cat"} for i in range(40)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = tmp_path / "report.json"
    arguments = ("check", "--tags", tmp_path / "tags", "--model", "none", "--comments", tmp_path / "c.jsonl")
    code, out, err = tmcr(*arguments, "--out", report)
    assert code == 0
    assert "all rules hold" in out
    assert "40 comments read" in err
    written = json.loads(report.read_text())
    assert written["coverage"]["held-out"]["together"] == pytest.approx(3 / 4)
    assert written["coverage"]["other"]["missed"][0][0] == "cat"
    assert written["ok"] is True

    with_tag("dogs").save(tmp_path / "tags")
    code, out, _ = tmcr(*arguments)
    assert code == 1
    assert "'dogs' is 'dog' of the semantic library in another form" in out


def test_frequencies_are_counted_anew_and_the_hash_stays(tmcr, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    GOOD.save(tmp_path / "tags")
    rows = [{"image": f"{i}.jpg", "comment": "a dog in soft light"} for i in range(40)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    arguments = ("check", "--tags", tmp_path / "tags", "--model", "none", "--comments", tmp_path / "c.jsonl")
    assert tmcr(*arguments, "--update-frequencies")[0] == 0
    found = TagLibraries.load(tmp_path / "tags")
    assert found.frequencies == (40, 0, 0, 0, 40)
    assert found.hash == GOOD.hash


def test_show_fits_the_terminal(tmcr, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    code, out, _ = tmcr("show")
    assert code == 0
    assert "composition" in out
    code, out, _ = tmcr("show", "blurs", "--polarity", "fault", "--library", "attribute")
    assert code == 0
    assert "blur" in out
    assert max(map(len, out.splitlines())) <= 120
    code, _, err = tmcr("show", "xyzzy")
    assert (code, err.count("\n")) == (2, 1)
