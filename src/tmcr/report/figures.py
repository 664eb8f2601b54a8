"""Pictures of a training run."""

from __future__ import annotations

import json
from pathlib import Path

from tmcr.disk import write_whole
from tmcr.errors import DataError


def training_curves(metrics: Path, out: Path) -> None:
    """Draw `metrics.jsonl` of a run: one row of panels for each stage, loss and, where known, validation.

    Raises:
        DataError: the file is missing or holds no curve.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    stages: dict[str, list[dict[str, float]]] = {}
    try:
        for line in metrics.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            stages.setdefault(str(row.pop("stage")), []).append(row)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{metrics}: no training log ({error})") from None
    if not stages:
        raise DataError(f"{metrics}: holds no training step yet")
    figure, grid = plt.subplots(len(stages), 2, figsize=(9, 2.6 * len(stages)), squeeze=False, constrained_layout=True)
    for (stage, rows), axes in zip(stages.items(), grid, strict=True):
        steps = range(1, len(rows) + 1)
        axes[0].plot(steps, [row["loss"] for row in rows], color="#1f6f8b", label="training loss")
        if "val_emd" in rows[0]:
            axes[0].plot(steps, [row["val_emd"] for row in rows], color="#d1495b", label="validation EMD")
            axes[1].plot(steps, [row["val_srcc"] for row in rows], color="#3a7d44")
            axes[1].set(title=f"{stage}: validation SRCC", xlabel="epoch")
        else:
            axes[1].plot(steps, [row["lr"] for row in rows], color="#888888")
            axes[1].set(title=f"{stage}: learning rate", xlabel="update")
        axes[0].set(title=stage, xlabel=axes[1].get_xlabel())
        axes[0].legend(frameon=False)
        for axis in axes:
            axis.spines[["top", "right"]].set_visible(False)
            axis.grid(alpha=0.25)
    write_whole(out, lambda part: figure.savefig(part, dpi=130, format=out.suffix.lstrip(".") or "png"))
    plt.close(figure)
