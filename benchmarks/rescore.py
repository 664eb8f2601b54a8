"""`tmcr rescore` over a million kept photos: seconds, rows a second and peak memory.

python -m benchmarks.rescore --photos 1000000 [--tags]

Features are drawn around the bundled model's training photos (seed 0) and kept in float16, which is not measured. The
scoring runs in a process of its own, from the opened folder to the finished Parquet file; loading Python and the model
comes before.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.memory import peak_mib
from benchmarks.record import Result, this_machine

_BLOCK = 10_000
GOAL_SECONDS = 20  # for a million photos on two cores


@dataclass(frozen=True)
class Rescored:
    """Photos, seconds, and the largest resident memory of the process in MiB, before and after."""

    photos: int
    seconds: float
    mib_before: float
    mib: float
    threads: int

    def __str__(self) -> str:
        return (
            f"{self.photos:,} photos in {self.seconds:.1f} s, {self.photos / self.seconds:,.0f} a second, "
            f"peak {self.mib:,.0f} MiB ({self.mib_before:,.0f} with the model loaded), {self.threads} threads"
        )


def measure(quick: bool) -> Iterator[Result]:
    count = 50_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "features"
        write_features(folder, count)
        for tags in (False, True):
            found = in_a_process(folder, Path(name) / "out.parquet", tags=tags)
            yield Result(
                "rescore --tags" if tags else "rescore", value=found.seconds, unit="s", photos=count,
                goal="" if tags or quick else f"≤ {GOAL_SECONDS}", threads=found.threads, device="cpu",
                note=f"drawn features, seed 0, bundled model; {count / found.seconds:,.0f} photos/s, "
                f"peak of the whole process {found.mib:.0f} MiB, {found.mib_before:.0f} with the model loaded",
            )  # fmt: skip


def write_features(folder: Path, count: int, seed: int = 0) -> None:
    """A feature folder of `count` drawn photos, as `tmcr score --features` leaves it."""
    from tmcr.backends import encoding_of
    from tmcr.modelfolder import STARTER, load_model
    from tmcr.scoring.feature_folder import FeatureFolder

    model = load_model(STARTER)
    if model.embedding_mean is None or model.embedding_covariance is None or model.encoder is None:
        raise AssertionError("the bundled model knows its training photos and has an image encoder")
    rng = np.random.default_rng(seed)
    width = len(model.embedding_mean)
    values, vectors = np.linalg.eigh(model.embedding_covariance.double().numpy())
    spread = (vectors * np.sqrt(values.clip(0))).T.astype(np.float32)
    mean = model.embedding_mean.numpy()
    level_mean, level_std = model.head.level_scale.mean.numpy(), model.head.level_scale.std.numpy()
    with FeatureFolder(folder, encoding_of(model, "fp32")) as features:
        for start in range(0, count, _BLOCK):
            here = min(_BLOCK, count - start)
            embeddings = mean + rng.standard_normal((here, width), dtype=np.float32) @ spread
            embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
            levels = level_mean + level_std * rng.standard_normal((here, len(level_mean)), dtype=np.float32)
            for row in range(here):
                name = f"photos/{start + row:08d}.jpg"
                content = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
                features.put(name, content, (1024, 768), embeddings[row], levels[row].clip(0))
        features.flush()


def in_a_process(folder: Path, out: Path, *, tags: bool) -> Rescored:
    """Rescore `folder` with the bundled model in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.rescore", "--folder", str(folder), "--out", str(out)]
    command += ["--tags"] if tags else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return Rescored(**json.loads(done.stdout))


def rescore_here(folder: Path, out: Path, *, tags: bool) -> Rescored:
    """Rescore `folder` in this process."""
    import torch

    from tmcr.modelfolder import STARTER, load_model
    from tmcr.scoring.rescore import rescore

    model = load_model(STARTER)
    before, began = peak_mib(), time.perf_counter()
    count = rescore(folder, model, out, tags=tags)
    return Rescored(count, time.perf_counter() - began, before, peak_mib(), torch.get_num_threads())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=1_000_000)
    parser.add_argument("--tags", action="store_true", help="also name the best-fitting tags")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder is not None:
        print(json.dumps(asdict(rescore_here(options.folder, options.out, tags=options.tags))))
        return
    print(this_machine())
    with tempfile.TemporaryDirectory() as name:
        write_features(Path(name) / "features", options.photos)
        print(in_a_process(Path(name) / "features", Path(name) / "out.parquet", tags=options.tags), flush=True)


if __name__ == "__main__":
    main()
