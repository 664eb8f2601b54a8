"""Tag libraries in the terminal: what a check found, and what a search finds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tmcr.tags import TagLibraries
from tmcr.tags.check import Check
from tmcr.tags.library import LibraryName, TagRow
from tmcr.wording import counted

if TYPE_CHECKING:
    from tmcr.tags.building.offline import Measured

_POLARITY_STYLE = {"praise": "green", "fault": "red", "neutral": "", "": "dim"}
_MOST_LINES = 30


def print_check(check: Check, console: Console, *, missed: int = 40) -> None:
    """Sizes, facets, balance, coverage, near-duplicates and broken rules, the verdict last."""
    sizes = ", ".join(f"{count:,} {name}" for name, count in check.sizes.items())
    console.print(f"[bold]{sizes} tags[/], hash {check.hash[:12]}")
    table = _table("library", "facets", wrap=1)
    for name, facets in check.facets.items():
        table.add_row(name, escape(", ".join(f"{facet or '(none)'} {count}" for facet, count in facets.items())))
    console.print(table)
    total = sum(check.balance.values())
    console.print(
        "attribute tags: "
        + ", ".join(f"{name or '(none)'} {count} ({count / total:.0%})" for name, count in check.balance.items())
    )
    for name, tags in check.never.items():
        if tags:
            some = ", ".join(tags[:8]) + (", …" if len(tags) > 8 else "")
            console.print(f"{counted(len(tags), f'{name} tag')} with frequency 0: [dim]{escape(some)}[/]")
    for half, found in check.coverage.items():
        console.print(
            f"coverage of the {half} half ({found.mass:,} content words in {found.comments:,} comments): "
            f"[bold]{found.together:.2%}[/]; semantic alone {found.semantic:.2%}, attribute alone {found.attribute:.2%}"
        )
    if "held-out" in check.coverage and missed:
        left = check.coverage["held-out"].missed
        words = "  ".join(f"{escape(word)} [dim]{count}[/]" for word, count in left[:missed])
        console.print(f"missed most in the held-out half, of {len(left):,} words: {words}")
    if check.near is not None:
        pairs = counted(len(check.near), "pair")
        console.print(f"near-duplicates to the text encoder of {check.encoder}: {pairs} of tags")
        for cosine, one, other in check.near[:8]:
            console.print(f"  [dim]{cosine:.3f}[/] {escape(one)} · {escape(other)}")
    if check.ok:
        console.print("[green]✓[/] all rules hold")
        return
    for problem in check.problems[:_MOST_LINES]:
        line = f"{problem.library}: {problem.tag!r} {problem.what}"
        console.print(f"[red]✗[/] [bold]{problem.rule}[/]  {escape(line)}")
    if len(check.problems) > _MOST_LINES:
        console.print(f"… and {len(check.problems) - _MOST_LINES} more; --out lists all", style="dim")
    by_rule = Counter(problem.rule for problem in check.problems)
    broken = counted(len(check.problems), "broken rule")
    console.print(f"[red]{broken}[/]: " + ", ".join(f"{n} {r}" for r, n in by_rule.items()))


def print_tags(rows: Sequence[tuple[LibraryName, TagRow]], console: Console, *, limit: int) -> None:
    """A table of tags, the most frequent first."""
    table = _table("tag", "library", "facet", "polarity", "opposite", "in comments", wrap=0)
    table.columns[-1].justify = "right"
    for library, row in sorted(rows, key=lambda item: (-item[1].frequency, item[1].tag))[:limit]:
        style = _POLARITY_STYLE[row.polarity]
        table.add_row(
            escape(row.tag), library, escape(row.facet), row.polarity, escape(row.opposite), str(row.frequency),
            style=style,
        )  # fmt: skip
    console.print(table)
    if len(rows) > limit:
        console.print(f"… and {len(rows) - limit} more; --limit shows more", style="dim")


def print_facets(libraries: TagLibraries, console: Console) -> None:
    """What the libraries hold, facet by facet, with the most frequent tags as examples."""
    table = _table("library", "facet", "tags", "praise", "fault", "for example", wrap=5)
    for library in (libraries.semantic, libraries.attribute):
        members: dict[str, list[TagRow]] = defaultdict(list)
        for row in library.rows():
            members[row.facet].append(row)
        for facet, rows in sorted(members.items(), key=lambda item: -len(item[1])):
            praise, fault = (sum(row.polarity == kind for row in rows) for kind in ("praise", "fault"))
            frequent = sorted(rows, key=lambda row: -row.frequency)[:6]
            table.add_row(
                library.name,
                escape(facet or "(none)"),
                str(len(rows)),
                str(praise or ""),
                str(fault or ""),
                escape(", ".join(row.tag for row in frequent)),
            )
    for column in table.columns[2:5]:
        column.justify = "right"
    console.print(table)


def print_measured(measured: Measured, console: Console) -> None:
    """Precision and recall of the offline classifier on held-out tags."""
    console.print(f"trained on {measured.trained:,} labelled tags, asked for {measured.held_out:,} others")
    table = _table("task", "class", "precision", "recall", "tags", wrap=1)
    for column in table.columns[2:]:
        column.justify = "right"
    for task in measured.accuracy:
        table.add_row(f"[bold]{task}[/]", "[bold]all[/]", f"[bold]{measured.accuracy[task]:.3f}[/]", "", "")
        for score in measured.scores:
            if score.task == task:
                table.add_row("", score.name, f"{score.precision:.3f}", f"{score.recall:.3f}", str(score.count))
    console.print(table)
    console.print("all: share of right answers; facet and polarity among tags whose library is right", style="dim")


def _table(*titles: str, wrap: int) -> Table:
    """A plain table; only the column numbered `wrap` may be cut to fit the terminal or wrap."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for index, title in enumerate(titles):
        table.add_column(title, no_wrap=index != wrap, overflow="fold" if index == wrap else "ellipsis")
    return table
