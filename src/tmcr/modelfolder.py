"""A trained model on disk: the same layout locally, on the Hub and inside the package; never pickle.

config.json                head, encoders with revision and fingerprint, preprocessing, score values,
                           tag hash, training data and split, metrics
model.safetensors          head.*, encoder.*, similarity_mean, similarity_std, tag_minimum where it is known
text_features.safetensors  embeddings of the tags under the image–text encoder
embeddings.safetensors     mean and covariance of the training photos' embeddings
clusters.safetensors       centroids and, for each cluster, the score quantiles of its training photos
training_photos.safetensors  8-byte hashes of the photos it has learnt from, so that it is not tested on them
tags/                      the two libraries
image_text/                the image–text encoder itself, where it is not fetched by id
README.md                  model card
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tmcr.datasets.leakage import Learnt
from tmcr.destinations import check_model_folder
from tmcr.disk import half_written
from tmcr.encoders import ImageEncoder, image_encoder_from_config
from tmcr.errors import ModelError, first_line
from tmcr.network import HeadConfig, PredictionHead
from tmcr.preprocess import PreprocessSpec
from tmcr.tags import TagLibraries

FORMAT = 1
EMBEDDINGS = "embeddings.safetensors"
TRAINING_PHOTOS = "training_photos.safetensors"
_ENCODER_FILES = (".json", ".safetensors", ".txt", ".model")
STARTER = Path(__file__).parent / "models" / "starter"


@dataclass(frozen=True)
class ImageTextSource:
    """Which image–text encoder a model works with.

    Attributes:
        source: Hub id or folder; "image_text" is the folder inside the model folder.
        revision: commit on the Hub, None for a folder.
        fingerprint: content hash, checked when the encoder is loaded.
        preprocess: how photos are prepared for it.
    """

    source: str
    revision: str | None
    fingerprint: str
    preprocess: PreprocessSpec


@dataclass
class ClusterTable:
    """What the model knows of the kinds of photos it was trained on.

    Attributes:
        centroids: (K, M) cluster centres in the space of semantic similarities.
        quantiles: (K, 101) score quantiles of each cluster's training photos, ascending, on 1..10.
        tags: for each cluster its most characteristic semantic tags.
    """

    centroids: NDArray[np.float32]
    quantiles: NDArray[np.float32]
    tags: tuple[tuple[str, ...], ...]


@dataclass
class TrainedModel:
    """All that is needed to assess photos, but for the image–text encoder."""

    name: str
    head: PredictionHead
    encoder: ImageEncoder | None
    image_text: ImageTextSource
    libraries: TagLibraries
    text: Tensor  # (M+N, E)
    clusters: ClusterTable
    similarity_mean: Tensor  # (M+N,) over the training photos
    similarity_std: Tensor  # (M+N,)
    score_values: Tensor  # (D,)
    # Mean (E,) and covariance (E, E) of the training photos' embeddings: what is usual for a tag of the user's own.
    embedding_mean: Tensor | None = None
    embedding_covariance: Tensor | None = None
    # (M+N,) standardised similarity from which on a tag may be shown (infinite: never); shown tags are ranked by
    # how far they clear it. None shows the best ones by standardised similarity alone.
    tag_minimum: Tensor | None = None
    learnt: Learnt | None = None  # which photos it has learnt from; changes no verdict
    training: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    hash: str = ""
    folder: Path | None = None


def save_model(
    model: TrainedModel,
    folder: Path,
    *,
    card: str,
    image_text_folder: Path | None = None,
    storage: str = "float32",
) -> str:
    """Write a model folder, replacing one that is there only once the new one is complete; returns its hash.

    Args:
        card: the model card, Markdown.
        image_text_folder: copy this encoder into the model folder, so that the model needs no download.
        storage: "float16" halves the size of all weights; they compute in float32 all the same.

    Raises:
        ConfigError: something else than a model is at `folder`.
    """
    check_model_folder(folder)
    part = half_written(folder)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    dtype = {"float32": torch.float32, "float16": torch.float16}[storage]

    tensors = {f"head.{key}": value for key, value in model.head.state_dict().items()}
    if model.encoder is not None:
        tensors |= {f"encoder.{key}": value for key, value in model.encoder.state_dict().items()}
    tensors |= {"similarity_mean": model.similarity_mean, "similarity_std": model.similarity_std}
    if model.tag_minimum is not None:
        tensors["tag_minimum"] = model.tag_minimum
    _save(tensors, part / "model.safetensors", dtype)
    if model.embedding_mean is not None and model.embedding_covariance is not None:
        moments = {"mean": model.embedding_mean, "covariance": model.embedding_covariance}
        _save(moments, part / EMBEDDINGS, torch.float32)  # variances are too small for half precision
    _save({"text": model.text}, part / "text_features.safetensors", dtype)
    _save(
        {
            "centroids": torch.from_numpy(model.clusters.centroids),
            "quantiles": torch.from_numpy(model.clusters.quantiles),
        },
        part / "clusters.safetensors",
        dtype,
    )
    if model.learnt is not None:
        model.learnt.save(part / TRAINING_PHOTOS)
    model.libraries.save(part / "tags")
    source = model.image_text.source
    if image_text_folder is not None:
        (part / "image_text").mkdir()
        for path in sorted(image_text_folder.iterdir()):  # what an encoder is read from, and nothing beside it
            if path.is_file() and path.suffix in _ENCODER_FILES:
                shutil.copyfile(path, part / "image_text" / path.name)
        source = "image_text"
    config = {
        "format": FORMAT,
        "name": model.name,
        "head": model.head.config.to_dict(),
        "score_values": [round(float(value), 6) for value in model.score_values],
        "image_text": {
            "source": source,
            "revision": model.image_text.revision,
            "fingerprint": model.image_text.fingerprint,
            "preprocess": model.image_text.preprocess.to_dict(),
        },
        "encoder": model.encoder.config if model.encoder is not None else None,
        "tags": {
            "hash": model.libraries.hash,
            "semantic": len(model.libraries.semantic),
            "attribute": len(model.libraries.attribute),
        },
        "cluster_tags": model.clusters.tags,
        "training": model.training,
        "metrics": model.metrics,
    }
    (part / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (part / "README.md").write_text(card, encoding="utf-8")
    content = content_hash_of(part)
    if folder.exists():
        shutil.rmtree(folder)
    part.replace(folder)
    return content


def load_model(folder: Path) -> TrainedModel:
    """Read a model folder.

    Raises:
        ModelError: it is no model folder, a file is missing or damaged, or parts do not fit each other.
    """
    config_path = folder / "config.json"
    if (folder / "model" / "config.json").is_file() and not (folder / "model.safetensors").is_file():
        raise ModelError(f"{folder}: is a run folder; its model is {folder / 'model'}")
    if not config_path.is_file():
        raise ModelError(f"{folder} is no model folder: it has no config.json; 'tmcr train' makes one")
    for name in ("model.safetensors", "text_features.safetensors", "clusters.safetensors"):
        if not (folder / name).is_file():
            raise ModelError(f"{folder}: the model folder lacks {name}; copy it again")
    try:
        config = json.loads(config_path.read_text(encoding="utf-8"))
        if config.get("format") != FORMAT:
            raise ModelError(
                f"{folder}: config.json says format {config.get('format')!r}, this version reads {FORMAT}; "
                "train it again or install the tmcr that made it"
            )
        tensors = load_file(folder / "model.safetensors")
        text = load_file(folder / "text_features.safetensors")["text"].float()
        clusters = load_file(folder / "clusters.safetensors")
        moments = load_file(folder / EMBEDDINGS) if (folder / EMBEDDINGS).is_file() else {}
        head = PredictionHead(HeadConfig(**config["head"]))
        _load_state(head, tensors, "head.")
        encoder = None
        if config["encoder"] is not None:
            encoder = image_encoder_from_config(config["encoder"])
            _load_state(encoder, tensors, "encoder.")
        libraries = TagLibraries.load(folder / "tags")
        libraries.require(config["tags"]["hash"])
        image_text = config["image_text"]
        model = TrainedModel(
            name=config["name"],
            head=head.eval(),
            encoder=encoder.eval() if encoder is not None else None,
            image_text=ImageTextSource(
                image_text["source"],
                image_text["revision"],
                image_text["fingerprint"],
                PreprocessSpec.from_dict(image_text["preprocess"]),
            ),
            libraries=libraries,
            text=text,
            clusters=ClusterTable(
                clusters["centroids"].float().numpy(),
                clusters["quantiles"].float().numpy(),
                tuple(tuple(tags) for tags in config["cluster_tags"]),
            ),
            similarity_mean=tensors["similarity_mean"].float(),
            similarity_std=tensors["similarity_std"].float(),
            score_values=torch.tensor(config["score_values"], dtype=torch.float32),
            tag_minimum=tensors["tag_minimum"].float() if "tag_minimum" in tensors else None,
            embedding_mean=moments.get("mean"),
            embedding_covariance=moments.get("covariance"),
            learnt=Learnt.load(folder / TRAINING_PHOTOS) if (folder / TRAINING_PHOTOS).is_file() else None,
            training=config["training"],
            metrics=config["metrics"],
            hash=content_hash_of(folder),
            folder=folder,
        )
    except FileNotFoundError as error:
        raise ModelError(f"{folder}: the model folder lacks {Path(error.filename or '').name}; copy it again") from None
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"{folder}: the model folder is damaged ({first_line(error)}); copy or train it again"
        ) from None
    if len(text) != len(libraries.names):
        raise ModelError(f"{folder}: {len(text)} tag embeddings for {len(libraries.names)} tags; copy it again")
    return model


def content_hash_of(folder: Path) -> str:
    """Hash of everything that can change a verdict: configuration, weights and tags, but not the card."""
    total = hashlib.sha256()
    names = ["config.json", "model.safetensors", "text_features.safetensors", "clusters.safetensors"]
    if (folder / EMBEDDINGS).is_file():  # absent where a model knows nothing of its training photos
        names.append(EMBEDDINGS)
    for name in [*names, "tags/semantic.txt", "tags/attribute.txt"]:
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _save(tensors: Mapping[str, Tensor], path: Path, dtype: torch.dtype) -> None:
    save_file(
        {
            key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
            for key, value in tensors.items()
        },
        path,
    )


def _load_state(module: torch.nn.Module, tensors: Mapping[str, Tensor], prefix: str) -> None:
    module.load_state_dict(
        {
            key.removeprefix(prefix): value.float() if value.is_floating_point() else value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
    )
