"""The stages of a rehearsal, each to be run in a process of its own: a function that times its own part.

The run itself is the project's `Run` under the paper's preset. Every stage finds what the earlier ones left on disk,
as a training run that is taken up again does; finding it is not timed, but it counts for the memory.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from labels import write_labels
from photos import contest_photos, write_photos
from standin import PixelEncoder, image_encoder

from tmcr.datasets import load_manifest
from tmcr.images import content_hash, decode
from tmcr.modelfolder import load_model, save_model
from tmcr.preprocess import PreprocessSpec
from tmcr.tags import TagLibraries
from tmcr.training.card import model_card
from tmcr.training.clusters import assign
from tmcr.training.config import preset
from tmcr.training.levels import BalancedBatches, score_levels
from tmcr.training.pipeline import Run
from tmcr.training.stage import Silent
from tmcr.training.train import trained_model

RANK_EPOCHS, FIT_EPOCHS = 1, 1  # of the paper's 50, and of as many as validation asks for
SEMANTIC, ATTRIBUTE = 2145, 1659  # tags, as in the paper
BLOCK = 4096  # photos whose similarities are in memory at a time
DECODED = 200  # photos of AVA's own size
CLIP = PreprocessSpec(336)
SWIN = PreprocessSpec(224, "squash").with_margin(preset("paper").encoders.image_crop_from, squash=False)
LEAST_SRCC = 0.3  # the score can be seen in the photos: less means that rows got mixed up

Facts = dict[str, Any]


class Watch(Silent):
    """Seconds inside `with watch("name"):`, and when a run says that a stage starts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.started: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - began

    def start(self, stage: str, total: int, done: int = 0) -> None:
        self.started[stage] = time.perf_counter()


# ---- before the pipeline ------------------------------------------------------------------------------------------


def prepare(out: Path, watch: Watch, *, labels: Path | None, photos: int) -> Facts:
    """Labels, tags and photos as a download would leave them."""
    data = out / "data"
    with watch("labels"):
        real = write_labels(labels, data, photos)
    with watch("photos"):
        manifest = load_manifest(_spec(out))
        write_photos(manifest.paths, manifest.scores)
    shipped = TagLibraries.default()
    TagLibraries(
        replace(shipped.semantic, **_first(shipped.semantic, SEMANTIC)),
        replace(shipped.attribute, **_first(shipped.attribute, ATTRIBUTE)),
    ).save(out / "tags")
    return {"labels": real, "photos": len(manifest), "disk": disk(data)}


def read_labels(out: Path, watch: Watch) -> Facts:
    """Both splits, from AVA.txt and the lists."""
    facts: Facts = {}
    for split in ("official", "tanet"):
        with watch(split):
            manifest = load_manifest(f"ava:{split}@{out / 'data'}")
        facts[split] = {part: manifest.splits.count(part) for part in ("train", "val", "test")}
    facts["disk"] = disk(out / "data" / "AVA.txt")
    return facts


def decode_photos(out: Path, watch: Watch) -> Facts:
    """One core on photos as large as AVA's: hashed, decoded and made ready for either encoder."""
    paths = contest_photos(out / "sample", DECODED)
    rng = np.random.default_rng(0)
    with watch("match"):
        for path in paths:
            content_hash(path)
            CLIP(decode(path, target_side=CLIP.target_side))
    with watch("view"):
        for path in paths:
            SWIN.random_view(decode(path, target_side=SWIN.target_side), rng)
    size = sum(path.stat().st_size for path in paths) / len(paths)
    return {"photos": len(paths), "file_bytes": size, "disk": disk(out / "sample")}


# ---- the pipeline -------------------------------------------------------------------------------------------------


def match(out: Path, watch: Watch) -> Facts:
    """Stage 1 of a run: every photo hashed, decoded, embedded and stored, then looked through for leaks."""
    run = open_run(out, watch)
    with watch("match"):
        matched = run.matched
    return {
        "photos": len(matched.rows),
        "unreadable": len(matched.errors),
        "embeddings": disk(out / "run" / "stages" / "match"),
        "store": disk(out / "run" / "cache" / "features"),
        "disk": disk(out / "run"),
    }


def cluster(out: Path, watch: Watch) -> Facts:
    """Stage 2: K-means on the training photos' semantic similarities, kinds named and described."""
    run = open_run(out, watch)
    _ = run.matched
    with watch("cluster"):
        table, labels = run.clusters
    sizes = np.bincount(labels).tolist()
    folder = out / "run" / "stages" / "cluster"
    return {"rows": len(labels), "columns": table.centroids.shape[1], "sizes": sizes, "disk": disk(folder)}


def similarities(out: Path, watch: Watch) -> Facts:
    """All similarities as a float16 memory map; the pipeline itself keeps embeddings, which are smaller."""
    run = open_run(out, watch)
    matched, (table, _) = run.matched, run.clusters
    path = out / "similarities.npy"
    shape = len(matched.rows), len(matched.text)
    alike = 0
    with watch("write"):
        stored = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        for start in range(0, shape[0], BLOCK):
            stored[start : start + BLOCK] = matched.similarities(np.arange(start, min(start + BLOCK, shape[0])))
        stored.flush()
        del stored
    with watch("read"):
        stored = np.load(path, mmap_mode="r")
        for start in range(0, shape[0], BLOCK):
            half = stored[start : start + BLOCK, : matched.n_semantic].astype(np.float32)
            exact = matched.semantic(np.arange(start, start + len(half))).numpy()
            alike += int((assign(half, table.centroids) == assign(exact, table.centroids)).sum())
    return {"shape": shape, "same_kind": alike / shape[0], "disk": disk(path)}


