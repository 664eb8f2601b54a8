"""The student: a small ResNet learns from random initialisation what the teachers say about crops of photos,
and how the crops were edited and what can be measured in their pixels.

Its last two stages also learn, place by place, what two inner layers of the first teacher hold. All layers that
are not the tower only shape it and are thrown away.

Two processes of one thread each share every batch and average their gradients: on a machine that others use
too, threads that wait for each other at every layer are several times slower.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from looks import AXES, CROP_AXES, EDITS, apply_edits, crop_strengths, measure
from photos import SIDE, Photos, build_photos
from teacher import CLASSES, CROPS, MAPS, WIDTH, Crops, TeacherOutputs, label_photos
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

INPUT = 128
EARLY_INPUT, EARLY_SHARE = 96, 0.7  # for this share of the steps views are smaller: 1.7 times as many an hour
MEAN, STD = 0.5, 0.25
WIDTHS = [32, 64, 128, 240]
PROCESSES, BATCH = 2, 64  # photos for each process
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05  # the steps of both optimisers have about the same length
WARM_UP, COOL_DOWN = 100, 0.45  # steps; share of all steps in which the rate falls to zero
AVERAGE = 0.998
KL_TEMPERATURE, KL_WEIGHT, MAPS_WEIGHT, LOOKS_WEIGHT = 1.5, 0.5, 1.0, 2.0
TILTED_SHARE = 0.15
SAVE_EVERY = 50


def vision_config() -> ResNetConfig:
    return ResNetConfig(
        embedding_size=WIDTHS[0],
        hidden_sizes=WIDTHS,
        depths=[2, 2, 2, 2],
        layer_type="basic",
        hidden_size=WIDTHS[-1],  # what the joint model takes for the width of the feature
    )


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
            nn.Conv2d(width, channels, 1) for width, (channels, _) in zip(WIDTHS[-len(MAPS) :], MAPS, strict=True)
        )

    def forward(self, pixels: Tensor) -> Guess:
        outputs = self.tower(pixel_values=pixels, output_hidden_states=True)
        feature = outputs.pooler_output.flatten(1)
        stages = outputs.hidden_states[-len(MAPS) :]
        maps = tuple(to_map(stage) for to_map, stage in zip(self.to_maps, stages, strict=True))
        return Guess(self.to_embedding(feature), self.to_classes(feature), self.to_looks(feature), maps)


def crops_of(pixels: np.ndarray, boxes: np.ndarray, degrees: np.ndarray, mirror: np.ndarray) -> Tensor:
    """Crops (B, 4) of uint8 photos (B, SIDE, SIDE, 3), turned and mirrored, as (B, 3, INPUT, INPUT) in 0..1.

    A turned crop is the largest upright square that fits into its box, so that no empty corner shows.
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    left, top, right, bottom = torch.from_numpy(boxes).unbind(1)
    angle = torch.from_numpy(np.radians(degrees)).float()
    sign = torch.from_numpy(mirror).float()
    shrink = 1 / (angle.cos() + angle.sin().abs())
    theta = torch.zeros(len(pixels), 2, 3)
    theta[:, 0, 0] = (right - left) * shrink * angle.cos() * sign
    theta[:, 0, 1] = -(right - left) * shrink * angle.sin()
    theta[:, 1, 0] = (bottom - top) * shrink * angle.sin() * sign
    theta[:, 1, 1] = (bottom - top) * shrink * angle.cos()
    theta[:, 0, 2], theta[:, 1, 2] = left + right - 1, top + bottom - 1
    grid = functional.affine_grid(theta, [len(pixels), 3, INPUT, INPUT], align_corners=False)
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


def random_views(pixels: np.ndarray, photos: np.ndarray, crops: Crops, rng: np.random.Generator) -> Views:
    """Views of crops (B) of the photos at `photos` (B,): random placement, tilt, mirroring and edits."""
    count = len(photos)
    blended = crops.shares < 1
    moved = _moved(crops.boxes, rng)
    tilted = ~blended & (rng.random(count) < TILTED_SHARE)
    degrees = np.where(tilted, rng.uniform(-15, 15, count), 0.0).astype(np.float32)
    mirror = rng.choice([-1.0, 1.0], count)
    views = crops_of(pixels[photos], moved, degrees, mirror)
    if blended.any():
        boxes = _moved(crops.partner_boxes[blended], rng)
        others = crops_of(pixels[crops.partners[blended]], boxes, degrees[blended], mirror[blended])
        share = torch.from_numpy(crops.shares[blended]).view(-1, 1, 1, 1)
        views[torch.from_numpy(blended)] = share * views[torch.from_numpy(blended)] + (1 - share) * others
    jitter = torch.from_numpy(rng.uniform(0.96, 1.04, (count, 3, 1, 1))).float()
    contrast = torch.from_numpy(rng.uniform(0.93, 1.07, (count, 1, 1, 1))).float()
    views = (((views - 0.5) * contrast + 0.5) * jitter).clamp_(0, 1)
    views, strengths = apply_edits(views, rng)
    strengths[:, -CROP_AXES:] = crop_strengths(moved, degrees)
    return Views(views, strengths, *(torch.from_numpy(each) for each in (mirror < 0, tilted, blended)))


