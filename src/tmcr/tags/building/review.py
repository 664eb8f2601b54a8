"""Step 6. The candidates as a table that opens in any spreadsheet, for a person to decide.

Columns to fill in, all may stay empty:

    decision   keep, drop, move or rename
    to         move: "attribute/light/praise", "semantic/animals"; rename: the new tag

A rebuild keeps every decision, by tag; new candidates are added undecided, and decided ones that are no longer
proposed stay. The table is never overwritten before it has been understood.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from tmcr.disk import write_whole
from tmcr.errors import TagError
from tmcr.tags.building.label import Label, Where
from tmcr.tags.building.merge import Merged
from tmcr.tags.building.table import write_table
from tmcr.tags.library import POLARITIES, Polarity

Decision = Literal["", "keep", "drop", "move", "rename"]
COLUMNS = (
    "decision", "to", "tag", "library", "facet", "polarity", "opposite", "count", "strength", "confidence", "by",
    "variants", "like",
)  # fmt: skip
_FORMULA_STARTS = ("=", "+", "-", "@")


@dataclass(frozen=True)
class Reviewed:
    """A row of the review table.

    Attributes:
        decision: of the person who reviewed, "" where undecided.
        to: what `move` and `rename` go with.
        tag: the candidate.
        label: the classifier's.
        opposite: proposed for attribute tags.
        count: occurrences.
        strength: collocation strength.
        variants: forms merged into it.
        like: a more frequent candidate that an encoder hardly tells apart from it.
    """

    tag: str
    label: Label
    count: int = 0
    strength: float = 1.0
    opposite: str = ""
    variants: tuple[str, ...] = ()
    like: str = ""
    decision: Decision = ""
    to: str = ""

    @property
    def final_tag(self) -> str:
        return self.to if self.decision == "rename" else self.tag

    @property
    def final_label(self) -> Label:
        return parse_place(self.to) if self.decision == "move" else self.label


def rows_from(merged: Sequence[Merged], opposites: Mapping[str, str], like: Mapping[str, str]) -> list[Reviewed]:
    """Undecided rows for candidates."""
    return [
        Reviewed(
            tag=(tag := item.candidate.tag),
            label=item.label,
            count=item.candidate.count,
            strength=item.candidate.strength,
            opposite=opposites.get(tag, ""),
            variants=item.variants,
            like=like.get(tag, ""),
        )
        for item in merged
    ]


def with_decisions(rows: Sequence[Reviewed], before: Sequence[Reviewed]) -> list[Reviewed]:
    """New rows with the decisions of an earlier review; decided rows that are no longer proposed come last."""
    decided = {row.tag: row for row in before if row.decision}
    proposed = {row.tag for row in rows}
    taken_over = [
        replace(row, decision=decided[row.tag].decision, to=decided[row.tag].to) if row.tag in decided else row
        for row in rows
    ]
    return taken_over + [row for tag, row in decided.items() if tag not in proposed]


def write_review(rows: Sequence[Reviewed], path: Path) -> None:
    """Write the table, whole or not at all."""
    write_whole(path, lambda part: write_table(part, COLUMNS, map(_cells, rows), encoding="utf-8-sig"))


def read_review(path: Path) -> list[Reviewed]:
    """Read a table that a person has edited.

    Raises:
        TagError: the file, a column or a cell cannot be understood; names row and column. Nothing is changed.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TagError(f"{path}: is not UTF-8; save it from the spreadsheet as Unicode (UTF-8) text") from None
    except OSError as error:
        raise TagError(f"{path}: cannot be read ({error.strerror})") from None
    lines = text.splitlines()
    if not lines:
        raise TagError(f"{path}: is empty; delete it and build again to get a new one")
    delimiter = max("\t;,", key=lines[0].count)  # spreadsheets save with what their country uses
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, restval="", strict=True)
    for column in ("decision", "to", "tag", "library"):
        if column not in (rows.fieldnames or ()):
            raise TagError(f"{path}, row 1: the column {column!r} is missing; the first row must name the columns")
    found: list[Reviewed] = []
    row_of: dict[str, int] = {}
    try:
        for row in rows:
            if any(value for value in row.values() if isinstance(value, str)):
                reviewed = _parse(row, f"{path}, row {rows.line_num}")
                if reviewed.tag in row_of:
                    raise TagError(
                        f"{path}, row {rows.line_num}, column tag: {reviewed.tag!r} stands in row "
                        f"{row_of[reviewed.tag]} already; keep one of them"
                    )
                row_of[reviewed.tag] = rows.line_num
                found.append(reviewed)
    except csv.Error as error:
        raise TagError(f"{path}, row {rows.line_num}: is no table row ({error}); a quote is not closed?") from None
    return found


