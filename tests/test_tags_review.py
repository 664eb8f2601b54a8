"""Reviews of candidate tags: written, edited by people, read again, and frozen into libraries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tmcr.errors import TagError
from tmcr.tags.building.freeze import freeze
from tmcr.tags.building.label import Label
from tmcr.tags.building.review import Reviewed, parse_place, read_review, with_decisions, write_review

# --- review ---


ROWS = [
    Reviewed("dog", Label("semantic", "animals", by="offline"), 40),
    Reviewed("dark", Label("attribute", "exposure", "neutral", 0.5, "offline"), 30, opposite="bright"),
    Reviewed("bright", Label("attribute", "exposure", "neutral", 0.9, "offline"), 20, opposite="dark"),
    Reviewed("ribbon", Label("semantic", "clothing", by="offline"), 10, variants=("ribon",), like="bow"),
    Reviewed("opinion", Label("neither", by="offline"), 9),
]


def decided(**decisions: tuple[str, str]) -> list[Reviewed]:
    return [
        replace(row, decision=decisions[row.tag][0], to=decisions[row.tag][1]) if row.tag in decisions else row  # type: ignore[arg-type]
        for row in ROWS
    ]


def test_a_review_reads_as_it_was_written(tmp_path: Path) -> None:
    rows = [*decided(dog=("keep", ""), ribbon=("drop", "")), Reviewed("=sum", Label("neither"), 1)]
    write_review(rows, tmp_path / "review.tsv")
    assert read_review(tmp_path / "review.tsv") == rows
    raw = (tmp_path / "review.tsv").read_bytes()
    assert raw.startswith(b"\xef\xbb\xbf")  # spreadsheets need it to see UTF-8
    assert b"'=sum" in raw  # and would run this as a formula


@pytest.mark.parametrize("delimiter", [";", ","])
def test_a_review_saved_with_another_delimiter_and_decimal_commas_is_read(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "review.tsv"
    write_review(decided(dog=("keep", "")), path)
    text = path.read_text(encoding="utf-8-sig").replace("\t", delimiter).replace("0.5", '"0,5"')
    path.write_text(text.replace("keep", " KEEP "), encoding="utf-8")
    assert read_review(path) == decided(dog=("keep", ""))


def test_decisions_survive_a_rebuild() -> None:
    before = decided(dog=("drop", ""), dark=("rename", "low key"), ribbon=("keep", ""))
    now = [Reviewed("cat", Label("semantic", "animals"), 50), *(replace(row, count=99) for row in ROWS[:3])]
    rows = with_decisions(now, before)
    assert [(row.tag, row.decision, row.to, row.count) for row in rows] == [
        ("cat", "", "", 50),
        ("dog", "drop", "", 99),
        ("dark", "rename", "low key", 99),
        ("bright", "", "", 99),
        ("ribbon", "keep", "", 10),  # no longer proposed, but somebody wanted it
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\t\tdark", "maybe\t\tdark", "row 3, column decision: 'maybe' is none of keep, drop, move, rename"),
        ("\t\tdark", "rename\t\tdark", "row 3, column to: 'rename' needs the new tag"),
        ("\t\tdark", "move\tlight\tdark", "row 3, column to: 'light' is no place; write e.g. attribute/light/praise"),
        ("\t\tdark", "move\tattribute/light\tdark", "row 3, column to: .* lacks the polarity"),
        ("\t\tdark", "\t\tdog", "row 3, column tag: 'dog' stands in row 2 already"),
        ("\t\tdark", "keep\t\t", "row 3, column tag: is empty"),
        ("\tattribute\texposure\tneutral\tb", "\tattr\texposure\tneutral\tb", "row 3, column library: 'attr'"),
        ("exposure\tneutral\tbright\t30", "exposure\tnice\tbright\t30", "row 3, column polarity: 'nice'"),
        ("bright\t30", "bright\tmany", "row 3, column count: 'many' is no number"),
        ("decision\tto", "verdict\tto", "row 1: the column 'decision' is missing"),
        ("\t\tdark", '"open\t\tdark', "row"),
    ],
)
def test_a_badly_edited_review_names_row_and_column_and_is_left_alone(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "review.tsv"
    write_review(ROWS, path)
    text = path.read_text(encoding="utf-8-sig")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    edited = path.read_bytes()
    with pytest.raises(TagError, match=message) as error:
        read_review(path)
    assert "\n" not in str(error.value)
    assert path.read_bytes() == edited


def test_a_review_in_another_encoding_or_empty_is_said(tmp_path: Path) -> None:
    path = tmp_path / "review.tsv"
    path.write_bytes("décision".encode("utf-16"))
    with pytest.raises(TagError, match="is not UTF-8; save it"):
        read_review(path)
    path.write_bytes(b"")
    with pytest.raises(TagError, match="is empty"):
        read_review(path)


def test_places() -> None:
    assert parse_place(" Attribute/Light/Praise ") == Label("attribute", "light", "praise", by="review")
    assert parse_place("semantic/art and culture") == Label("semantic", "art and culture", by="review")
    assert parse_place("neither") == Label("neither", by="review")


# --- freeze ---


def test_freezing_does_what_the_review_says() -> None:
    rows = decided(dark=("rename", "gloomy"), ribbon=("move", "attribute/mood/praise"), opinion=("keep", ""))
    found = freeze(rows)
    assert found.semantic.tags == ("dog",)
    assert found.attribute.tags == ("gloomy", "bright", "ribbon")
    assert found.attribute.opposites == ("bright", "gloomy", "")
    assert found.attribute.polarities == ("neutral", "neutral", "praise")
    assert found.frequencies == (40, 30, 20, 10)


def test_an_opposite_that_is_dropped_is_none_any_more() -> None:
    assert freeze(decided(bright=("drop", ""))).attribute.opposites == ("",)


def test_what_nobody_reviewed_stays_only_where_the_classifier_is_sure() -> None:
    assert "dark" not in freeze(ROWS, sure=0.6).names
    assert "dark" in freeze(decided(dark=("keep", "")), sure=0.6).names


def test_renaming_onto_another_candidate_takes_its_place_or_is_refused() -> None:
    assert freeze(decided(dark=("rename", "bright"))).attribute.frequencies == (30,)
    with pytest.raises(TagError, match="keeps 'bright' and 'dark', both as 'bright'"):
        freeze(decided(dark=("rename", "bright"), bright=("keep", "")))


def test_an_empty_library_is_refused() -> None:
    with pytest.raises(TagError, match="no semantic tag is left"):
        freeze(decided(dog=("drop", ""), ribbon=("drop", "")))
