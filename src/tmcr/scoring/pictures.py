"""The pictures behind chosen results, wherever the photos are: read again, one at a time, in their order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from PIL import Image

from tmcr.assessment import Assessment
from tmcr.errors import ImageError
from tmcr.images import ImageLimits, decode
from tmcr.results import stored_name
from tmcr.scoring.photo import Photo
from tmcr.scoring.run import Run


class Pictures:
    """Iterate over it for the verdicts; `open` gives the picture of the verdict that came last."""

    def __init__(self, run: Run, verdicts: Sequence[Assessment], *, limits: ImageLimits, side: int) -> None:
        """Show `verdicts` of a finished run.

        Args:
            side: shorter side in pixels that a picture should at least have, where the photo has it.
        """
        self._run = run
        self._verdicts = verdicts
        self._limits = limits
        self._side = side
        self._photo: Photo | None = None

    def __iter__(self) -> Iterator[Assessment]:
        wanted: dict[str, list[Assessment]] = {}
        for verdict in self._verdicts:
            wanted.setdefault(verdict.photo, []).append(verdict)
        for photo in self._run.photos():
            if not wanted:
                return
            name = stored_name(photo.name)
            if name in wanted:
                self._photo = photo
                yield wanted[name].pop(0)
                if not wanted[name]:
                    del wanted[name]
        self._photo = None  # what is gone since keeps its verdict
        for verdicts in wanted.values():
            yield from verdicts

    def open(self, name: str) -> Image.Image:
        """The picture of the verdict at hand.

        Raises:
            ImageError: it cannot be read any more.
        """
        if self._photo is None:
            raise ImageError("missing", "is not there any more", name)
        return decode(self._photo.read(self._limits), target_side=self._side, limits=self._limits)
