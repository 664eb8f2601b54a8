"""Everything a training run can be told, as one typed value that is written into the run folder.

Three presets: `paper` follows the paper, `official` the reference implementation where the two differ,
`small` suits a few hundred to a few thousand photos and a laptop.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tmcr.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncodersConfig(_Section):
    """Which encoders to start from; each a local folder, a Hub id or one of the short names of `tmcr.encoders`."""

    image_text: str = "openai/clip-vit-large-patch14-336"
    image: str = "microsoft/swin-base-patch4-window7-224"
    image_revision: str | None = None
    image_text_revision: str | None = None
    image_weights: Literal["pretrained", "random"] = "pretrained"
    # The reference implementation squashes photos and normalises them with ImageNet's statistics in both towers.
    preprocessing: Literal["own", "official"] = "own"
    image_crop_from: float = Field(256 / 224, ge=1, le=2)  # training crops come from this many times the input size
    squash: bool = False  # keep the whole frame by squashing it, rather than cropping its centre
    # Both encoders look at a photo and its mirror image and take the mean: twice the cost, no left or right.
    mirrored: bool = False
    storage: Literal["float32", "float16"] = "float32"


class MatchConfig(_Section):
    """Tag matching (eq. 3–7)."""

    template: str | None = None  # e.g. "a photo of {}"; None is the bare tag, as in the paper
    batch_size: int = Field(32, ge=1)


class ClusterConfig(_Section):
    """Semantic clustering (eq. 8)."""

    k: Annotated[int, Field(ge=1)] | Literal["auto"] = 15


class RankConfig(_Section):
    """Contrastive ranking (eq. 8–11)."""

    loss: Literal["traversal", "supcon", "rank-n-contrast", "none"] = "traversal"
    form: Literal["paper", "official"] = "paper"
    temperature: float = Field(0.07, gt=0)
    epochs: int = Field(50, ge=0)
    learning_rate: float = Field(1e-5, gt=0)
    weight_decay: float = Field(5e-2, ge=0)
    frequency: int = Field(30, ge=1)  # balanced batches per cluster and epoch
    batch_limit: int = Field(64, ge=4)  # photos in a balanced batch, at most
    n_bal: int | None = Field(None, ge=1)  # photos per level; None: from the cluster's level distribution
    # Gradients are averaged over this many balanced batches before an update (N_b of eq. 11).
    batches_per_update: int = Field(1, ge=1)
    projector: int = Field(1024, ge=1)
    # Largest number of photos the encoder holds activations for; a larger batch is split exactly.
    chunk: int = Field(64, ge=1)
    # Batch normalisation inside the encoder keeps its learnt statistics: a balanced batch is not a fair sample.
    freeze_batch_norm: bool = True
    level_bins: int = Field(9, ge=2)  # 9 unit-wide levels over 1..10; more, narrower ones for a narrow range
    flip: bool = True


class FitConfig(_Section):
    """Aesthetics prediction (eq. 12–15)."""

    mode: Literal["lp", "ft"] = "ft"  # linear probe (encoder frozen) or fine-tuning
    branches: Literal["tm", "cr", "tm+cr"] = "tm+cr"
    semantic_only: bool = False
    hidden: int = Field(1024, ge=1)
    score_head: Literal["mlp", "linear"] = "mlp"
    dropout: float = Field(0.0, ge=0, lt=1)
    # Heads fitted from as many random starts and averaged, against the luck of one where photos are few. They need the
    # linear probe and the linear score head; the model's head is that many times `hidden` wide.
    heads: int = Field(1, ge=1)
    r: float = Field(2.0, gt=0)
    learning_rate: float = Field(1e-4, gt=0)
    encoder_learning_rate: float | None = None  # None: the same as the head's
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(64, ge=2)
    decay: float = Field(0.9, gt=0, le=1)  # learning rate × decay after each epoch
    epochs: int = Field(50, ge=1)
    patience: int = Field(5, ge=1)  # stop after this many epochs without a better validation EMD
    warm_start: bool = False  # begin fine-tuning from a head already fitted on the frozen encoder
    # Once validation has told how many epochs are best, train anew for as many on training and validation photos.
    refit: bool = False
    flip: bool = True
    # Pairs "photo above its damaged copy" beside the ratings; 0 leaves them out. They need the linear probe.
    pair_weight: float = Field(0.0, ge=0)
    pair_margin: float = Field(0.5, ge=0)  # score points between a photo and its copy at full strength
    pair_copies: int = Field(6, ge=1)  # damaged copies of each photo
    pair_limit: int = Field(2_000, ge=1)  # training photos that give pairs, at most; of more, as many drawn at random
    pair_batch: int = Field(256, ge=1)  # pairs beside each batch of rated photos
    pair_epochs: int = Field(0, ge=0)  # passes over the pairs alone, before the first rating is learnt
    pair_photos: Path | None = None  # folder with unlabelled photos that give pairs too
    # Stretch the predictions about the reference until their spread is this share of the ratings' spread on the
    # validation part. The squared error alone would have it at about the correlation. None: as fitted.
    spread: float | None = Field(None, gt=0, le=1)


class TrainConfig(_Section):
    """A training run. Paths in `data` and `encoders` are kept as given."""

    preset: str = "paper"
    data: str = ""
    tags: Path | None = None  # folder with semantic.txt and attribute.txt; None: the shipped libraries
    seed: int = Field(0, ge=0)
    validation: float = Field(0.15, gt=0, lt=0.5)  # share of the training groups held out for early stopping
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool = False
    workers: int | None = Field(None, ge=0)
    checkpoint_every: int = Field(20, ge=1)  # updates between two checkpoints of the ranking stage
    cache: Path | None = None  # where photo features are kept across runs; None: inside the run folder
    features: Path | None = None  # folder that `tmcr score --features` filled: photos in it are not encoded again
    allow_leakage: bool = False
    encoders: EncodersConfig = EncodersConfig()
    match: MatchConfig = MatchConfig()
    cluster: ClusterConfig = ClusterConfig()
    rank: RankConfig = RankConfig()
    fit: FitConfig = FitConfig()

    def to_json(self) -> str:
        return self.model_dump_json(indent=2)

    @classmethod
    def from_json(cls, text: str, source: str) -> TrainConfig:
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise ConfigError(f"{source}: {_first_problem(error)}") from None

    def with_overrides(self, overrides: dict[str, Any]) -> TrainConfig:
        """A copy with dotted settings replaced, e.g. {"rank.epochs": 5}.

        Raises:
            ConfigError: an unknown setting, or a value outside its range.
        """
        values = self.model_dump()
        for dotted, value in overrides.items():
            *sections, name = dotted.split(".")
            node = values
            for section in sections:
                if not isinstance(node.get(section), dict):
                    raise ConfigError(f"no setting {dotted!r}; sections are {_sections()}")
                node = node[section]
            if name not in node:
                raise ConfigError(f"no setting {dotted!r}; here are {', '.join(sorted(node))}")
            node[name] = value
        try:
            return TrainConfig.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_first_problem(error)) from None


def preset(name: str) -> TrainConfig:
    """The configuration called `name`.

    Raises:
        ConfigError: no such preset.
    """
    try:
        return PRESETS[name]
    except KeyError:
        raise ConfigError(f"no preset {name!r}; there are {', '.join(PRESETS)}") from None


def parse_setting(text: str) -> tuple[str, Any]:
    """Split `section.name=value`; the value is read as JSON where it is JSON, else as text.

    Raises:
        ConfigError: no equals sign.
    """
    import json

    dotted, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--set wants section.name=value, not {text!r}")
    try:
        return dotted.strip(), json.loads(value)
    except json.JSONDecodeError:
        return dotted.strip(), value.strip()


def _sections() -> str:
    return ", ".join(name for name, field in TrainConfig.model_fields.items() if name in _SECTION_NAMES)


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    return f"setting {'.'.join(map(str, problem['loc']))}: {problem['msg'].lower()} (got {problem['input']!r})"


_SECTION_NAMES = ("encoders", "match", "cluster", "rank", "fit")

PAPER = TrainConfig(
    preset="paper",
    # Eq. 11 averages the gradient over the N_b balanced batches; one per cluster of the default K is taken.
    rank=RankConfig(batches_per_update=15),
)

OFFICIAL = TrainConfig(
    preset="official",
    encoders=EncodersConfig(preprocessing="official"),
    rank=RankConfig(form="official", n_bal=9),
    fit=FitConfig(score_head="linear"),
)

SMALL = TrainConfig(
    preset="small",
    encoders=EncodersConfig(image_text="starter", image="starter", squash=True),
    cluster=ClusterConfig(k=5),
    rank=RankConfig(epochs=4, learning_rate=1e-4, frequency=4, batch_limit=48, projector=256),
    fit=FitConfig(
        hidden=64,
        score_head="linear",
        dropout=0.5,
        learning_rate=2e-3,
        encoder_learning_rate=3e-5,
        weight_decay=0.3,
        batch_size=32,
        decay=0.97,
        epochs=60,
        patience=12,
        warm_start=True,
        refit=True,
    ),
)

PRESETS: dict[str, TrainConfig] = {"paper": PAPER, "official": OFFICIAL, "small": SMALL}
