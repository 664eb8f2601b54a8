"""The student: a small ResNet learns from random initialisation what the teachers say about crops of photos,
and how the crops were edited and what can be measured in their pixels.

Every crop is new: the teachers look at it as it is, or blended with a crop of another photo, and the student at several
distorted views of it. Photos are few, and what the teachers say of a mixture is one more place where the student can
follow them. Its last two stages also learn, place by place, what two inner layers of the first teacher hold. All layers
that are not the tower only shape it and are thrown away.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from looks import AXES, CROP_AXES, EDITS, apply_edits, crop_strengths, measure
from photos import SIDE, Photos
from teacher import CLASSES, MAPS, SIDES, WIDTH, Answer, Teachers
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

INPUT = 192
SMALLER, SMALLER_SHARE = (112, 128, 160), 0.5  # sides of the views in this share of the steps: faster, and sharper
MEAN, STD = 0.5, 0.25
WIDTHS = [32, 64, 128, 240]
CROPS, VIEWS = 256, 3  # in a step; views of each crop
WHOLE_SHARE, BLENDED_SHARE, LEAST_SHARE = 0.15, 0.3, 0.5  # of the crops; the last, of the first photo in a blend
LEARNING_RATE, WEIGHT_DECAY = 4e-3, 0.05  # the steps of both optimisers have about the same length
WARM_UP, COOL_DOWN = 100, 0.45  # steps; share of all steps in which the rate falls to zero
AVERAGE = 0.998
KL_TEMPERATURE, KL_WEIGHT, MAPS_WEIGHT, LOOKS_WEIGHT = 1.5, 0.5, 1.0, 2.0
TILTED_SHARE = 0.15
SAVE_AFTER, TELL_EVERY = 120, 100  # seconds; steps
SAMPLED = 2048  # photos that the units of the targets come from


def vision_config() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=WIDTHS[0],
        hidden_sizes=WIDTHS,
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_size=WIDTHS[-1],  # what the joint model takes for the width of the feature
    )


PREPROCESSING: dict[str, object] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": INPUT, "width": INPUT},
    "resample": 3,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [MEAN] * 3,
    "image_std": [STD] * 3,
}


class Guess(NamedTuple):
    """What a batch of views looks like to the student, in the teachers' terms."""

    embedding: Tensor
    logits: Tensor
    looks: Tensor
    maps: tuple[Tensor, ...]


class Student(nn.Module):
    """The vision tower, and the layers that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ResNetModel(vision_config())
        self.to_embedding = nn.Linear(WIDTHS[-1], WIDTH)
        self.to_classes = nn.Linear(WIDTHS[-1], CLASSES)
        self.to_looks = nn.Linear(WIDTHS[-1], len(AXES))
        self.to_maps = nn.ModuleList(
            nn.Conv2d(width, channels, 1) for width, channels in zip(WIDTHS[-len(MAPS) :], MAPS, strict=True)
        )

    def forward(self, pixels: Tensor) -> Guess:
        outputs = self.tower(pixel_values=pixels, output_hidden_states=True)
        feature = outputs.pooler_output.flatten(1)
        stages = outputs.hidden_states[-len(MAPS) :]
        maps = tuple(to_map(stage) for to_map, stage in zip(self.to_maps, stages, strict=True))
        return Guess(self.to_embedding(feature), self.to_classes(feature), self.to_looks(feature), maps)


# ---- crops and views ----------------------------------------------------------------------------------------


def random_boxes(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 4) as left, top, right, bottom in 0..1: crops of 25 to 100 % of the area, sides 3:4 to 4:3."""
    area = rng.uniform(0.25, 1.0, count)
    ratio = np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3), count))
    width = np.minimum(np.sqrt(area * ratio), 1.0)
    height = np.minimum(np.sqrt(area / ratio), 1.0)
    left = rng.uniform(0, 1, count) * (1 - width)
    top = rng.uniform(0, 1, count) * (1 - height)
    return np.stack([left, top, left + width, top + height], axis=-1).astype(np.float32)


