"""Runs that are killed at some moment, for tests of what is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def kill_until_done(work: Callable[[Callable[[], None]], None], *, kills: int, moments: random.Random) -> int:
    """Start `work` in a child again and again, killing it `kills` times; returns the kills left when it ended.

    A life is measured in work, not in seconds, so that a fast machine is killed as often as a slow one: a child dies
    a few milliseconds after its first, second or third batch.

    Args:
        work: what to do; it calls what it is given after each batch.
    """
    while True:
        batches, delay = moments.randint(1, 3), moments.uniform(0, 0.015)
        child = os.fork()
        if child == 0:
            death = _Death(batches if kills > 0 else -1, delay)
            work(death)
            death.wait()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return kills
        if status != signal.SIGKILL:
            raise SystemExit(f"a run ended with status {status}")
        kills -= 1


class _Death:
    """Kills its process `delay` seconds after so many calls, never where `calls` is negative."""

    def __init__(self, calls: int, delay: float) -> None:
        self._calls = calls
        self._delay = delay
        self._due = False
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self._calls -= 1
            if self._calls == 0:
                self._due = True
                threading.Timer(self._delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

    def wait(self) -> None:
        """For a kill that is on its way; work that was just done is no escape."""
        if self._due:
            signal.pause()


def wait_for_row(log: Path, stage: str, process: subprocess.Popen[Any]) -> None:
    """Until the training log has two rows of `stage`; fails where the process ends before."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        rows = log.read_text().splitlines() if log.exists() else []
        if sum(f'"stage": "{stage}"' in row for row in rows) >= 2:
            return
        time.sleep(0.02)
    pytest.fail(f"the run never reached its second row of {stage}: {process.stderr.read() if process.stderr else ''}")
