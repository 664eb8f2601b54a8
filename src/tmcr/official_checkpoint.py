"""The checkpoint that the paper's authors hand out, as a model folder of this project.

It is a `torch.save`d state dict of four parts, read without running anything that is pickled in it:

    AL             Swin Transformer as torchvision builds it; F_level is its pooled feature
    TF_Fea_shift   Linear–BatchNorm on 100 × the cosines with all tags, semantic first, then a ReLU
    AL_Fea_shift   the same on F_level
    regression     Linear on both, tags first, then a softmax over the scores 1..10

What the checkpoint lacks is any photo it was trained on, against which this project explains a score. Two ways out:

- reference photos: their mean is what a photo is compared with, their clusters give kind and percentile;
- none: batch normalisation remembers the mean and the variance that the photos of training had behind each first
  layer. The mean similarity to every tag is linear in the mean photo embedding, which has fewer numbers (768) than
  there are remembered means (1,024), so it can be solved for. Explanations then compare with the authors' own mean
  training photo, and how well the means are met tells whether the tags are the checkpoint's. Kind and percentile
  stay unknown.
"""

from __future__ import annotations

import itertools
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.encoders import ImageEncoder, ImageTextEncoder, quiet_loading
from tmcr.errors import ConfigError, ModelError, TagError
from tmcr.hardware import Hardware
from tmcr.matching import match, similarity_moments, text_matrix
from tmcr.modelfolder import ClusterTable, ImageTextSource, TrainedModel
from tmcr.network import HeadConfig, PredictionHead, expected_score
from tmcr.preparation import Preparation
from tmcr.preprocess import official_image, official_image_text
from tmcr.streaming import batched, ordered_map
from tmcr.tags import TagLibraries
from tmcr.tags.library import TagLibrary
from tmcr.training.clusters import characteristic_tags, fit_clusters, score_quantiles

TRAINED_ON = "ava:tanet"
COSINE_FACTOR = 100.0
IMAGE_SIDE = 224
CLUSTERS = 15
PHOTOS_PER_CLUSTER = 20
MISFIT_LIMIT = 0.05  # standard deviations; see docs/official-weights.md for what right and wrong tags leave
_PARTS = ("AL", "TF_Fea_shift", "AL_Fea_shift", "regression")
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "attn.proj": "attention.output.dense",
    "mlp.0": "intermediate.dense",
    "mlp.3": "output.dense",
}


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


# --- reading ---

