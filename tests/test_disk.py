"""Files that are there whole or not at all, and on the disk before anything relies on them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from tmcr.disk import settle, write_whole
from tmcr.results import open_writer


@pytest.fixture
def journal(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What reaches the disk, in order."""
    seen: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        seen.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        seen.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    return seen


@pytest.mark.parametrize("content", ["text", b"bytes", memoryview(b"view"), lambda part: part.write_text("filled")])
def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(
    content: object, tmp_path: Path, journal: list[str]
) -> None:
    write_whole(tmp_path / "a", content)  # type: ignore[arg-type]
    assert journal == ["file", "name", "folder"]
    assert (tmp_path / "a").read_text() in ("text", "bytes", "view", "filled")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_results_files_settle_the_same_way(tmp_path: Path, journal: list[str]) -> None:
    for name in ("r.parquet", "r.csv", "r.jsonl"):
        with open_writer(tmp_path / name):
            pass
    assert journal == 3 * ["file", "name", "folder"]


def test_what_was_there_stays_when_writing_fails(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        settle(tmp_path / "never-written", tmp_path / "a")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
