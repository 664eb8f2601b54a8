"""Scoring on Ray: the rows of the local engine, whatever is killed on the way, and every fault in one clear line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from scoring_stand_in import StandIn

from tmcr.cli.main import run as command_line
from tmcr.errors import ConfigError, DataError, ModelError, Stopped
from tmcr.images import ImageLimits
from tmcr.results import read_results
from tmcr.scoring.listing import list_sources
from tmcr.scoring.numbering import SPAN, final_rows
from tmcr.scoring.parts import PartRecord
from tmcr.scoring.ray_cluster import RayOptions, share
from tmcr.scoring.ray_engine import open_crew, open_ray_run
from tmcr.scoring.ray_tasks import Task, cut, photos_in_a_task
from tmcr.scoring.ray_worker import Part, Worker
from tmcr.scoring.rows import RowSet
from tmcr.scoring.run import Plan, open_run

HERE = Path(__file__).parent
PHOTOS = 40 + 60 + 40 + 1


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), (value % 256, value // 2 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A shard, sixty photos with damaged ones and repeats among them, another shard, and a photo that is gone."""
    here = tmp_path_factory.mktemp("sources")
    (here / "folder").mkdir()
    for number in range(60):
        data = b"damaged" if number % 20 == 5 else png(number if number % 4 else 0)
        (here / "folder" / f"{number:02d}.png").write_bytes(data)
    for shard in range(2):
        with tarfile.open(here / f"{shard}.tar", "w") as archive:
            for number in range(40):
                member, data = tarfile.TarInfo(f"{number:02d}.png"), png(100 + 3 * number + shard)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return [str(here / "0.tar"), str(here / "folder"), str(here / "1.tar"), str(here / "gone.png")]