def sampling(out: Path, watch: Watch) -> Facts:
    """All balanced batches of the ranking stage, for all of its epochs."""
    run = open_run(out, watch)
    _, labels = run.clusters
    config = preset("paper").rank
    scores = run.manifest.scores[run.part("train")]
    with watch("sampling"):
        levels = score_levels(scores, bins=config.level_bins, form=config.form)
        batches = BalancedBatches(labels, levels, batch_limit=config.batch_limit, frequency=config.frequency, seed=0)
        drawn = np.zeros(len(labels), dtype=np.int64)
        sizes = []
        for epoch in range(config.epochs):
            for step in range(len(batches)):
                batch = batches.batch(epoch, step)
                np.add.at(drawn, batch, 1)
                sizes.append(len(batch))
    for step in range(len(batches)):  # one kind, and each of its levels equally often
        batch = batches.batch(0, step)
        counts = np.bincount(levels[batch])
        if len(set(labels[batch].tolist())) != 1 or len(set(counts[counts > 0].tolist())) != 1:
            raise SystemExit(f"batch {step} is not balanced")
    return {
        "epochs": config.epochs,
        "batches_per_epoch": len(batches),
        "left_out": batches.skipped,
        "photos_per_batch": float(np.mean(sizes)),
        "smallest_batch": min(sizes),
        "n_bal": batches.n_bal,
        "levels": np.bincount(levels, minlength=config.level_bins).tolist(),
        "photos_used": float((drawn > 0).mean()),
        "most_often": int(drawn.max()),
        "disk": 0,
    }


def rank(out: Path, watch: Watch) -> Facts:
    """Stage 3, for the first epochs: photos decoded anew for every batch, traversal loss, AdamW."""
    run = open_run(out, watch)
    _ = run.clusters
    with watch("rank"):
        run.ranked_encoder()
    losses = [row["loss"] for row in _log(out, "rank")]
    folder = out / "run" / "stages" / "rank"
    return {"updates": len(losses), "first_loss": losses[0], "last_loss": losses[-1], "disk": disk(folder)}


def fit(out: Path, watch: Watch) -> Facts:
    """Stage 4 as a linear probe: features of all photos, standardisation, and passes over the training photos."""
    run = open_run(out, watch)
    run.ranked_encoder()
    began = time.perf_counter()
    run.fit()
    ended = time.perf_counter()
    watch.seconds |= {"features": watch.started["fit"] - began, "epochs": ended - watch.started["fit"]}
    steps = FIT_EPOCHS * -(-len(run.part("train")) // run.config.fit.batch_size)
    last = _log(out, "fit")[-1]
    return {"steps": steps, "val_emd": last["val_emd"], "disk": disk(out / "run" / "stages" / "fit")}


def evaluate(out: Path, watch: Watch) -> Facts:
    """Stage 5: all metrics on the test part, with bootstrap intervals over challenges."""
    run = open_run(out, watch)
    fitted = run.fit()
    with watch("evaluate"):
        report = run.evaluate(fitted).to_dict()
    path = out / "report.json"
    path.write_text(json.dumps(report, indent=2))
    if not report["srcc"] > LEAST_SRCC:
        raise SystemExit(f"SRCC {report['srcc']:.3f} on photos that show their score: rows got mixed up on the way")
    return {"photos": report["n"], "srcc": report["srcc"], "disk": disk(path)}


def write_model(out: Path, watch: Watch) -> Facts:
    """The model folder, written and read again."""
    run = open_run(out, watch)
    fitted, metrics = run.fit(), json.loads((out / "report.json").read_text())
    with watch("write"):
        model = trained_model(run, fitted, "ava-rehearsal", metrics)
        save_model(model, out / "model", card=model_card(model))
    with watch("read"):
        learnt = load_model(out / "model").learnt
    return {"learnt": len(learnt.ids) if learnt else 0, "disk": disk(out / "model")}


STAGES: dict[str, Callable[[Path, Watch], Facts]] = {
    "labels": read_labels,
    "decode": decode_photos,
    "match": match,
    "cluster": cluster,
    "similarities": similarities,
    "sampling": sampling,
    "rank": rank,
    "fit": fit,
    "evaluate": evaluate,
    "model": write_model,
}


def open_run(out: Path, watch: Watch) -> Run:
    """The paper's preset as a linear probe, with stand-in encoders and few epochs."""
    config = preset("paper").with_overrides(
        {
            "data": _spec(out),
            "device": "cpu",
            "tags": out / "tags",
            "rank.epochs": RANK_EPOCHS,
            "fit.mode": "lp",
            "fit.epochs": FIT_EPOCHS,
        }
    )
    manifest = load_manifest(config.data)
    encoders: dict[str, Any] = {"image_text": PixelEncoder(), "image": image_encoder()}
    return Run(config, out / "run", manifest=manifest, progress=watch, **encoders)


def disk(path: Path) -> int:
    """Bytes that a file, or all files below a folder, take up on the disk."""
    if path.is_file():
        return path.stat().st_blocks * 512
    with os.scandir(path) as entries:
        return sum(disk(Path(entry.path)) if entry.is_dir() else entry.stat().st_blocks * 512 for entry in entries)


def _spec(out: Path) -> str:
    return f"ava:tanet@{out / 'data'}"


def _first(library: Any, count: int) -> dict[str, Any]:
    """The library's columns, cut; tags whose opposite is cut off stay without one."""
    tags = library.tags[:count]
    opposites = tuple(each if each in tags else "" for each in library.opposites[:count])
    columns = {name: getattr(library, name)[:count] for name in ("facets", "polarities", "frequencies")}
    return {"tags": tags, "opposites": opposites, **columns}


def _log(out: Path, stage: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "run" / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["stage"] == stage]
