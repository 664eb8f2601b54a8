"""`tmcr export`: a model as one ONNX file, for ONNX Runtime, OpenVINO and other engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tmcr.cli.options import Model, Offline


def export(
    out: Annotated[Path, typer.Option("--out", "-o", help="The .onnx file to write.")],
    model: Model = "starter",
    int8: Annotated[
        bool, typer.Option("--int8", help="8-bit integers; needs --data to measure what that costs.")
    ] = False,
    data: Annotated[
        str | None, typer.Option(help="Data SPEC: its training part calibrates int8, its test part measures it.")
    ] = None,
    max_loss: Annotated[
        float, typer.Option(help="SRCC that int8 may lose on the test part; beyond it nothing is written.")
    ] = 0.005,
    calibration: Annotated[int, typer.Option(min=8, help="Training photos to calibrate int8 with.")] = 128,
    offline: Offline = False,
) -> None:
    """Write pixels → distribution, tag similarities, level features as ONNX; `--backend onnx` scores with it.

    Examples:

        tmcr export --out starter.onnx

        tmcr export --out starter-int8.onnx --int8 --data csv:ratings.csv

        tmcr score photos/ --backend onnx --exported starter.onnx
    """
    from tmcr.assessor import load
    from tmcr.destinations import check_file
    from tmcr.errors import ConfigError
    from tmcr.export import export_onnx
    from tmcr.report.terminal import make_console

    check_file(out, (".onnx",), "an exported model")
    if int8 and data is None:
        raise ConfigError("--int8 needs --data: 8-bit models are written only where their loss of accuracy is measured")
    console = make_console()
    assessor = load(model, device="cpu", precision="fp32", offline=offline)
    if not int8 or data is None:
        export_onnx(assessor.model, assessor.image_text.image_tower, out)
        console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, model {assessor.model.hash[:12]}")
        return
    from tmcr.quantization import export_int8

    outcome = export_int8(assessor, data, out, photos=calibration, max_loss=max_loss)
    console.print(outcome.describe(), highlight=False)
    if not outcome.kept:
        raise typer.Exit(1)
    console.print(f"{out}: {out.stat().st_size / 2**20:.1f} MiB, model {assessor.model.hash[:12]}")