@pytest.fixture(scope="module")
def local(sources: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the local engine makes of the sources."""
    out = tmp_path_factory.mktemp("local") / "results"
    with open_run(StandIn(), plan(sources, out)) as run:
        run.complete()
    return out


def plan(sources: list[str], out: Path, **options: Any) -> Plan:
    return Plan(sources, out, **{"batch_size": 4, "part_rows": 12} | options)


def rows(out: Path) -> list[Any]:
    return list(read_results(out))


class TestTasks:
    """Cutting and numbering need no cluster."""

    @pytest.fixture
    def listing(self, sources: list[str], tmp_path: Path) -> Path:
        list_sources(sources, tmp_path / "listing")
        return tmp_path / "listing"

    def test_tasks_hold_every_entry_once_and_end_where_they_do_whatever_is_done(self, listing: Path) -> None:
        names = [json.loads(line)[0] for line in listing.read_text().splitlines()]
        tasks = list(cut(listing, photos=12, done=RowSet(), shard_rows={}))
        assert [name for task in tasks for _, name in task.entries] == names
        assert [len(task.entries) for task in tasks] == [12, 12, 12, 12, 12, 3]  # a small shard counts as one photo
        some = RowSet([[5, 8], [SPAN, SPAN + 11], [SPAN + 20, SPAN + 21]])
        left = list(cut(listing, photos=12, done=some, shard_rows={}))
        assert [len(task.entries) for task in left] == [1, 11, 12, 12, 12, 3]
        assert left[0].done.ranges() == [[5, 8], [SPAN, SPAN + 11]]
        assert left[1].done.ranges() == [[SPAN + 20, SPAN + 21]]

    def test_a_shard_is_left_out_once_all_its_rows_are_done(self, listing: Path, sources: list[str]) -> None:
        done = RowSet([[0, 40]])
        assert next(cut(listing, photos=1, done=done, shard_rows={})).entries == [(0, sources[0])]
        (first, _), *_ = next(cut(listing, photos=1, done=done, shard_rows={sources[0]: 40})).entries
        assert first == SPAN

    def test_final_numbers_are_those_of_the_photos_in_turn(self, listing: Path, sources: list[str]) -> None:
        shard_rows: dict[str, int] = {}
        tasks = list(cut(listing, photos=7, done=RowSet(), shard_rows={}))
        numbers = [
            [photo.row for photo in task.photos(column=None, limits=ImageLimits(), shard_rows=shard_rows)]
            for task in tasks
        ]
        assert shard_rows == {sources[0]: 40, sources[2]: 40}
        records = [PartRecord("", RowSet((n, n + 1) for n in each).ranges(), len(each), 0) for each in numbers]
        final = [record.rows for record in final_rows(records, listing, shard_rows)]
        place = iter(range(PHOTOS))
        assert final == [RowSet((n, n + 1) for _ in each for n in [next(place)]).ranges() for each in numbers]

    def test_small_runs_have_tasks_for_many_workers_and_big_runs_bounded_ones(self) -> None:
        assert photos_in_a_task(100, 0, most=50_000) == 64
        assert photos_in_a_task(1_000_000, 0, most=50_000) == 3906
        assert photos_in_a_task(10**8, 0, most=50_000) == photos_in_a_task(100, 2**50, most=50_000) == 16_384
        assert photos_in_a_task(10**8, 0, most=100) == 100


@pytest.mark.parametrize(
    ("resources", "options", "expected"),
    [
        ([{"CPU": 8}], RayOptions(), (2, 0, 4)),
        ([{"CPU": 2}], RayOptions(), (1, 0, 2)),
        ([{"CPU": 2}], RayOptions(workers=2, cpus_per_worker=1), (2, 0, 1)),
        ([{"CPU": 32, "GPU": 4}, {"CPU": 16}], RayOptions(), (4, 1, 8)),
        ([{"CPU": 32, "GPU": 4}] * 3, RayOptions(gpus_per_worker=0.5), (24, 0.5, 4)),
        ([{"CPU": 208, "GPU": 8}], RayOptions(), (8, 1, 16)),
        ([{"CPU": 4}], RayOptions("head:6379", gpus_per_worker=1), (1, 1, 4)),  # machines with GPUs may come
    ],
)
def test_each_worker_gets_its_share_of_a_machine(
    resources: list[dict[str, float]], options: RayOptions, expected: tuple[int, float, int]
) -> None:
    nodes = [{"Alive": True, "Resources": each} for each in resources]
    nodes.append({"Alive": False, "Resources": {"CPU": 1000.0, "GPU": 1000.0}})
    assert share(nodes, options, local=options.address is None) == expected


def test_a_worker_ends_its_part_at_too_many_errors_and_stops_after_a_batch(sources: list[str], tmp_path: Path) -> None:
    list_sources(sources, tmp_path / "listing")
    (task,) = cut(tmp_path / "listing", photos=1000, done=RowSet(), shard_rows={})
    worker = Worker(StandIn, 1, plan(sources, tmp_path / "r", part_rows=1000), str(Path.cwd()))
    worker.load()
    part = worker.score(task, None, errors_left=0)
    assert isinstance(part, Part)
    assert (part.errors, part.ends_task, part.shard_rows) == (1, False, {})
    assert part.rows == [[0, 40], [SPAN, SPAN + part.count - 40]]
    worker.stop()
    last = worker.score(None, None, errors_left=None)
    assert isinstance(last, Part)
    assert not last.ends_task
    assert part.count + last.count < PHOTOS


def test_photos_that_a_worker_cannot_see_are_one_line_not_rows_of_errors(tmp_path: Path) -> None:
    worker = Worker(StandIn, 1, plan([], tmp_path / "r"), str(Path.cwd()))
    worker.load()
    said = worker.score(None, str(tmp_path / "elsewhere.png"), None)
    assert isinstance(said, ConfigError)
    assert "is not there on worker" in str(said)


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two processors whose workers find the stand-in."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'tmcr[ray]')")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]))
        environment.setenv("OMP_NUM_THREADS", "1")
        ray.init(
            address="local", num_cpus=2, num_gpus=0, include_dashboard=False, log_to_driver=False, logging_level=50,
            object_store_memory=80 * 2**20,
        )  # fmt: skip
        yield ray
        ray.shutdown()


def loaded(pids: Path, seconds: float = 0.0, *, workers: int) -> StandIn:
    """A stand-in that leaves its process's number."""
    (pids / str(os.getpid())).touch()
    return StandIn(workers=workers, seconds=seconds)


def on_ray(
    planned: Plan,
    load: Callable[..., Any],
    *,
    workers: int = 1,
    scored: Callable[[int], None] = lambda count: None,
    note: Callable[[str], None] = lambda line: None,
) -> None:
    options = RayOptions(workers=workers, cpus_per_worker=1)
    with open_crew(load, planned, options, note=note) as crew, open_ray_run(crew, planned, note=note) as run:
        run.complete(scored)


def test_two_workers_give_the_rows_of_the_local_engine_though_one_is_killed(
    ray: Any, sources: list[str], local: Path, tmp_path: Path
) -> None:
    notes: list[str] = []
    killed: list[int] = []
    pids = tmp_path / "pids"
    pids.mkdir()

    def kill_one(count: int) -> None:
        if not killed and len(list(pids.iterdir())) == 2:
            killed.append(int(min(pids.iterdir()).name))
            os.kill(killed[0], signal.SIGKILL)

    out = tmp_path / "results"
    on_ray(plan(sources, out), partial(loaded, pids, 0.02), workers=2, scored=kill_one, note=notes.append)
    assert len(killed) == 1
    assert len([line for line in notes if "was lost" in line and "another takes over" in line]) == 1
    assert rows(out) == rows(local)
    ours, theirs = (json.loads((folder / "manifest.json").read_text()) for folder in (out, local))
    assert RowSet(pair for part in ours.pop("parts") for pair in part["rows"]).ranges() == [[0, PHOTOS]]
    theirs.pop("parts")
    assert ours == theirs
    with open_run(StandIn(), plan(sources, out), note=notes.append) as run:
        run.complete()
    assert "is complete" in notes[-1]


DRIVER = """
import sys
from pathlib import Path
import ray
from test_ray_engine import loaded, on_ray, partial, plan
address, pids, out, *sources = sys.argv[1:]
ray.init(address=address, log_to_driver=False, logging_level=50)
on_ray(plan(sources, Path(out)), partial(loaded, Path(pids), 0.05))
"""


def test_a_run_whose_driver_was_killed_and_one_that_was_stopped_end_with_the_same_rows(
    ray: Any, sources: list[str], local: Path, tmp_path: Path
) -> None:
    out, pids = tmp_path / "results.jsonl", tmp_path / "pids"
    pids.mkdir()
    parts = tmp_path / "results.jsonl.parts"
    address = ray.get_runtime_context().gcs_address
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, address, pids, out, *sources], env=environment)
    until = time.monotonic() + 60
    while not list(parts.glob("part-*2.parquet")) and driver.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    driver.kill()
    assert driver.wait() == -signal.SIGKILL
    assert 24 <= len(rows(parts)) < PHOTOS
    with open_run(StandIn(), plan(sources, out)) as run:  # the local engine would take it up as well
        left = [photo.row for photo in run.photos(run._folder.done())]
        assert len(left) == PHOTOS - run.count
        assert not {row for first, end in run._folder.done().ranges() for row in range(first, end)} & set(left)

    pressed: list[int] = []

    def press(count: int) -> None:
        if not pressed:
            pressed.append(count)
            os.kill(os.getpid(), signal.SIGINT)

    before = len(rows(parts))
    with pytest.raises(Stopped, match=rf"photos are scored and kept in {parts}; the same command goes on"):
        on_ray(plan(sources, out), partial(loaded, pids, 0.05), scored=press)
    assert before < len(rows(parts)) < PHOTOS
    assert not list(parts.glob("*.part"))

    notes: list[str] = []
    on_ray(plan(sources, out), partial(loaded, pids), note=notes.append)
    assert any("going on after" in line for line in notes)
    assert rows(out) == rows(local)
    assert not parts.exists()


