"""Training on several processes: the loss and gradient of one, files written once, and an end when one dies."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_photos import scene
from killed_runs import wait_for_row
from rated_photos import write_rated_photos
from test_rank import StoppedAfter
from test_rank import run as rank_toy
from torch import Tensor, nn

from tmcr.errors import ConfigError
from tmcr.hardware import default_workers, pick_hardware
from tmcr.losses import emd_loss, supcon_loss, traversal_loss
from tmcr.network import HeadConfig, PredictionHead, Projector
from tmcr.preprocess import PreprocessSpec
from tmcr.training.config import TrainConfig, preset
from tmcr.training.gradient_cache import backward_in_chunks
from tmcr.training.photos import PhotoViews
from tmcr.training.pipeline import Run
from tmcr.training.processes import ALONE, Processes, joined
from tmcr.training.stage import Silent, Stage
from tmcr.training.train import train

COUNT = 3
LEVELS = torch.tensor([0, 3, 1, 2, 0, 1, 4, 0, 2, 3, 4, 1])  # every share has photos of several levels
# Loss, photos in the batch (not always divisible by three, nor enough for all), photos in memory at a time.
CASES = [
    *((loss, size, chunk) for loss in ("traversal", "supcon", "emd") for size in (12, 11) for chunk in (2, 64)),
    ("emd", 2, 64),
]


class Encoder(nn.Module):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 8))
        self.norm = nn.BatchNorm1d(16)
        self.unused = nn.Linear(3, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.layers(inputs)


Setting = tuple[nn.Module, nn.Module, Callable[[Tensor], Tensor], Tensor]


def setting(loss: str, size: int, dropout: float = 0.0) -> Setting:
    """Encoder, what stands between it and the loss, the loss of features, and a batch; dropout is the encoder's."""
    torch.manual_seed(0)
    encoder = Encoder(dropout).double()
    encoder.norm.eval()
    inputs = torch.randn(size, 5, dtype=torch.float64)
    if loss == "emd":
        head = PredictionHead(HeadConfig(3, 2, 8, 6, hidden=16, dropout=0.5)).double()
        similarities = torch.randn(size, 5, dtype=torch.float64)
        target = torch.rand(size, 6, dtype=torch.float64).softmax(1)
        return encoder, head, lambda f: emd_loss(head(similarities, f).softmax(1), target).mean(), inputs
    levels = LEVELS[:size]
    projector = Projector(8, 16).double()
    plain = traversal_loss if loss == "traversal" else supcon_loss
    return encoder, projector, lambda f: plain(projector(f), levels), inputs


def found(loss: float, *modules: nn.Module) -> dict[str, Any]:
    return {
        "loss": loss,
        "gradients": [parameter.grad for module in modules for parameter in module.parameters()],
        "buffers": [buffer for module in modules for buffer in module.buffers()],
    }


def gradient(processes: Processes, loss: str, size: int, chunk: int, dropout: float = 0.0) -> dict[str, Any]:
    encoder, inside, loss_of_features, inputs = setting(loss, size, dropout)
    torch.manual_seed(5)
    value = backward_in_chunks(
        encoder,
        loss_of_features,
        inputs[processes.share(size)],
        chunk,
        processes=processes,
        batch=size,
        draws=(1, 2),
    )
    processes.sum_gradients(encoder.parameters())
    processes.same_gradients(inside.parameters())
    return found(value, encoder, inside)


# ---- what each of three processes does ------------------------------------------------------------------------


def work(rank: int, port: int, folder: Path) -> None:
    os.environ.update(environment(rank, COUNT, port))
    torch.set_num_threads(1)
    with joined() as processes:
        results: dict[str, Any] = {str(case): gradient(processes, *case) for case in CASES}
        results["dropout"] = [gradient(processes, "supcon", 12, chunk, dropout=0.5) for chunk in (2, 2, 64)]
        results["agree"] = processes.agree({"rank": rank})
        results["collect"] = processes.collect(rank)
        results["ahead"] = processes.first_ahead(lambda: cached(folder / "cache"))
        results["stage"] = stage(processes, folder)
        results["gather"] = processes.gather(
            [part[None] for part in torch.arange(10.0)[processes.share(10, 4)]], 10, device=torch.device("cpu"), block=4
        )
        results["rank"] = ranking(processes, folder)
        results["batch norm"] = refused(processes)
        torch.save(results, folder / f"{rank}.pt")


def environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        "TORCHELASTIC_RUN_ID": "test",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **{name: str(rank) for name in ("RANK", "LOCAL_RANK")},
        **{name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")},
    }


