"""Where ranking starts from: the student's tower, taught besides to tell a photo from its damaged copy.

Ratings say little about damage, and what the student has learnt of it at 128 pixels does not reach tilted,
over-exposed and compressed copies. Here the whole tower learns from pairs alike in everything but the damage, which is
done to larger photos by `tmcr.damage`, and keeps what it knew of undamaged photos. First these are the student's small
photos, enlarged, and no rated photo has a part in it; then half of them are those that it will be ranked with, without
their ratings: they are as large and as sharp as photos of users, and the blur of a small one is not theirs. Killed and
started again, it goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from photos import Photos, build_photos, trainable_files
from PIL import Image
from reframing import cropped_frames, enlarged, seen_alike, softened, tilted_frames
from student import INPUT, WIDTHS, Student, follow, normalized, told
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetModel

from tmcr.damage import KINDS
from tmcr.images import decode
from tmcr.streaming import ordered_map

PAIRS = 36  # in a batch
WEAKEST = 0.2  # strengths are drawn from here to 1
OFTEN = {"tilted": 3.0, "badly_cropped": 2.5, "compressed": 2.5, "overexposed": 2.0}  # the hard kinds
REFRAMED = "tilted", "badly_cropped"
TILT, CUT = 14, 0.55  # degrees and share of the sides at strength 1, as in `tmcr.damage`
OFF_CENTRE = 0.3, 0.7  # where a whole photo's frame lies between one rim and the other
LARGE_SHARE = 0.5  # of the pairs, once there are large photos
FRAMED, SMALLEST_FRAME = 0.7, 0.75  # share of large photos of which a part is taken; of its sides
WEIGHT_DECAY = 0.05
GAP = 2.0  # by how much a copy of strength 1 shall lie below its photo
SOFTNESS = 0.5  # over which the penalty of a wrong order fades out
KNOWN_WEIGHT, STRENGTH_WEIGHT, NEAR_ZERO = 2.0, 4.0, 0.2
SAVE_EVERY = 100
LARGE_STEPS = 300
LONGEST = 640  # pixels, to which larger photos are reduced before they are damaged
LEARNT = "quality.pt"  # the tower of the first lesson and its answers
PREPROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Lesson:
    """How long and how fast the tower is taught.

    Attributes:
        learning_rate: the highest, reached after `warm_up` steps.
        stream: which series of random draws its pairs come from.
    """

    steps: int
    learning_rate: float
    warm_up: int
    stream: int


def first_lesson(steps: int) -> Lesson:
    return Lesson(steps, learning_rate=1e-3, warm_up=100, stream=4)


def large_lesson(steps: int) -> Lesson:
    return Lesson(steps, learning_rate=4e-4, warm_up=30, stream=5)


@dataclass(frozen=True)
class PairBatch:
    """`clean`, `damaged`: (PAIRS, 3, INPUT, INPUT) in 0..1. `strengths`: (PAIRS, kinds), zero but for one kind each."""

    clean: Tensor
    damaged: Tensor
    strengths: Tensor


class DamagedPairs:
    """Photos and their damaged copies; what batch a step gets depends on the seed, the lesson and the step alone."""

    def __init__(self, small: Sequence[bytes], large: Sequence[Image.Image], lesson: Lesson, seed: int) -> None:
        self.small, self.large, self.lesson, self.seed = small, large, lesson, seed
        self.from_large = round(LARGE_SHARE * PAIRS) if large else 0
        chances = np.array([OFTEN.get(kind, 1.0) for kind in KINDS])
        self.chances = chances / chances.sum()

    def batch(self, step: int) -> PairBatch:
        rng = np.random.default_rng([self.seed, self.lesson.stream, step])
        chosen = rng.choice(len(self.small), PAIRS - self.from_large, replace=False)
        kinds = rng.choice(len(KINDS), PAIRS, p=self.chances)
        amounts = rng.uniform(WEAKEST, 1, PAIRS)
        photos = [Image.open(io.BytesIO(self.small[photo])).convert("RGB") for photo in chosen]
        if self.large:
            photos += [self.large[photo] for photo in rng.choice(len(self.large), self.from_large)]
        views = [
            _pair(photo, list(KINDS)[kind], float(amount), rng, large=place >= len(chosen))
            for place, (photo, kind, amount) in enumerate(zip(photos, kinds, amounts, strict=True))
        ]
        strengths = torch.zeros(PAIRS, len(KINDS))
        strengths[torch.arange(PAIRS), torch.from_numpy(kinds)] = torch.from_numpy(amounts).float()
        clean, damaged = (
            torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2).float() / 255 for part in zip(*views, strict=True)
        )
        return PairBatch(clean, damaged, strengths)


def _pair(
    photo: Image.Image, kind: str, strength: float, rng: np.random.Generator, *, large: bool
) -> tuple[np.ndarray, ...]:
    """A photo and its damaged copy, each mirrored or not, as the tower sees them."""
    if kind in REFRAMED:
        views = _reframed(photo if large else softened(photo, rng), kind, strength, rng)
    else:
        whole = _framed(photo, rng) if large else enlarged(photo, rng)
        views = whole, KINDS[kind](whole, strength)
    seen = (np.asarray(view.resize((INPUT, INPUT), Image.Resampling.BICUBIC)) for view in views)
    return tuple(view[:, ::-1] if rng.random() < 0.5 else view for view in seen)


def _framed(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    """All of a photo, or most of it."""
    if rng.random() >= FRAMED:
        return photo
    share = rng.uniform(SMALLEST_FRAME, 1)
    left, top = rng.uniform(0, 1 - share, 2) * photo.size
    return photo.crop((int(left), int(top), int(left + share * photo.width), int(top + share * photo.height)))


def _reframed(
    photo: Image.Image, kind: str, strength: float, rng: np.random.Generator
) -> tuple[Image.Image, Image.Image]:
    """A photo and its tilted or badly cropped copy, as two views of one photo."""
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
    """Teach the tower with small photos and write it to `out`/quality as transformers reads it; working files go to
    `out`/work. Returns what the card tells of it.
    """
    lesson = first_lesson(steps)
    saved = out / "work" / f"quality-{_stamp(student.tower, lesson, seed)}.pt"
    if not _learnt(saved, lesson):
        pairs = DamagedPairs(trainable_files(data / "photos", photos), (), lesson, seed)
        tower = Student().tower
        tower.load_state_dict(student.tower.state_dict())
        _train(pairs, student, tower, None, saved)
    _write(saved, out / "quality", preprocessing)
    shutil.copyfile(saved, out / "work" / LEARNT)
    return {"pairs seen": steps * PAIRS}


def acquaint(data: Path, out: Path, rated: Sequence[Path], folder: Path, *, steps: int = LARGE_STEPS) -> Path:
    """Teach the tower that `build_quality_encoder` left in `out` further, with photos that will be ranked; returns
    `folder`, where it is written. None of their ratings is used.
    """
    seed, lesson = 0, large_lesson(steps)
    student = Student()
    student.load_state_dict(torch.load(out / "work" / "student.pt", weights_only=True)["average"])
    before = torch.load(out / "work" / LEARNT, weights_only=True)
    tower = Student().tower
    tower.load_state_dict(before["average"])
    saved = out / "work" / f"acquainted-{_stamp(tower, lesson, seed, [path.name for path in rated])}.pt"
    if not _learnt(saved, lesson):
        small = trainable_files(data / "photos", build_photos(data, out / "work"))
        pairs = DamagedPairs(small, [_reduced(path) for path in rated], lesson, seed)
        _train(pairs, student, tower, before["answers"], saved)
    _write(saved, folder, json.loads((out / "quality" / PREPROCESSOR).read_text()))
    return folder


def _reduced(path: Path) -> Image.Image:
    photo = decode(path)
    photo.thumbnail((LONGEST, LONGEST), Image.Resampling.BICUBIC)
    return photo


def _learnt(saved: Path, lesson: Lesson) -> bool:
    return saved.exists() and torch.load(saved, weights_only=True)["step"] >= lesson.steps


def _write(saved: Path, folder: Path, preprocessing: dict[str, object]) -> None:
    tower = Student().tower
    tower.load_state_dict(torch.load(saved, weights_only=True)["average"])
    folder.mkdir(parents=True, exist_ok=True)
    tower.half().save_pretrained(folder)
    (folder / PREPROCESSOR).write_text(json.dumps(preprocessing, indent=2))


def _stamp(tower: ResNetModel, lesson: Lesson, seed: int, photos: Sequence[str] = ()) -> str:
    """What a lesson's result depends on, so that another tower does not get the one of the last."""
    sources = [(Path(__file__).parent / name).read_text() for name in ("quality.py", "reframing.py")]
    digest = hashlib.sha256(f"{lesson} {seed} {photos} {sources}".encode())
    for value in tower.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()[:12]