class FakeRay:
    """As much of Ray as a crew asks for, in this process, one call after the other."""

    class exceptions:
        class RayError(Exception):
            pass

        class RayTaskError(RayError):
            pass

    class Died(exceptions.RayError):
        pass

    def __init__(self) -> None:
        self.hired = 0

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 2.0}}]

    def remote(self, **options: Any) -> Callable[[type], Any]:
        return lambda cls: SimpleNamespace(remote=partial(self._actor, cls))

    def _actor(self, cls: type, *arguments: Any) -> Any:
        self.hired += 1
        inside = cls(*arguments)
        return SimpleNamespace(
            load=SimpleNamespace(remote=partial(partial, inside.load)),
            score=SimpleNamespace(remote=partial(partial, inside.score)),
            stop=SimpleNamespace(options=lambda **group: SimpleNamespace(remote=inside.stop)),
        )

    def wait(self, references: list[Any], **options: Any) -> tuple[list[Any], list[Any]]:
        return references[:1], references[1:]

    def get(self, reference: Callable[[], Any]) -> Any:
        return reference()

    def kill(self, actor: Any) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    fake = FakeRay()
    monkeypatch.setattr("tmcr.scoring.ray_engine.connected", lambda address: nullcontext(fake))
    return fake


def stand_in(*, workers: int) -> StandIn:
    return StandIn(workers=workers)


