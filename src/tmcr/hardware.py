"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from tmcr.errors import ConfigError

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Hardware:
    """A device, a compute precision and the number of threads that prepare photos."""

    device: torch.device
    bf16: bool
    photo_workers: int

    @property
    def arithmetic(self) -> str:
        """What features depend on beside encoder and photo: "fp32" or "bf16"."""
        return "bf16" if self.bf16 else "fp32"

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """bf16 autocast where it is on, nothing otherwise."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{self.device.type}, {torch.get_num_threads()} threads"
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}, {self.photo_workers} photo workers"


def pick_hardware(
    device: str = "auto",
    precision: Precision = "auto",
    workers: int | None = None,
    *,
    place: int = 0,
    places: int = 1,
) -> Hardware:
    """Choose the best device at hand, or check the one asked for.

    `precision="auto"` takes bf16 on GPUs that compute it natively and fp32 elsewhere: on a CPU with AVX512-BF16 or AMX,
    bf16 about halves the encoders' time, but moves scores by about a hundredth, and another CPU would say otherwise.

    Args:
        place, places: which of how many processes on this machine that share its GPUs, one each, and processors.

    Raises:
        ConfigError: the device is unknown or not there, or cannot be shared.
    """
    if places > 1:
        device = _own_device(device, place, places)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used ({reason}); try --device auto or cpu") from None
    if places > 1 and chosen.type == "cuda":
        torch.cuda.set_device(chosen)  # what says "cuda" alone shall not end up on the first process's GPU
    native_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    return Hardware(
        chosen,
        bf16=native_bf16 if precision == "auto" else precision == "bf16",
        photo_workers=workers if workers is not None else max(1, default_workers() // places),
    )


def _own_device(device: str, place: int, places: int) -> str:
    """The device of process `place` of `places` on this machine."""
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return "cpu"
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"device {device!r} is one for {places} processes; give cuda (each takes a GPU of its own) or cpu"
        )
    gpus = torch.cuda.device_count()
    if places > gpus:
        raise ConfigError(
            f"{places} processes want a GPU each and there are {gpus}; "
            f"start torchrun with --nproc-per-node {max(gpus, 1)}, or train with --device cpu"
        )
    return f"cuda:{place}"


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for an operation of this thread, and of threads begun meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def default_workers() -> int:
    """Processors this process may use, at most 16: decoding threads beyond that wait on each other."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, available))
