"""Where ranking starts from: the student's tower, taught besides to tell a photo from its damaged copy.

Ratings say little about damage, and what the student has learnt of it does not reach tilted, over-exposed and
compressed copies. Here the whole tower learns from pairs alike in everything but the damage, and goes on learning from
the teachers what is in undamaged photos. First these are the student's small photos, enlarged; then half of them are
those that it will be ranked with, without their ratings: they are as large and as sharp as photos of users, and the
blur of a small one is not theirs. Killed and started again, it goes on with the lesson that it was at.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from damaged import PairFiles
from student import (
    INPUT,
    PREPROCESSING,
    WIDTHS,
    Distilled,
    Student,
    autocast,
    distillation_loss,
    follow,
    keep,
    normalized,
    told,
)
from teacher import CLASSES, WIDTH, Answer, Teachers
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetModel

from tmcr.damage import KINDS

PAIRS = 128  # in a step
SIDES_SEEN = (128, 160, INPUT, INPUT)  # of the pairs of a step, drawn anew for each
WEIGHT_DECAY = 0.05
GAP = 2.0  # by how much a copy of strength 1 shall lie below its photo
SOFTNESS = 0.5  # over which the penalty of a wrong order fades out
KNOWN_WEIGHT, STRENGTH_WEIGHT, NEAR_ZERO = 1.0, 4.0, 0.2
LARGE_SHARE = 0.5  # of the pairs of the last lesson
TELL_EVERY = 100
SAVE_AFTER = 120  # seconds


@dataclass(frozen=True)
class Lesson:
    """How long and how fast the tower is taught; `learning_rate` is the highest, reached after `warm_up` steps."""

    steps: int
    learning_rate: float
    warm_up: int


FIRST = Lesson(1200, learning_rate=1e-3, warm_up=100)
LAST = Lesson(120, learning_rate=3e-4, warm_up=20)


@dataclass(frozen=True)
class Pairs:
    """Pairs at hand. `pixels`: rows (B,) → uint8 (B, 2, INPUT, INPUT, 3). `strengths`: (N, kinds). `photos`: (N,)."""

    pixels: Callable[[np.ndarray], Tensor]
    strengths: Tensor
    photos: np.ndarray

    @classmethod
    def of(cls, files: PairFiles, device: torch.device) -> Pairs:
        return cls(files.pixels(device), files.table.strengths.to(device), files.table.photos)


class Answers(nn.Module):
    """What training asks of the tower's feature (B, W); none of it ships."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.embedding = nn.Linear(WIDTHS[-1], WIDTH)
        self.classes = nn.Linear(WIDTHS[-1], CLASSES)
        self.embedding.load_state_dict(student.to_embedding.state_dict())
        self.classes.load_state_dict(student.to_classes.state_dict())
        self.standard = nn.BatchNorm1d(WIDTHS[-1], affine=False)
        self.quality = nn.Linear(WIDTHS[-1], 1)
        self.strengths = nn.Linear(WIDTHS[-1], len(KINDS))

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor]:
        standard = self.standard(feature)
        return self.quality(standard)[:, 0], self.strengths(standard)


def quality_loss(answers: Answers, feature: Tensor, known: Answer, strengths: Tensor) -> Tensor:
    """(3,): the loss of what the teachers see, of the order of pairs, and of the strengths of damage.

    Args:
        feature: (2 P, W), of P photos and then of their copies; known: the teachers' answers about the photos;
            strengths: (P, kinds).
    """
    clean = feature[: len(strengths)]
    seen = distillation_loss(answers.embedding(clean), answers.classes(clean), known)
    quality, found = answers(feature)
    above, below = quality.chunk(2)
    wanted = GAP * strengths
    order = SOFTNESS * functional.softplus((wanted.sum(1) - (above - below)) / SOFTNESS)
    amounts = functional.smooth_l1_loss(found, torch.cat([torch.zeros_like(wanted), wanted]), beta=0.5)
    return torch.stack(
        [KNOWN_WEIGHT * seen, order.mean() + NEAR_ZERO * above.square().mean(), STRENGTH_WEIGHT * amounts]
    )


def learning_rate(step: int, lesson: Lesson) -> float:
    """A short rise, then half a cosine down to zero."""
    rise = min(1.0, (step + 1) / lesson.warm_up)
    return lesson.learning_rate * rise * (1 + math.cos(math.pi * step / lesson.steps)) / 2