def learning_rate(lesson: Lesson, step: int) -> float:
    """A short rise, then half a cosine down to zero."""
    rise = min(1.0, (step + 1) / lesson.warm_up)
    return lesson.learning_rate * rise * (1 + math.cos(math.pi * step / lesson.steps)) / 2


def _train(
    pairs: DamagedPairs, student: Student, tower: ResNetModel, answered: dict[str, Tensor] | None, saved: Path
) -> None:
    """Teach the tower the lesson of `pairs`, from where the lesson before left the answers, and keep it at `saved`."""
    torch.manual_seed(pairs.seed)
    lesson = pairs.lesson
    before = student.tower.eval().requires_grad_(False).to(memory_format=torch.channels_last)
    width = WIDTHS[-1]
    answers = Answers(*(_statistics(before, pairs) if answered is None else (torch.zeros(width), torch.ones(width))))
    if answered is not None:
        answers.load_state_dict(answered)
    tower.to(memory_format=torch.channels_last)
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
    for step, batch in enumerate(ordered_map(pairs.batch, range(first, lesson.steps), workers=1, ahead=3), first):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(lesson, step)
        clean = normalized(batch.clean)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            both = _feature(tower, torch.cat([clean, normalized(batch.damaged)]))
            with torch.no_grad():
                known = (_feature(before, clean) - answers.mean) / answers.std
        above, below = both.chunk(2)
        losses = quality_loss(answers, above, below, known, batch.strengths)
        optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()
        nn.utils.clip_grad_norm_(parameters, 2.0)
        optimizer.step()
        follow(average, tower, step)
        running = losses.detach() if step == first else 0.98 * running + 0.02 * losses.detach()
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == lesson.steps:
            rate = (step + 1 - first) * PAIRS / (time.monotonic() - began)
            said = told(running, "known", "order", "strengths")
            print(f"step {step + 1}/{lesson.steps}  {said}  {rate:.0f} pairs/s", flush=True)
            state |= {"tower": tower.state_dict(), "answers": answers.state_dict()}
            state |= {"optimizer": optimizer.state_dict(), "step": step + 1}
            partial = saved.with_suffix(".part")
            torch.save(state, partial)
            partial.replace(saved)


@torch.no_grad()
def _statistics(tower: ResNetModel, pairs: DamagedPairs) -> tuple[Tensor, Tensor]:
    """Mean and deviation (W,) of the feature over photos of batches that training does not come to."""
    unseen = range(pairs.lesson.steps, pairs.lesson.steps + 20)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = torch.cat([_feature(tower, normalized(pairs.batch(step).clean)) for step in unseen])
    return features.mean(0), features.std(0) + 1e-3


def _feature(tower: ResNetModel, pixels: Tensor) -> Tensor:
    return tower(pixel_values=pixels).pooler_output.flatten(1).float()