_PICKLES = tuple(bytes([0x80, version]) for version in range(2, 6))  # how such files begin, where they are no archives


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Name → tensor of the authors' state dict.

    Raises:
        ModelError: the file is not there, is not such a state dict, or could only be read by running code in it.
    """
    try:
        with path.open("rb") as file:
            if file.read(2) not in (b"PK", *_PICKLES):
                raise ModelError(f"{path}: is no checkpoint; download TMCR_AVA.pt, which the paper's authors hand out")
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; give the TMCR_AVA.pt that the paper's authors hand out") from None
    except pickle.UnpicklingError as error:
        if "GLOBAL" in str(error) or "Unsupported" in str(error):
            raise ModelError(
                f"{path} holds a whole pickled model, as the authors' ranking stage saves it; reading it would run "
                "code from the file, so it is refused: give the state dict TMCR_AVA.pt"
            ) from None
        raise ModelError(f"{path}: is no checkpoint, or is damaged; download TMCR_AVA.pt again") from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise ModelError(f"{path}: cannot be read as a checkpoint ({reason}); download it again") from None
    for wrapper in ("state_dict", "model", "model_state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{path}: holds no state dict (names and tensors); give the authors' TMCR_AVA.pt")
    tensors = {str(name).removeprefix("module."): value for name, value in content.items()}
    found = {name.partition(".")[0] for name in tensors}
    if missing := [part for part in _PARTS if part not in found]:
        raise ModelError(f"{path}: has no {missing[0]}.*, so it is not the authors' TMCR; it has {_some(found)}")
    if unknown := found - set(_PARTS):
        raise ModelError(f"{path}: has {min(unknown)}.*, which the authors' TMCR does not have")
    if broken := [name for name, value in tensors.items() if not value.double().isfinite().all()]:
        raise ModelError(f"{path}: {broken[0]} is not finite; download the checkpoint again")
    return tensors


def _some(names: set[str]) -> str:
    return ", ".join(sorted(names)[:5]) or "nothing"


# --- image encoder ---


def convert_encoder(tensors: Mapping[str, Tensor]) -> ImageEncoder:
    """transformers' Swin with the weights under `AL.`, prepared as the authors do it.

    Raises:
        ModelError: the tensors are no Swin Transformer of torchvision.
    """
    from transformers import SwinConfig, SwinModel

    try:
        values = swin_config({name: tuple(value.shape) for name, value in tensors.items()})
        state = dict(_swin_state(tensors, values["window_size"]))
        config = SwinConfig(**values)
        loader: Any = SwinModel.from_pretrained
        with quiet_loading():
            tower, report = loader(None, config=config, state_dict=state, output_loading_info=True, dtype=torch.float32)
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        raise ModelError(f"the checkpoint's AL.* is no Swin Transformer of torchvision ({error})") from None
    lost = [*report["missing_keys"], *report["unexpected_keys"], *report["mismatched_keys"]]
    if lost:
        raise ModelError(f"the checkpoint's AL.* does not fit a Swin Transformer: {lost[0]}")
    return ImageEncoder(tower.eval(), {"model_type": "swin", **values}, official_image(IMAGE_SIDE))


def swin_config(shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """The architecture that the names and shapes under `AL.` belong to, as values of transformers' SwinConfig."""
    width, _, patch, _ = shapes["AL.features.0.0.weight"]
    blocks = [re.match(r"AL\.features\.(\d+)\.(\d+)\.attn\.qkv\.weight", name) for name in shapes]
    stages: dict[int, int] = {}
    for found in blocks:
        if found:
            stage = int(found.group(1)) // 2
            stages[stage] = max(stages.get(stage, 0), int(found.group(2)) + 1)
    tables = [shapes[f"AL.features.{2 * stage + 1}.0.attn.relative_position_bias_table"] for stage in sorted(stages)]
    return {
        "image_size": IMAGE_SIDE,
        "patch_size": patch,
        "embed_dim": width,
        "depths": [stages[stage] for stage in sorted(stages)],
        "num_heads": [heads for _, heads in tables],
        "window_size": (round(tables[0][0] ** 0.5) + 1) // 2,
        "mlp_ratio": shapes["AL.features.1.0.mlp.0.weight"][0] / width,
    }


def _swin_state(tensors: Mapping[str, Tensor], window: int) -> list[tuple[str, Tensor]]:
    """Names and tensors as in published Swin checkpoints of transformers."""
    state: list[tuple[str, Tensor]] = []
    for name, value in tensors.items():
        if not name.startswith("AL."):
            continue
        name = name.removeprefix("AL.")
        if name.startswith("norm."):
            state.append((f"layernorm.{name.removeprefix('norm.')}", value))
            continue
        _, place, rest = name.split(".", 2)
        stage = (int(place) - 1) // 2
        if place == "0":
            layer, kind = rest.split(".")
            state.append((f"embeddings.{'patch_embeddings.projection' if layer == '0' else 'norm'}.{kind}", value))
        elif int(place) % 2 == 0:  # patch merging, which transformers counts to the stage before it
            state.append((f"encoder.layers.{stage}.downsample.{rest}", value))
        else:
            number, layer = rest.split(".", 1)
            state += _swin_block(f"encoder.layers.{stage}.blocks.{number}", layer, value, window)
    return state


