"""Stage 1, match: every photo is decoded once, hashed and embedded by the frozen image–text encoder (eq. 3–7).

Embeddings are kept, not similarities: they are smaller, and other tag libraries can be matched with them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.disk import write_whole
from tmcr.encoders import ImageTextEncoder
from tmcr.errors import DataError, ImageError
from tmcr.features import FeatureStore
from tmcr.hardware import Hardware
from tmcr.images import content_hash, decode
from tmcr.matching import match
from tmcr.scoring.feature_files import KeptEmbeddings
from tmcr.streaming import batched, ordered_map
from tmcr.training.processes import ALONE, Processes
from tmcr.training.stage import Progress


@dataclass(frozen=True)
class Matched:
    """Photos that could be read, as embeddings, and the tags to compare them with.

    Attributes:
        rows: (n,) positions in the manifest of the photos that could be read.
        hashes: their content hashes.
        embeddings: (n, E) L2-normalised image embeddings.
        text: (M+N, E) L2-normalised tag embeddings.
        n_semantic: M.
        errors: photo path → why it could not be read.
    """

    rows: NDArray[np.int64]
    hashes: tuple[str, ...]
    embeddings: NDArray[np.float32]
    text: Tensor
    n_semantic: int
    errors: dict[str, str]

    def similarities(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """F_TM (B, M+N) of the photos at `indices`."""
        return match(torch.from_numpy(self.embeddings[np.asarray(indices)]), self.text)

    def semantic(self, indices: Sequence[int] | NDArray[np.int64]) -> Tensor:
        """Sim_sem (B, M) of the photos at `indices`."""
        return match(torch.from_numpy(self.embeddings[np.asarray(indices)]), self.text[: self.n_semantic])


@dataclass(frozen=True)
class _Photo:
    """A photo on its way: pixels to encode, or an embedding that was kept, or an error; none of them if it is known."""

    path: Path
    hash: str | None = None
    pixels: NDArray[np.float32] | None = None
    embedding: NDArray[np.float32] | None = None
    error: str | None = None


def embed_photos(
    folder: Path,
    paths: Sequence[Path],
    encoder: ImageTextEncoder,
    store: FeatureStore | None,
    *,
    kept: KeptEmbeddings | None = None,
    hardware: Hardware,
    batch_size: int,
    progress: Progress,
    processes: Processes = ALONE,
) -> None:
    """Fill `folder` with hashes, errors and embeddings of all `paths`; a photo already in the store is not decoded.

    Several processes take batches in turn; the first keeps the store and fills the folder.

    Args:
        store: None on all processes but the first.
        kept: where scoring has kept embeddings; a photo that is there is read for its hash alone.

    Raises:
        DataError: fewer than half of the photos can be read (on the first process).
    """
    progress.start("match", len(paths))
    hashes: list[str | None] = []
    errors: dict[str, str] = {}
    known = processes.agree(set(store.all_keys()) if store is not None else set())
    encoder.to(hardware.device)

    def prepare(path: Path) -> _Photo:
        try:
            photo = content_hash(path)
            if photo in known:
                return _Photo(path, photo)
            embedding = kept.find(str(path), photo) if kept is not None else None
            if embedding is not None:
                return _Photo(path, photo, embedding=embedding)
            pixels = encoder.preprocess(decode(path, target_side=encoder.preprocess.target_side))
            return _Photo(path, photo, pixels=pixels)
        except ImageError as error:
            return _Photo(path, error=error.detail)

    starts = range(0, len(paths), batch_size)
    mine = [path for start in starts[processes.rank :: processes.count] for path in paths[start : start + batch_size]]
    batches = batched(ordered_map(prepare, mine, workers=hardware.photo_workers, ahead=2 * batch_size), batch_size)
    for _ in range(-(-len(starts) // processes.count)):
        batch = next(batches, [])
        new = {each.hash: each.embedding for each in batch if each.hash and each.embedding is not None}
        fresh = {each.hash: each.pixels for each in batch if each.hash and each.pixels is not None}
        features = np.stack(list(new.values())) if new else np.empty((0, encoder.dim), np.float32)
        if fresh:
            pixels = torch.from_numpy(np.stack(list(fresh.values()))).to(hardware.device)
            with hardware.autocast():
                features = np.concatenate([features, encoder.encode_images(pixels).float().cpu().numpy()])
        known.update(new, fresh)
        found = [(str(each.path), each.hash, each.error) for each in batch]
        for photos, embedded, outcomes in processes.collect(([*new, *fresh], features, found)):
            if store is not None and photos:
                store.put(photos, embedded)
                known.update(photos)
            for path, photo, error in outcomes:
                hashes.append(photo)
                if error is not None:
                    errors[path] = error
            progress.step(len(outcomes))
    if store is None:
        return

    readable = [photo for photo in hashes if photo]
    if len(readable) < len(paths) / 2:
        first, reason = next(iter(errors.items()))
        raise DataError(
            f"only {len(readable)} of {len(paths)} photos can be read; the first failure is {first}: {reason}"
        )
    embeddings = store.get(readable)
    write_whole(folder / "embeddings.npy", lambda part: _save_array(part, embeddings))
    write_whole(folder / "photos.json", json.dumps({"hashes": hashes, "errors": errors}))


def load_matched(folder: Path, text: Tensor, n_semantic: int) -> Matched:
    """Read what `embed_photos` left in `folder`."""
    photos = json.loads((folder / "photos.json").read_text())
    hashes: list[str | None] = photos["hashes"]
    rows = np.array([row for row, photo in enumerate(hashes) if photo], dtype=np.int64)
    return Matched(
        rows,
        tuple(photo for photo in hashes if photo),
        np.load(folder / "embeddings.npy", mmap_mode="r"),
        text,
        n_semantic,
        photos["errors"],
    )


def embedding_moments(
    embeddings: NDArray[np.float32], rows: NDArray[np.int64], block: int = 4096
) -> tuple[Tensor, Tensor]:
    """Mean (E,) and covariance (E, E) of the embeddings at `rows`, block by block."""
    width = embeddings.shape[1]
    total, products = np.zeros(width), np.zeros((width, width))
    for start in range(0, len(rows), block):
        part = embeddings[rows[start : start + block]].astype(np.float64)
        total += part.sum(0)
        products += part.T @ part
    mean = total / len(rows)
    covariance = products / len(rows) - np.outer(mean, mean)
    return torch.from_numpy(mean).float(), torch.from_numpy(covariance).float()


def _save_array(path: Path, array: NDArray[np.float32]) -> None:
    with path.open("wb") as file:
        np.save(file, array)
