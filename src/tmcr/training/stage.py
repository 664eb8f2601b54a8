"""Stages of a run: skipped when nothing they depend on has changed, taken up again where a kill left them."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from tmcr.disk import write_whole
from tmcr.training.processes import ALONE, Processes


class Progress(Protocol):
    """Whoever watches a run."""

    def start(self, stage: str, total: int, done: int = 0) -> None:
        """A stage begins, `done` of its `total` steps already taken."""

    def step(self, amount: int = 1, **values: float) -> None:
        """`amount` more steps are taken; `values` are worth showing (loss, learning rate, …)."""

    def finish(self, summary: str) -> None:
        """The stage is over, or was skipped."""


class Silent:
    """Watches nothing."""

    def start(self, stage: str, total: int, done: int = 0) -> None: ...

    def step(self, amount: int = 1, **values: float) -> None: ...

    def finish(self, summary: str) -> None: ...


class Stage:
    """A folder for one stage's result.

    `begun.json` holds the digest of the stage's inputs while it works, `done.json` that and a summary when it
    is complete. Another digest means the inputs have changed: the folder is emptied and the work starts anew.
    """

    def __init__(self, run: Path, name: str, inputs: Mapping[str, Any]) -> None:
        self.name = name
        self.folder = run / "stages" / name
        self.digest = digest(inputs)

    def complete(self) -> bool:
        return self._read("done.json").get("inputs") == self.digest

    @property
    def summary(self) -> dict[str, Any]:
        """What the completed stage said of itself."""
        return dict(self._read("done.json").get("summary", {}))

    def run(
        self, work: Callable[[Path], dict[str, Any]], *, processes: Processes = ALONE, together: bool = False
    ) -> bool:
        """Do the work unless it is done; returns whether anything was done.

        `work` gets the stage's folder, which holds what an interrupted attempt with the same inputs left
        there, and returns a summary for `done.json`.

        Args:
            processes: those of the run; the first says whether anything is to be done, and keeps the folder.
            together: all of them do the work; otherwise the others wait for the first.
        """
        if processes.agree(self.complete()):
            return False
        if processes.first and self._read("begun.json").get("inputs") != self.digest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_whole(self.folder / "begun.json", json.dumps({"inputs": self.digest}))
        processes.wait()
        started = time.monotonic()
        summary = work(self.folder) if together or processes.first else {}
        record = {
            "inputs": self.digest,
            "seconds": round(time.monotonic() - started, 2),
            "summary": summary,
        }
        if processes.first:
            write_whole(self.folder / "done.json", json.dumps(record, indent=2))
        processes.wait()
        return True

    def _read(self, name: str) -> dict[str, Any]:
        try:
            return dict(json.loads((self.folder / name).read_text()))
        except (OSError, ValueError):
            return {}


class MetricsLog:
    """`metrics.jsonl`: one JSON object a line, with the stage that it belongs to. Without a path nothing is kept."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def rewind(self, stage: str, rows: int) -> None:
        """Keep the first `rows` rows of a stage that starts anew (0) or is about to repeat what came after them."""
        if self.path is None or not self.path.exists():
            return
        kept, seen = [], 0
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                mine = json.loads(line)["stage"] == stage
            except (ValueError, KeyError):  # a line that a kill cut in the middle
                continue
            seen += mine
            if not mine or seen <= rows:
                kept.append(line + "\n")
        write_whole(self.path, "".join(kept))

    def add(self, stage: str, **values: float) -> None:
        if self.path is None:
            return
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in values.items()}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": stage} | rounded) + "\n")


def digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()


def save_checkpoint(state: Mapping[str, Any], path: Path) -> None:
    """Write a training state that a killed run is taken up from, whole or not at all."""
    import torch

    write_whole(path, lambda part: torch.save(dict(state), part))
