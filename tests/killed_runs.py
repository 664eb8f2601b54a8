"""Runs that are killed at some moment, for tests of what is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def kill_until_done(
    work: Callable[[], None], *, kills: int, moments: random.Random, between: tuple[float, float]
) -> int:
    """Start `work` in a child again and again, killing it `kills` times; returns the kills left when it ended.

    Args:
        between: the shortest and longest life of a child that is killed, in seconds.
    """
    while True:
        child = os.fork()
        if child == 0:
            work()
            os._exit(0)
        if kills > 0:
            time.sleep(moments.uniform(*between))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return kills
        if status != signal.SIGKILL:
            raise SystemExit(f"a run ended with status {status}")
        kills -= 1


def wait_for_row(log: Path, stage: str, process: subprocess.Popen[Any]) -> None:
    """Until the training log has two rows of `stage`; fails where the process ends before."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        rows = log.read_text().splitlines() if log.exists() else []
        if sum(f'"stage": "{stage}"' in row for row in rows) >= 2:
            return
        time.sleep(0.02)
    pytest.fail(f"the run never reached its second row of {stage}: {process.stderr.read() if process.stderr else ''}")
