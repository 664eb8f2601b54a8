"""`tmcr doctor`: what this installation can do, and whether its own model works."""

from __future__ import annotations

import importlib.util
import platform

import typer


def doctor() -> None:
    """Check the installation: versions, devices, image formats, the bundled model.

    Example:

        tmcr doctor
    """
    from importlib.metadata import version

    from PIL import features

    from tmcr.assessor import load
    from tmcr.hardware import pick_hardware
    from tmcr.modelfolder import STARTER

    lines = [("python", platform.python_version())]
    lines += [(package, version(package)) for package in ("tmcr", "torch", "transformers", "pillow", "numpy")]
    lines.append(("hardware", str(pick_hardware())))
    formats = [name for name in ("jpg", "webp", "avif", "libtiff", "jpg_2000") if features.check(name)]
    lines.append(("image formats", "png gif bmp " + " ".join(formats)))
    for extra, module in (("HEIC", "pillow_heif"), ("RAW", "rawpy")):
        there = importlib.util.find_spec(module) is not None
        lines.append((extra, "yes" if there else "no (pip install 'tmcr[raw]')"))
    for name, text in lines:
        typer.echo(f"{name:<14} {text}")
    if not STARTER.is_dir():
        typer.echo(f"{'starter model':<14} missing: install tmcr again")
        raise typer.Exit(1)
    from PIL import Image

    model = load("starter", device="cpu")
    verdict = model.assess(Image.linear_gradient("L"))
    typer.echo(f"{'starter model':<14} {model.model.hash[:12]} scores a test pattern {verdict.score:.2f}")