def cached(path: Path) -> str:
    if path.exists():
        return "found"
    time.sleep(0.3)
    path.touch()
    return "made"


def stage(processes: Processes, folder: Path) -> list[Any]:
    told = []
    for together in (False, True):
        one = Stage(folder, f"together-{together}", {})
        worked: list[int] = []
        for _ in range(2):
            one.run(lambda _: worked.append(1) or {"by": processes.rank}, processes=processes, together=together)  # noqa: B023
        told.append((len(worked), one.summary))
    return told


def ranking(processes: Processes, folder: Path) -> dict[str, Any]:
    """The ranking stage without dropout; with it, undisturbed, and stopped and taken up again."""
    settings: dict[str, Any] = {"processes": processes, "batches_per_update": 2}
    plain, plain_loss = rank_toy(folder / "plain", Silent(), dropout=0.0, **settings)
    straight, _ = rank_toy(folder / "straight", Silent(), **settings)
    try:
        rank_toy(folder / "stopped", StoppedAfter(3), **settings)
    except KeyboardInterrupt:
        processes.wait()
    resumed, _ = rank_toy(folder / "stopped", Silent(), **settings)
    return {
        "plain": plain.state_dict(),
        "plain_loss": plain_loss,
        "straight": straight.state_dict(),
        "resumed": resumed.state_dict(),
    }


def refused(processes: Processes) -> str:
    encoder, _, loss_of_features, inputs = setting("supcon", 6)
    encoder.train()
    try:
        backward_in_chunks(encoder, loss_of_features, inputs, 64, processes=processes, batch=18)
    except ConfigError as error:
        return str(error)
    return ""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path]:
    """What three processes found, in order of rank, and the folder that they shared."""
    folder = tmp_path_factory.mktemp("three processes")
    torch.multiprocessing.spawn(work, (free_port(), folder), nprocs=COUNT)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(COUNT)], folder


Three = tuple[list[dict[str, Any]], Path]


# ---- the same numbers -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=str)
def test_loss_and_every_gradient_are_those_of_one_process(case: tuple[str, int, int], three: Three) -> None:
    encoder, inside, loss_of_features, inputs = setting(*case[:2])
    torch.manual_seed(5)  # the head drops half of its units, the same on all processes
    loss = loss_of_features(encoder(inputs))
    loss.backward()
    expected = found(loss.item(), encoder, inside)
    for mine in three[0]:
        assert mine[str(case)]["loss"] == pytest.approx(expected["loss"], rel=1e-12)
        for kind in ("gradients", "buffers"):
            for one, other in zip(mine[str(case)][kind], expected[kind], strict=True):
                if other is None:
                    assert one is None  # weight decay shall not touch a weight that nothing uses
                else:
                    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_each_process_drops_units_of_its_own_and_the_same_ones_again(three: Three) -> None:
    once, again, whole = three[0][0]["dropout"]
    for mine in three[0]:
        assert [each["loss"] for each in mine["dropout"]] == [once["loss"], once["loss"], whole["loss"]]
    for key in ("gradients", "buffers"):
        for one, other in zip(once[key], again[key], strict=True):
            assert one is other or torch.equal(one, other)
    assert once["loss"] != whole["loss"]  # one draw for four photos is not two for two each
    assert once["loss"] != three[0][0]["('supcon', 12, 2)"]["loss"]


def test_random_numbers_inside_a_share_are_its_own_and_leave_the_common_ones_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    drawn = []
    for rank, key in ((0, (1, 2)), (1, (1, 2)), (0, (1, 3)), (0, (1, 2))):
        torch.manual_seed(0)
        with Processes(rank, 2).own_draws(torch.device("cpu"), key):
            drawn.append(torch.rand(1).item())
        assert torch.equal(torch.rand(1), expected)
    assert len(set(drawn)) == 3
    assert drawn[0] == drawn[3]


def test_statistics_of_a_whole_batch_are_refused_inside_the_encoder(three: Three) -> None:
    assert all("rank.freeze_batch_norm=true" in mine["batch norm"] for mine in three[0])


def test_the_ranking_stage_ends_with_the_weights_of_one_process_and_resumes(three: Three, tmp_path: Path) -> None:
    alone, loss = rank_toy(tmp_path / "alone", Silent(), dropout=0.0, batches_per_update=2)
    reference = three[0][0]["rank"]
    for mine in three[0]:
        assert mine["rank"]["plain_loss"] == pytest.approx(loss, rel=1e-4)
        for key, value in alone.state_dict().items():
            if key != "layers.3.bias":  # the projector's normalisation removes it: its gradient is rounding alone
                torch.testing.assert_close(mine["rank"]["plain"][key], value, rtol=1e-3, atol=1e-4)
            assert torch.equal(mine["rank"]["plain"][key], reference["plain"][key])
            assert torch.equal(mine["rank"]["resumed"][key], reference["straight"][key])


