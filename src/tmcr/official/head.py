"""The prediction head, and the mean training photo that its batch normalisation remembers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from tmcr.errors import ModelError
from tmcr.network import HeadConfig, PredictionHead

COSINE_FACTOR = 100.0


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
