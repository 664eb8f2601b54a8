"""`tmcr`: one small file per command; what they do lives in the package."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import warnings
from typing import Annotated

import typer

from tmcr.cli import (
    ablate,
    data,
    demo,
    doctor,
    evaluate,
    explain,
    export,
    import_,
    judge,
    reproduce,
    rescore,
    score,
    tags,
    train,
)
from tmcr.errors import TmcrError, printable
from tmcr.streaming import STAGE_THREAD

INTERRUPTED = 130  # what the shell, and typer, make of Ctrl-C

app = typer.Typer(
    name="tmcr",
    help="Predicts how people would rate a photo, says why, and compares it with others of its kind.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(score.score)
app.command()(rescore.rescore)
app.command()(explain.explain)
app.command()(train.train)
app.command()(evaluate.evaluate)
app.command()(judge.judge)
app.command()(ablate.ablate)
app.command()(export.export)
app.command()(reproduce.reproduce)
app.command()(demo.demo)
app.command()(doctor.doctor)
app.command("import")(import_.import_)
app.add_typer(data.app, name="data")
app.add_typer(tags.app, name="tags")


def _print_version(wanted: bool) -> None:
    if wanted:
        from tmcr import __version__

        typer.echo(f"tmcr {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Predicts how people would rate a photo, says why, and compares it with others of its kind.

    Examples:

        tmcr score holiday/ --gallery holiday.html

        tmcr explain photo.jpg

        tmcr train --data csv:ratings.csv --out runs/mine
    """


def run() -> None:
    """Entry point: a user's mistake is one line on stderr and exit code 2; Ctrl-C is exit code 130."""
    # Torch's threads spin while they wait for each other. Where another program has the processor of one of them, the
    # others burn theirs, and training a head takes many times as long. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    warnings.filterwarnings("ignore", module=r"PIL\b")  # odd metadata; what costs a photo is said in its row
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # while a full disk can still be told
    except TmcrError as error:
        print(f"tmcr: {printable(str(error))}", file=sys.stderr)
        if any(thread.name == STAGE_THREAD for thread in threading.enumerate()):
            # A photo hangs in a decoder or an encoder: shutting the interpreter down around it would abort.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(error.exit_code)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # whoever read our output has seen enough
        _drop_output()
        sys.exit(1)
    except OSError as error:
        _drop_output()
        what = f"{error.filename}: " if error.filename else ""
        why = f"{what}{error.strerror or error}; see that the place is there, not full, and yours to write to"
        print(f"tmcr: {printable(why)}", file=sys.stderr)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print("tmcr: stopped", file=sys.stderr)
        raise


def _drop_output() -> None:
    """Keep the end of the process from failing on what could not be printed."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