def test_the_log_is_written_once(three: Three, tmp_path: Path) -> None:
    rank_toy(tmp_path / "alone", Silent(), dropout=0.0, batches_per_update=2)
    rows = [json.loads(line) for line in (three[1] / "plain" / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (tmp_path / "alone" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    np.testing.assert_allclose([row["loss"] for row in rows], [row["loss"] for row in expected], rtol=1e-4)


# ---- who does what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "block"), [(12, 1), (11, 1), (2, 1), (1, 1), (0, 1), (10, 4), (64, 32), (5, 8)])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_contiguous_whole_blocks_of_about_one_size(size: int, block: int, count: int) -> None:
    shares = [Processes(rank, count).share(size, block) for rank in range(count)]
    assert [row for share in shares for row in range(size)[share]] == list(range(size))
    blocks = [-(-(share.stop - share.start) // block) for share in shares]
    assert max(blocks) - min(blocks) <= 1
    assert size == 0 or blocks[0] == max(blocks)
    assert all(share.start % block == 0 for share in shares if share.start < share.stop)


def test_rows_are_gathered_in_order_although_a_process_has_none(three: Three) -> None:
    assert all(torch.equal(mine["gather"], torch.arange(10.0)) for mine in three[0])


def test_the_first_process_decides_collects_and_goes_ahead(three: Three) -> None:
    assert [mine["agree"] for mine in three[0]] == [{"rank": 0}] * COUNT
    assert [mine["collect"] for mine in three[0]] == [[0, 1, 2], [], []]
    assert [mine["ahead"] for mine in three[0]] == ["made", "found", "found"]


def test_a_stage_is_worked_on_once_by_the_first_or_by_all(three: Three) -> None:
    first_alone, together = zip(*(mine["stage"] for mine in three[0]), strict=True)
    assert first_alone == ((1, {"by": 0}), (0, {"by": 0}), (0, {"by": 0}))
    assert together == ((1, {"by": 0}),) * COUNT


def test_each_process_reads_the_views_of_its_share_as_one_process_would(tmp_path: Path) -> None:
    for number in range(4):
        scene(40, 30, seed=number).save(tmp_path / f"{number}.png")
    batches = [np.array([0, 1, 1, 3, 2]), np.array([2, 0])]

    def views(processes: Processes, first: int = 0) -> list[Tensor]:
        spec = PreprocessSpec(16, "squash", 20)
        photos = PhotoViews(sorted(tmp_path.iterdir()), spec, seed=0, workers=2, flip=True, processes=processes)
        return list(photos.random(batches, epoch=3, first=first))

    shares = [views(Processes(rank, 3)) for rank in range(3)]
    for number, whole in enumerate(views(ALONE)):
        assert torch.equal(torch.cat([mine[number] for mine in shares if len(mine[number])]), whole)
    assert len(shares[2][1]) == 0
    assert torch.equal(views(Processes(1, 3), first=1)[0], shares[1][1])


def test_processes_share_the_processors_and_take_a_gpu_each(monkeypatch: pytest.MonkeyPatch) -> None:
    hardware = pick_hardware("cpu", place=1, places=2)
    assert (hardware.device.type, hardware.photo_workers) == ("cpu", max(1, default_workers() // 2))
    for named in ("cuda:1", "mps"):
        with pytest.raises(ConfigError, match="give cuda"):
            pick_hardware(named, place=1, places=2)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="--nproc-per-node 2"):
        pick_hardware("cuda", place=1, places=3)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_hardware("auto", place=1, places=2).device.type == "cpu"


def test_without_torchrun_nothing_is_joined() -> None:
    script = (
        "import sys, tmcr.training.stage\n"
        "from tmcr.training.processes import ALONE, joined\n"
        "with joined() as processes: assert processes is ALONE and processes.first\n"
        "assert 'torch' not in sys.modules\n"
    )
    alone = {key: value for key, value in os.environ.items() if not key.startswith("TORCHELASTIC")}
    subprocess.run([sys.executable, "-c", script], env=alone | {"WORLD_SIZE": "4", "RANK": "1"}, check=True)


# ---- a whole training -----------------------------------------------------------------------------------------

SETTINGS = {
    "cluster.k": 2,
    "rank.epochs": 1,
    "rank.frequency": 3,
    "rank.batch_limit": 11,
    "rank.projector": 32,
    "match.batch_size": 16,
    "fit.epochs": 2,
    # Small: Adam's first steps follow the sign of a gradient, be it nothing but rounding.
    "rank.learning_rate": 1e-5,
    "fit.learning_rate": 2e-4,
    "fit.encoder_learning_rate": 3e-6,
    "fit.hidden": 16,
    "fit.batch_size": 9,
    "fit.refit": False,
    "workers": 1,
    "checkpoint_every": 1,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    ratings = write_rated_photos(tmp_path_factory.mktemp("rated photos"))
    tags = tmp_path_factory.mktemp("tags")
    (tags / "semantic.txt").write_text("beach\nforest\nsunset\ncat\nbread\nstreet\nboat\n")
    (tags / "attribute.txt").write_text("sharp\nblurry\nwarm light\ndull\ncolorful\n")
    return preset("small").with_overrides({"data": f"csv:{ratings}", "tags": str(tags), "device": "cpu"} | SETTINGS)


@pytest.fixture(scope="module")
def killed(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.Popen[str], str]:
    """The run folder of two processes one of which was killed while ranking, the other process, what that one said."""
    folder = tmp_path_factory.mktemp("killed")
    launch = script(folder, slow=True)
    port = free_port()
    two = [
        subprocess.Popen(
            [sys.executable, str(launch), *arguments(config, folder / "run")],
            env=os.environ | environment(rank, 2, port) | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        wait_for_row(folder / "run" / "metrics.jsonl", "rank", two[0])
        two[1].send_signal(signal.SIGKILL)
        _, said = two[0].communicate(timeout=60)
    finally:
        for process in two:
            process.kill()
    return folder / "run", two[0], said


def script(folder: Path, *, slow: bool) -> Path:
    """The command line; slowed after every logged row so that a kill finds it at work."""
    lines = ["import time", "from tmcr.cli.main import run", "from tmcr.training.stage import MetricsLog"]
    if slow:
        lines += ["add = MetricsLog.add", "def later(self, *args, **values):", "    add(self, *args, **values)"]
        lines += ["    time.sleep(0.5)", "MetricsLog.add = later"]
    path = folder / ("slow.py" if slow else "launch.py")
    path.write_text("\n".join([*lines, "run()"]))
    return path


def arguments(config: TrainConfig, out: Path) -> list[str]:
    settings = [f"--set={name}={json.dumps(value)}" for name, value in SETTINGS.items()]
    return ["train", f"--data={config.data}", f"--tags={config.tags}", "--device=cpu", f"--out={out}", *settings]


def test_when_a_process_dies_the_other_ends_with_one_line(killed: tuple[Path, subprocess.Popen[str], str]) -> None:
    folder, other, said = killed
    assert other.returncode == 2
    assert said.count("\n") == 1, said
    assert said.startswith("tmcr: process 0 of 2 stops because another one has ended")
    assert "it goes on where it stood" in said
    assert not (folder / "stages" / "rank" / "done.json").exists()


def test_torchrun_takes_a_killed_run_up_and_ends_with_the_numbers_and_files_of_one_process(
    killed: tuple[Path, subprocess.Popen[str], str], config: TrainConfig, tmp_path: Path
) -> None:
    shutil.copytree(killed[0], tmp_path / "two")
    subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
            *(str(script(tmp_path, slow=False)), *arguments(config, tmp_path / "two")),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=240,
    )
    train(Run(config, tmp_path / "one"))
    one, two = (metrics(tmp_path / name) for name in ("one", "two"))
    assert [row[:2] for row in two] == [row[:2] for row in one]
    for mine, other in zip(two, one, strict=True):
        np.testing.assert_allclose(mine[2], other[2], rtol=1e-3, atol=1e-4)
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("one", "two")]
    for name in ("mse", "emd1", "emd2", "plcc"):
        assert reports[1][name] == pytest.approx(reports[0][name], rel=1e-3), name
    assert files(tmp_path / "two") - {"curves.png"} == files(tmp_path / "one")
    embeddings = [np.load(tmp_path / name / "stages" / "match" / "embeddings.npy") for name in ("one", "two")]
    # Not to the last bit: how a product is split among two threads, or not among one, differs by processor.
    np.testing.assert_allclose(*embeddings, rtol=0, atol=1e-6)


def metrics(folder: Path) -> list[tuple[str, float, float]]:
    """Stage, step or epoch, and training loss or, where it is there, validation EMD of each logged row."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(row["stage"], row.get("step", row["epoch"]), row.get("val_emd", row["loss"])) for row in rows]


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
