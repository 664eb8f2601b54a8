"""From rated photos to tables and figures, with tiny encoders and photos made on the spot."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_models
from rated_photos import write_rated_photos
from safetensors.torch import load_file, save_file

from tmcr.cli.main import run as run_command
from tmcr.datasets.splits import group_folds
from tmcr.errors import ConfigError, DataError, LeakageError
from tmcr.experiments.bench import Bench, Trial, slug
from tmcr.experiments.outcome import Outcome, RegionRule, try_systems
from tmcr.experiments.plan import Plan
from tmcr.experiments.reproduce import EXPERIMENTS, Wishes, reproduce
from tmcr.experiments.systems import FULL_FT, FULL_LP, SYSTEMS, System, find_systems, frequency_sweep
from tmcr.experiments.tables import TABLES, Table, make_table, paper_csv, to_csv, to_dict, to_latex, to_markdown
from tmcr.report.reproduction import write_reproduction
from tmcr.training.config import TrainConfig, preset

SETTINGS = {
    "cluster.k": 2,
    "rank.epochs": 1,
    "rank.frequency": 2,
    "rank.batch_limit": 8,
    "rank.projector": 8,
    "fit.epochs": 2,
    "fit.hidden": 8,
    "fit.batch_size": 16,
    "workers": 0,
    "device": "cpu",
}
WIDE = RegionRule(many=0.6, few=0.4)  # so that the few photos here fall into all three regions
HERE = Path(__file__).stem


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("experiment")
    ratings = write_rated_photos(folder / "photos", 60)
    (folder / "tags").mkdir()
    (folder / "tags" / "semantic.txt").write_text("cat\ndog\nlake\nphoto of a cat\nphoto of a dog\n")
    (folder / "tags" / "attribute.txt").write_text("soft light\nblurred\ngolden hour\n")
    return preset("small").with_overrides(
        {
            "data": f"csv:{ratings}",
            "tags": folder / "tags",
            "encoders.image_text": str(tiny_models.clip(folder / "clip")),
            "encoders.image": str(tiny_models.vision("resnet", folder / "resnet")),
        }
        | SETTINGS
    )


@pytest.fixture(scope="module")
def shared_bench(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(config, tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def outcome(shared_bench: Bench) -> Outcome:
    return try_systems(shared_bench, Plan(), list(SYSTEMS.values()), WIDE)


def names(*wanted: str) -> list[System]:
    return find_systems(wanted)


# ---- systems ------------------------------------------------------------------------------------------------------


def test_every_system_answers_with_distributions_for_the_same_photos(outcome: Outcome) -> None:
    assert list(outcome.predicted) == list(SYSTEMS)
    assert outcome.missing == {}
    for predicted in outcome.predicted.values():
        assert predicted.shape == (1, 12, 5)
        np.testing.assert_allclose(predicted.sum(2), 1, atol=1e-5)


def test_systems_differ_from_each_other_and_seeds_change_what_is_trained(outcome: Outcome, shared_bench: Bench) -> None:
    distinct = {predicted.tobytes() for predicted in outcome.predicted.values()}
    assert len(distinct) == len(outcome.predicted)
    trained = ("MLP probe", "SupCon LP", "LDS LP")
    for first, second in try_systems(shared_bench, Plan(seeds=(0, 1)), names(*trained)).predicted.values():
        assert not np.array_equal(first, second)


def test_what_rivals_are_trained_with_differs_in_the_loss_alone() -> None:
    full = SYSTEMS[FULL_FT].settings
    for label, loss in (("no ranking", "none"), ("SupCon", "supcon"), ("Rank-N-Contrast", "rank-n-contrast")):
        assert SYSTEMS[f"{label} FT"].settings == {**full, "rank.loss": loss}
        assert SYSTEMS[f"{label} LP"].settings == {**SYSTEMS[FULL_LP].settings, "rank.loss": loss}


def test_trials_share_the_embeddings_and_runs_with_the_same_settings(shared_bench: Bench) -> None:
    (first,), (second,) = shared_bench.passes(Plan(seeds=(0, 1)))
    assert first.run.matched is second.run.matched
    assert first.under({"fit.mode": "lp"}) is first.run
    assert first.under({"rank.frequency": 2}) is first.run
    other = first.under({"rank.frequency": 5})
    assert other is not first.run
    assert other.config.rank.frequency == 5
    assert np.array_equal(other.matched.embeddings, first.run.matched.embeddings)
    assert other.manifest.splits == first.run.manifest.splits


def test_the_frequency_sweep_changes_the_frequency_under_linear_probe() -> None:
    assert [dict(each.settings) for each in frequency_sweep([20, 40])] == [
        {"fit.branches": "tm+cr", "fit.mode": "lp", "rank.frequency": frequency} for frequency in (20, 40)
    ]


def test_an_encoder_that_knows_no_sentences_is_not_asked_for_zero_shot(config: TrainConfig, tmp_path: Path) -> None:
    from tmcr.encoders import load_image_text_encoder

    encoder = load_image_text_encoder(config.encoders.image_text)
    encoder.zero_shot = False  # type: ignore[attr-defined]
    bench = Bench(config, tmp_path, image_text=encoder)
    found = try_systems(bench, Plan(), names("zero-shot prompts", "constant"))
    assert list(found.predicted) == ["constant"]
    assert "never trained" in found.missing["zero-shot prompts"]


# ---- answers are kept ---------------------------------------------------------------------------------------------


class Oracle:
    """A system that counts how often it is asked."""

    def __init__(self, fails_once: bool = False) -> None:
        self.asked: Counter[str] = Counter()
        self.fails = fails_once

    def system(self, name: str, version: str = "") -> System:
        def answer(trial: Trial) -> np.ndarray:
            self.asked[name] += 1
            if self.fails and name == "second":
                self.fails = False
                raise KeyboardInterrupt
            return trial.photos.distributions[trial.test]

        return System(name, "", answer, version=version)


def test_a_stopped_experiment_goes_on_where_it_stood(config: TrainConfig, tmp_path: Path) -> None:
    oracle = Oracle(fails_once=True)
    systems = [oracle.system("first"), oracle.system("second")]
    with pytest.raises(KeyboardInterrupt):
        try_systems(Bench(config, tmp_path), Plan(), systems)
    again = try_systems(Bench(config, tmp_path), Plan(), systems)
    assert oracle.asked == {"first": 1, "second": 2}
    assert again.estimates(("mse",))["first"]["mse"].value == pytest.approx(0)
    try_systems(Bench(config, tmp_path), Plan(), systems)
    assert oracle.asked == {"first": 1, "second": 2}


def test_answers_are_asked_for_again_when_anything_they_depend_on_has_changed(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle = Oracle()

    def ask(config: TrainConfig = config, plan: Plan | None = None, version: str = "") -> int:
        before = oracle.asked.total()
        try_systems(Bench(config, tmp_path), plan or Plan(), [oracle.system("one", version)])
        return oracle.asked.total() - before

    assert ask() == 1
    assert ask() == 0
    assert ask(config.with_overrides({"workers": 1, "checkpoint_every": 3})) == 0
    assert ask(config.with_overrides({"fit.hidden": 9})) == 1
    assert ask(plan=Plan(seeds=(0, 7))) == 1  # seed 0 is known
    assert ask(plan=Plan(folds=3)) == 3
    assert ask(version="2") == 1
    retrained = tmp_path / "resnet"
    shutil.copytree(config.encoders.image, retrained)
    moved = config.with_overrides({"encoders.image": str(retrained)})
    assert ask(moved) == 1
    weights = load_file(retrained / "model.safetensors")
    save_file({name: value + 0.01 for name, value in weights.items()}, retrained / "model.safetensors")
    assert ask(moved) == 1
    monkeypatch.setattr("tmcr.experiments.bench.code_digest", lambda: "changed")
    assert ask(version="2") == 1


def test_answers_of_folds_are_put_back_in_the_order_of_the_photos(config: TrainConfig, tmp_path: Path) -> None:
    oracle = Oracle()
    found = try_systems(Bench(config, tmp_path), Plan(folds=3, repeats=(0, 1)), [oracle.system("one")])
    assert found.predicted["one"].shape == (2, 60, 5)
    assert np.array_equal(found.predicted["one"][0], found.held_out.photos.distributions)


def test_a_photo_on_both_sides_of_a_later_split_is_found_too(config: TrainConfig, tmp_path: Path) -> None:
    ratings = write_rated_photos(tmp_path / "photos", 12)
    rows = list(csv.reader(ratings.open()))
    copy = next(row for row in rows if row[1] == "theme 5")
    (ratings.parent / copy[0]).write_bytes((ratings.parent / rows[1][0]).read_bytes())  # now also in theme 0
    data = config.with_overrides({"data": f"csv:{ratings}"})
    themes = [row[1] for row in rows[1:]]

    def apart(repeat: int) -> bool:
        fold = dict(zip(themes, group_folds(themes, 2, seed=repeat), strict=True))
        return bool(fold["theme 0"] != fold["theme 5"])

    together, split = (next(repeat for repeat in range(99) if apart(repeat) == wanted) for wanted in (False, True))
    Bench(data, tmp_path / "out").passes(Plan(folds=2, repeats=(together,)))
    plan = Plan(folds=2, repeats=(together, split))
    with pytest.raises(LeakageError, match="--allow-leakage"):
        Bench(data, tmp_path / "out").passes(plan)
    allowed = Bench(data.with_overrides({"allow_leakage": True}), tmp_path / "out")
    assert "quote no number" in to_markdown(make_table("table4", try_systems(allowed, plan, names("constant"))))


def test_data_without_a_test_part_wants_folds(config: TrainConfig, tmp_path: Path) -> None:
    ratings = write_rated_photos(tmp_path / "photos", 20)
    ratings.write_text(ratings.read_text().replace(",test,", ",train,"))
    bench = Bench(config.with_overrides({"data": f"csv:{ratings}"}), tmp_path / "out")
    with pytest.raises(DataError, match="--folds 5"):
        bench.passes(Plan())


# ---- tables -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(outcome: Outcome) -> Table:
    return make_table("table4", outcome, ["a note"], "tmcr reproduce table4")


def test_every_table_can_be_made_and_has_its_rows(outcome: Outcome) -> None:
    for name, spec in TABLES.items():
        made = make_table(name, outcome)
        assert set(spec.systems) <= set(made.estimates)
        assert set(made.differences) == set(made.estimates) - {spec.reference}


def test_where_the_usual_reference_is_not_tried_the_last_row_is_one(shared_bench: Bench) -> None:
    made = make_table("table4", try_systems(shared_bench, Plan(), names("constant", "tags + ridge")))
    assert made.spec.reference == "tags + ridge"
    assert set(made.differences) == {"constant"}
    assert "ΔSRCC from tags + ridge" in to_markdown(made)


def test_measured_and_printed_numbers_never_share_a_block(table: Table) -> None:
    text = to_markdown(table)
    measured, quoted = [], []
    for line in text.splitlines():
        (quoted if line.startswith(">") else measured).append(line)
    assert any("TM-Net" in line for line in quoted)
    assert not any("TM-Net" in line for line in measured)
    assert not any("ridge" in line for line in quoted)
    assert any(line.startswith("> **paper, AVA") for line in quoted)
    assert "`tmcr reproduce table4`" in text
    for fact in ("data", "split", "machine", "wall-clock"):
        assert f"- {fact}: " in text
    assert "TM-Net" not in to_csv(table)
    assert "ridge" not in paper_csv(table)
    values = to_dict(table)
    assert set(values["measured"]) == set(table.estimates)
    assert set(values["printed in the paper"]["paper, AVA"]) == {"TM-Net", "CR-Net", "TM+CR LP", "TM+CR FT"}


def test_the_csv_holds_values_and_interval_ends(table: Table) -> None:
    rows = {row["system"]: row for row in csv.DictReader(to_csv(table).splitlines())}
    found = table.estimates["TM"]["srcc"]
    interval = found.interval()
    assert interval is not None
    assert found.value is not None
    assert [float(rows["TM"][f"srcc{end}"]) for end in ("", "_low", "_high")] == pytest.approx(
        [found.value, *interval], rel=1e-4
    )
    assert rows[FULL_FT]["srcc_difference"] == ""
    assert float(rows["TM"]["seconds"]) >= 0


def test_the_best_value_of_each_column_is_bold(table: Table) -> None:
    lines = [line for line in to_markdown(table).splitlines() if line.startswith("| ") and "**" in line]
    assert sum(line.count("**") // 2 for line in lines) == len(table.spec.metrics)
    best = min(table.estimates, key=lambda name: table.estimates[name]["mse"].value or 0)
    cell = next(line for line in to_markdown(table).splitlines() if line.startswith(f"| {best} |")).split("|")[5]
    assert cell.strip().startswith("**")


def test_latex_is_balanced_and_escaped(table: Table) -> None:
    text = to_latex(table)
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 2
    assert not re.search(r"(?<!\\)[%_#]", text.replace(r"\label{tab:", "").replace("table4", ""))
    columns = text.split(r"\begin{tabular}{l")[1].split("}")[0].count("c")
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert {line.count(" & ") for line in body} == {columns}


def test_a_table_without_a_balanced_draw_says_what_to_do(shared_bench: Bench) -> None:
    found = try_systems(shared_bench, Plan(), names("constant"), RegionRule(edges=(1.1, 1.2, 1.3, 1.4)))
    text = to_markdown(make_table("table3", found))
    assert "--edges" in text
    assert "held-out photos by region: many 0, med 0, few 12" in text


# ---- figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["figure5", "figure6", "figure7"])
def test_figures_come_with_their_data_and_without_photos(name: str, shared_bench: Bench, tmp_path: Path) -> None:
    wishes = Wishes(rule=WIDE, frequencies=(2, 1), command="tmcr reproduce")
    (figure,) = reproduce(name, shared_bench, Plan(seeds=(0, 1)), wishes)
    files = {path.suffix: path for path in write_reproduction(figure, tmp_path)}
    assert set(files) == {".png", ".svg", ".csv", ".json"}
    assert files[".png"].read_bytes().startswith(b"\x89PNG")
    drawing = files[".svg"].read_text()
    assert "data:image" not in drawing or name == "figure7"  # the colour bar of figure 7 is one
    about = json.loads(files[".json"].read_text())
    assert about["command"] == "tmcr reproduce"
    assert "machine" in about["facts"]
    rows = list(csv.DictReader(files[".csv"].open()))
    match name:
        case "figure5":
            assert {row["region"] for row in rows} == {"many", "med", "few"}
            assert sum(bar["photos"] for bar in about["training histogram"]) == 48
        case "figure6":
            assert [row["frequency"] for row in rows] == ["none", "1", "2"]
            assert float(rows[1]["srcc_gain"]) == 0
        case "figure7":
            assert Counter(row["space"] for row in rows)["semantic"] == 60
            for space in ("semantic", "attribute", "level"):
                assert [row["mark"] for row in rows if row["space"] == space and row["mark"]] != []
            assert len(about["marked"]) == 3
            assert about["marked"][0]["mean rating"] <= about["marked"][2]["mean rating"]
            assert {len(photo["semantic tags"]) for photo in about["marked"]} == {5}


def test_thumbnails_are_drawn_only_where_asked_for(shared_bench: Bench, tmp_path: Path) -> None:
    (figure,) = reproduce("figure7", shared_bench, Plan())
    pictures = []
    for thumbnails in (False, True):
        write_reproduction(figure, tmp_path, thumbnails=thumbnails)
        pictures.append((tmp_path / "figure7.svg").read_text().count("data:image"))
    assert pictures[1] == pictures[0] + 3


def test_a_cluster_that_is_not_there_is_refused(shared_bench: Bench) -> None:
    with pytest.raises(ConfigError, match="no cluster 99; there are 0"):
        list(reproduce("figure7", shared_bench, Plan(), Wishes(cluster=99)))


# ---- the command --------------------------------------------------------------------------------------------------


def brightness(paths: list[Path]) -> list[float]:
    from PIL import Image

    return [float(np.asarray(Image.open(path)).mean()) for path in paths]


@pytest.fixture
def tmcr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])

    def command(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["tmcr", "reproduce", *map(str, arguments)])
        code = 0
        try:
            run_command()
        except SystemExit as stop:
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return code, output.out, output.err

    return command


def test_the_command_puts_a_peer_into_the_same_table(
    config: TrainConfig, tmp_path: Path, tmcr: Callable[..., tuple[int, str, str]]
) -> None:
    settings = [f"{key}={value}" for key, value in SETTINGS.items() if key != "device"]
    settings += [f"encoders.image_text={config.encoders.image_text}", f"encoders.image={config.encoders.image}"]
    settings += [f"tags={config.tags}"]
    code, out, _ = tmcr(
        "table2", "--data", config.data, "--seeds", "2", "--out", tmp_path, "--device", "cpu",
        "--system", "tags + ridge", "--system", FULL_LP, "--also", f"{HERE}:brightness",
        *(part for setting in settings for part in ("--set", setting)),
    )  # fmt: skip
    assert code == 0
    assert "table2.md" in out
    rows = {row["system"]: row for row in csv.DictReader((tmp_path / "table2.csv").open())}
    assert list(rows) == ["tags + ridge", FULL_LP, f"{HERE}:brightness"]
    assert float(rows[f"{HERE}:brightness"]["srcc"]) > 0.5  # bright photos are liked here
    assert json.loads((tmp_path / "table2.json").read_text())["command"].startswith("tmcr reproduce table2 --data csv:")
    assert {path.name for path in tmp_path.glob("table2.*")} == {
        "table2.md", "table2.csv", "table2.tex", "table2.json", "table2.paper.csv",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["table9"], "there are table1"),
        (["table4", "--system", "magic"], "no system 'magic'"),
        (["table4", "--also", "nowhere_at_all:f"], "PYTHONPATH"),
        (["table4", "--seeds", "none"], "--seeds wants"),
        (["table4", "--repeats", "2"], "--folds 5"),
        (["table4", "--folds", "1"], "at least 2 folds"),
        (["table3", "--edges", "1,2"], "--edges wants"),
        (["table3", "--balanced", "none.csv"], "cannot read this list"),
        (["figure6", "--frequency", "0"], "1 or more"),
        (["table4", "--set", "rank.magic=1"], "no setting"),
        (["table4"], "no such ratings file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(
    arguments: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    tmcr: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, _, err = tmcr(*arguments, "--data", "csv:none.csv", "--out", "run")
    assert code == 2
    assert says in err
    assert err.count("\n") == 1


def test_names_become_names_of_files() -> None:
    assert slug("TM+CR FT, frequency 20") == "tm+cr-ft-frequency-20"
    assert slug("pyiqa:topiq_iaa") == "pyiqa-topiq-iaa"
    assert len({slug(name) for name in SYSTEMS}) == len(SYSTEMS)
    assert set(EXPERIMENTS) > {"table1", "table5", "figure7"}