@dataclass(frozen=True)
class School:
    """What both lessons need."""

    distilled: Distilled
    teachers: Teachers
    work: Path
    device: torch.device
    seed: int

    def first_lesson(self, lesson: Lesson, small: Callable[[], Pairs]) -> Path:
        """Teach a copy of the student's tower with pairs of its own photos; returns the file."""
        saved = self.work / f"quality-{self._stamp(lesson)}.pt"
        if not _done(saved, lesson):
            tower, answers = Student().tower, Answers(self.distilled.student)
            tower.load_state_dict(self.distilled.student.tower.state_dict())
            pairs = small()
            self._teach(tower, answers, lesson, saved, lambda rng: [(pairs, _rows(pairs, PAIRS, rng))])
        return saved

    def last_lesson(
        self,
        lesson: Lesson,
        before: Path,
        shown: Sequence[str],
        rated: Sequence[str],
        pairs: Callable[[], tuple[Pairs, Pairs]],
    ) -> Path:
        """Teach the tower of the first lesson with photos that will be ranked too; returns the file.

        Args:
            pairs: those of the student's photos, and those of the photos named `rated`, of which only those `shown`
                are used.
        """
        stamp = hashlib.sha256(f"{before.name} {lesson} {sorted(shown)}".encode()).hexdigest()[:12]
        saved = self.work / f"acquainted-{stamp}.pt"
        if not _done(saved, lesson):
            first = torch.load(before, map_location="cpu", weights_only=True)
            tower, answers = Student().tower, Answers(self.distilled.student)
            tower.load_state_dict(first["average"])
            answers.load_state_dict(first["answers"])
            small, large = pairs()
            allowed = np.flatnonzero(np.isin(np.array(rated)[large.photos], list(shown)))
            count = round(LARGE_SHARE * PAIRS)

            def drawn(rng: np.random.Generator) -> list[tuple[Pairs, np.ndarray]]:
                return [(small, _rows(small, PAIRS - count, rng)), (large, rng.choice(allowed, count))]

            self._teach(tower, answers, lesson, saved, drawn)
            average = torch.load(saved, map_location="cpu", weights_only=True)["average"]
            keep({"average": {key: _halved(value) for key, value in average.items()}, "step": lesson.steps}, saved)
        return saved

    def _stamp(self, lesson: Lesson) -> str:
        sources = [(Path(__file__).parent / name).read_text() for name in ("quality.py", "damaged.py", "reframing.py")]
        digest = hashlib.sha256(f"{lesson} {self.seed} {sources}".encode())
        for value in self.distilled.student.state_dict().values():
            digest.update(value.numpy().tobytes())
        return digest.hexdigest()[:12]

    def _teach(
        self,
        tower: ResNetModel,
        answers: Answers,
        lesson: Lesson,
        saved: Path,
        drawn: Callable[[np.random.Generator], list[tuple[Pairs, np.ndarray]]],
    ) -> None:
        device, unit = self.device, self.distilled.units.to(self.device)
        teachers = self.teachers.to(device)
        torch.manual_seed(self.seed)
        tower, answers = tower.to(device, memory_format=torch.channels_last), answers.to(device)
        parameters = list(tower.parameters())
        optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
                {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
                {"params": list(answers.parameters()), "weight_decay": 0.01},
            ]
        )
        average, first = {key: value.detach().clone() for key, value in tower.state_dict().items()}, 0
        if saved.exists():
            state = torch.load(saved, map_location=device, weights_only=True)
            tower.load_state_dict(state["tower"])
            answers.load_state_dict(state["answers"])
            optimizer.load_state_dict(state["optimizer"])
            average, first = state["average"], state["step"]
        tower.train()
        answers.train()
        began, kept_at, running = time.monotonic(), time.monotonic(), torch.zeros(3, device=device)
        for step in range(first, lesson.steps):
            rng = np.random.default_rng([self.seed, 6, step])
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, lesson)
            chosen = drawn(rng)
            pixels = torch.cat([pairs.pixels(rows).to(device) for pairs, rows in chosen])
            strengths = torch.cat([pairs.strengths[torch.from_numpy(rows).to(device)] for pairs, rows in chosen])
            views = pixels.permute(1, 0, 4, 2, 3).flatten(0, 1).float().div_(255)  # photos, then their copies
            mirrored = torch.from_numpy(rng.random(len(views)) < 0.5).to(device)
            views = torch.where(mirrored[:, None, None, None], views.flip(3), views)
            with torch.no_grad(), autocast(device):
                known = unit.standard(teachers(views[: len(strengths)]))
            side = int(rng.choice(SIDES_SEEN))
            if side < INPUT:
                views = functional.interpolate(views, side, mode="bilinear", antialias=True)
            with autocast(device):
                feature = tower(pixel_values=normalized(views)).pooler_output.flatten(1)
            losses = quality_loss(answers, feature.float(), known, strengths)
            optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            nn.utils.clip_grad_norm_(parameters, 2.0)
            optimizer.step()
            follow(average, tower, step)
            running = losses.detach() if step == first else 0.98 * running + 0.02 * losses.detach()
            if (step + 1) % TELL_EVERY == 0 or step + 1 == lesson.steps:
                rate = (step + 1 - first) * PAIRS / (time.monotonic() - began)
                said = told(running, "known", "order", "strengths")
                print(f"step {step + 1}/{lesson.steps}  {said}  {rate:.0f} pairs/s", flush=True)
            if time.monotonic() - kept_at > SAVE_AFTER:
                kept_at = time.monotonic()
                state = {"tower": tower.state_dict(), "answers": answers.state_dict()}
                keep(state | {"optimizer": optimizer.state_dict(), "average": average, "step": step + 1}, saved)
        keep({"average": average, "answers": answers.state_dict(), "step": lesson.steps}, saved)


def _rows(pairs: Pairs, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(len(pairs.photos), count, replace=False)


def _halved(value: Tensor) -> Tensor:
    return value.half() if value.is_floating_point() else value


def _done(saved: Path, lesson: Lesson) -> bool:
    return saved.exists() and torch.load(saved, map_location="cpu", weights_only=True)["step"] >= lesson.steps


def write_tower(saved: Path, out: Path) -> Path:
    """As transformers reads it, in half precision."""
    tower = Student().tower
    tower.load_state_dict(torch.load(saved, map_location="cpu", weights_only=True)["average"])
    out.mkdir(parents=True, exist_ok=True)
    tower.half().save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(PREPROCESSING, indent=2))
    return out
