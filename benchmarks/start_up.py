"""How long one waits before anything happens: each step in a fresh interpreter, from its start to its end."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

from benchmarks.record import Result, result
from benchmarks.timing import alternated

COMMAND_LINE = "from tmcr.cli.main import run; run()"  # what the script `tmcr` holds
STEPS = {
    "bare interpreter": ["-c", "pass"],
    "import tmcr": ["-c", "import tmcr"],
    "tmcr --help": ["-c", COMMAND_LINE, "--help"],
    "import torch": ["-c", "import torch"],
    "tmcr.load": ["-c", "import tmcr; tmcr.load('starter', device='cpu')"],
}
COMPARED = {
    "import tmcr": "bare interpreter",
    "tmcr --help": "bare interpreter",
    "tmcr.load": "import torch",
}


def measure(quick: bool) -> Iterator[Result]:
    ways = {name: lambda arguments=arguments: _run(arguments) for name, arguments in STEPS.items()}
    seconds = alternated(ways, rounds=1 if quick else 7, warm_up=not quick)
    for name, taken in seconds.items():
        other = COMPARED.get(name)
        yield result(
            f"{name}", taken, "s", ratio=taken.over(seconds[other]) if other else None, to=other or "",
            note="fresh interpreter, files in the page cache",
        )  # fmt: skip


def _run(arguments: list[str]) -> None:
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
