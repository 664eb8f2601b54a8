"""Read → look for repeats → decode and preprocess → encode → verdicts: stages that overlap, between bounded queues.

    listing thread ─→ reading threads ─→ repeats ─→ decoding threads ─→ batches ─→ encoding threads ─→ rows

The caller's thread turns features into verdicts and writes them while the next batches are encoded. A photo whose
features are kept from an earlier run is read for its hash, and neither decoded nor encoded.

Batches are cut by the photos alone, never by the clock, and a run may stop only after a whole batch. So a run
that is taken up again cuts the same batches, and its rows equal those of an undisturbed run to the last bit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from tmcr.assessment import Assessment
from tmcr.errors import ConfigError, ImageError, first_line
from tmcr.hardware import torch_threads
from tmcr.images import PhotoBytes, content_hash
from tmcr.preparation import Prepared
from tmcr.scoring.feature_files import Kept
from tmcr.scoring.feature_folder import FeatureFolder
from tmcr.scoring.photo import Photo
from tmcr.scoring.repeats import Repeats, Slot
from tmcr.streaming import ordered_map, overlapped, unordered_map
from tmcr.wording import counted

if TYPE_CHECKING:
    from tmcr.assessor import Assessor

_READERS = 4  # reading waits on disks and networks, so it gets this many threads for each that decodes
_BYTES_AHEAD = 512 * 2**20  # encoded photos in memory that wait for a decoder
_ROWS_PER_PHOTO = 16  # a batch ends after this many rows for each photo it may encode: repeats and failures


_Features = tuple[Tensor, Tensor | None]
Row = tuple[int, Assessment]  # a photo's place among all of the run, and the verdict on it


@dataclass
class _Item:
    """A photo on its way. A repeat has no data: it takes the verdict in its slot. Nor has one with kept features."""

    photo: Photo
    data: PhotoBytes | None = None
    error: ImageError | None = None
    content_hash: str | None = None
    slot: Slot | None = None
    repeat: bool = False
    kept: Kept | None = None
    prepared: Prepared | None = None


@dataclass
class _Batch:
    items: list[_Item] = field(default_factory=list)
    to_assess: list[_Item] = field(default_factory=list)
    encoding: Future[_Features] | None = None

    @property
    def fresh(self) -> list[_Item]:
        """Those to assess of which no features are kept."""
        return [item for item in self.to_assess if item.kept is None]


def score_photos(
    assessor: Assessor,
    photos: Iterable[Photo],
    *,
    prepare: Callable[[PhotoBytes], Prepared],
    batch_size: int,
    ordered: bool = True,
    repeats: Repeats | None = None,
    features: FeatureFolder | None = None,
    stop: threading.Event | None = None,
    note: Callable[[str], None] = lambda line: None,
) -> Generator[list[Row], None, None]:
    """Score photos as they come; yields the rows of one batch after the other.

    Args:
        prepare: decodes a photo; called by several threads.
        batch_size: photos in one pass of the encoders.
        ordered: keep the order of `photos`; else a slow photo holds up no other.
        repeats: contents that are known already; photos of the same content are not decoded again.
        features: where features are looked up and kept. Verdicts are then made from what is kept, in its precision,
            so that they are the same when it is read again.
        stop: once set, the batch being encoded is the last.
        note: told, in one line, what a user should know.

    Raises:
        ConfigError: the device has not enough memory for a single photo.
    """
    repeats = repeats if repeats is not None else Repeats()
    stop = stop or threading.Event()
    workers = assessor.hardware.photo_workers
    in_turn = ordered_map if ordered else unordered_map

    def read(photo: Photo) -> _Item:
        try:
            data = photo.read(assessor.limits)
        except ImageError as error:
            return _Item(photo, error=error)
        return _Item(photo, data, content_hash=content_hash(data))

    def find_repeat(item: _Item) -> _Item:
        if item.content_hash is not None:
            item.slot, item.repeat = repeats.look_up(item.photo.name, item.content_hash)
            if features is not None and not item.repeat:
                item.kept = features.get(item.photo.name, item.content_hash)
            if item.repeat or item.kept is not None:
                item.data = None
        return item

    def decode(item: _Item) -> _Item:
        if item.kept is not None:
            item.prepared = Prepared(item.photo.name, item.kept.size)
        elif item.data is not None:
            item.prepared = _prepared(prepare, item.data)
            item.data = None
        elif item.error is not None:
            item.prepared = Prepared(item.photo.name, error=item.error)
        return item

    def wanted() -> Iterator[Photo]:
        for photo in photos:
            if stop.is_set():
                return
            yield photo

    def prepared() -> Iterator[_Batch]:
        readers = _READERS * workers
        with (
            closing(overlapped(wanted(), ahead=max(1, workers), stop=stop)) as listed,
            closing(
                in_turn(
                    read,
                    listed,
                    workers=readers,
                    ahead=2 * readers,
                    cost=lambda photo: len(photo.data) if photo.data is not None else 0,
                    result_cost=_bytes,
                    budget=_BYTES_AHEAD // 2,
                )
            ) as read_items,
        ):
            decoded = in_turn(
                decode,
                map(find_repeat, read_items),
                workers=workers,
                ahead=2 * batch_size,
                cost=_bytes,
                budget=_BYTES_AHEAD // 2,
            )
            with closing(decoded):
                yield from _batches(decoded, batch_size, stop)

    at_once = assessor.backend.at_once
    with (
        torch_threads(1) if assessor.backend.own_threads else nullcontext(),
        ThreadPoolExecutor(at_once, thread_name_prefix="tmcr-batch") as pool,
        closing(overlapped(prepared(), ahead=2, stop=stop)) as batches,
        closing(overlapped(_begun(batches, pool, _Encoder(assessor, note)), ahead=at_once)) as begun,
    ):
        try:
            for batch in begun:
                yield _rows(assessor, batch, features)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)  # what is not encoded by now, nobody wants


def _bytes(item: _Item) -> int:
    return len(item.data.data) if item.data is not None else 0


def _prepared(prepare: Callable[[PhotoBytes], Prepared], data: PhotoBytes) -> Prepared:
    try:
        return prepare(data)
    except Exception as error:  # `prepare` reports what it knows; what it does not know must not stop the run either
        return Prepared(
            data.name, error=ImageError("crashed", f"{type(error).__name__}: {first_line(error)}", data.name)
        )


def _batches(items: Iterable[_Item], size: int, stop: threading.Event) -> Iterator[_Batch]:
    """Cut batches of `size` photos to assess; repeats go with the batch that they follow."""
    batch = _Batch()
    for item in items:
        for ready in _released(item):
            batch.items.append(ready)
            if ready.prepared is not None and ready.prepared.error is None:
                batch.to_assess.append(ready)
        if len(batch.to_assess) >= size or len(batch.items) >= _ROWS_PER_PHOTO * size:
            yield batch
            batch = _Batch()
    if batch.items and not stop.is_set():  # when stopped, this batch is not all that it would have been
        yield batch


def _released(item: _Item) -> list[_Item]:
    """The item and what waited for it; nothing where it has to wait itself for the first of its content."""
    if item.slot is None:
        return [item]
    if item.repeat:
        if not item.slot.begun:  # overtook its first; only without order
            item.slot.waiting.append(item)
            return []
        return [item]
    item.slot.begun = True
    waiting, item.slot.waiting = item.slot.waiting, []
    return [item, *waiting]


def _begun(
    batches: Iterable[_Batch], pool: ThreadPoolExecutor, encode: Callable[[Sequence[Prepared]], _Features]
) -> Iterator[_Batch]:
    """The batches, as soon as their encoding has been asked for."""
    for batch in batches:
        if fresh := [item.prepared for item in batch.fresh if item.prepared is not None]:
            batch.encoding = pool.submit(encode, fresh)
        yield batch


def _features_of(batch: _Batch, folder: FeatureFolder | None) -> _Features | None:
    """Features of all photos to assess, those kept earlier among them; None where there is no such photo."""
    made = batch.encoding.result() if batch.encoding is not None else None
    if folder is None or not batch.to_assess:
        return made
    if made is not None:
        _keep(batch.fresh, *made, folder)
    return _stacked([item.kept for item in batch.to_assess if item.kept is not None])


def _keep(items: Sequence[_Item], embeddings: Tensor, levels: Tensor | None, features: FeatureFolder) -> None:
    """Put what was made of `items` into `features`, and leave with each what is kept of it."""
    embedding_rows = embeddings.cpu().numpy()
    level_rows = levels.cpu().numpy() if levels is not None else None
    for row, item in enumerate(items):
        if item.content_hash is None or item.prepared is None or item.prepared.size is None:
            raise AssertionError("a photo that was encoded has content and size")
        level_row = level_rows[row] if level_rows is not None else None
        item.kept = features.put(item.photo.name, item.content_hash, item.prepared.size, embedding_rows[row], level_row)


def _stacked(kept: Sequence[Kept]) -> _Features:
    levels = [each.levels for each in kept if each.levels is not None]
    return (
        torch.from_numpy(np.stack([each.embedding for each in kept])).float(),
        torch.from_numpy(np.stack(levels)).float() if levels else None,
    )


class _Encoder:
    """Both encoders over a batch, in smaller pieces once the device has run out of memory."""

    def __init__(self, assessor: Assessor, note: Callable[[str], None]) -> None:
        self._assessor = assessor
        self._note = note
        self._most: int | None = None

    def __call__(self, photos: Sequence[Prepared]) -> _Features:
        done: list[_Features] = []
        start = 0
        while start < len(photos):
            piece = photos[start : start + (self._most or len(photos))]
            features = self._tried(piece)
            if features is None:
                self._halve(len(piece))
            else:
                done.append(features)
                start += len(piece)
        if len(done) == 1:
            return done[0]
        levels = [level for _, level in done if level is not None]
        return torch.cat([similarities for similarities, _ in done]), torch.cat(levels) if levels else None

    def _tried(self, piece: Sequence[Prepared]) -> _Features | None:
        """None where memory ran out; then nothing is left of the attempt, not even a traceback."""
        try:
            return self._assessor.features(piece)
        except torch.OutOfMemoryError:
            return None

    def _halve(self, size: int) -> None:
        device = self._assessor.hardware.device
        if size == 1:
            raise ConfigError(
                f"{device} has not enough memory for one photo; free some, or use --precision bf16 or --device cpu"
            )
        self._most = size // 2
        if device.type == "cuda":
            torch.cuda.empty_cache()
        self._note(f"{device} ran out of memory: going on with {counted(self._most, 'photo')} at a time")


def _rows(assessor: Assessor, batch: _Batch, folder: FeatureFolder | None) -> list[Row]:
    features = _features_of(batch, folder)
    prepared = [item.prepared for item in batch.to_assess if item.prepared is not None]
    verdicts = iter(assessor.verdicts(prepared, *features) if features is not None else [])
    rows: list[Row] = []
    for item in batch.items:
        if item.prepared is None:
            verdict = _of_first(item)
        elif item.prepared.error is not None:
            verdict = assessor.failure(item.prepared)
        else:
            verdict = next(verdicts)
        verdict = replace(verdict, photo=item.photo.name, content_hash=item.content_hash)
        if item.slot is not None:
            item.slot.verdict = verdict
        rows.append((item.photo.row, verdict))
    return rows


def _of_first(item: _Item) -> Assessment:
    if item.slot is None or item.slot.verdict is None:
        raise AssertionError("a repeat comes after the first of its content")
    return item.slot.verdict
