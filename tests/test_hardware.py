"""Where to compute: what a container leaves, and fp32 that is fp32."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tmcr.hardware import Hardware, _quota, processors


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


FAULTS_OF_EVERY_ROUND = """
import resource, sys, torch
from tmcr.hardware import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def faults():
    blocks = [torch.ones(2**22) for _ in range(4)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counts = [faults() for _ in range(12)]
print((counts[-1] - counts[4]) / 7)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's own")
def test_freed_memory_is_kept_unless_the_environment_says_otherwise() -> None:
    def faults(way: str, **more: str) -> float:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
        command = [sys.executable, "-c", FAULTS_OF_EVERY_ROUND, way]
        return float(subprocess.run(command, env=clean | more, check=True, capture_output=True, text=True).stdout)

    given_back = faults("given back")
    assert given_back > 1000  # 64 MiB in pages of 4 KiB, or larger ones
    assert faults("kept") < given_back / 10
    assert faults("kept", MALLOC_TOP_PAD_="131072") > given_back / 10  # their choice, whatever it is, stands


def test_fp32_on_a_gpu_is_not_rounded_by_cudnn() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert before  # what is guarded against is still the default
    with Hardware(torch.device("cuda"), bf16=False, photo_workers=1).autocast():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
