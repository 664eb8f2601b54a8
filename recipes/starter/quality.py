"""Where ranking starts from: the student's tower, taught besides to tell a photo from its damaged copy.

Ratings say little about damage, and what the student has learnt of it at 128 pixels does not reach tilted,
over-exposed and compressed copies. Here the whole tower learns from pairs alike in everything but the damage, which is
done to larger photos by `tmcr.damage`, and keeps what it knew of undamaged photos. No rating and no rated photo has a
part in it. Killed and started again, it goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from photos import Photos, trainable_files
from PIL import Image
from reframing import cropped_frames, enlarged, seen_alike, softened, tilted_frames
from student import INPUT, WIDTHS, Student, follow, normalized, told
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetModel

from tmcr.damage import KINDS
from tmcr.streaming import ordered_map

PAIRS = 36  # in a batch
WEAKEST = 0.2  # strengths are drawn from here to 1
OFTEN = {"tilted": 3.0, "badly_cropped": 2.5, "compressed": 2.5, "overexposed": 2.0}  # the hard kinds
REFRAMED = "tilted", "badly_cropped"
TILT, CUT = 14, 0.55  # degrees and share of the sides at strength 1, as in `tmcr.damage`
OFF_CENTRE = 0.3, 0.7  # where a whole photo's frame lies between one rim and the other
LEARNING_RATE, WEIGHT_DECAY, WARM_UP = 1e-3, 0.05, 100
GAP = 2.0  # by how much a copy of strength 1 shall lie below its photo
SOFTNESS = 0.5  # over which the penalty of a wrong order fades out
KNOWN_WEIGHT, STRENGTH_WEIGHT, NEAR_ZERO = 2.0, 4.0, 0.2
SAVE_EVERY = 100


@dataclass(frozen=True)
class PairBatch:
    """`clean`, `damaged`: (PAIRS, 3, INPUT, INPUT) in 0..1. `strengths`: (PAIRS, kinds), zero but for one kind each."""

    clean: Tensor
    damaged: Tensor
    strengths: Tensor


class DamagedPairs:
    """Photos and their damaged copies; what batch a step gets depends on the seed and the step alone."""

    def __init__(self, shards: Path, photos: Photos, seed: int) -> None:
        self.seed = seed
        self.files = trainable_files(shards, photos)
        chances = np.array([OFTEN.get(kind, 1.0) for kind in KINDS])
        self.chances = chances / chances.sum()

    def batch(self, step: int) -> PairBatch:
        rng = np.random.default_rng([self.seed, 4, step])
        chosen = rng.choice(len(self.files), PAIRS, replace=False)
        kinds = rng.choice(len(KINDS), PAIRS, p=self.chances)
        amounts = rng.uniform(WEAKEST, 1, PAIRS)
        views = [
            _pair(self.files[photo], list(KINDS)[kind], float(amount), rng)
            for photo, kind, amount in zip(chosen, kinds, amounts, strict=True)
        ]
        strengths = torch.zeros(PAIRS, len(KINDS))
        strengths[torch.arange(PAIRS), torch.from_numpy(kinds)] = torch.from_numpy(amounts).float()
        clean, damaged = (
            torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 255 for part in zip(*views, strict=True)
        )
        return PairBatch(clean, damaged, strengths)


def _pair(file: bytes, kind: str, strength: float, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """A photo and its damaged copy, each mirrored or not, as the tower sees them."""
    photo = Image.open(io.BytesIO(file)).convert("RGB")
    if kind in REFRAMED:
        views = _reframed(photo, kind, strength, rng)
    else:
        whole = enlarged(photo, rng)
        views = whole, KINDS[kind](whole, strength)
    seen = (np.asarray(view.resize((INPUT, INPUT), Image.Resampling.BICUBIC)) for view in views)
    return tuple(view[:, ::-1] if rng.random() < 0.5 else view for view in seen)


def _reframed(
    photo: Image.Image, kind: str, strength: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A photo and its tilted or badly cropped copy, as two views of one softened photo."""
    photo = softened(photo, rng)
    if kind == "tilted":
        frames = tilted_frames(photo, TILT * strength, rng)
    else:
        share = 1 - CUT * strength
        most = rng.uniform(share, 1)  # the better frame shows the middle, or all
        middle = most / 2 + rng.uniform(*OFF_CENTRE, 2) * (1 - most)
        frames = cropped_frames(photo, share, (share / 2, share / 2), most, tuple(middle))
    better, worse = seen_alike(frames, rng)
    return better, worse


