"""Steps of a build: one output file each, skipped while their inputs are unchanged.

`training.stage.Stage` does the same for folders; it stands above the tags in the house and cannot be used here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tmcr.disk import write_whole

RECORDS = "steps.json"


class Step:
    """One file that a build makes.

    `steps.json` holds for every finished step the digest of its inputs, the hash of its output and a summary. A
    step whose file was edited, removed or made from other inputs is done again.

    Attributes:
        output: the file, there whole or not at all.
    """

    def __init__(self, folder: Path, name: str, inputs: Mapping[str, Any]) -> None:
        self.name = name
        self.output = folder / name
        self._records = folder / RECORDS
        self._inputs = hashlib.sha256(json.dumps(inputs, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def summary(self) -> dict[str, Any]:
        """What the finished step said of itself."""
        return dict(self._record().get("summary", {}))

    @property
    def digest(self) -> str:
        """Hash of the finished output, for the inputs of the steps after it."""
        return str(self._record().get("output", ""))

    def done(self) -> bool:
        record = self._record()
        return (
            record.get("inputs") == self._inputs
            and self.output.is_file()
            and record.get("output") == file_hash(self.output)
        )

    def run(self, work: Callable[[Path], dict[str, Any]]) -> bool:
        """Do the work unless it is done; returns whether it was. `work` writes to the path it gets."""
        if self.done():
            return False
        summary: dict[str, Any] = {}

        def write(part: Path) -> None:
            summary.update(work(part))

        write_whole(self.output, write)
        records = self._all() | {
            self.name: {"inputs": self._inputs, "output": file_hash(self.output), "summary": summary}
        }
        text = json.dumps(records, indent=2, ensure_ascii=False)
        write_whole(self._records, lambda part: part.write_text(text, encoding="utf-8"))
        return True

    def _record(self) -> dict[str, Any]:
        record = self._all().get(self.name, {})
        return record if isinstance(record, dict) else {}

    def _all(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._records.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}


def file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
