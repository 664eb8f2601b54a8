"""Decoding in processes of its own: a decoder that crashes or hangs costs one photo, not the run.

A thread that decodes borrows a child and talks to it over pipes: a line of JSON, then raw bytes. A child has
read untrusted files, so nothing that it sends is run or unpickled.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
from dataclasses import asdict
from types import TracebackType
from typing import Any, BinaryIO, cast, get_args

import numpy as np
from numpy.typing import NDArray

from tmcr.errors import ImageError, ImageReason
from tmcr.images import ImageLimits, PhotoBytes
from tmcr.preparation import Preparation, Prepared
from tmcr.preprocess import PreprocessSpec

SECONDS = 120.0  # a photo that takes longer to decode is given up


class IsolatedPreparation:
    """`Preparation` in child processes, as many as threads ever called it at one time."""

    def __init__(self, preparation: Preparation, *, seconds: float = SECONDS) -> None:
        self._preparation = preparation
        self._seconds = seconds
        self._lock = threading.Lock()
        self._children: set[_Child] = set()
        self._idle: list[_Child] = []

    def __call__(self, photo: PhotoBytes) -> Prepared:
        child = self._borrowed()
        try:
            return child.prepare(photo, self._seconds)
        finally:
            with self._lock:
                if child.alive:
                    self._idle.append(child)
                else:
                    self._children.discard(child)

    def _borrowed(self) -> _Child:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.alive:
                    return child
                self._children.discard(child)
        child = _Child(self._preparation)
        with self._lock:
            self._children.add(child)
        return child

    def __enter__(self) -> IsolatedPreparation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for child in self._children:
                child.end()
            self._children.clear()
            self._idle.clear()


class _Child:
    def __init__(self, preparation: Preparation) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tmcr.scoring.isolated"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent to handle
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("a child without pipes")
        self._to = cast(BinaryIO, self._process.stdin)
        self._from = cast(BinaryIO, self._process.stdout)
        _send(self._to, asdict(preparation))

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def prepare(self, photo: PhotoBytes, seconds: float) -> Prepared:
        try:
            _send(self._to, {"name": photo.name}, photo.data)
            if not select.select([self._from], [], [], seconds)[0]:
                self.end()
                return self._lost(photo, f"decoding took more than {seconds:g} seconds")
            reply, body = _receive(self._from)
        except (EOFError, OSError, ValueError):
            self.end()
            return self._lost(photo, f"its decoder crashed (exit status {self._process.returncode})")
        return _prepared(photo.name, reply, body)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._to, self._from):
            try:
                pipe.close()
            except OSError:  # what was not sent yet has nowhere to go
                continue

    def _lost(self, photo: PhotoBytes, detail: str) -> Prepared:
        return Prepared(photo.name, error=ImageError("crashed", detail, photo.name))


def _prepared(name: str, reply: dict[str, Any], body: bytes) -> Prepared:
    if "reason" in reply:
        known = reply["reason"] in get_args(ImageReason)
        reason = cast(ImageReason, reply["reason"] if known else "crashed")
        return Prepared(name, error=ImageError(reason, str(reply["detail"]), name))
    arrays: list[NDArray[np.uint8] | None] = []
    start = 0
    for shape in reply["shapes"]:
        if shape is None:
            arrays.append(None)
            continue
        end = start + int(np.prod(shape))
        arrays.append(np.frombuffer(body[start:end], np.uint8).reshape(shape))
        start = end
    width, height = reply["size"]
    for_tags, for_levels = arrays
    return Prepared(name, (width, height), for_tags, for_levels)


def _send(pipe: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    pipe.write(json.dumps(header | {"bytes": len(body)}).encode() + b"\n")
    pipe.write(body)
    pipe.flush()


def _receive(pipe: BinaryIO) -> tuple[dict[str, Any], bytes]:
    line = pipe.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    header = json.loads(line)
    size = header.pop("bytes")
    body = pipe.read(size)
    if len(body) < size:
        raise EOFError
    return header, body


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """The child's side: prepare photo after photo until the parent is gone."""
    spec, _ = _receive(requests)
    for_levels = spec["for_levels"]
    prepare = Preparation(
        PreprocessSpec.from_dict(spec["for_tags"]),
        PreprocessSpec.from_dict(for_levels) if for_levels is not None else None,
        ImageLimits(**spec["limits"]),
    )
    while True:
        try:
            request, data = _receive(requests)
        except EOFError:
            return
        prepared = prepare(PhotoBytes(request["name"], data))
        if prepared.error is not None:
            _send(replies, {"reason": prepared.error.reason, "detail": prepared.error.detail})
            continue
        arrays = (prepared.for_tags, prepared.for_levels)
        body = b"".join(each.tobytes() for each in arrays if each is not None)
        shapes = [each.shape if each is not None else None for each in arrays]
        _send(replies, {"size": prepared.size, "shapes": shapes}, body)


def _main() -> None:
    # What a decoder prints must not get between the replies.
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    _main()
