"""The results folder: rows that are done, parts that are whole, and nobody else's files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tmcr.assessment import Assessment
from tmcr.errors import ConfigError, DataError
from tmcr.results import read_results
from tmcr.scoring.parts import Manifest, PartsWriter, ResultsFolder
from tmcr.scoring.repeats import Repeats
from tmcr.scoring.rows import RowSet


def manifest(**changes: object) -> Manifest:
    values = {"model": "m", "model_hash": "1" * 64, "sources": {"entries": 3, "digest": "d"}, "settings": {"a": 1}}
    return Manifest(**values | changes)  # type: ignore[arg-type]


def verdicts(*names: str) -> list[Assessment]:
    return [Assessment(name, score=5.0, content_hash=name) for name in names]


def begun(path: Path, parts: int = 0) -> ResultsFolder:
    folder = ResultsFolder(path)
    folder.begin(manifest())
    for part in range(parts):
        with PartsWriter(folder, rows=1, seconds=60) as writer:
            writer.write([(part, *verdicts(f"{part}.jpg"))])
    return folder


@given(st.lists(st.integers(0, 30)), st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6))))
def test_row_sets_are_sets(rows: list[int], ranges: list[tuple[int, int]]) -> None:
    pairs = [(first, first + length) for first, length in ranges if length]
    plain = set(rows).union(*(range(*pair) for pair in pairs))
    found = RowSet(pairs)
    for row in rows:
        found.add(row)
    assert len(found) == len(plain)
    spelled = [row for first, end in found.ranges() for row in range(first, end)]
    assert spelled == sorted(plain)
    assert all(end < first for (_, end), (first, _) in zip(found.ranges(), found.ranges()[1:], strict=False))
    for first in range(32):
        for end in range(first, 34):
            assert found.contains(first, end) == plain.issuperset(range(first, end))


def test_a_part_counts_once_the_manifest_names_it(tmp_path: Path) -> None:
    folder = begun(tmp_path / "r")
    with PartsWriter(folder, rows=3, seconds=60) as writer:
        writer.write(enumerate(verdicts("a", "b")))
        assert [path.name for path in (tmp_path / "r").glob("part*")] == ["part-00000.parquet.part"]
        assert folder.manifest.count == 0
        writer.write([(2, Assessment("c", error="cut short")), (7, *verdicts("d"))])
    record = json.loads((tmp_path / "r" / "manifest.json").read_text())["parts"]
    assert record == [{"file": "part-00000.parquet", "rows": [[0, 3], [7, 8]], "count": 4, "errors": 1}]
    assert [verdict.photo for verdict in read_results(tmp_path / "r")] == ["a", "b", "c", "d"]


def test_a_part_is_finished_when_its_time_is_up(tmp_path: Path) -> None:
    folder = begun(tmp_path / "r")
    with PartsWriter(folder, rows=1000, seconds=0) as writer:
        for row, verdict in enumerate(verdicts("a", "b", "c")):
            writer.write([(row, verdict)])
    assert [part.count for part in folder.manifest.parts] == [1, 1, 1]


def test_what_a_kill_left_half_done_is_cleared_away(tmp_path: Path) -> None:
    begun(tmp_path / "r", parts=2).close()
    for name in ("part-00002.parquet", "part-00002.parquet.part", "manifest.json.part", "listing.jsonl"):
        (tmp_path / "r" / name).write_text("half")
    folder = ResultsFolder(tmp_path / "r")
    names = sorted(path.name for path in (tmp_path / "r").iterdir())
    assert names == [".lock", "manifest.json", "part-00000.parquet", "part-00001.parquet"]
    assert folder.done().ranges() == [[0, 2]]
    assert [verdict.photo for verdict in folder.backwards()] == ["1.jpg", "0.jpg"]


def test_a_second_run_is_kept_out(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    first = begun(tmp_path / "r")
    with pytest.raises(ConfigError, match="another tmcr"):
        ResultsFolder(tmp_path / "r")
    first.close()
    ResultsFolder(tmp_path / "r").close()


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "part-00000.parquet").write_text("somebody's")
    for restart in (False, True):
        with pytest.raises(ConfigError, match=r"holds part-00000\.parquet and is no results folder"):
            ResultsFolder(tmp_path / "holiday", restart=restart)
    begun(tmp_path / "r", parts=1).close()
    (tmp_path / "r" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        ResultsFolder(tmp_path / "r", restart=True)
    assert (tmp_path / "holiday" / "part-00000.parquet").read_text() == "somebody's"
    assert len(list((tmp_path / "r").glob("part*"))) == 1


def test_restart_throws_away_and_removal_leaves_nothing(tmp_path: Path) -> None:
    begun(tmp_path / "r", parts=3).close()
    folder = ResultsFolder(tmp_path / "r", restart=True)
    assert not folder.begun
    assert [path.name for path in (tmp_path / "r").iterdir()] == [".lock"]
    folder.close()
    assert not (tmp_path / "r").exists()
    folder = begun(tmp_path / "r", parts=1)
    folder.remove()
    assert not (tmp_path / "r").exists()


def test_damaged_folders_say_so(tmp_path: Path) -> None:
    begun(tmp_path / "r", parts=2).close()
    (tmp_path / "r" / "part-00001.parquet").unlink()
    with pytest.raises(DataError, match=r"part-00001\.parquet: is missing"):
        ResultsFolder(tmp_path / "r")
    for text in ("{", "{}", '{"format": 99}', "[]"):
        (tmp_path / "r" / "manifest.json").write_text(text)
        with pytest.raises(DataError, match="--restart"):
            ResultsFolder(tmp_path / "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        ResultsFolder(tmp_path / "file" / "r")


def test_a_manifest_that_cannot_be_written_leaves_the_folder_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = begun(tmp_path / "r", parts=1)
    before = (tmp_path / "r" / "manifest.json").read_bytes()

    def full(descriptor: int) -> None:
        if (tmp_path / "r" / "manifest.json.part").exists():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"), PartsWriter(folder, rows=1, seconds=60) as writer:
        writer.write([(1, *verdicts("b"))])
    assert (tmp_path / "r" / "manifest.json").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "r").glob("*.p*")) == ["part-00000.parquet"]
    assert folder.manifest.count == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model_hash": "2" * 64}, "the model"),
        ({"sources": {"entries": 4, "digest": "e"}}, "the photos (3 entries then, 4 now)"),
        ({"sources": {"entries": 3, "digest": "e"}}, "the photos"),
        ({"settings": {"a": 2}}, "the settings (a)"),
    ],
)
def test_differences_between_runs_are_named(changes: dict[str, object], says: str) -> None:
    assert manifest().differences(manifest()) == []
    (found,) = manifest().differences(manifest(**changes))
    assert found.startswith(says)


def test_the_latest_contents_are_known_and_recalled_alike() -> None:
    names = ["a", "b", "a", "c", "d", "b", "e"]
    whole = Repeats(capacity=3)
    seen = [whole.look_up(f"{name}.jpg", name)[1] for name in names]
    assert seen == [False, False, True, False, False, False, False]  # "b" was pushed out before it came again
    for cut in range(len(names)):
        resumed = Repeats(capacity=3)
        resumed.recall(reversed(verdicts(*names[:cut])))
        assert [resumed.look_up(f"{name}.jpg", name)[1] for name in names[cut:]] == seen[cut:]


def test_the_suffix_matters_where_the_decoder_goes_by_it() -> None:
    repeats = Repeats()
    assert [repeats.look_up(name, "same")[1] for name in ("a.jpg", "b.png", "c.nef", "d.NEF")] == [
        False, True, False, True,
    ]  # fmt: skip
