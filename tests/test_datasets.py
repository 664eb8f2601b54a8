"""Ratings in all the forms that people keep them in, as one manifest."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import entropy, norm

from tmcr.datasets import Manifest, load_manifest
from tmcr.datasets.distributions import distributions_from_means
from tmcr.datasets.leakage import check_leakage, leaks
from tmcr.datasets.splits import carve_validation, group_folds, split_by_group
from tmcr.errors import DataError, LeakageError

Table = Callable[..., str]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """Write a ratings file; returns its SPEC."""

    def write(text: str | bytes, name: str = "ratings.csv", query: str = "") -> str:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / name).write_bytes(data)
        return f"csv:{tmp_path / name}{query}"

    return write


def test_votes_become_shares_on_a_scale_stretched_to_1_10(table: Table, tmp_path: Path) -> None:
    manifest = load_manifest(
        table("file,votes_1,votes_2,votes_3,votes_4,votes_5,split\na.jpg,1,0,0,0,3,train\nb.jpg,0,0,2,0,0,test\n")
    )
    assert manifest.paths == (tmp_path / "a.jpg", tmp_path / "b.jpg")
    np.testing.assert_allclose(manifest.score_values, [1, 3.25, 5.5, 7.75, 10])
    np.testing.assert_allclose(manifest.distributions[0], [0.25, 0, 0, 0, 0.75])
    np.testing.assert_allclose(manifest.scores, [0.25 * 1 + 0.75 * 10, 5.5])
    assert manifest.votes is not None
    assert manifest.votes.tolist() == [4, 2]
    assert manifest.splits == ("train", "test")
    assert manifest.description == "2 photos, 1..5, votes, split by column"


@pytest.mark.parametrize(
    ("means", "low", "high"),
    [([0.1, 0.9], 0, 1), ([1, 4.9], 1, 5), ([1.5, 6.2], 1, 7), ([2, 9.5], 1, 10), ([0.5, 9], 0, 10), ([3, 87], 0, 100)],
)
def test_the_scale_of_means_is_found_and_stretched(means: list[float], low: float, high: float, table: Table) -> None:
    rows = "".join(f"{number}.jpg,{mean}\n" for number, mean in enumerate(means))
    manifest = load_manifest(table(f"image,mean\n{rows}"))
    np.testing.assert_allclose(manifest.scores, [1 + 9 * (mean - low) / (high - low) for mean in means], atol=1e-6)
    said = load_manifest(table(f"image,mean\n{rows}", query="?scale=0-200"))
    np.testing.assert_allclose(said.scores, [1 + 9 * mean / 200 for mean in means], atol=1e-6)


def test_columns_are_found_by_name_or_named_by_options(table: Table, tmp_path: Path) -> None:
    text = "Photo;How good;spread;Kind\nx.png;3;1;lake\ny.png;4;0.5;lake\n"
    spec = table(text, "odd.txt", f"?file=Photo&mean=How good&std=spread&group=Kind&sep=;&scale=1-5&root={tmp_path}/in")
    manifest = load_manifest(spec)
    assert manifest.paths[0] == tmp_path / "in" / "x.png"
    assert manifest.groups == ("lake", "lake")
    np.testing.assert_allclose(manifest.scores, [5.5, 7.75], atol=1e-6)
    spread = np.sqrt((manifest.distributions * (manifest.score_values - manifest.scores[:, None]) ** 2).sum(1))
    assert spread[0] > spread[1]
    tabs = load_manifest(table("file\tscore\na.jpg\t0.5\n", "r.tsv"))
    assert tabs.ids == ("a.jpg",)


def test_files_from_spreadsheets_are_read(table: Table) -> None:
    bom = load_manifest(table(b'\xef\xbb\xbffile,mean\r\n\xc3\xa4.jpg,5\r\n"a, ""b"".jpg",6\r\n'))
    assert bom.ids == ("ä.jpg", 'a, "b".jpg')
    numbered = load_manifest(table("1,2,3,id\n5,0,0,a.jpg\n0,0,5,b.jpg\n"))
    np.testing.assert_allclose(numbered.scores, [1, 10])


@pytest.mark.parametrize(
    ("separator", "header"), [(";", '"mean, of all";file'), ("\t", "mean;a\tfile"), (",", '"a;b",file')]
)
def test_the_separator_is_that_of_the_header(separator: str, header: str, table: Table) -> None:
    name = header.partition(separator)[0].strip('"')
    spec = table(f"\n{header}\n5{separator}a.jpg\n6{separator}b.jpg\n", query=f"?mean={name.replace(';', '%3B')}")
    assert load_manifest(spec).ids == ("a.jpg", "b.jpg")


def test_decimal_commas_are_understood_in_means_and_not_in_votes(table: Table) -> None:
    manifest = load_manifest(table("file;mean;sd\na.jpg;5,5;0,5\nb.jpg;7;1\n", query="?std=sd&scale=1-10"))
    np.testing.assert_allclose(manifest.scores, [5.5, 7], atol=1e-6)
    with pytest.raises(DataError, match=r"row 3, column mean: '1\.234,5' has a point, other rows a decimal comma"):
        load_manifest(table("file;mean\na.jpg;5,3\nb.jpg;1.234,5\n"))
    with pytest.raises(DataError, match="row 2, column v1: '1,234' is no number"):
        load_manifest(table("file;v1;v2;v3\na.jpg;1,234;2;3\n"))


@pytest.mark.parametrize(
    ("encoding", "query"),
    [("utf-16", ""), ("utf-8-sig", ""), ("cp1252", "?encoding=cp1252"), ("utf-16-be", "?encoding=utf-16-be")],
)
def test_a_table_is_read_in_its_encoding(encoding: str, query: str, table: Table) -> None:
    assert load_manifest(table("file;größe;mean\nä.jpg;1;5,3\n".encode(encoding), query=query)).ids == ("ä.jpg",)


@pytest.mark.parametrize(
    ("data", "query", "says"),
    [
        ("file,mean\na.jpg,5\nä.jpg,6\n".encode("cp1252"), "", r"row 3: is not in UTF-8; .*\?encoding=cp1252"),
        ("größe,file,mean\n1,a.jpg,5\n".encode("cp1252"), "", "row 1: is not in UTF-8"),
        (b"file,mean\n\x81.jpg,5\n", "?encoding=cp1252", "row 2: is not in CP1252"),
        ("file,mean\na.jpg,5\n".encode("utf-16-le"), "", "is no text .*export it as CSV in UTF-8"),
        (b"file,mean\na.jpg,5\n", "?encoding=klingon", "there is no encoding 'klingon'"),
        (b"file,mean\na.jpg,5\n", "?encoding=hex", "there is no encoding 'hex'"),
        (b"file|mean\na.jpg|5\n", "", r"is one column, 'file\|mean'; say what separates columns"),
    ],
)
def test_a_table_in_another_form_says_what_to_do(data: bytes, query: str, says: str, table: Table) -> None:
    with pytest.raises(DataError, match=rf"ratings\.csv.*{says}") as caught:
        load_manifest(table(data, query=query))
    assert "\n" not in str(caught.value)


def test_parquet_is_read_and_a_manifest_survives_it(table: Table, tmp_path: Path) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table({"file": ["a.jpg", "b.jpg"], "mos": [3.0, 4.0]}), tmp_path / "r.parquet")
    manifest = load_manifest(f"csv:{tmp_path / 'r.parquet'}")
    assert manifest.ids == ("a.jpg", "b.jpg")
    for each in (manifest, load_manifest(table("file,theme,v1,v2,v3\na.jpg,x,1,2,3\nb.jpg,y,0,0,1\n"))):
        each.save(tmp_path / "manifest.parquet")
        again = Manifest.load(tmp_path / "manifest.parquet")
        assert again.fingerprint == each.fingerprint
        assert (again.groups, again.description) == (each.groups, each.description)
        assert (again.votes is None) == (each.votes is None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read"),
        ("file,mean\n", "no row"),
        ("a,b\n1,2\n", "which column names the photo"),
        ("file,colour\na.jpg,red\n", "neither votes"),
        ("file,mean\na.jpg,5\na.jpg,6\n", "row 3: a.jpg stands in row 2"),
        ("file,mean\n,5\n", "row 2: no file"),
        ("file,mean\na.jpg,5\nb.jpg,\n", "row 3, column mean"),
        ("file,mean\na.jpg,nan\n", "row 2, column mean"),
        ("file,mean\na.jpg,good\n", "'good' is no number"),
        ("file,mean\na.jpg,-5\n", "fit no usual scale"),
        ("file,v1,v2,v3\na.jpg,1,-1,2\n", "row 2: a count of votes is negative"),
        ("file,v1,v2,v3\na.jpg,1,1,2\nb.jpg,0,0,0\n", "row 3: has no vote"),
        ("file,mean,split\na.jpg,5,holdout\n", "row 2: split 'holdout'"),
        ("file,mean,mean\na.jpg,5,6\n", "same name"),
    ],
)
def test_mistakes_are_named_with_file_and_row(text: str, says: str, table: Table) -> None:
    with pytest.raises(DataError) as caught:
        load_manifest(table(text))
    assert says in str(caught.value)
    assert "ratings.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("?scale=5", "LOW-HIGH"),
        ("?scale=7-3", "LOW-HIGH"),
        ("?mean=none", "no column 'none'"),
        ("?colour=1", "no option"),
    ],
)
def test_wrong_options_are_refused(query: str, says: str, table: Table) -> None:
    with pytest.raises(DataError, match=says):
        load_manifest(table("file,mean\na.jpg,5\n", query=query))
    with pytest.raises(DataError, match="do not fit the scale"):
        load_manifest(table("file,mean\na.jpg,5\n", query="?scale=6-9"))


def test_oasis_is_read_as_published(shared_data: Path) -> None:
    manifest = load_manifest(f"oasis@{shared_data / 'oasis'}")
    assert len(manifest) == 383
    assert manifest.splits.count("test") == 85
    assert manifest.splits.count("train") == 298
    assert all(path.is_file() for path in manifest.paths)
    np.testing.assert_allclose(manifest.score_values, [1, 2.5, 4, 5.5, 7, 8.5, 10])
    assert manifest.groups is not None
    themes = {
        split: {g for g, s in zip(manifest.groups, manifest.splits, strict=True) if s == split}
        for split in ("train", "test")
    }
    assert not themes["train"] & themes["test"]
    assert manifest.scores.min() == pytest.approx(2.28, abs=0.01)
    assert manifest.scores.max() == pytest.approx(9.26, abs=0.01)


def test_a_distribution_made_from_a_mean_has_that_mean_and_is_the_nearest_such_to_the_normal_one() -> None:
    values = np.arange(1.0, 11.0)
    means = np.array([1.0, 1.3, 3.77, 5.5, 8.2, 9.9, 10.0])
    shares = distributions_from_means(means, values)
    np.testing.assert_allclose(shares.sum(1), 1)
    np.testing.assert_allclose(shares @ values, means, atol=1e-6)
    base = norm.pdf(values, 8.2, 1.4)
    base /= base.sum()
    ours = entropy(shares[4], base)
    rng = np.random.default_rng(0)
    for _ in range(200):  # other distributions with the same mean are further from the normal one
        step = rng.normal(0, 0.01, 10)
        step -= step.mean()
        step -= (values - 5.5) * (step @ (values - 5.5)) / ((values - 5.5) ** 2).sum()
        other = shares[4] + step * shares[4].min() / np.abs(step).max()
        assert other @ values == pytest.approx(8.2, abs=1e-6)
        assert entropy(other, base) >= ours
    wide = distributions_from_means(np.array([5.5, 5.5]), values, np.array([0.5, 2.0]))
    spread = np.sqrt((wide * (values - 5.5) ** 2).sum(1))
    np.testing.assert_allclose(spread, [0.5, 2.0], rtol=0.08)


def manifest_of(groups: list[str], splits: list[str] | None = None) -> Manifest:
    count = len(groups)
    return Manifest(
        ids=tuple(f"{number}.jpg" for number in range(count)),
        paths=tuple(Path(f"{number}.jpg") for number in range(count)),
        distributions=np.full((count, 2), 0.5),
        score_values=np.array([1.0, 10.0]),
        splits=tuple(splits or ["train"] * count),
        groups=tuple(groups),
    )


def test_a_group_is_never_torn_apart() -> None:
    groups = [f"g{number // 3}" for number in range(90)]
    for seed in range(5):
        marked = split_by_group(groups, 0.2, seed=seed)
        assert {g for g, m in zip(groups, marked, strict=True) if m}.isdisjoint(
            g for g, m in zip(groups, marked, strict=True) if not m
        )
        assert 12 <= marked.sum() <= 18
        fold = group_folds(groups, 5, seed=seed)
        assert np.bincount(fold).tolist() == [18] * 5
        assert all(len({f for g, f in zip(groups, fold, strict=True) if g == name}) == 1 for name in set(groups))
    assert split_by_group(groups, 0.2, seed=0).tolist() == split_by_group(groups, 0.2, seed=0).tolist()
    assert split_by_group(groups, 0.2, seed=0).tolist() != split_by_group(groups, 0.2, seed=1).tolist()
    assert split_by_group(["a", "b"], 0.01, seed=0).sum() == 1  # never none


def test_validation_is_carved_from_training_photos_only() -> None:
    groups = [f"g{number // 2}" for number in range(60)]
    splits = ["train" if number < 40 else "test" for number in range(60)]
    carved = carve_validation(manifest_of(groups, splits), 0.2, seed=0)
    assert carved.splits[40:] == ("test",) * 20
    assert 4 <= carved.splits.count("val") <= 8
    assert carve_validation(carved, 0.4, seed=1).splits == carved.splits  # one is there already


@pytest.mark.parametrize(
    "rows", ["a.jpg,3,x\n", "a.jpg,3,x\nb.jpg,4,y\nc.jpg,5,z\n", "a.jpg,3,x\nb.jpg,4,x\nc.jpg,5,x\n"]
)
def test_too_few_photos_to_split_are_refused_with_how_many_it_takes(rows: str, table: Table) -> None:
    manifest = load_manifest(table(f"file,mean,theme\n{rows}"))
    with pytest.raises(DataError, match=r"too few photos to split, . would be left .* at least 4 in 3 groups"):
        carve_validation(manifest, 0.15, seed=0)
    assert carve_validation(load_manifest(table("file,mean\nd.jpg,3\ne.jpg,5\nf.jpg,5\ng.jpg,3\n")), 0.15, seed=0)


def test_a_test_photo_that_was_trained_on_is_found_by_its_content() -> None:
    manifest = manifest_of(["a", "b", "c", "d"], ["train", "val", "test", "test"])
    assert leaks(manifest, ["1", "2", "3", "4"]) == []
    assert check_leakage(manifest, ["1", "2", "3", "3"]) == []  # twice in the test part is no leak
    with pytest.raises(LeakageError, match=r"2 test photos.*0\.jpg = 2\.jpg, 1\.jpg = 3\.jpg.*--allow-leakage"):
        check_leakage(manifest, ["1", "2", "1", "2"])
    assert check_leakage(manifest, ["1", "2", "1", "4"], allow=True) == [("0.jpg", "2.jpg")]


def test_a_manifest_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(DataError, match="1 splits"):
        manifest_of(["a", "b"], ["train"])
    with pytest.raises(DataError, match="is none of"):
        load_manifest("imagenet@/data")
    with pytest.raises(DataError, match=r"no ratings\.csv"):
        load_manifest("oasis@/nowhere")
