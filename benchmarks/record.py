"""What a measurement says, and the CSV that it is kept in."""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from benchmarks.timing import Samples

_GOAL = re.compile(r"(≥|≤) ([\d.]+)")


class Skipped(Exception):
    """A measurement that this machine cannot make; says why."""


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: median of the repeats, None where it was skipped; low, high: the smallest and the largest.
        unit: of all three.
        ratio: median of the quotients of single repeats, where the value is compared with something measured in the
            same run; ratio_low, ratio_high: the smallest and the largest.
        ratio_to: what the value was divided by, or what was divided by it.
        goal: "≥ 0.95" or "≤ 1.1", of the ratio, or of the value where there is none.
        photos: photos (or other items) of one repeat.
        threads: of the computing library.
        measurement: the member of the suite that it comes from; with machine and date, filled in by who runs it.
        note: what a reader should know, or why it was skipped.
    """

    name: str
    measurement: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    ratio_to: str = ""
    goal: str = ""
    photos: int | None = None
    threads: int | None = None
    device: str = ""
    machine: str = ""
    date: str = ""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None without a goal or a number."""
        number = self.ratio if self.ratio is not None else self.value
        goal = _GOAL.fullmatch(self.goal)
        if number is None or goal is None:
            return None
        return number >= float(goal[2]) if goal[1] == "≥" else number <= float(goal[2])


def result(
    name: str,
    samples: Samples,
    unit: str,
    *,
    ratio: Samples | None = None,
    to: str = "",
    goal: str = "",
    photos: int | None = None,
    threads: int | None = None,
    device: str = "cpu",
    note: str = "",
) -> Result:
    """A result from repeated measurements and, where there is something to compare with, repeated ratios."""
    return Result(
        name, "", samples.median, samples.low, samples.high, unit,
        ratio.median if ratio else None, ratio.low if ratio else None, ratio.high if ratio else None, to, goal,
        photos, threads, device, note=note,
    )  # fmt: skip


def write_results(results: Iterable[Result], path: Path) -> None:
    """Write a CSV, replacing one that is there once all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    names = [each.name for each in fields(Result)]
    with part.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(names)
        for each in results:
            rows.writerow([_text(getattr(each, name)) for name in names])
    part.replace(path)


def read_results(path: Path) -> list[Result]:
    """Inverse of `write_results`.

    Raises:
        OSError: there is no such file.
        ValueError: it is no table of results.
    """
    kinds: dict[str, str] = {each.name: str(each.type) for each in fields(Result)}
    with path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        if list(table.fieldnames or []) != list(kinds):
            raise ValueError(f"{path} is no table of benchmark results")
        return [Result(**{name: _value(text, kinds[name]) for name, text in row.items()}) for row in table]


def _text(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _value(text: str, kind: str) -> Any:
    if kind == "str":
        return text
    if not text:
        return None
    return int(text) if kind.startswith("int") else float(text)


def this_machine() -> str:
    """Processor, cores, memory, system and the versions that speed depends on, in one line."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = ""
    if hasattr(os, "sysconf"):
        memory = f", {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "pillow")]
    system = f"{platform.system()} {platform.machine()}"
    return f"{_processor()}, {cores} cores{memory}, {system}, Python {platform.python_version()}, {', '.join(versions)}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor"
    )