@dataclass(frozen=True)
class Crops:
    """What a step is about. `photos`, `partners`: (B,) rows, the partner blended in. `boxes`, `partner_boxes`: (B, 4).
    `shares`: (B,), how much of the blend is the first photo: 1 where it is alone.
    """

    photos: np.ndarray
    boxes: np.ndarray
    partners: np.ndarray
    partner_boxes: np.ndarray
    shares: np.ndarray

    @classmethod
    def drawn(cls, rows: np.ndarray, count: int, rng: np.random.Generator) -> Crops:
        photos, partners = rng.choice(rows, (2, count))
        boxes, partner_boxes = random_boxes(count, rng), random_boxes(count, rng)
        boxes[rng.random(count) < WHOLE_SHARE] = (0.0, 0.0, 1.0, 1.0)
        blended = rng.random(count) < BLENDED_SHARE
        shares = np.where(blended, rng.uniform(LEAST_SHARE, 1, count), 1.0).astype(np.float32)
        return cls(photos, boxes, partners, partner_boxes, shares)

    def repeated(self, times: int) -> Crops:
        return Crops(*(np.concatenate([each] * times) for each in vars(self).values()))

    def moved(self, rng: np.random.Generator) -> Crops:
        """Every box elsewhere by a little."""
        boxes, partner_boxes = _moved(self.boxes, rng), _moved(self.partner_boxes, rng)
        return Crops(self.photos, boxes, self.partners, partner_boxes, self.shares)

    def seen(
        self, stored: Tensor, side: int, degrees: np.ndarray | None = None, mirror: np.ndarray | None = None
    ) -> Tensor:
        """Pixels (B, 3, side, side) in 0..1, of photos (N, SIDE, SIDE, 3), on the device where they lie."""
        count = len(self.photos)
        degrees = degrees if degrees is not None else np.zeros(count, np.float32)
        mirror = mirror if mirror is not None else np.ones(count)
        views = crops_of(picked(stored, self.photos), self.boxes, degrees, mirror, side)
        blended = np.flatnonzero(self.shares < 1)
        if len(blended):
            others = picked(stored, self.partners[blended])
            others = crops_of(others, self.partner_boxes[blended], degrees[blended], mirror[blended], side)
            share = torch.from_numpy(self.shares[blended]).view(-1, 1, 1, 1).to(stored.device)
            index = torch.from_numpy(blended).to(stored.device)
            views[index] = share * views[index] + (1 - share) * others
        return views


