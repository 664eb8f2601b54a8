"""Results files: every format gives back what was written, and a file is there whole or not at all."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from tmcr.assessment import Assessment, Cluster, Facet, Reason, Tag
from tmcr.errors import ConfigError, DataError
from tmcr.results import (
    CSV_COLUMNS,
    best_results,
    check_destination,
    join_parts,
    open_writer,
    parts_of,
    read_parquet_backwards,
    read_results,
)

ODD_NAMES = ("plain.jpg", "two  spaces.jpg", "写真 📷.jpg", 'quo"te,comma.jpg', "line\nbreak.jpg", "=cmd|'/c'!A1.jpg")


def verdict(photo: str = "plain.jpg", score: float = 5.25) -> Assessment:
    return Assessment(
        photo=photo,
        score=score,
        std=1.5,
        distribution=(0.25, 0.5, 0.25),
        score_values=(1.0, 5.5, 10.0),
        percentile=62.5,
        cluster=Cluster(3, ("lake", "mountain")),
        semantic_tags=(Tag("lake", 0.25, 2.5, "landscape"),),
        attribute_tags=(Tag("soft light", 0.125, 1.5, "light"), Tag("=danger", 0.5, 1.0, "")),
        own_tags=(Tag("my dog", 0.5, 3.5),),
        facets=(Facet("light", "attribute", 0.5, ("soft light",)), Facet("sky", "semantic", -0.25)),
        reasons=(Reason("soft light", "attribute", 0.5, "light"),),
        semantic_contribution=-0.25,
        attribute_contribution=0.5,
        encoder_contribution=0.125,
        reference_score=4.875,
        model="starter",
        model_hash="abc",
        width=640,
        height=480,
        content_hash="0f" * 16,
    )


FAILED = Assessment(photo="broken.jpg", model="starter", model_hash="abc", error="cut short", error_reason="truncated")


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_verdicts_survive_the_journey_to_disk_and_back(suffix: str, tmp_path: Path) -> None:
    written = [verdict(name, score=number + 1.5) for number, name in enumerate(ODD_NAMES)] + [FAILED]
    with open_writer(tmp_path / f"results{suffix}") as writer:
        for each in written:
            writer.write(each)
    assert list(read_results(tmp_path / f"results{suffix}")) == written


def test_a_spreadsheet_reads_the_csv_and_runs_none_of_it(tmp_path: Path) -> None:
    with open_writer(tmp_path / "results.csv") as writer:
        for name in ODD_NAMES:
            writer.write(verdict(name))
        writer.write(FAILED)
    with (tmp_path / "results.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CSV_COLUMNS
    assert [row["photo"].removeprefix("'") for row in rows] == [*ODD_NAMES, "broken.jpg"]
    assert not [value for row in rows for value in row.values() if value.startswith(("=", "@"))]
    assert float(rows[0]["score"]) == 5.25
    assert rows[0]["cluster"] == "lake · mountain"
    assert rows[0]["facets"] == "light +0.500; sky -0.250"
    assert [float(share) for share in rows[0]["distribution"].split()] == [0.25, 0.5, 0.25]
    assert rows[-1]["score"] == ""
    assert rows[-1]["error_reason"] == "truncated"


def test_names_that_are_no_utf8_are_written_all_the_same(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    for suffix in (".parquet", ".csv", ".jsonl"):
        with open_writer(tmp_path / f"results{suffix}") as writer:
            writer.write(verdict(name))
    assert next(read_results(tmp_path / "results.parquet")).photo == "caf\\udce9.jpg"
    assert json.loads((tmp_path / "results.jsonl").read_text())["photo"] == name


def test_parquet_rows_are_written_as_the_work_goes_on(tmp_path: Path) -> None:
    from pyarrow import parquet

    with open_writer(tmp_path / "many.parquet") as writer:
        for number in range(2500):
            writer.write(verdict(f"{number}.jpg"))
    file = parquet.ParquetFile(tmp_path / "many.parquet")
    assert file.metadata.num_rows == 2500
    assert file.metadata.num_row_groups == 3
    assert [row.photo for row in read_results(tmp_path / "many.parquet")][2499] == "2499.jpg"


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_work_that_is_broken_off_leaves_the_old_file_alone(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"results{suffix}"
    path.write_text("what stood here before")

    def stopped() -> None:
        with open_writer(path) as writer:
            writer.write(verdict())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert path.read_text() == "what stood here before"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_full_disk_is_one_clear_line() -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    from tmcr.results import _JsonLinesWriter

    writer = _JsonLinesWriter(full)
    writer.write(verdict())
    with pytest.raises(OSError, match="No space left"):
        writer.close()


def test_a_writer_whose_disk_is_full_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, verdict: Assessment) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tmcr.results._CsvWriter.write", fail)
    with pytest.raises(DataError, match="No space left on device"), open_writer(tmp_path / "a.csv") as writer:
        writer.write(verdict())
    assert list(tmp_path.iterdir()) == []


def test_places_that_cannot_be_written_to_are_known_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "file").write_text("")
    for path in ("results.xlsx", "folder.csv", "file/results.csv"):
        with pytest.raises(ConfigError):
            check_destination(tmp_path / path)
    check_destination(tmp_path / "new" / "results.csv")
    assert not (tmp_path / "new" / "results.csv").exists()


def test_files_that_are_no_results_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "bad.jsonl").write_text('{"photo": 1}\n')
    (tmp_path / "bad.csv").write_text("photo\n")
    for name in ("bad.parquet", "bad.jsonl", "bad.csv", "gone.jsonl"):
        with pytest.raises(DataError):
            list(read_results(tmp_path / name))


def results_folder(folder: Path, parts: list[list[Assessment]]) -> Path:
    """Parts under a manifest that names the last one first."""
    folder.mkdir()
    listed, first = [], 0
    for number, rows in enumerate(parts):
        with open_writer(folder / f"part-{number}.parquet") as writer:
            for row in rows:
                writer.write(row)
        listed.insert(0, {"file": f"part-{number}.parquet", "rows": [[first, first + len(rows)]]})
        first += len(rows)
    (folder / "manifest.json").write_text(json.dumps({"parts": listed}))
    return folder


def test_a_folder_of_parts_is_read_in_the_order_of_the_photos(tmp_path: Path) -> None:
    rows = [verdict(f"{number}.jpg", score=1 + number / 4) for number in range(9)]
    folder = results_folder(tmp_path / "results", [rows[:4], rows[4:5], rows[5:]])
    (folder / "part-9.parquet").write_bytes(b"left over from a kill")
    assert list(read_results(folder)) == rows
    assert [path.name for path in parts_of(folder)] == ["part-0.parquet", "part-1.parquet", "part-2.parquet"]
    with pytest.raises(DataError, match=r"manifest\.json is missing"):
        list(read_results(tmp_path))
    (folder / "part-1.parquet").unlink()
    with pytest.raises(DataError, match=r"part-1\.parquet: no such results file"):
        list(read_results(folder))


def test_a_folder_is_read_lazily(tmp_path: Path) -> None:
    folder = results_folder(tmp_path / "results", [[verdict("a.jpg")], [verdict("b.jpg")]])
    (folder / "part-1.parquet").write_bytes(b"damaged")
    results = read_results(folder)
    assert next(results).photo == "a.jpg"
    with pytest.raises(DataError, match="damaged"):
        next(results)


def test_files_are_read_backwards(tmp_path: Path) -> None:
    with open_writer(tmp_path / "many.parquet") as writer:
        for number in range(1500):
            writer.write(verdict(f"{number}.jpg"))
    names = [row.photo for row in read_parquet_backwards(tmp_path / "many.parquet")]
    assert names == [f"{number}.jpg" for number in reversed(range(1500))]


@pytest.mark.parametrize("best", [1, 3, 5, 100])
def test_the_best_are_found_without_reading_all(best: int, tmp_path: Path) -> None:
    scores = [4.0, 9.0, None, 2.0, 9.0, 7.0, None, 8.0, 1.5, None]
    rows = [verdict(f"{n}.jpg", score=s) if s else replace(FAILED, photo=f"{n}.jpg") for n, s in enumerate(scores)]
    folder = results_folder(tmp_path / "results", [rows[:3], rows[3:8], rows[8:]])
    ranked = sorted((n for n, s in enumerate(scores) if s), key=lambda n: -scores[n])[:best]
    expected = [rows[n] for n in sorted([*ranked, 2, 6])]
    assert best_results(folder, best=best, failed=2) == expected
    assert best_results(folder, best=0, failed=0) == []


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_joined_parts_are_the_file_that_one_would_have_written(suffix: str, tmp_path: Path) -> None:
    names = (*ODD_NAMES, *([] if suffix == ".parquet" else [os.fsdecode(b"caf\xe9.jpg")]))
    rows = [*(verdict(name, score=number + 1.5) for number, name in enumerate(names)), FAILED]
    join_parts(results_folder(tmp_path / "results", [rows[:2], rows[2:]]), tmp_path / f"joined{suffix}")
    with open_writer(tmp_path / f"direct{suffix}") as writer:
        for row in rows:
            writer.write(row)
    if suffix == ".parquet":
        assert list(read_results(tmp_path / "joined.parquet")) == rows
    else:
        assert (tmp_path / f"joined{suffix}").read_bytes() == (tmp_path / f"direct{suffix}").read_bytes()
