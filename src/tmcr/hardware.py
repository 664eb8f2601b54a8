"""Where to compute, and in which precision."""

from __future__ import annotations

import contextlib
import os
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


def pick_hardware(device: str = "auto", precision: Precision = "auto", workers: int | None = None) -> Hardware:
    """Choose the best device at hand, or check the one asked for.

    `precision="auto"` takes bf16 on GPUs that compute it natively and fp32 elsewhere: on a CPU, bf16 changes
    scores in the second decimal and pays only with AMX or AVX512-BF16 and large encoders.

    Raises:
        ConfigError: the device is unknown or not there.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {device!r} cannot be used ({reason}); try --device auto or cpu") from None
    native_bf16 = chosen.type == "cuda" and torch.cuda.is_bf16_supported()
    return Hardware(
        chosen,
        bf16=native_bf16 if precision == "auto" else precision == "bf16",
        photo_workers=workers if workers is not None else default_workers(),
    )


def default_workers() -> int:
    """Processors this process may use, at most 16: decoding threads beyond that wait on each other."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, available))