def _swin_block(block: str, layer: str, value: Tensor, window: int) -> list[tuple[str, Tensor]]:
    if layer == "attn.relative_position_index":
        if not torch.equal(value.flatten(), _relative_position_index(window)):
            raise ValueError(f"{block} counts relative positions in another order")
        return []
    if layer == "attn.relative_position_bias_table":
        return [(f"{block}.attention.self.relative_position_bias_table", value)]
    layer, kind = layer.rsplit(".", 1)
    if layer == "attn.qkv":  # one matrix for all three
        parts = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return [(f"{block}.attention.self.{part}.{kind}", each) for part, each in parts]
    return [(f"{block}.{_BLOCK[layer]}.{kind}", value)]


def _relative_position_index(window: int) -> Tensor:
    """Row of the bias table for every two positions of a window (window⁴,), as both libraries count them."""
    row, column = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
    row, column = row.flatten(), column.flatten()
    down, right = row[:, None] - row + window - 1, column[:, None] - column + window - 1
    return (down * (2 * window - 1) + right).flatten()


# --- tags ---


def read_official_tags(semantic: Path, attribute: Path, expected: int) -> tuple[TagLibraries, tuple[str, ...]]:
    """Two files of one tag a line → the libraries, and the tags as they were written, semantic first.

    A library may not hold a tag twice, the authors' files may: a repeated tag is shown with a number behind it and
    compared with photos as it was written.

    Args:
        expected: number of tags in both that the checkpoint was trained with.

    Raises:
        TagError: a file cannot be read, or they hold another number of tags.
    """
    files = {}
    for path in (semantic, attribute):
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "no UTF-8 text"
            raise TagError(f"{path}: cannot be read as tags ({reason}); give a text file with one tag a line") from None
        files[path] = [line.strip() for line in lines if line.strip()]
    written = (*files[semantic], *files[attribute])
    if len(written) != expected:
        raise TagError(
            f"{semantic.name} has {len(files[semantic]):,} tags and {attribute.name} {len(files[attribute]):,}, but "
            f"the checkpoint was trained with {expected:,}; give the two files that belong to it, in full"
        )
    shown: list[str] = []
    taken: set[str] = set()
    for tag in written:
        name = next(name for name in _numbered(tag.lstrip("# ")) if name not in taken)  # "#" would be a comment
        taken.add(name)
        shown.append(name)
    middle = len(files[semantic])
    libraries = TagLibraries(
        TagLibrary("semantic", tuple(shown[:middle])), TagLibrary("attribute", tuple(shown[middle:]))
    )
    return libraries, written


def _numbered(tag: str) -> Iterator[str]:
    yield tag
    yield from (f"{tag} ({number})" for number in itertools.count(2))


# --- head ---


def convert_head(
    tensors: Mapping[str, Tensor], n_semantic: int, similarity_mean: Tensor, level_mean: Tensor
) -> PredictionHead:
    """The prediction head, which standardises its inputs around a reference without a change to what comes out.

    Args:
        n_semantic: how many of the tags are semantic.
        similarity_mean: (M+N,) cosines of the reference photo. level_mean: (W,) its level feature.

    Raises:
        ModelError: shapes that do not fit each other.
    """
    hidden, n_tags = tensors["TF_Fea_shift.0.weight"].shape
    n_bins = len(tensors["regression.0.bias"])
    width = tensors["AL_Fea_shift.0.weight"].shape[1]
    head = PredictionHead(
        HeadConfig(n_semantic, n_tags - n_semantic, width, n_bins, hidden=hidden, branches="tm+cr", score_head="linear")
    )
    state: dict[str, Tensor] = {
        "tag_scale.mean": similarity_mean,
        "tag_scale.std": torch.full((n_tags,), 1 / COSINE_FACTOR),
        "level_scale.mean": level_mean,
        "level_scale.std": torch.ones(width),
        "output.weight": tensors["regression.0.weight"],
        "output.bias": tensors["regression.0.bias"],
    }
    for official, ours, shift in (
        ("TF_Fea_shift", "tag_transform", COSINE_FACTOR * similarity_mean.double()),
        ("AL_Fea_shift", "level_transform", level_mean.double()),
    ):
        weight, bias = tensors[f"{official}.0.weight"], tensors[f"{official}.0.bias"]
        state[f"{ours}.linear.weight"] = weight
        state[f"{ours}.linear.bias"] = (bias.double() + weight.double() @ shift).float()
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            state[f"{ours}.norm.{name}"] = tensors[f"{official}.1.{name}"]
    try:
        head.load_state_dict(state)
    except RuntimeError as error:
        raise ModelError(
            f"the checkpoint's parts do not fit each other ({str(error).splitlines()[-1].strip()})"
        ) from None
    return head.eval()


