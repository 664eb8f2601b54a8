"""What the real run costs on one GPU: counted arithmetic, passes of the paper's preset, an assumed share of the peak.

python recipes/ava/cost.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PEAK = {"A100": 312e12, "H100": 989e12}  # dense bf16, FLOP/s, as NVIDIA states them for the SXM modules
# ASSUMED shares of the peak. For comparison, published for one RTX 3090 (pytorch-image-models, results/): 281 Swin-B
# photos a second in training and 143 ViT-L/14-336 forward. Under these shares an A100 does 337 and 245.
SHARE = {"match": 0.30, "train": 0.10, "forward": 0.10}
FT_EPOCHS = 15  # ASSUMED: until validation stops it; the preset allows 50
PHOTOS, TRAIN, VALIDATION, TEST = 255_530, 229_979, 12_775, 12_776  # ava:tanet
PHOTO_BYTES = 32e9  # of AVA's JPEG files
FULL_BATCH = 63  # photos of a balanced batch: seven of each of nine levels
TEXT_SIDE = 123_650_304  # parameters of CLIP ViT-L/14's text tower and projection
FIGURE_6 = (20, 40, 60, 80, 100)  # sampling frequencies


@dataclass(frozen=True)
class Encoder:
    """An architecture as the paper uses it.

    Attributes:
        parameters: their number.
        forward: FLOP for one photo, a multiply–add counted as two.
        training: FLOP for one photo, forward and backward.
    """

    parameters: int
    forward: float
    training: float


def clip_tower() -> Encoder:
    """ViT-L/14 at 336 pixels with its projection: the image side of CLIP."""
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768, attn_implementation="eager",
    )  # fmt: skip
    return _count(CLIPVisionModelWithProjection, config, 336)


def swin_base() -> Encoder:
    """Swin-B at 224 pixels."""
    from transformers import SwinConfig, SwinModel

    config = SwinConfig(
        image_size=224, patch_size=4, window_size=7, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]
    )
    return _count(SwinModel, config, 224)


def _count(architecture: Any, config: Any, side: int) -> Encoder:
    """Count what the matrix products and convolutions of one photo cost; shapes are enough, so no memory is taken."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = architecture(config)
        photo = torch.zeros(1, 3, side, side)
    with FlopCounterMode(display=False) as forward, torch.no_grad():
        model(pixel_values=photo)
    with FlopCounterMode(display=False) as training:
        outputs = model(pixel_values=photo)
        feature = outputs.image_embeds if hasattr(outputs, "image_embeds") else outputs.pooler_output
        feature.sum().backward()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Encoder(parameters, float(forward.get_total_flops()), float(training.get_total_flops()))


def projection(batches_per_epoch: float = 450, photos_per_batch: float = FULL_BATCH) -> dict[str, Any]:
    """Passes, GPU hours and storage of the paper's preset on AVA under TANet's split.

    Args:
        batches_per_epoch, photos_per_batch: what balanced sampling draws; clusters × frequency batches.
    """
    from tmcr.training.config import preset

    config = preset("paper")
    clip, swin = clip_tower(), swin_base()
    ranked = config.rank.epochs * batches_per_epoch * photos_per_batch
    tuned, seen = FT_EPOCHS * TRAIN, PHOTOS + (FT_EPOCHS + 1) * VALIDATION + TEST
    passes = {  # stage → (kind of work, photos, FLOP a photo)
        "match": [("match", PHOTOS, clip.forward)],
        "rank": [("train", ranked, swin.training)],
        "fit LP": [("forward", PHOTOS + TEST, swin.forward)],
        "fit FT": [("train", tuned, swin.training), ("forward", seen, swin.forward)],
    }
    hours = {
        gpu: {
            stage: sum(photos * flop / (SHARE[work] * peak) for work, photos, flop in works) / 3600
            for stage, works in passes.items()
        }
        for gpu, peak in PEAK.items()
    }
    return {
        "encoders": {"ViT-L/14-336": vars(clip), "Swin-B": vars(swin)},
        "peak": PEAK,
        "share": SHARE,
        "ft_epochs": FT_EPOCHS,
        "photos": {stage: sum(photos for _, photos, _ in works) for stage, works in passes.items()},
        "rates": {
            gpu: {
                "match": SHARE["match"] * peak / clip.forward,
                "train": SHARE["train"] * peak / swin.training,
                "forward": SHARE["forward"] * peak / swin.forward,
            }
            for gpu, peak in PEAK.items()
        },
        "hours": hours,
        "experiments": {gpu: _experiments(each) for gpu, each in hours.items()},
        "storage": _storage(clip, swin),
    }


