"""The student: a small ResNet learns from random initialisation what the teachers say about crops of photos,
and how the crops were edited and what can be measured in their pixels.

The layers on top of its pooled feature only shape that feature and are thrown away.

Two processes of one thread each share every batch and average their gradients: on a machine that others use
too, threads that wait for each other at every layer are several times slower.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from looks import AXES, EDITS, apply_edits, crop_strengths, measure
from photos import SIDE, Photos, build_photos
from teacher import CLASSES, CROPS, WIDTH, label_photos
from torch import Tensor, distributed, multiprocessing, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

INPUT = 128
EARLY_INPUT, EARLY_SHARE = 96, 0.75  # for this share of the steps views are smaller: 1.7 times as many an hour
MEAN, STD = 0.5, 0.25
WIDTHS = [32, 64, 128, 240]
PROCESSES, BATCH = 2, 64  # photos for each process
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05
WARM_UP, COOL_DOWN = 100, 0.45  # steps; share of all steps in which the rate falls to zero
AVERAGE = 0.998
KL_TEMPERATURE, KL_WEIGHT, LOOKS_WEIGHT = 1.5, 0.5, 1.0
MIXED_SHARE = 0.2  # of the batches are mixtures of two photos
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


class Student(nn.Module):
    """The vision tower, and the layers that only training needs."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = ResNetModel(vision_config())
        self.to_embedding = nn.Linear(WIDTHS[-1], WIDTH)
        self.to_classes = nn.Linear(WIDTHS[-1], CLASSES)
        self.to_looks = nn.Linear(WIDTHS[-1], len(AXES))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = self.tower(pixel_values=pixels).pooler_output.flatten(1)
        return self.to_embedding(feature), self.to_classes(feature), self.to_looks(feature)


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


def random_views(pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Views of crops with random placement, tilt, mirroring and edits; returns them (0..1) and the edits' strengths."""
    count = len(pixels)
    size = boxes[:, 2:] - boxes[:, :2]
    corners = boxes.reshape(-1, 2, 2) + rng.uniform(-0.04, 0.04, (count, 2, 2)).astype(np.float32) * size[:, None]
    moved = np.clip(corners.reshape(-1, 4), 0, 1).astype(np.float32)
    tilted = rng.random(count) < TILTED_SHARE
    degrees = np.where(tilted, rng.uniform(-15, 15, count), 0.0).astype(np.float32)
    views = crops_of(pixels, moved, degrees, rng.choice([-1.0, 1.0], count))
    jitter = torch.from_numpy(rng.uniform(0.96, 1.04, (count, 3, 1, 1))).float()
    contrast = torch.from_numpy(rng.uniform(0.93, 1.07, (count, 1, 1, 1))).float()
    views = (((views - 0.5) * contrast + 0.5) * jitter).clamp_(0, 1)
    views, strengths = apply_edits(views, rng)
    strengths[:, -3:] = crop_strengths(moved, degrees)
    return views, strengths


def distillation_loss(outputs: tuple[Tensor, Tensor, Tensor], embedding: Tensor, logits: Tensor) -> Tensor:
    """z-scored embedding by squared error and cosine, classes by Kullback and Leibler."""
    guessed, guessed_logits = outputs[0].float(), outputs[1].float()
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


def looks_statistics(photos: Photos, rows: np.ndarray, boxes: np.ndarray, seed: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the measurements over random views of about 2,000 photos."""
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, min(2000, len(rows)), replace=False))
    measured = torch.cat(
        [
            measure(random_views(photos.pixels[part], boxes[part, 0], rng)[0])
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
    teacher = label_photos(data, out, photos=len(photos.names), seed=seed)
    rows = np.flatnonzero(photos.trainable)
    sample = teacher.embeddings[rows[::7], 0].astype(np.float32)
    centre, spread = torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0) + 1e-3)
    measured_mean, measured_std = looks_statistics(photos, rows, teacher.boxes, seed)

    torch.manual_seed(seed)
    student = Student()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in student.parameters() if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in student.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    average = {key: value.detach().clone() for key, value in student.state_dict().items()}
    saved, first = out / "student.pt", 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    student.train().to(memory_format=torch.channels_last)
    began, running = time.monotonic(), torch.zeros(2)
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step, rank])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        chosen, crop = np.sort(rng.choice(rows, BATCH, replace=False)), rng.integers(0, CROPS, BATCH)
        views, strengths = random_views(photos.pixels[chosen], teacher.boxes[chosen, crop], rng)
        embedding = torch.from_numpy(teacher.embeddings[chosen, crop].astype(np.float32)).sub_(centre).div_(spread)
        logits = torch.from_numpy(teacher.logits[chosen, crop].astype(np.float32))
        mixed = rng.random() < MIXED_SHARE
        if mixed:
            share = float(rng.beta(0.6, 0.6))
            views, embedding, logits = (share * a + (1 - share) * a.roll(1, 0) for a in (views, embedding, logits))
        wanted = torch.cat([strengths, ((measure(views) - measured_mean) / measured_std).clamp(-3, 3)], 1)
        if step < EARLY_SHARE * steps:
            views = functional.interpolate(views, EARLY_INPUT, mode="bilinear", antialias=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs = student(normalized(views))
        looks = functional.smooth_l1_loss(outputs[2].float(), wanted, reduction="none").mean(0)
        looks = looks[len(EDITS) :].mean() if mixed else looks.mean()  # a mixture's edits are not known
        loss = distillation_loss(outputs, embedding, logits) + LOOKS_WEIGHT * looks
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        _average_over_processes([p.grad for p in student.parameters() if p.grad is not None])
        nn.utils.clip_grad_norm_(student.parameters(), 2.0)
        optimizer.step()
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            for key, value in student.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - decay)
                else:
                    average[key].copy_(value)
        now = torch.tensor([float(loss.detach()), float(looks.detach())])
        running = now if step == first else 0.98 * running + 0.02 * now
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            _average_over_processes([value for key, value in average.items() if "running_" in key])
            _average_over_processes([value for key, value in student.state_dict().items() if "running_" in key])
            if rank == 0:
                rate = (step + 1 - first) * BATCH * PROCESSES / (time.monotonic() - began)
                print(f"step {step + 1}/{steps}  loss {running[0]:.3f}  looks {running[1]:.3f}  {rate:.0f} crops/s",
                      flush=True)  # fmt: skip
                partial = saved.with_suffix(".part")
                torch.save(
                    {
                        "student": student.state_dict(),
                        "average": average,
                        "optimizer": optimizer.state_dict(),
                        "step": step + 1,
                    },
                    partial,
                )
                partial.replace(saved)
    distributed.barrier()
    distributed.destroy_process_group()


def _average_over_processes(tensors: list[Tensor]) -> None:
    flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
    distributed.all_reduce(flat)
    flat /= PROCESSES
    start = 0
    for tensor in tensors:
        tensor.detach().copy_(flat[start : start + tensor.numel()].view_as(tensor))
        start += tensor.numel()


assert SIDE >= INPUT
