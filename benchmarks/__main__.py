"""Run the measurements one after the other, each in a fresh process, and keep what they say.

python -m benchmarks                      everything, results in runs/benchmarks
python -m benchmarks --quick              tiny sizes, to see that all of it works; its numbers mean nothing
python -m benchmarks --only flops memory  only these; lines of others in the results stay as they are
python -m benchmarks --docs               write the results into docs/benchmarks.md, measure nothing
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.document import PAGE, fill, line
from benchmarks.photos import REPOSITORY
from benchmarks.record import Result, Skipped, read_results, this_machine, write_results
from benchmarks.suite import SUITE, Measurement

RESULTS = "results.csv"


def main() -> int:
    options = _arguments()
    if options.list:
        width = max(len(each.name) for each in SUITE)
        print("\n".join(f"{each.name:{width}}  {each.about}" for each in SUITE))
        return 0
    chosen = [each for each in SUITE if not options.only or each.name in options.only]
    if options.child is not None:
        _measure(chosen[0], options.quick, options.child)
        return 0
    out: Path = options.out or REPOSITORY / "runs" / ("benchmarks-quick" if options.quick else "benchmarks")
    if options.docs:
        return _write_page(out / RESULTS)
    return _run(chosen, options.quick, out)


def _run(chosen: Sequence[Measurement], quick: bool, out: Path) -> int:
    """Measure, print and keep; returns how many measurements failed."""
    from benchmarks.picture import draw

    machine, began = this_machine(), time.monotonic()
    print(machine, flush=True)
    kept = read_results(out / RESULTS) if len(chosen) < len(SUITE) and (out / RESULTS).is_file() else []
    by_measurement = {each.name: [row for row in kept if row.measurement == each.name] for each in SUITE}
    failed = 0
    for number, measurement in enumerate(chosen, 1):
        print(f"\n[{number}/{len(chosen)}] {measurement.name}: {measurement.about}", flush=True)
        found, error = _in_a_process(measurement, quick)
        if error:
            failed += 1
            found.append(Result(measurement.name, note=f"failed: {error}"))
        now = datetime.datetime.now().isoformat(timespec="seconds")
        by_measurement[measurement.name] = [
            replace(row, measurement=measurement.name, machine=machine, date=now) for row in found
        ]
        for row in by_measurement[measurement.name]:
            print(f"  {line(row)}", flush=True)
        rows = [row for each in SUITE for row in by_measurement[each.name]]
        write_results(rows, out / RESULTS)  # after each: what is measured is kept, whatever comes
    pictures = draw(rows, out)
    print(f"\n{time.monotonic() - began:.0f} s; {', '.join(str(path) for path in (out / RESULTS, *pictures))}")
    return min(failed, 1)


def _in_a_process(measurement: Measurement, quick: bool) -> tuple[list[Result], str]:
    """Its results, and why it did not come to its end."""
    with tempfile.TemporaryDirectory() as folder:
        file, errors = Path(folder) / RESULTS, Path(folder) / "errors"
        command = [sys.executable, "-m", "benchmarks", "--only", measurement.name, "--child", str(file)]
        command += ["--quick"] if quick else []
        with errors.open("w") as said:
            child = subprocess.Popen(
                command, cwd=REPOSITORY, stdout=said, stderr=said, start_new_session=True,
                env=os.environ | {"TMPDIR": folder, "TOKENIZERS_PARALLELISM": "false", "OMP_WAIT_POLICY": "passive"},
            )  # fmt: skip
            try:
                status = child.wait(measurement.seconds)
                error = f"exit status {status}" if status else ""
            except subprocess.TimeoutExpired:
                error = f"not done after {measurement.seconds:.0f} seconds"
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # what it has started goes with it
                child.wait()
        if error and (lines := errors.read_text(errors="replace").strip().splitlines()):
            error += f" ({lines[-1][:160]})"
        return read_results(file) if file.is_file() else [], error


def _measure(measurement: Measurement, quick: bool, file: Path) -> None:
    """In the child: results go to `file` one by one."""
    rows: list[Result] = []
    try:
        for row in importlib.import_module(f"benchmarks.{measurement.module}").measure(quick):
            rows.append(row)
            write_results(rows, file)
    except Skipped as why:
        write_results([*rows, Result(measurement.name, note=f"skipped: {why}")], file)


def _write_page(results: Path) -> int:
    try:
        fill(PAGE, read_results(results))
    except (OSError, ValueError) as error:
        print(f"{results} cannot be used ({error}); python -m benchmarks makes it", file=sys.stderr)
        return 2
    print(PAGE)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [each.name for each in SUITE]
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=names, help="measure only these (see --list)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try it out")
    parser.add_argument("--out", type=Path, help="folder for results.csv and the picture (default: runs/benchmarks)")
    parser.add_argument("--list", action="store_true", help="name the measurements")
    parser.add_argument("--docs", action="store_true", help="write the results into docs/benchmarks.md")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
