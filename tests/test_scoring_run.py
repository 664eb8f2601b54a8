"""A run from sources to results: one decode a photo, equal rows after a stop, and every fault in one clear line."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scoring_stand_in import StandIn

from tmcr.assessor import load
from tmcr.errors import ConfigError, DataError, ImageError, Stopped
from tmcr.images import PhotoBytes
from tmcr.preparation import Prepared
from tmcr.results import ParquetWriter, read_results
from tmcr.scoring import isolated
from tmcr.scoring.isolated import IsolatedPreparation
from tmcr.scoring.parts import Manifest, ResultsFolder
from tmcr.scoring.photo import Photo
from tmcr.scoring.pipeline import score_photos
from tmcr.scoring.rows import RowSet
from tmcr.scoring.run import Plan, choose_batch_size, open_run
from tmcr.scoring.shards import Member, members


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (value % 256, value // 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def test_small_encoders_take_more_photos_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.get_num_threads", lambda: 6)
    starter = load("starter", device="cpu")
    assert choose_batch_size(starter) == 6 * 32
    monkeypatch.setattr("tmcr.scoring.run.SMALL_ENCODERS", 1_000_000)
    assert choose_batch_size(starter) == 6 * 4
    monkeypatch.setattr("torch.get_num_threads", lambda: 1)
    assert choose_batch_size(starter) == 16


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Forty photos, every tenth damaged, each eighth a repeat of the first."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(40):
        data = b"damaged" if number % 10 == 5 else png(0 if number % 8 == 0 else number)
        (folder / f"{number:02d}.png").write_bytes(data)
    return folder


def complete(model: StandIn, sources: Path | list[str], out: Path | None, **options: object) -> None:
    named = [str(sources)] if isinstance(sources, Path) else sources
    with open_run(model, Plan(named, out, **{"batch_size": 4} | options)) as run:  # type: ignore[arg-type]
        run.complete()


def stopped_after(model: StandIn, sources: Path, out: Path, batches: int, **options: object) -> None:
    """Begin a run and press Ctrl-C after so many batches."""
    seen = 0

    def press(count: int) -> None:
        nonlocal seen
        seen += 1
        if seen == batches:
            os.kill(os.getpid(), signal.SIGINT)

    with (
        pytest.raises(Stopped, match="the same command goes on"),
        open_run(model, Plan([str(sources)], out, batch_size=4, **options)) as run,  # type: ignore[arg-type]
    ):
        run.complete(press)


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_photo_is_a_row_and_equal_bytes_are_scored_once(
    ordered: bool, workers: int, photos: Path, tmp_path: Path
) -> None:
    model = StandIn(workers=workers)
    complete(model, photos, tmp_path / "r", ordered=ordered)
    rows = list(read_results(tmp_path / "r"))
    names = [str(path) for path in sorted(photos.iterdir())]
    assert [row.photo for row in rows] == names if ordered else Counter(row.photo for row in rows) == Counter(names)
    assert len(model.prepared) == len(set(model.prepared)) == 32  # four are damaged, four repeat the first
    by_name = {Path(row.photo).stem: row for row in rows}
    assert {by_name[f"{n:02d}"].score for n in range(0, 40, 8)} == {by_name["00"].score}
    assert {by_name[f"{n:02d}"].error_reason for n in range(5, 40, 10)} == {"not_an_image"}
    assert len({row.content_hash for row in rows}) == 33
    for row in rows:
        if row.ok:
            pixels = np.asarray(Image.open(row.photo), dtype=np.float64) / 255
            assert row.score == pytest.approx(1 + 9 * pixels.mean(), abs=1e-5)


def test_batches_are_full_whatever_lies_between_the_photos(photos: Path, tmp_path: Path) -> None:
    model = StandIn()
    complete(model, photos, None, batch_size=5)
    # Two batches are under way at once: which of them is noted down first is chance.
    assert sorted(model.batches, reverse=True) == [5, 5, 5, 5, 5, 5, 2]


def test_a_shard_that_breaks_off_when_a_run_goes_on_costs_no_photo_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six rows of the first shard are done when its connection breaks after three; or it breaks at the first try."""
    shards = [str(tmp_path / f"{number}.tar") for number in range(2)]
    for shard in range(2):
        with tarfile.open(shards[shard], "w") as archive:
            for number in range(10 if shard else 40):
                data = png(20 * number + shard)
                member = tarfile.TarInfo(f"{number}.png")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))

    def breaking(shard: str, **options: object) -> Iterator[Member]:
        for number, member in enumerate(members(shard, **options)):  # type: ignore[arg-type]
            if shard == shards[0] and number == 3:
                yield Member(shard, error=ImageError("unreadable", "connection lost", shard), breaks_off=True)
                return
            yield member

    out = tmp_path / "results"
    kept = {"batch_size": 2, "part_rows": 2}

    stop_at(6, shards, out, kept)
    names = [row.photo for row in read_results(out)]
    assert 6 <= len(names) < 40
    monkeypatch.setattr("tmcr.scoring.listing.members", breaking)
    complete(StandIn(), shards, out, **kept)
    rows = list(read_results(out))
    (lost,) = [row for row in rows if not row.ok]
    assert lost.photo == shards[0]
    assert rows[len(names)] == lost  # behind those that were done
    assert [row.photo for row in rows if row.ok] == names + [f"{shards[1]}#{number}.png" for number in range(10)]
    ranges = [pair for part in json.loads((out / "manifest.json").read_text())["parts"] for pair in part["rows"]]
    assert RowSet(ranges).ranges() == [[0, len(names) + 1 + 10]]

    shutil.rmtree(out)
    stop_at(4, shards, out, kept)
    assert [row.photo for row in read_results(out)][:4] == [
        f"{shards[0]}#{number}.png" for number in range(3)
    ] + shards[:1]
    monkeypatch.undo()
    complete(StandIn(), shards, out, **kept)
    rows = list(read_results(out))
    assert [row.photo for row in rows if row.ok and row.photo.startswith(shards[1])] == [
        f"{shards[1]}#{number}.png" for number in range(10)
    ]


