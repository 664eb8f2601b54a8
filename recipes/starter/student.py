"""The student: a small ResNet learns from random initialisation what the teacher says about crops of photos.

Three things are learnt at once: the teacher's class distribution, its pooled embedding, and the photo's place
among texts (`phrases.photo_targets`). The first two only shape the feature; their layers are thrown away.
"""

from __future__ import annotations

import math
import time
from pathlib import Path

import numpy as np
import torch
from photos import SIDE, Photos
from teacher import TeacherOutputs
from torch import Tensor, nn
from torch.nn import functional

INPUT = 128
MEAN, STD = 0.5, 0.25
BATCH = 128
LEARNING_RATE, WEIGHT_DECAY = 3e-3, 0.05
WARM_UP = 100
AVERAGE = 0.995
KL_TEMPERATURE = 1.5
SAVE_EVERY = 200


class Student(nn.Module):
    """The vision tower with its projection, and the two layers that only training needs."""

    def __init__(self, tower: nn.Module, projection: nn.Module, width: int) -> None:
        super().__init__()
        self.tower, self.projection = tower, projection
        self.to_embedding = nn.Linear(width, 1280)
        self.to_classes = nn.Linear(width, 1001)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature = self.tower(pixel_values=pixels).pooler_output.flatten(1)
        return self.projection(feature), self.to_embedding(feature), self.to_classes(feature)


def augmented(pixels: np.ndarray, boxes: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Crops (B, 4) of uint8 photos (B, SIDE, SIDE, 3) at INPUT pixels, mirrored and recoloured at random."""
    batch = len(pixels)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float().div_(255)
    left, top, right, bottom = torch.from_numpy(boxes).unbind(1)
    mirror = torch.from_numpy(rng.choice([-1.0, 1.0], batch)).float()
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 0, 2] = (right - left) * mirror, left + right - 1
    theta[:, 1, 1], theta[:, 1, 2] = bottom - top, top + bottom - 1
    grid = functional.affine_grid(theta, [batch, 3, INPUT, INPUT], align_corners=False)
    crops = functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    contrast = torch.from_numpy(rng.uniform(0.85, 1.15, (batch, 1, 1, 1))).float()
    gain = torch.from_numpy(rng.uniform(0.92, 1.08, (batch, 3, 1, 1))).float()
    crops = ((crops - 0.5) * contrast + 0.5) * gain
    return ((crops.clamp_(0, 1) - MEAN) / STD).to(memory_format=torch.channels_last)


def distil(
    student: Student, photos: Photos, teacher: TeacherOutputs, targets: np.ndarray, out: Path, *, steps: int, seed: int
) -> None:
    """Train `student` in place and leave it with the averaged weights; a killed run goes on where it was saved.

    `targets`: float32 (N, CROPS, E), unit vectors, where each crop belongs among texts.
    """
    rows = np.flatnonzero(photos.trainable)
    crops = teacher.boxes.shape[1]
    sample = teacher.embeddings[rows[::7], 0].astype(np.float32)
    centre, spread = torch.from_numpy(sample.mean(0)), torch.from_numpy(sample.std(0) + 1e-3)
    average = {key: value.detach().clone() for key, value in student.state_dict().items()}
    decays = [p for p in student.parameters() if p.dim() > 1]
    others = [p for p in student.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decays, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}], lr=LEARNING_RATE
    )
    saved = out / "student.pt"
    first = 0
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        student.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    student.train().to(memory_format=torch.channels_last)
    began, running = time.monotonic(), 0.0
    for step in range(first, steps):
        rng = np.random.default_rng([seed, step])
        for group in optimizer.param_groups:
            warm = min(1.0, (step + 1) / WARM_UP)
            group["lr"] = LEARNING_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / steps))
        chosen = np.sort(rng.choice(rows, BATCH, replace=False))
        crop = rng.integers(0, crops, BATCH)
        pixels = augmented(photos.pixels[chosen], teacher.boxes[chosen, crop], rng)
        embedding = torch.from_numpy(teacher.embeddings[chosen, crop].astype(np.float32))
        logits = torch.from_numpy(teacher.logits[chosen, crop].astype(np.float32))
        target = torch.from_numpy(targets[chosen, crop])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            place, guessed_embedding, guessed_logits = student(pixels)
        loss = (
            functional.mse_loss(guessed_embedding.float(), (embedding - centre) / spread)
            + (1 - functional.cosine_similarity(place.float(), target)).mean()
            + 0.5
            * functional.kl_div(
                (guessed_logits.float() / KL_TEMPERATURE).log_softmax(1),
                (logits / KL_TEMPERATURE).softmax(1),
                reduction="batchmean",
            )
        )
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            decay = min(AVERAGE, (1 + step) / (10 + step))
            for key, value in student.state_dict().items():
                if value.is_floating_point():
                    average[key].lerp_(value, 1 - decay)
                else:
                    average[key].copy_(value)
        running = float(loss.detach()) if step == first else 0.98 * running + 0.02 * float(loss.detach())
        if (step + 1) % 50 == 0:
            rate = (step + 1 - first) * BATCH / (time.monotonic() - began)
            print(f"step {step + 1}/{steps}  loss {running:.3f}  {rate:.0f} crops/s", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
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
    student.load_state_dict(average)
    student.eval()


assert SIDE >= INPUT
