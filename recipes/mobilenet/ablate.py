"""`tmcr ablate` with a MobileNetV2 classifier as encoder; takes all its options.

python recipes/mobilenet/ablate.py --data oasis@DATA/oasis --weights DATA/weights --out runs/mobilenet
"""

from __future__ import annotations

from standin import run

from tmcr.cli.ablate import ablate

if __name__ == "__main__":
    run(ablate, __doc__)