def _moved(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = boxes[:, 2:] - boxes[:, :2]
    corners = boxes.reshape(-1, 2, 2) + rng.uniform(-0.04, 0.04, (len(boxes), 2, 2)).astype(np.float32) * size[:, None]
    return np.clip(corners.reshape(-1, 4), 0, 1).astype(np.float32)


def on_device(pixels: np.ndarray, device: torch.device) -> Tensor:
    """Stored photos: in a GPU's memory, which holds them all, or left on disk for a CPU."""
    if device.type == "cpu":
        return torch.from_numpy(pixels)
    return torch.from_numpy(np.ascontiguousarray(pixels)).to(device)


def picked(stored: Tensor, rows: np.ndarray) -> Tensor:
    """Photos (B, 3, SIDE, SIDE) in 0..1."""
    chosen = stored[torch.from_numpy(np.asarray(rows)).to(stored.device)]
    return chosen.permute(0, 3, 1, 2).float().div_(255)


def crops_of(images: Tensor, boxes: np.ndarray, degrees: np.ndarray, mirror: np.ndarray, side: int = INPUT) -> Tensor:
    """Crops (B, 4) of photos (B, 3, h, w), turned and mirrored, as (B, 3, side, side).

    A turned crop is the largest upright square that fits into its box, so that no empty corner shows.
    """
    left, top, right, bottom = torch.from_numpy(boxes).unbind(1)
    angle = torch.from_numpy(np.radians(degrees)).float()
    sign = torch.from_numpy(mirror).float()
    shrink = 1 / (angle.cos() + angle.sin().abs())
    theta = torch.zeros(len(images), 2, 3)
    theta[:, 0, 0] = (right - left) * shrink * angle.cos() * sign
    theta[:, 0, 1] = -(right - left) * shrink * angle.sin()
    theta[:, 1, 0] = (bottom - top) * shrink * angle.sin() * sign
    theta[:, 1, 1] = (bottom - top) * shrink * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = left + right - 1, top + bottom - 1
    grid = functional.affine_grid(theta.to(images.device), [len(images), 3, side, side], align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def normalized(pixels: Tensor) -> Tensor:
    return ((pixels - MEAN) / STD).contiguous(memory_format=torch.channels_last)


class Views(NamedTuple):
    """Views (B, 3, INPUT, INPUT) of crops in 0..1, how strongly each was edited, and how the frame was moved.

    Of a blend the strengths that belong to the crop mean nothing.
    """

    pixels: Tensor
    strengths: Tensor
    mirrored: Tensor
    tilted: Tensor
    blended: Tensor


def random_views(stored: Tensor, crops: Crops, rng: np.random.Generator) -> Views:
    """Views of crops (B): random placement, tilt, mirroring and edits."""
    count, device = len(crops.photos), stored.device
    blended = crops.shares < 1
    moved = crops.moved(rng)
    tilted = ~blended & (rng.random(count) < TILTED_SHARE)
    degrees = np.where(tilted, rng.uniform(-15, 15, count), 0.0).astype(np.float32)
    mirror = rng.choice([-1.0, 1.0], count)
    views = moved.seen(stored, INPUT, degrees, mirror)
    jitter = torch.from_numpy(rng.uniform(0.96, 1.04, (count, 3, 1, 1))).float().to(device)
    contrast = torch.from_numpy(rng.uniform(0.93, 1.07, (count, 1, 1, 1))).float().to(device)
    views = (((views - 0.5) * contrast + 0.5) * jitter).clamp_(0, 1)
    views, strengths = apply_edits(views, rng)
    strengths[:, -CROP_AXES:] = crop_strengths(moved.boxes, degrees).to(device)
    return Views(views, strengths, *(torch.from_numpy(each).to(device) for each in (mirror < 0, tilted, blended)))


# ---- what is learnt -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Units:
    """In which the teachers' answers and the measurements are learnt: (mean, standard deviation) of each."""

    embedding: tuple[Tensor, Tensor]
    maps: tuple[tuple[Tensor, Tensor], ...]
    measured: tuple[Tensor, Tensor]

    def to(self, device: torch.device) -> Units:
        def both(pair: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
            return pair[0].to(device), pair[1].to(device)

        return Units(both(self.embedding), tuple(both(pair) for pair in self.maps), both(self.measured))

    def standard(self, answer: Answer) -> Answer:
        """The same in floats about zero."""
        mean, std = self.embedding
        maps = tuple((layer.float() - mean) / std for layer, (mean, std) in zip(answer.maps, self.maps, strict=True))
        return Answer((answer.embedding.float() - mean) / std, answer.logits.float(), maps)


@torch.no_grad()
def units(teachers: Teachers, stored: Tensor, rows: np.ndarray, seed: int) -> Units:
    rng = np.random.default_rng(seed)
    answers, measured = [], []
    for part in np.array_split(np.sort(rng.choice(rows, min(SAMPLED, len(rows)), replace=False)), 32):
        crops = Crops.drawn(part, len(part), rng)
        with autocast(stored.device):
            answers.append(teachers(crops.seen(stored, SIDES[0])))
        measured.append(measure(random_views(stored, crops, rng).pixels))
    embedding = torch.cat([answer.embedding.float() for answer in answers])
    layers = [torch.cat([answer.maps[place].float() for answer in answers]) for place in range(len(MAPS))]
    looks = torch.cat(measured)
    return Units(
        (embedding.mean(0), embedding.std(0) + 1e-3),
        tuple((layer.mean((0, 2, 3))[:, None, None], layer.std((0, 2, 3))[:, None, None] + 1e-2) for layer in layers),
        (looks.mean(0), looks.std(0) + 1e-4),
    )


def autocast(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def distillation_loss(embedding: Tensor, logits: Tensor, wanted: Answer) -> Tensor:
    """z-scored embedding by squared error and cosine, classes by Kullback and Leibler."""
    guessed, guessed_logits = embedding.float(), logits.float()
    return (
        functional.mse_loss(guessed, wanted.embedding)
        + (1 - functional.cosine_similarity(guessed, wanted.embedding)).mean()
        + KL_WEIGHT
        * functional.kl_div(
            (guessed_logits / KL_TEMPERATURE).log_softmax(1),
            (wanted.logits / KL_TEMPERATURE).softmax(1),
            reduction="batchmean",
        )
    )


def maps_loss(guessed: Sequence[Tensor], wanted: Sequence[Tensor], mirrored: Tensor, tilted: Tensor) -> Tensor:
    """Mean squared error over places and layers; a tilted view's places are not the teacher's and do not count."""
    losses = []
    upright = (~tilted).float()[:, None, None, None]
    for guess, layer in zip(guessed, wanted, strict=True):
        layer = functional.adaptive_avg_pool2d(layer, guess.shape[2:])
        layer = torch.where(mirrored[:, None, None, None], layer.flip(3), layer)
        losses.append(((guess.float() - layer) ** 2 * upright).mean() / upright.mean())
    return torch.stack(losses).mean()


def looks_loss(guess: Tensor, wanted: Tensor, blended: Tensor) -> Tensor:
    """Smooth L1 over axes (B, len(AXES)); those of the crop count only where there is one photo in the view."""
    known = torch.ones_like(wanted)
    known[:, len(EDITS) - CROP_AXES : len(EDITS)] = (~blended).float()[:, None]
    return functional.smooth_l1_loss(guess.float() * known, wanted * known)


# ---- training -----------------------------------------------------------------------------------------------


def learning_rate(step: int, steps: int) -> float:
    """A plateau, then a straight fall to zero: a run may be told to end sooner at any time before the fall."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


class Distilled(NamedTuple):
    """The averaged student, and the units in which it answers; both on the CPU."""

    student: Student
    units: Units


def distil(photos: Photos, teachers: Teachers, work: Path, device: torch.device, *, steps: int, seed: int) -> Distilled:
    """Train, or go on where a killed run was saved."""
    saved = work / f"student-{_stamp(steps, seed)}.pt"
    if not (saved.exists() and torch.load(saved, weights_only=True)["step"] >= steps):
        _train(photos, teachers, saved, device, steps=steps, seed=seed)
    state = torch.load(saved, map_location="cpu", weights_only=True)
    student = Student()
    student.load_state_dict(state["average"])
    return Distilled(student.eval(), Units(*state["units"]))


def _stamp(steps: int, seed: int) -> str:
    sources = [(Path(__file__).parent / name).read_text() for name in ("student.py", "teacher.py", "looks.py")]
    return hashlib.sha256(f"{steps} {seed} {sources}".encode()).hexdigest()[:12]


def _train(photos: Photos, teachers: Teachers, saved: Path, device: torch.device, *, steps: int, seed: int) -> None:
    rows = np.flatnonzero(photos.trainable)
    stored = on_device(photos.pixels, device)
    teachers = teachers.to(device)
    unit = units(teachers, stored, rows, seed)
    torch.manual_seed(seed)
    student = Student().to(device, memory_format=torch.channels_last)
    optimizers = _optimizers(student)
    average = {key: value.detach().clone() for key, value in student.state_dict().items()}
    first = 0
    if saved.exists():
        state = torch.load(saved, map_location=device, weights_only=True)
        student.load_state_dict(state["student"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average, first = state["average"], state["step"]
    student.train()
    began, kept_at, running = time.monotonic(), time.monotonic(), torch.zeros(3, device=device)
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step])
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
        crops = Crops.drawn(rows, CROPS, rng)
        with torch.no_grad(), autocast(device):
            answer = teachers(crops.seen(stored, SIDES[0]))
        wanted = unit.standard(answer)
        losses = _losses(student, stored, crops, wanted, unit, rng, _side(step, steps, rng))
        losses.sum().backward()
        losses = losses.detach()
        nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        _take_step(student, *optimizers)
        student.zero_grad(set_to_none=True)
        follow(average, student, step)
        running = losses if step == first else 0.98 * running + 0.02 * losses
        if (step + 1) % TELL_EVERY == 0 or step + 1 == steps:
            rate = (step + 1 - first) * CROPS * VIEWS / (time.monotonic() - began)
            print(
                f"step {step + 1}/{steps}  {told(running, 'answers', 'maps', 'looks')}  {rate:.0f} views/s", flush=True
            )
        if time.monotonic() - kept_at > SAVE_AFTER:
            kept_at = time.monotonic()
            state = {"student": student.state_dict(), "optimizers": [each.state_dict() for each in optimizers]}
            keep(state | {"average": average, "step": step + 1}, saved)
    keep({"average": average, "step": steps, "units": tuple(vars(unit).values())}, saved)


def _losses(
    student: Student, stored: Tensor, crops: Crops, wanted: Answer, unit: Units, rng: np.random.Generator, side: int
) -> Tensor:
    """(3,): the weighted losses of answers, maps and looks, over VIEWS views of every crop."""
    views, strengths, mirrored, tilted, blended = random_views(stored, crops.repeated(VIEWS), rng)
    mean, std = unit.measured
    looks = torch.cat([strengths, ((measure(views) - mean) / std).clamp(-3, 3)], 1)
    if side < INPUT:
        views = functional.interpolate(views, side, mode="bilinear", antialias=True)
    with autocast(stored.device):
        guess = student(normalized(views))
    wanted = Answer(
        wanted.embedding.repeat(VIEWS, 1),
        wanted.logits.repeat(VIEWS, 1),
        tuple(layer.repeat(VIEWS, 1, 1, 1) for layer in wanted.maps),
    )
    return torch.stack(
        [
            distillation_loss(guess.embedding, guess.logits, wanted),
            MAPS_WEIGHT * maps_loss(guess.maps, wanted.maps, mirrored, tilted),
            LOOKS_WEIGHT * looks_loss(guess.looks, looks, blended),
        ]
    )


def _side(step: int, steps: int, rng: np.random.Generator) -> int:
    """Of the views of a step; the last steps are as the tower will be used."""
    return int(rng.choice(SMALLER)) if step < SMALLER_SHARE * steps else INPUT


@torch.no_grad()
def follow(average: dict[str, Tensor], module: nn.Module, step: int) -> None:
    """Let the running average of a module's state come a little closer to it, at first by more."""
    decay = min(AVERAGE, (1 + step) / (10 + step))
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def keep(state: dict[str, object], saved: Path) -> None:
    partial = saved.with_suffix(".part")
    torch.save(state, partial)
    partial.replace(saved)


def told(losses: Tensor, *names: str) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in zip(names, losses.tolist(), strict=True))


def _optimizers(student: Student) -> tuple[torch.optim.Muon, torch.optim.AdamW]:
    """Muon for the tower's kernels, seen as matrices (out, place · in), and AdamW for everything else."""
    kernels = _kernels(student)
    matrices = [nn.Parameter(kernel.detach().permute(0, 2, 3, 1).flatten(1)) for kernel in kernels]
    for matrix, kernel in zip(matrices, kernels, strict=True):
        assert matrix.data_ptr() == kernel.data_ptr(), "a matrix must share its kernel's memory"
    known = {id(kernel) for kernel in kernels}
    others = [parameter for parameter in student.parameters() if id(parameter) not in known]
    return (
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(
            [
                {"params": [p for p in others if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
                {"params": [p for p in others if p.dim() <= 1], "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
        ),
    )


def _take_step(student: Student, muon: torch.optim.Muon, adam: torch.optim.AdamW) -> None:
    for matrix, kernel in zip(muon.param_groups[0]["params"], _kernels(student), strict=True):
        assert kernel.grad is not None
        matrix.grad = kernel.grad.permute(0, 2, 3, 1).flatten(1)
    muon.step()
    adam.step()


def _kernels(student: Student) -> list[nn.Parameter]:
    return [parameter for parameter in student.tower.parameters() if parameter.dim() == 4]


assert SIDE >= INPUT
