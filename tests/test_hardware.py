"""Where to compute: what a container leaves, and fp32 that is fp32."""

from __future__ import annotations

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


def test_fp32_on_a_gpu_is_not_rounded_by_cudnn() -> None:
    before = torch.backends.cudnn.allow_tf32
    assert before  # what is guarded against is still the default
    with Hardware(torch.device("cuda"), bf16=False, photo_workers=1).autocast():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before
