"""The released long-tail list against what the paper says of it, and which of the two its Table 3 was made with.

    python recipes/ava/regions.py --labels ../shared/data/ava_labels

An error over all photos is the mean of the regions' errors, weighted by how many photos each has. The paper prints
all four, so that its own rows tell the weights.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tmcr.datasets import load_manifest
from tmcr.experiments.paper import TABLE_3

EDGES = (3.85, 4.87, 5.88, 6.90)  # few | med | many | med | few
REGIONS = ("many", "med", "few")
PLACE = np.array(["few", "med", "many", "med", "few"])
CLAIMED = 457


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=Path, required=True, help="folder with TANet's lists and the balanced one")
    labels = parser.parse_args().labels
    test = load_manifest(f"ava:tanet@{labels}").part("test")
    listed = load_manifest(f"ava:tanet@{labels}?subset=tmcr_test_balanced.csv").part("test")
    region = listed.attributes["region"]
    there = PLACE[np.searchsorted(EDGES, test.scores, side="right")]

    print("| region | TANet's test part | the released list | the paper |")
    print("|---|---|---|---|")
    for name in REGIONS:
        print(f"| {name} | {(there == name).sum():,} | {(region == name).sum()} | {CLAIMED} |")
    print(f"| all | {len(test):,} | {len(listed):,} | {len(REGIONS) * CLAIMED:,} |\n")

    weights = np.array([(region == name).mean() for name in REGIONS])
    print("| Table 3, MSE | printed | from its regions, weighted by the list | equally |")
    print("|---|---|---|---|")
    for name, (printed, *parts) in TABLE_3.rows.items():
        errors = np.array(parts[: len(REGIONS)], dtype=float)
        print(f"| {name} | {printed} | {errors @ weights:.3f} | {errors.mean():.3f} |")


if __name__ == "__main__":
    main()
