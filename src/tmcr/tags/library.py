"""The two tag libraries: plain text files, one tag a line, with an optional table of facets beside each.

A library is frozen by its content hash: a model's weights belong to the tags they were trained with, in
their order, and `TagLibraries.require` refuses others.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from tmcr.errors import TagError

LibraryName = Literal["semantic", "attribute"]
DATA_FOLDER = Path(__file__).parent / "data"


@dataclass(frozen=True)
class TagLibrary:
    """One library.

    Attributes:
        name: "semantic" (what is in the photo) or "attribute" (how it looks).
        tags: the tags in the order of the features built from them.
        facets: what each tag is about ("animals", "light"), "" where the library does not say.
    """

    name: LibraryName
    tags: tuple[str, ...]
    facets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.facets and len(self.facets) != len(self.tags):
            raise TagError(f"{self.name} library: {len(self.tags)} tags but {len(self.facets)} facets")
        if not self.facets:
            object.__setattr__(self, "facets", ("",) * len(self.tags))

    def __len__(self) -> int:
        return len(self.tags)

    @classmethod
    def read(cls, path: Path, name: LibraryName) -> TagLibrary:
        """Read `path` (one tag a line; blank lines and lines starting with # are skipped).

        Facets come from the table of the same name ending in .tsv, where there is one.

        Raises:
            TagError: the file is missing, not UTF-8, empty, or holds a tag twice.
        """
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except FileNotFoundError:
            raise TagError(f"{path}: no such tag library; give a text file with one tag a line") from None
        except (OSError, UnicodeDecodeError) as error:
            raise TagError(f"{path}: cannot read this tag library as UTF-8 text ({error})") from None
        tags = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not tags:
            raise TagError(f"{path}: holds no tag; write one tag a line")
        seen: set[str] = set()
        for tag in tags:
            if tag in seen:
                raise TagError(f"{path}: the tag {tag!r} stands there twice; keep one")
            seen.add(tag)
        facets = _read_facets(path.with_suffix(".tsv"))
        return cls(name, tuple(tags), tuple(facets.get(tag, "") for tag in tags))

    def write(self, path: Path) -> None:
        """Write the tags to `path` and their facets to the table beside it."""
        path.write_text("".join(f"{tag}\n" for tag in self.tags), encoding="utf-8")
        with path.with_suffix(".tsv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, delimiter="\t", lineterminator="\n")
            rows.writerow(("tag", "library", "facet"))
            rows.writerows((tag, self.name, facet) for tag, facet in zip(self.tags, self.facets, strict=True))


@dataclass(frozen=True)
class TagLibraries:
    """The semantic and the attribute library that a model works with."""

    semantic: TagLibrary
    attribute: TagLibrary

    def __post_init__(self) -> None:
        if both := set(self.semantic.tags) & set(self.attribute.tags):
            raise TagError(f"the tag {min(both)!r} is in both libraries; keep it in one")

    @classmethod
    def load(cls, folder: Path) -> TagLibraries:
        """Read `semantic.txt` and `attribute.txt` of a folder."""
        return cls(
            TagLibrary.read(folder / "semantic.txt", "semantic"),
            TagLibrary.read(folder / "attribute.txt", "attribute"),
        )

    @classmethod
    def default(cls) -> TagLibraries:
        """The libraries that ship with the package."""
        return cls.load(DATA_FOLDER)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.semantic.write(folder / "semantic.txt")
        self.attribute.write(folder / "attribute.txt")

    @property
    def names(self) -> tuple[str, ...]:
        """All tags, semantic first: the order of F_TM (eq. 7)."""
        return self.semantic.tags + self.attribute.tags

    @property
    def facets(self) -> tuple[str, ...]:
        return self.semantic.facets + self.attribute.facets

    @property
    def n_semantic(self) -> int:
        return len(self.semantic)

    @cached_property
    def hash(self) -> str:
        """Content hash of the tags and their order; facets are for display and do not count."""
        return libraries_hash(self.semantic.tags, self.attribute.tags)

    def require(self, expected_hash: str) -> None:
        """Refuse libraries that are not the ones named by `expected_hash`."""
        if self.hash != expected_hash:
            raise TagError(
                f"these tag libraries (hash {self.hash[:12]}) are not the ones the model was trained with "
                f"(hash {expected_hash[:12]}); use the model's own tags, or train again with these"
            )


def libraries_hash(semantic: Sequence[str], attribute: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for name, tags in (("semantic", semantic), ("attribute", attribute)):
        digest.update(f"{name}\0".encode())
        for tag in tags:
            digest.update(tag.encode() + b"\n")
    return digest.hexdigest()


def _read_facets(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        if rows.fieldnames is None or not {"tag", "facet"} <= set(rows.fieldnames):
            raise TagError(f"{path}: needs the columns 'tag' and 'facet'; it has {rows.fieldnames}")
        return {row["tag"]: row["facet"] or "" for row in rows}
