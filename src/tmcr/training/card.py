"""The model card of a trained model, from what the run knows."""

from __future__ import annotations

from tmcr.modelfolder import TrainedModel


def model_card(model: TrainedModel) -> str:
    """Markdown: what the model is, what it learnt from, how well it does, what it must not be used for."""
    training = model.training
    photos = training["photos"]
    lines = [
        f"# {model.name}",
        "",
        "A TMCR model: it predicts how people would rate a photo (a distribution over 1..10) and explains the",
        "verdict with tags. Read it with `tmcr.load(folder)` or `tmcr score --model folder PHOTOS`.",
        "",
        "## Training",
        "",
        f"- Data: `{training['data']}` ({training['description']})",
        f"- Photos: {photos['train']} for training, {photos['val']} for early stopping, {photos['test']} for testing",
        f"- Preset {training['preset']}, seed {training['seed']}",
        f"- Image–text encoder: `{model.image_text.source}`, fingerprint `{model.image_text.fingerprint[:16]}`",
        "",
        "## Accuracy on the test part",
        "",
    ]
    intervals = model.metrics.get("intervals", {})
    if intervals:
        lines += [f"{model.metrics['n']} photos; intervals by bootstrap over groups.", ""]
        lines += ["| metric | value | 95 % interval |", "|---|---|---|"]
        lines += [
            f"| {name.upper()} | {model.metrics[name]:.3f} | {low:.3f} to {high:.3f} |"
            for name, (low, high) in intervals.items()
        ]
    else:
        lines.append("The data has no test part, so the accuracy of this model is not known.")
    if training["leakage_allowed"]:
        lines += [
            "",
            "**The check for test photos in the training part was overridden: do not quote these numbers.**",
        ]
    lines += [
        "",
        "## Limits",
        "",
        "The scores say how the raters of the training data would judge, with their tastes; they are no measure of",
        "worth, and must not be used to judge people. Photos unlike the training photos are scored unreliably.",
        "",
    ]
    return "\n".join(lines)