def mean_embedding(tensors: Mapping[str, Tensor], text: Tensor) -> tuple[Tensor, float, float]:
    """The mean training photo's embedding (E,), from the statistics of the tag layer's batch normalisation.

    With W and b the layer, T (M+N, E) the tags and μ, σ² (H,) what is remembered: 100·W·T·e + b = μ in the least
    squares of (·)/σ, e no longer than the mean of unit vectors can be.

    Returns:
        e, the misfit as root mean square of (·)/σ, and the standard deviation along a direction that the remembered
        variances are explained by best if it is the same along all.
    """
    layer = COSINE_FACTOR * tensors["TF_Fea_shift.0.weight"].double() @ text.double()
    mean, variance = _batch_statistics(tensors, "TF_Fea_shift")
    embedding, misfit = _shortened_least_squares(layer, mean, variance.sqrt(), longest=1.0)
    spread = (variance.sum() / (layer**2).sum()).sqrt()
    return embedding, misfit, float(spread)


def mean_level(tensors: Mapping[str, Tensor]) -> Tensor:
    """The mean training photo's level feature (W,), likewise; a mean over normalised positions bounds its length."""
    scale, offset = tensors["AL.norm.weight"].double(), tensors["AL.norm.bias"].double()
    longest = float(scale.abs().max() * len(scale) ** 0.5 + offset.norm())
    mean, variance = _batch_statistics(tensors, "AL_Fea_shift")
    return _shortened_least_squares(tensors["AL_Fea_shift.0.weight"].double(), mean, variance.sqrt(), longest)[0]


def _batch_statistics(tensors: Mapping[str, Tensor], part: str) -> tuple[Tensor, Tensor]:
    """Mean (less the layer's bias) and variance (H,) behind the linear layer."""
    variance = tensors[f"{part}.1.running_var"].double().clamp_min(1e-12)
    return tensors[f"{part}.1.running_mean"].double() - tensors[f"{part}.0.bias"].double(), variance


def _shortened_least_squares(layer: Tensor, mean: Tensor, std: Tensor, longest: float) -> tuple[Tensor, float]:
    """x (F,) with the smallest ‖(layer·x − mean)/std‖ among those of at most `longest`, and its root mean square."""
    a, y = layer / std[:, None], mean / std
    u, s, vt = torch.linalg.svd(a, full_matrices=False)
    along = u.T @ y

    def solution(ridge: float) -> Tensor:
        return vt.T @ (along * s / (s**2 + ridge))

    low, high = float(s[0]) ** 2 * 1e-9, float(s[0]) ** 2 * 1e3
    x = solution(low)
    if x.norm() > longest:  # the larger the ridge, the shorter x
        for _ in range(60):
            ridge = (low * high) ** 0.5
            low, high = (ridge, high) if solution(ridge).norm() > longest else (low, ridge)
        x = solution(high)
    return x.float(), float(((a @ x - y) ** 2).mean().sqrt())


# --- all together ---


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
        embeddings.append(
            image_text.encode_images(_pixels([photo.for_tags for photo in batch], hardware)).float().cpu()
        )
        levels.append(encoder(_pixels([photo.for_levels for photo in batch], hardware)).float().cpu())
    if sum(map(len, embeddings)) < 2:
        raise ConfigError(f"of {len(photos)} reference photos fewer than two can be read; give others, or none")
    encoder.cpu()
    return _Seen(torch.cat(embeddings), torch.cat(levels))


def _pixels(arrays: list[NDArray[np.float32] | None], hardware: Hardware) -> Tensor:
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