def test_too_many_errors_stop_the_run_and_more_may_be_allowed(
    fake: FakeRay, sources: list[str], local: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r"
    with pytest.raises(DataError, match=r"2 photos cannot be read, more than --max-errors 1; \d+ photos are scored"):
        on_ray(plan(sources, out, max_errors=1), stand_in, workers=2)
    assert 60 < len(rows(out)) < PHOTOS
    on_ray(plan(sources, out, max_errors=4), stand_in, workers=2)
    assert rows(out) == rows(local)


def test_photos_that_kill_every_worker_end_the_run_and_the_others_are_kept(
    fake: FakeRay, sources: list[str], local: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Worker.score

    def die_of_the_last(worker: Worker, task: Task | None, *arguments: Any) -> Any:
        if task is not None and any("1.tar" in name for _, name in task.entries):
            raise FakeRay.Died("The actor died unexpectedly.\nWorker exit detail: Out of memory. Some causes …")
        return score(worker, task, *arguments)

    out, notes = tmp_path / "r", list[str]()
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "score", die_of_the_last)
        says = r"3 workers in a row were lost over .* \(Out of memory\); .*--isolate .*; 99 photos are scored and kept"
        with pytest.raises(DataError, match=says):
            on_ray(plan(sources, out), stand_in, note=notes.append)
    assert len([line for line in notes if "was lost (Out of memory); another takes over" in line]) == 2
    assert fake.hired == 3
    on_ray(plan(sources, out), stand_in)
    assert rows(out) == rows(local)


def test_losses_with_a_part_between_them_do_not_add_up(
    fake: FakeRay, sources: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score = Worker.score

    def die_after_each_part(worker: Worker, task: Task | None, *arguments: Any) -> Any:
        if task is None:
            raise FakeRay.Died("spot machine taken back")
        return score(worker, task, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(Worker, "score", die_after_each_part)
        on_ray(plan(sources[:1], tmp_path / "r", part_rows=8), stand_in)
    with open_run(StandIn(), plan(sources[:1], tmp_path / "local")) as run:
        run.complete()
    assert fake.hired > 4
    assert rows(tmp_path / "r") == rows(tmp_path / "local")


@pytest.mark.parametrize("error", [FakeRay.Died, FakeRay.exceptions.RayTaskError])
def test_workers_that_die_while_they_load_end_the_run(
    error: type[Exception], fake: FakeRay, sources: list[str], tmp_path: Path
) -> None:
    def dying(*, workers: int) -> StandIn:
        raise error("no luck")

    expected = (error, "no luck") if error is FakeRay.exceptions.RayTaskError else (DataError, "while they loaded")
    with pytest.raises(expected[0], match=expected[1]):
        on_ray(plan(sources, tmp_path / "r"), dying)
    assert not (tmp_path / "r").exists()


def test_a_model_that_a_worker_does_not_have_is_one_line(fake: FakeRay, sources: list[str], tmp_path: Path) -> None:
    def missing(*, workers: int) -> StandIn:
        raise ModelError("models/x: is not there")

    with pytest.raises(ModelError, match="models/x: is not there"):
        on_ray(plan(sources, tmp_path / "r"), missing)
    assert not (tmp_path / "r").exists()


def test_workers_with_different_models_are_refused(fake: FakeRay, sources: list[str], tmp_path: Path) -> None:
    def another_each_time(*, workers: int) -> StandIn:
        model = StandIn(workers=workers)
        model.model.hash = str(next(numbers))
        return model

    numbers = iter(range(9))
    with pytest.raises(ConfigError, match="differ in the model; make them equal"):
        on_ray(plan(sources, tmp_path / "r"), another_each_time, workers=2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--engine", "ray", "--ray-address", "127.0.0.1:1"], "nothing answers at --ray-address 127.0.0.1:1"),
        (["--engine", "ray", "--ray-address", "somewhere"], "an address is HOST:PORT, ray://HOST:PORT, or auto"),
        (["--engine", "spark"], "--engine spark: choose local or ray"),
        (["--gpus-per-worker", "0.5"], "add --engine ray"),
    ],
)
def test_a_mistake_is_one_line(
    options: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if "127.0.0.1:1" in options or "somewhere" in options:
        ray = pytest.importorskip("ray", reason="Ray is not installed (pip install 'tmcr[ray]')")
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
    said = mistake(options, monkeypatch, capsys)
    assert says in said


def test_without_ray_one_line_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "pip install 'tmcr[ray]'" in mistake(["--engine", "ray"], monkeypatch, capsys)


def mistake(options: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `tmcr score` says of a mistake."""
    monkeypatch.setattr(sys, "argv", ["tmcr", "score", "x.jpg", *options])
    with pytest.raises(SystemExit) as stop:
        command_line()
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("tmcr: ")
    assert said.count("\n") == 1
    return said
