"""`tmcr reproduce` with a MobileNetV2 classifier as encoder; takes all its options.

python recipes/mobilenet/reproduce.py table4 --data oasis@DATA/oasis --weights DATA/weights --out runs/reproduce
"""

from __future__ import annotations

from standin import run

from tmcr.cli.reproduce import reproduce

if __name__ == "__main__":
    run(reproduce, __doc__)
