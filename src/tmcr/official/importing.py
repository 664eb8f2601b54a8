"""A model folder's content of the authors' checkpoint, their tag files and, if there are any, reference photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.encoders import ImageEncoder, ImageTextEncoder, pixel_values
from tmcr.errors import ConfigError, ModelError
from tmcr.hardware import Hardware
from tmcr.matching import match, similarity_moments, text_matrix
from tmcr.modelfolder import ClusterTable, ImageTextSource, TrainedModel
from tmcr.network import expected_score
from tmcr.official.checkpoint import read_checkpoint
from tmcr.official.head import convert_head, mean_embedding, mean_level
from tmcr.official.swin import convert_encoder
from tmcr.official.tags import read_official_tags
from tmcr.preparation import Preparation
from tmcr.preprocess import official_image_text
from tmcr.streaming import batched, ordered_map
from tmcr.tags import TagLibraries
from tmcr.training.clusters import characteristic_tags, fit_clusters, score_quantiles

TRAINED_ON = "ava:tanet"
CLUSTERS = 15
PHOTOS_PER_CLUSTER = 20
MISFIT_LIMIT = 0.05  # standard deviations; see docs/official-weights.md for what right and wrong tags leave


@dataclass(frozen=True)
class Imported:
    """A model made of the checkpoint, and how well the tags fit it.

    Attributes:
        model: ready to be saved.
        misfit: how far the means behind the tag layer that the tags can explain are from those that the checkpoint
            remembers, in standard deviations of its training photos. Tags in another order, other tags or another
            image–text encoder leave more than `MISFIT_LIMIT`.
        reference: what explanations compare a photo with, in words.
    """

    model: TrainedModel
    misfit: float
    reference: str

    @property
    def tags_fit(self) -> bool:
        return self.misfit <= MISFIT_LIMIT


def import_checkpoint(
    path: Path,
    semantic: Path,
    attribute: Path,
    image_text: ImageTextEncoder,
    *,
    name: str = "TMCR (authors' weights)",
    revision: str | None = None,
    reference: Sequence[Path] = (),
    hardware: Hardware,
    batch_size: int = 16,
) -> Imported:
    """Make a model of the authors' checkpoint.

    Args:
        path: TMCR_AVA.pt.
        semantic, attribute: the tag files it was trained with.
        image_text: CLIP ViT-L/14@336px, or for a checkpoint trained with another encoder that one. Its preprocessing
            is replaced by the authors'.
        reference: photos to compare with.

    Raises:
        ModelError, TagError: the files cannot be read or do not fit each other.
        ConfigError: fewer than two reference photos can be read.
    """
    tensors = {
        key: value.float() if value.is_floating_point() else value for key, value in read_checkpoint(path).items()
    }
    try:
        n_tags = tensors["TF_Fea_shift.0.weight"].shape[1]
        libraries, written = read_official_tags(semantic, attribute, n_tags)
        encoder = convert_encoder(tensors)
        image_text.preprocess = official_image_text(image_text.preprocess.size)
        text = text_matrix(image_text, written)
        embedding, misfit, spread = mean_embedding(tensors, text)
        level = mean_level(tensors)
        covariance = spread**2 * torch.eye(len(embedding))
        head = convert_head(tensors, libraries.n_semantic, text @ embedding, level)
    except KeyError as error:
        raise ModelError(f"{path}: lacks the tensor {error}; download the checkpoint again") from None
    score_values = torch.arange(1.0, head.config.n_bins + 1)
    clusters = ClusterTable(np.zeros((0, libraries.n_semantic), np.float32), np.zeros((0, 101), np.float32), ())
    said = "the mean training photo, worked out from the checkpoint's batch statistics"
    if reference:
        seen = _look_at(reference, image_text, encoder, hardware, batch_size)
        embedding, level = seen.embeddings.mean(0), seen.levels.mean(0)
        covariance = torch.cov(seen.embeddings.double().T, correction=0).float()
        similarities = match(seen.embeddings, text)
        head = convert_head(tensors, libraries.n_semantic, similarities.mean(0), level)
        with torch.inference_mode():
            scores = expected_score(head(similarities, seen.levels).softmax(1), score_values).double().numpy()
        clusters = _clusters(similarities[:, : libraries.n_semantic].numpy(), scores, libraries)
        said = f"the mean of {len(seen.embeddings):,} reference photos"
    similarity_mean, similarity_std = similarity_moments(text, embedding, covariance)
    model = TrainedModel(
        name=name,
        head=head,
        encoder=encoder,
        image_text=ImageTextSource(image_text.name, revision, image_text.fingerprint, image_text.preprocess),
        libraries=libraries,
        text=text,
        clusters=clusters,
        similarity_mean=similarity_mean,
        similarity_std=similarity_std,
        embedding_mean=embedding,
        embedding_covariance=covariance,
        score_values=score_values,
        training={
            "data": TRAINED_ON,
            "description": "AVA under TANet's split, by the paper's authors",
            "source": TRAINED_ON,
            "preset": "official",
            "imported_from": path.name,
            "reference": said,
            "tag_misfit": round(misfit, 4),
        },
    )
    return Imported(model, misfit, said)


@dataclass(frozen=True)
class _Seen:
    """Reference photos: embeddings (n, E) and level features (n, W)."""

    embeddings: Tensor
    levels: Tensor


@torch.inference_mode()
def _look_at(
    photos: Sequence[Path], image_text: ImageTextEncoder, encoder: ImageEncoder, hardware: Hardware, batch_size: int
) -> _Seen:
    prepare = Preparation(image_text.preprocess, encoder.preprocess)
    image_text.to(hardware.device)
    encoder.to(hardware.device)
    embeddings, levels = [], []
    stream = ordered_map(prepare, photos, workers=hardware.photo_workers, ahead=2 * batch_size)
    for batch in batched((photo for photo in stream if photo.error is None), batch_size):
        tag_pixels = _on_device([photo.for_tags for photo in batch], hardware)
        level_pixels = _on_device([photo.for_levels for photo in batch], hardware)
        embeddings.append(image_text.encode_images(pixel_values(tag_pixels, image_text.preprocess)).float().cpu())
        levels.append(encoder(pixel_values(level_pixels, encoder.preprocess)).float().cpu())
    if sum(map(len, embeddings)) < 2:
        raise ConfigError(f"of {len(photos)} reference photos fewer than two can be read; give others, or none")
    encoder.cpu()
    return _Seen(torch.cat(embeddings), torch.cat(levels))


def _on_device(arrays: list[NDArray[np.uint8] | None], hardware: Hardware) -> Tensor:
    return torch.from_numpy(np.stack([array for array in arrays if array is not None])).to(hardware.device)


def _clusters(similarities: NDArray[np.float32], scores: NDArray[np.float64], libraries: TagLibraries) -> ClusterTable:
    """Kinds of the reference photos; the percentile is among the scores that the model itself gives them."""
    count = max(1, min(CLUSTERS, len(scores) // PHOTOS_PER_CLUSTER))
    found = fit_clusters(similarities, count, seed=0)
    names = characteristic_tags(similarities, found.labels, libraries.semantic.tags, top=3)
    quantiles = score_quantiles(scores, found.labels).astype(np.float32)
    return ClusterTable(found.centroids, quantiles, tuple(tuple(each) for each in names))


def official_card(imported: Imported, checkpoint: str) -> str:
    """The model card, Markdown."""
    model = imported.model
    known = (
        "Kind and percentile are among those photos."
        if len(model.clusters.centroids)
        else ("Kind of photo and percentile are not known: import with reference photos to have them.")
    )
    return "\n".join(
        [
            f"# {model.name}",
            "",
            f"The TMCR that the paper's authors trained and hand out (`{checkpoint}`), converted. Read it with",
            "`tmcr.load(folder)` or `tmcr score --model folder PHOTOS`. The weights are theirs, and so are the terms.",
            "",
            "- Trained on AVA under TANet's split (`ava:tanet`): never test it on `ava:official`, most of whose test",
            "  photos it has learnt from, nor on EVA, whose photos are AVA's.",
            "- Photos are prepared as the authors do it, for both encoders.",
            f"- Explanations compare a photo with {imported.reference}. {known}",
            f"- Image–text encoder: `{model.image_text.source}`, fingerprint `{model.image_text.fingerprint[:16]}`",
            f"- Tags: {model.libraries.n_semantic:,} semantic and {len(model.libraries.attribute):,} attribute; their",
            f"  misfit to the checkpoint's batch statistics is {imported.misfit:.3f} standard deviations.",
            "",
        ]
    )
