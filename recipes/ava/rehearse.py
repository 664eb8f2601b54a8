"""The whole pipeline on AVA's number of photos, on a small machine: time, peak memory and disk of every stage.

    python recipes/ava/rehearse.py --labels ../shared/data/ava_labels --report docs/results/ava-rehearsal
    python recipes/ava/rehearse.py --labels ../shared/data/ava_labels --photos 5000        # tried in a minute

Labels are real as far as they are public (`labels.py`), photos are tiny (`photos.py`), the two encoders are stand-ins
of the right width (`standin.py`); everything between them is the project's own run under the paper's preset
(`stages.py`). What the encoders themselves cost on a GPU is counted, not run (`cost.py`).

Every stage runs in a process of its own, so that its peak memory is its own. Labels and photos that an earlier call
left under OUT are used again; everything else there is made anew.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from labels import PHOTOS
from report import markdown

# Nothing heavy is imported here: on Linux a process's peak memory begins at that of the one that started it.
STAGES = (
    "prepare", "labels", "decode", "match", "cluster", "similarities", "sampling", "rank", "fit", "evaluate", "model",
    "cost",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=int, default=PHOTOS, help="how many (all of AVA's)")
    parser.add_argument("--labels", type=Path, help="folder with TANet's lists and the official test ids")
    parser.add_argument("--out", type=Path, default=Path("runs/ava-rehearsal"))
    parser.add_argument("--report", type=Path, help="where .md and .json go, without ending (OUT/report)")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.photos < 1000:
        parser.error("fewer than 1,000 photos do not fill fifteen kinds of photos")
    if options.labels and not (options.labels / "tanet_test.csv").is_file():
        parser.error(f"{options.labels} has no tanet_test.csv; without --labels the votes are made up")
    if options.stage:
        print(json.dumps(measure(options)))
        return

    for name in ("run", "model", "sample"):
        shutil.rmtree(options.out / name, ignore_errors=True)
    options.out.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    found = {"command": "python " + " ".join(sys.argv), "machine": machine(), "load": os.getloadavg()[0], "stages": {}}
    for stage in STAGES:
        print(f"{stage} …", end=" ", flush=True)
        done = found["stages"][stage] = child(stage)
        seconds = ", ".join(f"{name} {each:.1f} s" for name, each in done["seconds"].items())
        print(f"{seconds}; peak {done['peak'] / 2**30:.2f} GiB", flush=True)
    found["seconds"] = time.perf_counter() - began
    report = options.report or options.out / "report"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")
    text = markdown(found)
    report.with_suffix(".md").write_text(text)
    print("\n" + text)


def child(stage: str) -> dict[str, Any]:
    """What a process of its own measures of a stage."""
    done = subprocess.run([sys.executable, *sys.argv, "--stage", stage], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"\n{stage} failed, see above")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one stage here: its seconds, facts and the peak memory of this process in bytes."""
    import stages

    watch = stages.Watch()
    if options.stage == "prepare":
        facts = stages.prepare(options.out, watch, labels=options.labels, photos=options.photos)
    elif options.stage == "cost":
        facts = {"projection": project(options.out, watch)}
    else:
        facts = stages.STAGES[options.stage](options.out, watch)
        (options.out / f"{options.stage}.json").write_text(json.dumps(facts))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": watch.seconds, "peak": peak, "facts": facts}


def project(out: Path, watch: Any) -> dict[str, Any]:
    """The cost of the real run, with the balanced batches that were drawn here."""
    from cost import projection

    drawn = json.loads((out / "sampling.json").read_text())
    with watch("count"):
        return projection(drawn["batches_per_epoch"], drawn["photos_per_batch"])


def machine() -> str:
    """Processor, threads, memory and versions, in words."""
    from importlib.metadata import version

    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].partition(":")[2].strip() if models else name
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    threads = os.environ.get("OMP_NUM_THREADS", os.cpu_count())
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "scikit-learn", "numpy", "Pillow"))
    return f"{os.cpu_count()} cores of an {name}, {memory:.0f} GiB memory, {threads} threads for arithmetic; {versions}"


if __name__ == "__main__":
    main()
