"""The starter's model card, with every number taken from what was measured."""

from __future__ import annotations

from tmcr.experiments.verdicts import MODEL, RIDGE, Verdicts
from tmcr.metrics import Interval
from tmcr.modelfolder import TrainedModel

SHARE_WANTED = {"mild": 0.80, "strong": 0.95}
TAGS_WANTED = 0.9
HARDLY_EVER = 0.1


def starter_card(
    model: TrainedModel, measured: dict[str, object], confidence: dict[str, float], verdicts: Verdicts
) -> str:
    """Markdown."""
    report = verdicts.reports[MODEL]
    ridge = verdicts.against[RIDGE]
    photos = model.training["photos"]
    weak = [
        f"{kind.replace('_', ' ')} ({level}: {100 * share.value:.0f} %)"
        for (kind, level), share in verdicts.order.items()
        if share.value < SHARE_WANTED[level]
    ]
    deaf = [f"{name} ({100 * share.value:.0f} %)" for name, share in verdicts.families.items()
            if share.value < TAGS_WANTED]  # fmt: skip
    silent = [f"{name} ({100 * changed.value:.0f} %)" for name, (changed, _) in verdicts.named.items()
              if changed.value < HARDLY_EVER]  # fmt: skip
    tags = verdicts.captions.get(MODEL)
    confidences = "\n".join(f"| {name} | {value:.3g} |" for name, value in confidence.items())
    marks = ", ".join(
        f"{100 * share:.0f} % of photos above their {level} copy" for level, share in SHARE_WANTED.items()
    )
    tables = verdicts.to_markdown()
    tables = tables[tables.index("## A photo above") : tables.index("## Cost")].strip()
    mean_mse = verdicts.reports["always the mean"].mse
    than_mean = (
        f"its squared error is {'larger' if report.mse > mean_mse else 'smaller'} than that of always saying the mean"
    )
    cost = verdicts.cost
    size, rate, memory = (cost.get(key, 0.0) for key in ("size on disk, MB", "photos a second", "peak memory, MB"))
    shown = verdicts.tags_shown if verdicts.tags_shown is not None else float("nan")
    return f"""# starter

A small TMCR model that ships with the package and needs no download: it predicts how people would rate a photo
(a distribution over 1..10), names what is in it and how it looks, and says what moved the score.

```python
import tmcr
tmcr.load("starter").assess("photo.jpg").score
```

## What it is

A ResNet of {_millions(measured["vision parameters"])} million parameters that looks at photos of 128 × 128 pixels,
joined by a projection to a one-layer text tower; a second ResNet, begun as a copy of the first, that learnt to tell
photos from their damaged copies before it was ranked; a prediction head. {size:.1f} MB in half precision.
{rate:.0f} photos a second on {cost["threads"]:.0f} thread(s) of a CPU that others used too, {memory:.0f} MB of memory
at most while it was examined.

## What it learnt from, and on whose terms

- **Photos without ratings**: {measured["photos"]} small photos from Caltech-101, COCO-style Flickr photos, ImageNet
  samples, Intel scenes, Flickr8k, OSIE, Savoias, BSDS500, DTD, PACS, VOC 2007 and others, most of them released for
  research or without stated terms. None of them is in this package. What they show was told by two ImageNet
  classifiers (MobileNetV2 1.0 and MobileNetV1 0.75, int8, Apache-2.0) in {measured["crops seen"]:,} looks at crops;
  how they look, by edits of known strength and by measuring pixels; what spoils them, by {measured["pairs seen"]:,}
  pairs of one of them and its damaged copy.
- **Words**: tags, class names and captions, placed by the sentence encoder all-MiniLM-L6-v2 (Apache-2.0).
- **Ratings**: OASIS (Kurdi, Lozano and Banaji 2017; free for research) with the beauty ratings of Brielmann and Pelli
  (2019), 1..7 stretched to 1..10: {photos["train"]} photos for training, {photos["val"]} for early stopping and then
  for training too, {photos["test"]} photos of other themes for testing. No OASIS photo was shown to the encoder
  before ratings were learnt, and none of the test themes at all.
- **Pairs**: these photos and unlabelled ones above their own damaged copies.

The taste is that of the 104 to 368 people who judged each photo for *beauty*: everyday scenes, animals and objects.
Photos of people and disturbing themes were left out; art and contest photography were not rated.

## How well it does

On {report.n} photos of themes that it never saw (95 % intervals over themes, in parentheses; the same head trained
again differs visibly on so few, `docs/results/starter.md`):

| | |
|---|---|
| SRCC | {_of(report.intervals["srcc"])} |
| PLCC | {_of(report.intervals["plcc"])} |
| MSE | {_of(report.intervals["mse"])} |
| SRCC minus that of ridge regression on its own encoder | {_of(ridge)} |
| spread of the scores over that of the ratings | {_of(verdicts.spread)} |
| captioned photos with one of its tags in a caption | {_of(tags)} |
| semantic tags shown for a photo | {shown:.1f} of 5 |

{tables}

Tags are shown from a confidence on: semantic tags from one that was calibrated on 200 captioned photos used for nothing
else, attribute tags from one that was calibrated on the training photos and changed copies of them, without ratings.
One plain tag speaks for each look; the many others that mean the same are compared, but not shown.

| | |
|---|---|
{confidences}

## What it is good and bad at

- It ranks a photo above its plainly damaged copy where the table above says so, and its tags follow changes of looks.
- Between different photos it is weak: {than_mean} (MSE {report.mse:.2f} against {mean_mse:.2f}).
  It likes what its raters liked, sunsets more than rubbish, and is often wrong about which is which.
  Train on your own ratings with a large encoder for work that matters.
- It sees 128 × 128 pixels: fine detail, focus on the eyes, small faults and small text are beyond it, and the whole
  frame is squashed to a square.
- Damage below the mark that was set ({marks}): {", ".join(weak) or "none"}.
- Attribute tags that follow a change of looks in under {100 * TAGS_WANTED:.0f} % of photos:
  {", ".join(deaf) or "none"}.
- Beside the original they follow it, but of a photo alone they hardly ever say so: {", ".join(silent) or "none"}.
- It never names people, bodies or clothing: its teachers knew no such classes.
- Moods, stories and judgements among the attribute tags are in its library but not in its eyes; it never shows them.
- Semantic tags are those of ImageNet's world: animals, objects and scenes, and often only roughly right.
- Black-and-white, abstract and staged photographs are unlike what was rated; their scores mean little.

**It must not be used to judge people**, their looks, or the worth of anyone's work. Nobody in the training photos was
labelled by looks, and no rating is of a person.
"""


def _of(interval: Interval | None) -> str:
    return "–" if interval is None else f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _millions(count: object) -> str:
    return f"{int(str(count)) / 1e6:.1f}"