def parse_place(to: str) -> Label:
    """ "attribute/light/praise" as a label.

    Raises:
        TagError: it is none.
    """
    library, _, rest = to.strip().partition("/")
    facet, _, polarity_text = rest.partition("/")
    polarity = next((known for known in POLARITIES if known == polarity_text.strip().lower()), None)
    where: Where | None = next((known for known in get_args(Where) if known == library.strip().lower()), None)
    if where is None or polarity is None or (where != "neither" and not facet.strip()):
        raise TagError(f"{to!r} is no place; write e.g. attribute/light/praise or semantic/animals")
    if where == "neither":
        return Label("neither", by="review")
    if where == "attribute" and not polarity:
        raise TagError(f"{to!r} lacks the polarity; write e.g. {to.strip()}/neutral")
    return Label(where, facet.strip().lower(), polarity if where == "attribute" else "", by="review")


def _cells(row: Reviewed) -> tuple[str, ...]:
    label = row.label
    cells = (
        row.decision, row.to, row.tag, label.library, label.facet, label.polarity, row.opposite, str(row.count),
        f"{row.strength:g}", f"{label.confidence:g}", label.by, "; ".join(row.variants), row.like,
    )  # fmt: skip
    return tuple(f"'{cell}" if cell.startswith(_FORMULA_STARTS) else cell for cell in cells)


def _parse(row: Mapping[str, str], place: str) -> Reviewed:
    cells = {name: (value or "").strip().removeprefix("'") for name, value in row.items() if isinstance(value, str)}

    def wrong(column: str, what: str) -> TagError:
        return TagError(f"{place}, column {column}: {what}")

    decision = next((known for known in get_args(Decision) if known == cells["decision"].lower()), None)
    if decision is None:
        raise wrong("decision", f"{cells['decision']!r} is none of keep, drop, move, rename")
    if not cells["tag"]:
        raise wrong("tag", "is empty; delete the whole row, or write its tag")
    library: Where | None = next((known for known in get_args(Where) if known == cells["library"].lower()), None)
    if library is None:
        raise wrong("library", f"{cells['library']!r} is none of semantic, attribute, neither")
    polarity: Polarity | None = next((k for k in POLARITIES if k == cells.get("polarity", "").lower()), None)
    if polarity is None:
        raise wrong("polarity", f"{cells['polarity']!r} is none of praise, fault, neutral")
    to = cells["to"].lower() if decision in ("move", "rename") else cells["to"]
    if decision == "rename" and not to:
        raise wrong("to", "'rename' needs the new tag here")
    if decision == "move":
        try:
            parse_place(to)
        except TagError as error:
            raise wrong("to", str(error)) from None
    return Reviewed(
        tag=cells["tag"],
        label=Label(
            library,
            cells.get("facet", ""),
            polarity,
            _number(cells.get("confidence", ""), "confidence", 1.0, wrong),
            cells.get("by", ""),
        ),
        count=int(_number(cells.get("count", ""), "count", 0, wrong)),
        strength=_number(cells.get("strength", ""), "strength", 1.0, wrong),
        opposite=cells.get("opposite", ""),
        variants=tuple(part for part in cells.get("variants", "").split("; ") if part),
        like=cells.get("like", ""),
        decision=decision,
        to=to,
    )


def _number(text: str, column: str, default: float, wrong: Callable[[str, str], TagError]) -> float:
    if not text:
        return default
    try:
        return float(text.replace(",", "."))  # decimal commas come back from spreadsheets
    except ValueError:
        raise wrong(column, f"{text!r} is no number") from None
