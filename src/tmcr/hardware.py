"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from tmcr.errors import ConfigError
from tmcr.wording import counted

Precision = Literal["auto", "fp32", "bf16"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # names of glibc's mallopt


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
        """bf16 autocast where it is on; otherwise fp32 that is fp32 on a GPU too."""
        if self.bf16:
            return torch.autocast(self.device.type, dtype=torch.bfloat16)
        return _exact_convolutions() if self.device.type == "cuda" else contextlib.nullcontext()

    def __str__(self) -> str:
        if self.device.type == "cuda":
            name = torch.cuda.get_device_name(self.device)
        else:
            name = f"{self.device.type}, {counted(torch.get_num_threads(), 'thread')}"
        return f"{name}, {'bf16' if self.bf16 else 'fp32'}, {counted(self.photo_workers, 'photo worker')}"


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
def _exact_convolutions() -> Iterator[None]:
    """Keep cuDNN from rounding the inputs of fp32 convolutions to 10 bits (TF32), as it does by default."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use `count` threads for an operation of this thread, and of threads begun meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def keep_freed_memory() -> None:
    """Have the C library keep blocks that are freed, up to 256 MiB, instead of giving each back to the system.

    What a layer makes of a batch is such a block. Without this, glibc asks for all of them anew for every batch, and
    the system clears them page by page while a small encoder waits. Other C libraries, and a process whose environment
    sets this up itself, are left as they are.
    """
    chosen = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if chosen or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(_M_TRIM_THRESHOLD, 256 * 2**20)


def default_workers() -> int:
    """Processors this process may use, at most 16: decoding threads beyond that wait on each other."""
    return min(16, processors())


def processors() -> int:
    """Processors this process may use, by its affinity and, in a container, by its quota."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(available, _quota(Path("/sys/fs/cgroup/cpu.max"))))


def _quota(file: Path) -> int:
    """The processors that a control group leaves to its processes, rounded up."""
    try:
        limit, period = file.read_text(encoding="ascii").split()
        return math.ceil(int(limit) / int(period))
    except (OSError, ValueError):  # no such file, or "max": no limit
        return sys.maxsize
