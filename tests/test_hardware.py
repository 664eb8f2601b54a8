"""Where to compute: what a container leaves, and fp32 that is fp32."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tmcr.hardware import (
    _M_MMAP_THRESHOLD,
    _M_TRIM_THRESHOLD,
    Hardware,
    _quota,
    keep_freed_memory,
    processors,
)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("50000 100000\n", 1),
        ("max 100000\n", sys.maxsize),
        ("", sys.maxsize),
    ],
)
def test_the_quota_of_a_container_is_rounded_up_to_whole_processors(
    content: str, expected: int, tmp_path: Path
) -> None:
    (tmp_path / "cpu.max").write_text(content)
    assert _quota(tmp_path / "cpu.max") == expected
    assert _quota(tmp_path / "gone") == sys.maxsize
    assert processors() >= 1


@pytest.mark.parametrize(
    ("system", "environment", "asked"),
    [
        ("linux", {}, [(-3, 32 * 2**20), (-1, 256 * 2**20)]),
        ("linux", {"MALLOC_TRIM_THRESHOLD_": "131072"}, []),
        ("linux", {"GLIBC_TUNABLES": "glibc.malloc.trim_threshold=131072"}, []),
        ("darwin", {}, []),
    ],
)
def test_freed_memory_is_kept_where_nobody_has_chosen_otherwise(
    system: str, environment: dict[str, str], asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    library = SimpleNamespace(mallopt=lambda *call: calls.append(call))
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("ctypes.CDLL", lambda name: library)
    keep_freed_memory()
    assert calls == asked
    del library.mallopt  # another C library than glibc
    keep_freed_memory()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's own")
def test_glibc_takes_the_thresholds() -> None:
    mallopt = ctypes.CDLL(None).mallopt
    assert mallopt(_M_MMAP_THRESHOLD, 32 * 2**20) == 1
    assert mallopt(_M_TRIM_THRESHOLD, 256 * 2**20) == 1


def test_fp32_on_a_gpu_is_not_rounded_by_cudnn() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert before  # what is guarded against is still the default
    with Hardware(torch.device("cuda"), bf16=False, photo_workers=1).autocast():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
