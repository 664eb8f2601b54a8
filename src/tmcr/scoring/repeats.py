"""Equal bytes are scored once: the verdicts of the latest photos, by content."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tmcr.assessment import Assessment
from tmcr.images import HEIC_SUFFIXES, RAW_SUFFIXES

CAPACITY = 4096  # verdicts of about 10 KiB each


@dataclass
class Slot:
    """Where the verdict on one content will be, and who waits for its first photo to be decoded."""

    verdict: Assessment | None = None
    begun: bool = False
    waiting: list[Any] = field(default_factory=list)


class Repeats:
    """The `capacity` contents that were seen last.

    What it knows depends on the photos before alone, not on how fast they went: a run that is taken up again
    fills it with `recall` and finds the same repeats as an undisturbed one.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._slots: OrderedDict[tuple[str, str], Slot] = OrderedDict()

    def look_up(self, name: str, content_hash: str) -> tuple[Slot, bool]:
        """The slot for a photo's content, and whether that was seen before."""
        key = decoder_key(name, content_hash)
        if slot := self._slots.get(key):
            self._slots.move_to_end(key)
            return slot, True
        slot = self._slots[key] = Slot()
        if len(self._slots) > self._capacity:
            self._slots.popitem(last=False)
        return slot, False

    def recall(self, backwards: Iterable[Assessment]) -> None:
        """Take up the verdicts of an earlier run, given last one first."""
        for verdict in backwards:
            if len(self._slots) >= self._capacity:
                return
            if verdict.content_hash is not None:
                key = decoder_key(verdict.photo, verdict.content_hash)
                if key not in self._slots:
                    self._slots[key] = Slot(verdict, begun=True)
                    self._slots.move_to_end(key, last=False)


def decoder_key(name: str, content_hash: str) -> tuple[str, str]:
    """What a photo's pixels depend on: its content, and its suffix where the decoder goes by it."""
    suffix = Path(name).suffix.lower()
    return content_hash, suffix if suffix in RAW_SUFFIXES | HEIC_SUFFIXES else ""
