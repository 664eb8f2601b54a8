"""Tag libraries: reading, freezing, refusing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tmcr.errors import TagError
from tmcr.tags import TagLibraries, TagLibrary


def libraries(semantic: tuple[str, ...] = ("dog", "sea"), attribute: tuple[str, ...] = ("sharp",)) -> TagLibraries:
    return TagLibraries(TagLibrary("semantic", semantic), TagLibrary("attribute", attribute))


def test_saving_and_loading_gives_the_same_libraries(tmp_path: Path) -> None:
    before = TagLibraries(
        TagLibrary("semantic", ("dog", "sea"), ("animals", "water")),
        TagLibrary("attribute", ("sharp",), ("focus",)),
    )
    before.save(tmp_path)
    assert TagLibraries.load(tmp_path) == before


def test_the_hash_knows_order_and_library_but_not_facets() -> None:
    assert libraries(("dog", "sea")).hash != libraries(("sea", "dog")).hash
    assert libraries(("dog",), ("sea", "x")).hash != libraries(("dog", "sea"), ("x",)).hash
    with_facets = TagLibraries(TagLibrary("semantic", ("dog", "sea"), ("a", "b")), TagLibrary("attribute", ("sharp",)))
    assert with_facets.hash == libraries().hash


def test_other_libraries_are_refused() -> None:
    libraries().require(libraries().hash)
    with pytest.raises(TagError, match="not the ones the model was trained with"):
        libraries(("cat",)).require(libraries().hash)


def test_a_tag_in_both_libraries_is_refused() -> None:
    with pytest.raises(TagError, match="'sharp' is in both"):
        libraries(("sharp",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no tag"),
        (b"# only a comment\n\n", "holds no tag"),
        (b"dog\ncat\ndog\n", "twice"),
        (b"\xff\xfe\x00d", "UTF-8"),
    ],
)
def test_bad_files_say_what_is_wrong(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "semantic.txt").write_bytes(content)
    with pytest.raises(TagError, match=message):
        TagLibrary.read(tmp_path / "semantic.txt", "semantic")


def test_the_shipped_libraries_load() -> None:
    shipped = TagLibraries.default()
    assert len(shipped.semantic) >= 300
    assert len(shipped.attribute) >= 300
    assert all(tag == tag.strip().lower() for tag in shipped.names)


def test_a_library_keeps_polarity_opposite_and_frequency(tmp_path: Path) -> None:
    attribute = TagLibrary(
        "attribute",
        ("underexposed", "overexposed", "moody"),
        facets=("exposure", "exposure", "mood"),
        polarities=("fault", "fault", "neutral"),
        opposites=("overexposed", "underexposed", ""),
        frequencies=(7, 12, 0),
    )
    TagLibraries(TagLibrary("semantic", ("dog",), frequencies=(3,)), attribute).save(tmp_path)
    found = TagLibraries.load(tmp_path)
    assert found.attribute == attribute
    assert found.polarities == ("", "fault", "fault", "neutral")
    assert found.opposites == ("", "overexposed", "underexposed", "")
    assert found.frequencies == (3, 7, 12, 0)
    header, first = (tmp_path / "attribute.tsv").read_text().splitlines()[:2]
    assert header == "tag\tlibrary\tfacet\tpolarity\topposite\tfrequency"
    assert first == "underexposed\tattribute\texposure\tfault\toverexposed\t7"


def test_what_the_table_says_does_not_change_the_hash() -> None:
    plain = libraries()
    told = TagLibraries(
        TagLibrary("semantic", ("dog", "sea"), frequencies=(1, 2)),
        TagLibrary("attribute", ("sharp",), ("focus",), ("praise",)),
    )
    assert told.hash == plain.hash


def test_a_table_of_tags_and_facets_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "semantic.txt").write_text("dog\nsea\n")
    (tmp_path / "semantic.tsv").write_text("tag\tlibrary\tfacet\nsea\tsemantic\twater\n")
    found = TagLibrary.read(tmp_path / "semantic.txt", "semantic")
    assert found.facets == ("", "water")
    assert found.frequencies == (0, 0)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("dog\tsemantic\tanimals\tgood\t\t1", r"row 2, column polarity: 'good' is none of praise, fault, neutral"),
        ("dog\tsemantic\tanimals\t\t\tmany", r"row 2, column frequency: 'many' is no whole number"),
    ],
)
def test_a_bad_cell_is_named_by_row_and_column(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "semantic.txt").write_text("dog\n")
    (tmp_path / "semantic.tsv").write_text(f"tag\tlibrary\tfacet\tpolarity\topposite\tfrequency\n{row}\n")
    with pytest.raises(TagError, match=message):
        TagLibrary.read(tmp_path / "semantic.txt", "semantic")


def test_a_column_of_another_length_is_refused() -> None:
    with pytest.raises(TagError, match="2 tags but 1 frequencies"):
        TagLibrary("semantic", ("dog", "sea"), frequencies=(1,))