class Answers(nn.Module):
    """What training asks of the tower's feature (B, W); none of it ships."""

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.known = nn.Linear(WIDTHS[-1], WIDTHS[-1])
        self.quality = nn.Linear(WIDTHS[-1], 1)
        self.strengths = nn.Linear(WIDTHS[-1], len(KINDS))
        nn.init.eye_(self.known.weight)

    def forward(self, feature: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        standard = (feature - self.mean) / self.std
        return self.known(standard), self.quality(standard)[:, 0], self.strengths(standard)


def quality_loss(answers: Answers, clean: Tensor, damaged: Tensor, known: Tensor, strengths: Tensor) -> Tensor:
    """(3,): the loss of what was known, of the order of pairs, and of the strengths of damage.

    Args:
        clean, damaged: (P, W) features of photos and copies; known: (P, W), the student's standardised features of the
            photos; strengths: (P, kinds).
    """
    kept, above, nothing = answers(clean)
    _, below, found = answers(damaged)
    wanted = GAP * strengths
    order = SOFTNESS * functional.softplus((wanted.sum(1) - (above - below)) / SOFTNESS)
    amounts = functional.smooth_l1_loss(
        torch.cat([nothing, found]), torch.cat([torch.zeros_like(wanted), wanted]), beta=0.5
    )
    return torch.stack(
        [
            KNOWN_WEIGHT * functional.mse_loss(kept, known),
            order.mean() + NEAR_ZERO * above.square().mean(),
            STRENGTH_WEIGHT * amounts,
        ]
    )


def build_quality_encoder(
    data: Path, out: Path, student: Student, photos: Photos, preprocessing: dict[str, object], *, steps: int, seed: int
) -> dict[str, object]:
    """Write the tower to `out` as transformers reads it; working files go to `out`.parent / "work". Returns what the
    card tells of it.
    """
    saved = out.parent / "work" / f"quality-{_stamp(student, steps, seed)}.pt"
    if not (saved.exists() and torch.load(saved, weights_only=True)["step"] >= steps):
        _train(DamagedPairs(data / "photos", photos, seed), student, saved, steps=steps, seed=seed)
    student.tower.load_state_dict(torch.load(saved, weights_only=True)["average"])
    out.mkdir(exist_ok=True)
    student.tower.to(memory_format=torch.contiguous_format).half().save_pretrained(out)
    (out / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2))
    return {"pairs seen": steps * PAIRS}


def _stamp(student: Student, steps: int, seed: int) -> str:
    """What the tower depends on, so that another student does not get the one of the last."""
    sources = [(Path(__file__).parent / name).read_text() for name in ("quality.py", "reframing.py")]
    digest = hashlib.sha256(f"{steps} {seed} {sources}".encode())
    for value in student.tower.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:12]


def learning_rate(step: int, steps: int) -> float:
    """A short rise, then half a cosine down to zero."""
    return LEARNING_RATE * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2


def _train(pairs: DamagedPairs, student: Student, saved: Path, *, steps: int, seed: int) -> None:
    torch.manual_seed(seed)
    tower: ResNetModel = student.tower.to(memory_format=torch.channels_last)
    before = Student()
    before.load_state_dict(student.state_dict())
    before = before.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    answers = Answers(*_statistics(before.tower, pairs, steps))
    parameters = list(tower.parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parameters if p.dim() > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
            {"params": list(answers.parameters()), "weight_decay": 0.01},
        ]
    )
    state = {
        "tower": tower.state_dict(),
        "answers": answers.state_dict(),
        "average": {key: value.detach().clone() for key, value in tower.state_dict().items()},
        "step": 0,
    }
    if saved.exists():
        state |= torch.load(saved, weights_only=True)
        tower.load_state_dict(state["tower"])
        answers.load_state_dict(state["answers"])
        optimizer.load_state_dict(state["optimizer"])
    average, first = state["average"], int(state["step"])
    tower.train()
    began, running = time.monotonic(), torch.zeros(3)
    # One thread prepares; the other core computes.
    for step, batch in enumerate(ordered_map(pairs.batch, range(first, steps), workers=1, ahead=3), first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        clean = normalized(batch.clean)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            both = _feature(tower, torch.cat([clean, normalized(batch.damaged)]))
            with torch.no_grad():
                known = (_feature(before.tower, clean) - answers.mean) / answers.std
        above, below = both.chunk(2)
        losses = quality_loss(answers, above, below, known, batch.strengths)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        follow(average, tower, step)
        running = losses.detach() if step == first else 0.98 * running + 0.02 * losses.detach()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            rate = (step + 1 - first) * PAIRS / (time.monotonic() - began)
            said = told(running, "known", "order", "strengths")
            print(f"step {step + 1}/{steps}  {said}  {rate:.0f} pairs/s", flush=True)
            state |= {"tower": tower.state_dict(), "answers": answers.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "step": step + 1}
            partial = saved.with_suffix(".part")
            torch.save(state, partial)
            partial.replace(saved)


@torch.no_grad()
def _statistics(tower: ResNetModel, pairs: DamagedPairs, steps: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation (W,) of the feature over photos of batches that training does not come to."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.cat([_feature(tower, normalized(pairs.batch(steps + extra).clean)) for extra in range(20)])
    return features.mean(0), features.std(0) + 1e-3


def _feature(tower: ResNetModel, pixels: Tensor) -> Tensor:
    return tower(pixel_values=pixels).pooler_output.flatten(1).float()
