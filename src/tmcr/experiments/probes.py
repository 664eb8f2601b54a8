"""On the frozen image–text embedding: a linear probe, an MLP as LAION's aesthetic predictor, antonym prompts."""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tmcr.encoders import ImageTextEncoder
from tmcr.losses import emd_loss
from tmcr.network import Standardize
from tmcr.training.config import FitConfig

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

MLP_WIDTHS = (1024, 128, 64, 16)  # LAION's; with ReLU and dropout between, and the score bins instead of one score
MLP_DROPOUT = 0.2
LIKED_AND_DISLIKED = (
    ("a beautiful photo", "an ugly photo"),
    ("a good photograph", "a bad photograph"),
    ("an outstanding picture", "a mediocre picture"),
    ("a professional photo", "a careless snapshot"),
    ("a pleasing image", "an unpleasant image"),
)


def probe(
    embeddings: NDArray[np.float32],
    distributions: Floats,
    *,
    train: Rows,
    validation: Rows,
    test: Rows,
    widths: tuple[int, ...],
    config: FitConfig,
    seed: int,
) -> Floats:
    """Predicted distributions (n, D) of the test rows by a small network on embeddings (N, E), under EMD.

    Trained as the method's own head is: standardised inputs, AdamW, the same learning rate, batches, decay and
    patience, the epoch with the best validation EMD, and a refit where the configuration has one.

    Args:
        widths: hidden layers; none is the linear probe.
    """
    features, targets = (
        torch.from_numpy(np.array(embeddings, dtype=np.float32)),
        torch.from_numpy(distributions).float(),
    )
    kept, epochs = _fit(features, targets, train, validation, widths, config, seed)
    if config.refit:
        kept, _ = _fit(features, targets, np.concatenate([train, validation]), None, widths, config, seed, epochs)
    with torch.no_grad():
        answers: Floats = kept(features[torch.from_numpy(test)]).softmax(1).double().numpy()
    return answers


def _fit(
    features: Tensor,
    targets: Tensor,
    train: Rows,
    validation: Rows | None,
    widths: tuple[int, ...],
    config: FitConfig,
    seed: int,
    epochs: int | None = None,
) -> tuple[nn.Module, int]:
    """A network as it was after its best epoch on `validation`, or after `epochs`; and how many epochs that took."""
    torch.manual_seed(seed)
    known = torch.from_numpy(train)
    network = _network(features[known], widths, targets[known].mean(0))
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, config.decay)
    best, taken, kept = np.inf, 0, copy.deepcopy(network)
    if validation is not None:
        best = _loss(network, features, targets, validation, config.r)
    for epoch in range(config.epochs if epochs is None else epochs):
        network.train()
        order = np.random.default_rng((seed, epoch)).permutation(train)
        for start in range(0, len(order), config.batch_size):
            rows = torch.from_numpy(order[start : start + config.batch_size])
            optimizer.zero_grad(set_to_none=True)
            emd_loss(network(features[rows]).softmax(1), targets[rows], r=config.r).mean().backward()
            optimizer.step()
        schedule.step()
        now = -np.inf if validation is None else _loss(network, features, targets, validation, config.r)
        if now < best or validation is None:
            best, taken, kept = now, epoch + 1, copy.deepcopy(network)
        if epoch + 1 - taken >= config.patience:
            break
    return kept.eval(), taken


def antonym_preference(encoder: ImageTextEncoder, embeddings: NDArray[np.float32]) -> Floats:
    """How much photos (N, E) lean to the liked one of two opposite prompts (N,), 0..1, the mean over pairs."""
    prompts = [text for pair in LIKED_AND_DISLIKED for text in pair]
    text = encoder.encode_texts(prompts).float().cpu().numpy().reshape(len(LIKED_AND_DISLIKED), 2, -1)
    margin = np.asarray(embeddings, dtype=np.float64) @ (text[:, 0] - text[:, 1]).T.astype(np.float64)
    preference: Floats = (1 / (1 + np.exp(-encoder.logit_scale * margin))).mean(1)
    return preference


def _network(known: Tensor, widths: tuple[int, ...], mean_distribution: Tensor) -> nn.Sequential:
    width = known.shape[1]
    scale = Standardize(width)
    scale.fit(known)
    layers: list[nn.Module] = [scale]
    for hidden in widths:
        layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(MLP_DROPOUT)]
        width = hidden
    output = nn.Linear(width, len(mean_distribution))
    with torch.no_grad():  # like the method's head, it starts from the mean distribution
        output.bias.copy_(mean_distribution.clamp_min(1e-4).log())
        output.weight.mul_(0.1)
    return nn.Sequential(*layers, output)


@torch.no_grad()
def _loss(network: nn.Module, features: Tensor, targets: Tensor, rows: Rows, r: float) -> float:
    network.eval()
    at = torch.from_numpy(rows)
    return emd_loss(network(features[at]).softmax(1), targets[at], r=r).mean().item()