def _moved(boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    size = boxes[:, 2:] - boxes[:, :2]
    corners = boxes.reshape(-1, 2, 2) + rng.uniform(-0.04, 0.04, (len(boxes), 2, 2)).astype(np.float32) * size[:, None]
    return np.clip(corners.reshape(-1, 4), 0, 1).astype(np.float32)


@dataclass(frozen=True)
class Lessons:
    """The teachers' answers in the units that the student learns them in.

    `centre`, `spread`: (WIDTH,) of the embeddings; `map_centre`, `map_spread`: of every channel of every map.
    """

    outputs: TeacherOutputs
    centre: Tensor
    spread: Tensor
    map_centre: list[Tensor]
    map_spread: list[Tensor]

    @classmethod
    def of(cls, outputs: TeacherOutputs, rows: np.ndarray) -> Lessons:
        """Units from a seventh of the photos at `rows`."""
        sample = outputs.embeddings[rows[::7], 0].astype(np.float32)
        maps = _unpacked(outputs.maps[rows[::7], 0])
        return cls(
            outputs,
            torch.from_numpy(sample.mean(0)),
            torch.from_numpy(sample.std(0) + 1e-3),
            [layer.mean((0, 2, 3))[:, None, None] for layer in maps],
            [layer.std((0, 2, 3))[:, None, None] + 0.5 for layer in maps],
        )

    def about(self, photos: np.ndarray, crops: np.ndarray, mirrored: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Embeddings (B, WIDTH), logits (B, CLASSES) and maps (B, channels, side, side) of crops as they are seen."""
        embedding = torch.from_numpy(self.outputs.embeddings[photos, crops].astype(np.float32))
        logits = torch.from_numpy(self.outputs.logits[photos, crops].astype(np.float32))
        maps = [
            torch.where(mirrored[:, None, None, None], layer.flip(3), layer).sub_(centre).div_(spread)
            for layer, centre, spread in zip(
                _unpacked(self.outputs.maps[photos, crops]), self.map_centre, self.map_spread, strict=True
            )
        ]
        return embedding.sub_(self.centre).div_(self.spread), logits, maps


def _unpacked(packed: np.ndarray) -> list[Tensor]:
    sizes = [channels * side**2 for channels, side in MAPS]
    parts = torch.from_numpy(packed.astype(np.float32)).split(sizes, 1)
    return [part.unflatten(1, (channels, side, side)) for part, (channels, side) in zip(parts, MAPS, strict=True)]


def distillation_loss(guess: Guess, embedding: Tensor, logits: Tensor) -> Tensor:
    """z-scored embedding by squared error and cosine, classes by Kullback and Leibler."""
    guessed, guessed_logits = guess.embedding.float(), guess.logits.float()
    return (
        functional.mse_loss(guessed, embedding)
        + (1 - functional.cosine_similarity(guessed, embedding)).mean()
        + KL_WEIGHT
        * functional.kl_div(
            (guessed_logits / KL_TEMPERATURE).log_softmax(1),
            (logits / KL_TEMPERATURE).softmax(1),
            reduction="batchmean",
        )
    )


def maps_loss(guessed: Sequence[Tensor], wanted: Sequence[Tensor], upright: Tensor) -> Tensor:
    """Mean squared error over places and layers; a tilted view's places are not the teacher's and do not count."""
    losses = [
        functional.mse_loss(guess.float()[upright], functional.adaptive_avg_pool2d(layer, guess.shape[2:])[upright])
        for guess, layer in zip(guessed, wanted, strict=True)
    ]
    return torch.stack(losses).mean()


def looks_loss(guess: Tensor, wanted: Tensor, blended: Tensor) -> Tensor:
    """Smooth L1 over axes (B, len(AXES)); those of the crop count only where there is one photo in the view."""
    known = torch.ones_like(wanted)
    known[blended, len(EDITS) - CROP_AXES : len(EDITS)] = 0
    return functional.smooth_l1_loss(guess.float() * known, wanted * known)


def looks_statistics(photos: Photos, rows: np.ndarray, crops: Crops, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the measurements over random views of about 2,000 photos."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(2000, len(rows)), replace=False))
    measured = torch.cat(
        [
            measure(random_views(photos.pixels, part, crops[part, 0], rng).pixels)
            for part in np.array_split(chosen, -(-len(chosen) // 250))
        ]
    )
    return measured.mean(0), measured.std(0) + 1e-4


def learning_rate(step: int, steps: int) -> float:
    """A plateau, then a straight fall to zero: a run may be told to end sooner at any time before the fall."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP, (steps - step) / (COOL_DOWN * steps))


def distil(data: Path, out: Path, *, steps: int, seed: int) -> Student:
    """Train, or go on where a killed run was saved; returns the averaged student."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(29500 + os.getpid() % 2000))
    saved = out / "student.pt"
    if not (saved.exists() and torch.load(saved, weights_only=True)["step"] >= steps):
        multiprocessing.spawn(_work, args=(data, out, steps, seed), nprocs=PROCESSES)
    student = Student()
    student.load_state_dict(torch.load(saved, weights_only=True)["average"])
    return student.eval()


def _work(rank: int, data: Path, out: Path, steps: int, seed: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", rank=rank, world_size=PROCESSES, timeout=timedelta(minutes=60))
    photos = build_photos(data, out)
    rows = np.flatnonzero(photos.trainable)
    lessons = Lessons.of(label_photos(data, out, trainable=photos.trainable, seed=seed), rows)
    crops = lessons.outputs.crops
    measured_mean, measured_std = looks_statistics(photos, rows, crops, seed)

    torch.manual_seed(seed)
    student = Student().to(memory_format=torch.channels_last)
    optimizers = _optimizers(student)
    average = {key: value.detach().clone() for key, value in student.state_dict().items()}
    saved, first = out / "student.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        student.load_state_dict(state["student"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        average, first = state["average"], state["step"]
    student.train()
    began, running = time.monotonic(), torch.zeros(3)
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step, rank])
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
        chosen, crop = np.sort(rng.choice(rows, BATCH, replace=False)), rng.integers(0, CROPS, BATCH)
        views, strengths, mirrored, tilted, blended = random_views(photos.pixels, chosen, crops[chosen, crop], rng)
        embedding, logits, maps = lessons.about(chosen, crop, mirrored)
        wanted = torch.cat([strengths, ((measure(views) - measured_mean) / measured_std).clamp(-3, 3)], 1)
        if step < EARLY_SHARE * steps:
            views = functional.interpolate(views, EARLY_INPUT, mode="bilinear", antialias=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            guess = student(normalized(views))
        looks = looks_loss(guess.looks, wanted, blended)
        answers, places = distillation_loss(guess, embedding, logits), maps_loss(guess.maps, maps, ~tilted)
        loss = answers + MAPS_WEIGHT * places + LOOKS_WEIGHT * looks
        student.zero_grad(set_to_none=True)
        loss.backward()
        _average_over_processes([p.grad for p in student.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        _take_step(student, *optimizers)
        follow(average, student, step)
        now = torch.stack([answers, places, looks]).detach()
        running = now if step == first else 0.98 * running + 0.02 * now
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            _average_over_processes([value for key, value in average.items() if "running_" in key])
            _average_over_processes([value for key, value in student.state_dict().items() if "running_" in key])
            if rank == 0:
                rate = (step + 1 - first) * BATCH * PROCESSES / (time.monotonic() - began)
                losses = told(running, "answers", "maps", "looks")
                print(f"step {step + 1}/{steps}  {losses}  {rate:.0f} crops/s", flush=True)
                partial = saved.with_suffix(".part")
                torch.save(
                    {
                        "student": student.state_dict(),
                        "average": average,
                        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                        "step": step + 1,
                    },
                    partial,
                )
                partial.replace(saved)
    distributed.barrier()
    distributed.destroy_process_group()


@torch.no_grad()
def follow(average: dict[str, Tensor], module: nn.Module, step: int) -> None:
    """Let the running average of a module's state come a little closer to it, at first by more."""
    decay = min(AVERAGE, (1 + step) / (10 + step))
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)
        else:
            average[key].copy_(value)


def told(losses: Tensor, *names: str) -> str:
    return "  ".join(f"{name} {value:.3f}" for name, value in zip(names, losses, strict=True))


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


def _average_over_processes(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= PROCESSES
    start = 0
    for tensor in tensors:
        tensor.detach().copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


assert SIDE >= INPUT
