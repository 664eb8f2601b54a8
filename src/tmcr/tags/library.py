"""The two tag libraries: plain text files, one tag a line, with an optional table beside each.

NAME.txt holds the tags in their order; NAME.tsv says more of each: library, facet, polarity, opposite, frequency.

A library is frozen by its content hash: a model's weights belong to the tags they were trained with, in
their order, and `TagLibraries.require` refuses others.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import TagError

LibraryName = Literal["semantic", "attribute"]
Polarity = Literal["praise", "fault", "neutral", ""]
DATA_FOLDER = Path(__file__).parent / "data"
COLUMNS = ("tag", "library", "facet", "polarity", "opposite", "frequency")
POLARITIES: tuple[Polarity, ...] = get_args(Polarity)


@dataclass(frozen=True)
class TagLibrary:
    """One library.

    Attributes:
        name: "semantic" (what is in the photo) or "attribute" (how it looks).
        tags: the tags in the order of the features built from them.
        facets: what each tag is about ("animals", "light"), "" where the library does not say.
        polarities: whether a tag praises, finds fault or does neither; "" for semantic tags.
        opposites: the tag that says the contrary ("underexposed" for "overexposed"), "" where there is none.
        frequencies: how often each tag occurs in the comments that the library was made from.
    """

    name: LibraryName
    tags: tuple[str, ...]
    facets: tuple[str, ...] = ()
    polarities: tuple[Polarity, ...] = ()
    opposites: tuple[str, ...] = ()
    frequencies: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for column, unknown in (("facets", ""), ("polarities", ""), ("opposites", ""), ("frequencies", 0)):
            values = getattr(self, column)
            if values and len(values) != len(self.tags):
                raise TagError(f"{self.name} library: {len(self.tags)} tags but {len(values)} {column}")
            if not values:
                object.__setattr__(self, column, (unknown,) * len(self.tags))

    def __len__(self) -> int:
        return len(self.tags)

    @classmethod
    def read(cls, path: Path, name: LibraryName) -> TagLibrary:
        """Read `path` (one tag a line; blank lines and lines starting with # are skipped).

        Facets and the rest come from the table of the same name ending in .tsv, where there is one.

        Raises:
            TagError: the file is missing, not UTF-8, empty, holds a tag twice, or its table cannot be understood.
        """
        tags = read_tags(path)
        table = read_table(path.with_suffix(".tsv"))
        rows = [table.get(tag, _NO_ROW) for tag in tags]
        return cls(
            name,
            tags,
            facets=tuple(row.facet for row in rows),
            polarities=tuple(row.polarity for row in rows),
            opposites=tuple(row.opposite for row in rows),
            frequencies=tuple(row.frequency for row in rows),
        )

    def write(self, path: Path) -> None:
        """Write the tags to `path` and what is known of them to the table beside it."""
        path.write_text("".join(f"{tag}\n" for tag in self.tags), encoding="utf-8")
        with path.with_suffix(".tsv").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, delimiter="\t", lineterminator="\n")
            rows.writerow(COLUMNS)
            for row in self.rows():
                rows.writerow((row.tag, self.name, row.facet, row.polarity, row.opposite, row.frequency))

    def rows(self) -> Iterator[TagRow]:
        """The tags in their order, each with what is known of it."""
        columns = (self.tags, self.facets, self.polarities, self.opposites, self.frequencies)
        for tag, facet, polarity, opposite, frequency in zip(*columns, strict=True):
            yield TagRow(tag, facet, polarity, opposite, frequency)


def read_tags(path: Path) -> tuple[str, ...]:
    """The tags of a text file, one a line; blank lines and lines starting with # are skipped.

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
    return tuple(tags)


class TagRow(NamedTuple):
    """What a library knows of one tag; see `TagLibrary`."""

    tag: str
    facet: str = ""
    polarity: Polarity = ""
    opposite: str = ""
    frequency: int = 0


_NO_ROW = TagRow("")


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

    @cached_property  # asked for with every photo
    def names(self) -> tuple[str, ...]:
        """All tags, semantic first: the order of F_TM (eq. 7)."""
        return self.semantic.tags + self.attribute.tags

    @cached_property
    def facets(self) -> tuple[str, ...]:
        return self.semantic.facets + self.attribute.facets

    @property
    def polarities(self) -> tuple[Polarity, ...]:
        return self.semantic.polarities + self.attribute.polarities

    @cached_property
    def opposites(self) -> tuple[str, ...]:
        return self.semantic.opposites + self.attribute.opposites

    @cached_property
    def opposite_places(self) -> NDArray[np.int64]:
        """(M+N,) for each tag the place of its opposite among `names`, -1 where there is none."""
        place = {tag: index for index, tag in enumerate(self.names)}
        return np.array([place.get(opposite, -1) for opposite in self.opposites], dtype=np.int64)

    @property
    def frequencies(self) -> tuple[int, ...]:
        return self.semantic.frequencies + self.attribute.frequencies

    @property
    def n_semantic(self) -> int:
        return len(self.semantic)

    @cached_property
    def hash(self) -> str:
        """Content hash of the tags and their order; what the tables say is for display and does not count."""
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


def read_table(path: Path) -> dict[str, TagRow]:
    """The rows of a library's table by tag; none where there is no such file. Only tag and facet are required.

    Raises:
        TagError: the file is not UTF-8, lacks a column, or a cell cannot be understood; names row and column.
    """
    if not path.is_file():
        return {}
    table = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.DictReader(file, delimiter="\t", restval="")
            if rows.fieldnames is None or not {"tag", "facet"} <= set(rows.fieldnames):
                raise TagError(f"{path}: needs the columns 'tag' and 'facet'; it has {rows.fieldnames}")
            for row in rows:
                table[row["tag"]] = _table_row(row, f"{path}, row {rows.line_num}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TagError(f"{path}: cannot read this table as UTF-8 text ({error})") from None
    return table


def _table_row(row: dict[str, str], place: str) -> TagRow:
    polarity = next((known for known in POLARITIES if known == row.get("polarity", "")), None)
    if polarity is None:
        raise TagError(f"{place}, column polarity: {row['polarity']!r} is none of praise, fault, neutral")
    frequency = row.get("frequency") or "0"
    if not frequency.isdecimal():
        raise TagError(f"{place}, column frequency: {frequency!r} is no whole number")
    return TagRow(row["tag"], row["facet"], polarity, row.get("opposite", ""), int(frequency))
