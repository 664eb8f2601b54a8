"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from tmcr.errors import Stopped

Model = Annotated[str, typer.Option("--model", "-m", help="'starter' (ships with tmcr), a model folder, or a Hub id.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, mps.")]
Precision = Annotated[str, typer.Option(help="auto, fp32 or bf16.")]
Workers = Annotated[int | None, typer.Option(min=0, help="Threads that decode photos (default: one for each core).")]
Offline = Annotated[bool, typer.Option("--offline", help="Never use the network.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Photos in one pass of the encoders.")]
Backend = Annotated[str, typer.Option(help="What computes the encoders: torch, compile, onnx or openvino.")]
Exported = Annotated[
    Path | None, typer.Option(help="File of 'tmcr export' for the other backends (default: exported once, and kept).")
]
OwnTags = Annotated[
    Path | None,
    typer.Option("--tags", help="Your own tags, one a line, to compare photos with too; the score is the same."),
]
Gallery = Annotated[Path | None, typer.Option(help="Write an HTML gallery to this file.")]


@contextmanager
def resumable(folder: Path) -> Iterator[None]:
    """Have Ctrl-C say where finished stages are kept, and how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise Stopped(f"stopped; what was finished is kept in {folder}, and the same command goes on") from None
