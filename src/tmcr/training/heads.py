"""Stage 4 as a whole: a head fitted, fitted anew with the validation photos too, averaged with others, stretched."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tmcr.encoders import ImageEncoder
from tmcr.errors import ConfigError
from tmcr.hardware import Hardware
from tmcr.network import HeadConfig, PredictionHead, averaged, expected_score
from tmcr.training.config import FitConfig
from tmcr.training.fit import FitData, fit, predict
from tmcr.training.match import Matched
from tmcr.training.stage import MetricsLog, Progress

SEEDS_APART = 1000  # between two heads that are averaged
MOST_STRETCH = 6.0

Epochs = tuple[int | None, int | None]  # of the warm start and of the fit itself; None: as many as validation asks for
Summary = dict[str, float]


def check_settings(config: FitConfig) -> None:
    """Raise a ConfigError where settings do not go together, before hours have gone into the stages before."""
    if config.mode == "ft" and config.pair_weight > 0:
        raise ConfigError("fit.pair_weight works with a frozen encoder only: set fit.mode=lp, or fit.pair_weight=0")
    if config.heads > 1 and (config.mode == "ft" or config.score_head != "linear"):
        raise ConfigError(
            "fit.heads averages heads on a frozen encoder with a linear score head: "
            "set fit.mode=lp and fit.score_head=linear, or fit.heads=1"
        )


@dataclass(frozen=True)
class HeadFitter:
    """What all fits of a run share.

    Attributes:
        shape: of one head.
        encoder: the image encoder, or None where the head does without; it is trained in place where `config` says so.
        folder: for checkpoints.
        name: of the stage, in the log and in the progress.
    """

    shape: HeadConfig
    encoder: ImageEncoder | None
    config: FitConfig
    hardware: Hardware
    seed: int
    folder: Path
    name: str
    log: MetricsLog
    progress: Progress

    def __call__(self, data: FitData) -> tuple[PredictionHead, Summary]:
        """The head, as it was at its best on validation or fitted anew for as long; and what validation said."""
        encoder, refit = self.encoder, self.config.refit
        untouched = copy.deepcopy(encoder.state_dict()) if encoder is not None and refit else None
        fits = [self._fit_one(data, number) for number in range(self.config.heads)]
        head = averaged([one.head for one in fits])
        summary = {key: float(np.mean([one.summary[key] for one in fits])) for key in fits[0].summary}
        factor = stretch_to_spread(head, self._tuned, data, config=self.config, hardware=self.hardware)
        if self.config.spread is not None:
            summary["stretch"] = factor
        if refit:
            if encoder is not None and untouched is not None:
                encoder.load_state_dict(untouched)
            everything = replace(data, train=np.concatenate([data.train, data.validation]))
            again = [self._fit_one(everything, number, "refit", one.epochs) for number, one in enumerate(fits)]
            head = averaged([one.head for one in again])
            stretch(head, factor)
        return head, summary

    @property
    def _tuned(self) -> ImageEncoder | None:
        return self.encoder if self.config.mode == "ft" else None

    def _fit_one(self, data: FitData, number: int, turn: str = "", epochs: Epochs = (None, None)) -> _Fit:
        """Fit one head and, where it is tuned, the encoder; a part that is finished is found in its checkpoint."""
        seed = self.seed + SEEDS_APART * number
        torch.manual_seed(seed)
        head = PredictionHead(self.shape)
        prepare_head(head, data)
        words = [*([turn] if turn else []), *([str(number)] if number else [])]
        warm: Summary = {}
        if self._tuned is not None and self.config.warm_start:
            warm = self._fit(head, None, data, seed, [*words, "head"], epochs[0])
        summary = self._fit(head, self._tuned, data, seed + 1, words, epochs[1])
        return _Fit(head, summary, (_count(warm), _count(summary)))

    def _fit(
        self,
        head: PredictionHead,
        encoder: ImageEncoder | None,
        data: FitData,
        seed: int,
        words: list[str],
        epochs: int | None,
    ) -> Summary:
        return fit(
            head,
            encoder,
            data,
            config=self.config,
            hardware=self.hardware,
            seed=seed,
            checkpoint=self.folder / f"{'-'.join([*words, 'checkpoint'])}.pt",
            log=self.log,
            progress=self.progress,
            stage="-".join([self.name, *words]),
            fixed_epochs=epochs,
        )


@dataclass(frozen=True)
class _Fit:
    head: PredictionHead
    summary: Summary
    epochs: Epochs


def _count(summary: Summary) -> int | None:
    """How many epochs led to the best one."""
    return int(summary["epochs"]) if summary else None


def prepare_head(head: PredictionHead, data: FitData) -> None:
    """Take the standardisation and the starting answer from the training photos."""
    if head.config.uses_tags:
        mean, std = similarity_statistics(data.matched, data.train)
        head.tag_scale.set(mean[: head.config.n_tags], std[: head.config.n_tags])
    if head.config.uses_levels and data.level_features is not None:
        head.level_scale.fit(data.level_features[torch.from_numpy(data.train)])
    head.start_from(data.distributions[torch.from_numpy(data.train)].mean(0))


def similarity_statistics(matched: Matched, rows: NDArray[np.int64], block: int = 4096) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (M+N,) of the tag similarities, block by block."""
    total = torch.zeros(len(matched.text), dtype=torch.float64)
    squares = torch.zeros_like(total)
    for start in range(0, len(rows), block):
        part = matched.similarities(rows[start : start + block]).double()
        total += part.sum(0)
        squares += (part**2).sum(0)
    mean = total / len(rows)
    return mean.float(), (squares / len(rows) - mean**2).clamp_min(0).sqrt().float()


@torch.no_grad()
def stretch(head: PredictionHead, factor: float) -> None:
    """Multiply the logits' distance from those of the reference photo (every standardised input zero) by `factor`."""
    head.eval()
    tags = head.tag_scale.mean[None] if head.config.uses_tags else None
    levels = head.level_scale.mean[None] if head.config.uses_levels else None
    reference = head(tags, levels)[0]
    head.output.weight.mul_(factor)
    head.output.bias.mul_(factor).add_((1 - factor) * reference)


def stretch_to_spread(
    head: PredictionHead,
    encoder: ImageEncoder | None,
    data: FitData,
    *,
    config: FitConfig,
    hardware: Hardware,
) -> float:
    """Stretch the head until its scores on the validation part spread as `config.spread` says; returns the factor.

    A head that has seen few photos answers near the mean, which is best for the squared error and useless for
    telling good from bad. The factor is 1 where the spread is wide enough as it is, and at most `MOST_STRETCH`.
    """
    if config.spread is None:
        return 1.0
    true = expected_score(data.distributions[torch.from_numpy(data.validation)], data.score_values).std()
    total, low, high = 1.0, 1.0, MOST_STRETCH
    for _ in range(12):  # bisection on the logarithm: the spread grows with the factor
        factor = (low * high) ** 0.5
        stretch(head, factor / total)
        total = factor
        predicted = predict(head, encoder, data, data.validation, hardware, config.batch_size)
        reached = float(expected_score(predicted, data.score_values).std() / true)
        low, high = (factor, high) if reached < config.spread else (low, factor)
    return total