def stop_at(rows: int, shards: list[str], out: Path, kept: dict[str, int]) -> None:
    """Press Ctrl-C once so many rows are done."""
    pressed: list[int] = []

    def press(count: int) -> None:
        pressed.append(count)
        if sum(pressed) >= rows > sum(pressed[:-1]):
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Stopped), open_run(StandIn(seconds=0.01), Plan(shards, out, **kept)) as run:  # type: ignore[arg-type]
        run.complete(press)


def test_the_manifest_is_saved_while_lengths_of_shards_come_in(tmp_path: Path) -> None:
    folder = ResultsFolder(tmp_path / "results")
    lengths = {f"{number}.tar": number for number in range(5000)}
    folder.begin(Manifest("m", "h", {"entries": 1}, {}, shard_rows=lengths))
    going = threading.Event()

    def add() -> None:
        number = 5000
        while not going.is_set():
            lengths[f"{number}.tar"] = number
            number += 1
            time.sleep(0)

    thread = threading.Thread(target=add)
    thread.start()
    try:
        for _ in range(20):
            folder._save()
    finally:
        going.set()
        thread.join()
        folder.close()


@pytest.mark.parametrize("out", ["results", "results.jsonl", "results.csv", "results.parquet"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(out: str, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    complete(StandIn(), photos, tmp_path / "whole" / out)
    for batches in (1, 2):
        stopped_after(StandIn(seconds=0.002), photos, tmp_path / out, batches)
    second = StandIn()
    complete(second, photos, tmp_path / out)
    assert len(second.prepared) < 32
    if out == "results":
        assert list(read_results(tmp_path / out)) == list(read_results(tmp_path / "whole" / out))
        return
    assert not (tmp_path / f"{out}.parts").exists()
    if out.endswith(".parquet"):
        assert list(read_results(tmp_path / out)) == list(read_results(tmp_path / "whole" / out))
    else:
        assert (tmp_path / out).read_bytes() == (tmp_path / "whole" / out).read_bytes()


def test_the_model_that_ships_gives_the_same_bits_after_a_stop(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for number in range(18):
        rough = Image.fromarray(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8))
        rough.resize((150, 120)).save(tmp_path / "photos" / f"{number:02d}.jpg")
    shutil.copy(tmp_path / "photos" / "03.jpg", tmp_path / "photos" / "17.jpg")
    model = load("starter", device="cpu", workers=2)
    complete(model, tmp_path / "photos", tmp_path / "whole")
    stopped_after(model, tmp_path / "photos", tmp_path / "r", 1)
    complete(model, tmp_path / "photos", tmp_path / "r")
    assert list(read_results(tmp_path / "r")) == list(read_results(tmp_path / "whole"))


def test_ctrl_c_is_heard_though_a_photo_hangs(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    read = Photo.read

    def hang_at_the_twentieth(photo: Photo, limits: object) -> PhotoBytes:
        if photo.row == 20:
            release.wait(20)
        return read(photo, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(Photo, "read", hang_at_the_twentieth)
    began = time.monotonic()
    stopped_after(StandIn(), photos, tmp_path / "r", 2)
    assert time.monotonic() - began < 10
    release.set()
    assert 8 <= len(list(read_results(tmp_path / "r"))) <= 20


def test_without_order_a_slow_photo_holds_up_no_other(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()
    read = Photo.read

    def slow_first(photo: Photo, limits: object) -> PhotoBytes:
        if photo.row == 0:
            release.wait(20)
        return read(photo, limits)  # type: ignore[arg-type]

    monkeypatch.setattr(Photo, "read", slow_first)
    with open_run(StandIn(), Plan([str(photos)], tmp_path / "r", batch_size=4, ordered=False)) as run:
        run.complete(lambda count: release.set())
    rows = list(read_results(tmp_path / "r"))
    assert len(rows) == 40
    assert rows[0].photo != str(photos / "00.png")


@pytest.mark.parametrize("out", ["r", "r.csv"])
def test_another_model_other_photos_or_settings_are_refused(out: str, photos: Path, tmp_path: Path) -> None:
    stopped_after(StandIn(seconds=0.002), photos, tmp_path / out, 1)
    other = StandIn()
    other.model.hash = "ffff"
    with pytest.raises(DataError, match=r"the model .* changed; --restart"):
        complete(other, photos, tmp_path / out)
    with pytest.raises(DataError, match=r"the settings \(column\) changed"):
        complete(StandIn(), photos, tmp_path / out, column="image")
    (photos / "zz.png").write_bytes(png(3))
    with pytest.raises(DataError, match=r"an unfinished run .* \(40 entries then, 41 now\)"):
        complete(StandIn(), photos, tmp_path / out)
    complete(StandIn(), photos, tmp_path / out, restart=True)
    rows = (tmp_path / out).read_text().splitlines()[1:] if out == "r.csv" else list(read_results(tmp_path / out))
    assert len(rows) == 41


def test_batch_size_and_workers_may_change_on_the_way(photos: Path, tmp_path: Path) -> None:
    complete(StandIn(), photos, tmp_path / "whole")
    stopped_after(StandIn(seconds=0.002), photos, tmp_path / "r", 1)
    complete(StandIn(workers=1), photos, tmp_path / "r", batch_size=3)
    assert list(read_results(tmp_path / "r")) == list(read_results(tmp_path / "whole"))


def test_a_finished_folder_is_not_scored_again(photos: Path, tmp_path: Path) -> None:
    complete(StandIn(), photos, tmp_path / "r")
    notes: list[str] = []
    again = StandIn()
    with open_run(again, Plan([str(photos)], tmp_path / "r"), note=notes.append) as run:
        run.complete()
        assert (run.count, run.earlier, run.errors) == (40, 40, 4)
    assert again.batches == []
    assert "is complete; --restart scores all anew" in notes[0]


@pytest.mark.parametrize("memory", [1, 3, 7])
def test_out_of_memory_halves_the_batch_and_goes_on(memory: int, photos: Path, tmp_path: Path) -> None:
    notes: list[str] = []
    model = StandIn(memory=memory, at_once=1)
    with open_run(model, Plan([str(photos)], tmp_path / "r", batch_size=16), note=notes.append) as run:
        run.complete()
    assert max(model.batches) <= memory
    assert sum(model.batches) == 32
    assert len(list(read_results(tmp_path / "r"))) == 40
    assert "ran out of memory: going on with 8 photos at a time" in notes[0]
    with pytest.raises(ConfigError, match="not enough memory for one photo"):
        complete(StandIn(memory=0), photos, None)


def test_too_many_errors_stop_the_run_and_more_may_be_allowed(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 photos cannot be read, more than --max-errors 1; \d+ of 40 .* larger"):
        complete(StandIn(), photos, tmp_path / "r", max_errors=1)
    assert 16 <= len(list(read_results(tmp_path / "r"))) < 40
    with pytest.raises(DataError, match="more than --max-errors 0"):
        complete(StandIn(), photos, tmp_path / "r", max_errors=0)
    complete(StandIn(), photos, tmp_path / "r", max_errors=4)
    assert len(list(read_results(tmp_path / "r"))) == 40


def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        written = 0
        write = ParquetWriter.write

        def fail_late(writer: ParquetWriter, verdict: object) -> None:
            nonlocal written
            written += 1
            if written > 20:
                raise OSError(28, "No space left on device")
            write(writer, verdict)  # type: ignore[arg-type]

        full.setattr(ParquetWriter, "write", fail_late)
        with pytest.raises(DataError, match=r"No space left.*make room: \d+ of 40 photos are scored and kept"):
            complete(StandIn(), photos, tmp_path / "r", part_rows=8)
    kept = list(read_results(tmp_path / "r"))
    assert len(kept) >= 8
    assert not list((tmp_path / "r").glob("*.part"))
    complete(StandIn(), photos, tmp_path / "r")
    complete(StandIn(), photos, tmp_path / "whole")
    assert list(read_results(tmp_path / "r")) == list(read_results(tmp_path / "whole"))


@pytest.mark.skipif(sys.platform != "linux", reason="needs limits on file sizes")
def test_a_disk_that_really_is_full(photos: Path, tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        with pytest.raises(DataError, match="make room"):
            complete(StandIn(), photos, tmp_path / "r")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    complete(StandIn(), photos, tmp_path / "r")
    assert len(list(read_results(tmp_path / "r"))) == 40


def test_a_photo_that_breaks_the_preparation_costs_its_row(photos: Path) -> None:
    model = StandIn()

    def prepare(photo: PhotoBytes) -> Prepared:
        if photo.name == "bad":
            raise MemoryError("far too large")
        return model.prepare(photo)

    stream = [Photo(row, name, data=png(row)) for row, name in enumerate(("good", "bad", "fine"))]
    rows = [row for batch in score_photos(model, stream, prepare=prepare, batch_size=2) for row in batch]
    assert [verdict.error_reason for _, verdict in rows] == [None, "crashed", None]
    assert "far too large" in rows[1][1].error


def test_a_fault_of_the_program_is_not_swallowed(photos: Path, tmp_path: Path) -> None:
    model = StandIn()

    def broken(*arguments: object) -> None:
        raise RuntimeError("a bug")

    model.features = broken  # type: ignore[assignment, method-assign]
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match="a bug"):
        complete(model, photos, tmp_path / "r")
    assert threading.active_count() == threads


CRASHING = """
import os, sys, time
import tmcr.preparation as preparation
from tmcr.scoring import isolated
decode = preparation.decode
def hostile(photo, **options):
    if b"segfault" in photo.data: os.kill(os.getpid(), 11)
    if b"hang" in photo.data: time.sleep(60)
    if b"babble" in photo.data: os.write(1, b'{"bytes": 3}\\nabc')
    return decode(photo, **options)
preparation.decode = hostile
isolated._main()
"""


def test_threads_that_come_and_go_share_the_decoders(photos: Path) -> None:
    """A worker of a cluster decodes every task by threads of its own."""
    names = sorted(photos.iterdir())[:4]
    with IsolatedPreparation(StandIn().prepare) as prepare:
        for _ in range(3):
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda path: prepare(PhotoBytes(str(path), path.read_bytes())), names))
            assert [each.name for each in found] == [str(path) for path in names]
        assert len(prepare._children) <= 2
        (child, *_) = prepare._idle
        child._process.kill()
        child._process.wait()
        assert prepare(PhotoBytes("a", names[1].read_bytes())).error is None
    assert not prepare._children


def test_a_decoder_that_crashes_or_hangs_costs_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = StandIn()
    popen: Callable[..., object] = isolated.subprocess.Popen
    monkeypatch.setattr(
        isolated.subprocess, "Popen", lambda command, **options: popen([sys.executable, "-c", CRASHING], **options)
    )
    contents = [png(1), png(2) + b"segfault", png(3), png(4) + b"hang", png(5) + b"babble", b"damaged"]
    stream = [Photo(row, f"{row}.png", data=data) for row, data in enumerate(contents)]
    with IsolatedPreparation(model.prepare, seconds=3) as prepare:
        rows = [row for batch in score_photos(model, stream, prepare=prepare, batch_size=2) for row in batch]
        assert prepare._children
    assert [verdict.error_reason for _, verdict in rows] == [None, "crashed", None, "crashed", None, "not_an_image"]
    assert "decoder crashed (exit status -11)" in rows[1][1].error
    assert "more than 3 seconds" in rows[3][1].error
    assert not prepare._children


def test_decoding_apart_changes_no_score(photos: Path, tmp_path: Path) -> None:
    complete(StandIn(), photos, tmp_path / "whole")
    complete(StandIn(), photos, tmp_path / "r", isolate=True)
    assert list(read_results(tmp_path / "r")) == list(read_results(tmp_path / "whole"))


def test_nothing_found_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for out in ("r", "r.csv"):
        with pytest.raises(ConfigError, match="no photo found"):
            complete(StandIn(), tmp_path / "empty", tmp_path / out)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