def _experiments(hours: dict[str, float]) -> dict[str, float]:
    """GPU hours of `tmcr reproduce` for one seed; what an earlier line has left is used again."""
    rank, lp, ft = hours["rank"], hours["fit LP"], hours["fit FT"]
    return {
        "one model (tmcr train)": hours["match"] + rank + ft,
        "table4: rank, CR, LP, FT": hours["match"] + rank + lp + 2 * ft,
        "table1 and table5 besides: NIMA, semantic only": 2 * ft,
        "table3 besides: no ranking, LDS": 2 * ft,
        "ranking-lp and -ft besides: two more rankings, four LP, two FT": 2 * rank + 4 * lp + 2 * ft,
        "figure6 besides: five frequencies": sum(FIGURE_6) / 30 * rank + 5 * lp,
    }


def _storage(clip: Encoder, swin: Encoder) -> dict[str, float]:
    """Bytes, in float32. A checkpoint holds weights, AdamW's two moments and, in fitting, the best weights so far."""
    weights = 4 * swin.parameters
    return {
        "photos": PHOTO_BYTES,
        "embeddings as an array": 4 * 768 * PHOTOS,
        "CLIP with its text side, downloaded": 4 * (clip.parameters + TEXT_SIDE),
        "Swin-B, downloaded": weights,
        "each ranked or fine-tuned encoder": weights,
        "checkpoint while one is trained": 4 * weights,
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The projection as Markdown."""
    out = [
        "| encoder | parameters | forward, GFLOP a photo | forward and backward |",
        "|---|---|---|---|",
    ]
    for name, each in found["encoders"].items():
        flop = f"{each['forward'] / 1e9:.1f} | {each['training'] / 1e9:.1f}"
        out.append(f"| {name} | {each['parameters'] / 1e6:.1f} M | {flop} |")
    share = {work: f"{100 * value:.0f} %" for work, value in found["share"].items()}
    out += [
        "",
        f"**Assumed**: {share['match']} of the peak for ViT-L/14 forward, {share['train']} for Swin-B; peaks "
        + " and ".join(f"{peak / 1e12:.0f} TFLOP/s ({gpu}, dense bf16)" for gpu, peak in found["peak"].items())
        + f"; {found['ft_epochs']} epochs of fine-tuning before validation stops it (the preset allows 50).",
        "",
        f"| stage | photos through the encoder | {' | '.join(f'{gpu}, hours' for gpu in found['hours'])} |",
        "|---|---|" + "---|" * len(found["hours"]),
    ]
    for stage, photos in found["photos"].items():
        hours = " | ".join(f"{each[stage]:.2f}" for each in found["hours"].values())
        out.append(f"| {stage} | {photos:,.0f} | {hours} |")
    out += [
        "",
        f"| experiment, one seed | {' | '.join(f'{gpu}, hours' for gpu in found['hours'])} |",
        "|---|" + "---|" * len(found["hours"]),
    ]
    for name in next(iter(found["experiments"].values())):
        out.append(f"| {name} | {' | '.join(f'{each[name]:.1f}' for each in found['experiments'].values())} |")
    out += ["", "| on disk | GB |", "|---|---|"]
    out += [f"| {name} | {size / 1e9:.2f} |" for name, size in found["storage"].items()]
    return out


if __name__ == "__main__":
    print("\n".join(lines(projection())))
