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
