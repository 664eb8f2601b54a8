"""Scoring from an S3-compatible store that is named in the environment, as MinIO, Ceph or R2 would be."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from fsspec.config import set_conf_env
from hostile_photos import scene
from photo_servers import s3_server
from pyarrow import parquet
from scoring_stand_in import StandIn

from tmcr.assessment import Assessment
from tmcr.errors import DataError
from tmcr.results import read_results
from tmcr.scoring import photo as photo_module
from tmcr.scoring.run import Plan, open_run

pytest.importorskip("s3fs", reason="s3fs is not installed (pip install s3fs)")
NAMES = ("a.jpg", "b.png", "sub/c.jpg")
SOURCES = ("photos/", "shards/*.tar", "table.parquet")


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one bucket: three photos as they are, in two shards, and in a table."""
    buckets = tmp_path_factory.mktemp("buckets")
    bucket = buckets / "bucket"
    for number, name in enumerate(NAMES):
        path = bucket / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        scene(160, 120, seed=number).save(path)
    (bucket / "shards").mkdir()
    for shard in range(2):
        with tarfile.open(bucket / "shards" / f"{shard}.tar", "w") as archive:
            for name in NAMES:
                archive.add(bucket / "photos" / name, name)
    data = [(bucket / "photos" / name).read_bytes() for name in NAMES]
    parquet.write_table(pa.table({"image": data}), bucket / "table.parquet")
    return buckets


@pytest.fixture
def settings(buckets: Path) -> Iterator[dict[str, str]]:
    """A server for the buckets; yields the environment that tells fsspec of it."""
    with s3_server(buckets) as endpoint:
        yield {
            "FSSPEC_S3_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_EC2_METADATA_DISABLED": "true",
        }


@pytest.fixture
def store(settings: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same for this process."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    before = dict(fsspec.config.conf)
    set_conf_env(fsspec.config.conf)
    photo_module.file_system.cache_clear()
    yield
    fsspec.config.conf.clear()
    fsspec.config.conf.update(before)
    photo_module.file_system.cache_clear()


def test_the_command_finds_the_store_in_the_environment(
    buckets: Path, settings: dict[str, str], tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "from tmcr.cli.main import run; run()", "score"]
    sources = [f"s3://bucket/{source}" for source in SOURCES]
    command += [*sources, "--out", str(tmp_path / "r")]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    rows = list(read_results(tmp_path / "r"))
    assert [row.photo for row in rows] == [
        *(f"s3://bucket/photos/{name}" for name in NAMES),
        *(f"s3://bucket/shards/{shard}.tar#{name}" for shard in range(2) for name in NAMES),
        *(f"s3://bucket/table.parquet#{row}" for row in range(3)),
    ]
    assert {row.content_hash for row in rows[3:]} == {row.content_hash for row in rows[:3]}
    assert len({row.score for row in rows}) == 3


def test_rows_are_those_of_the_same_files_on_disk(buckets: Path, store: None, tmp_path: Path) -> None:
    from_store = scored([f"s3://bucket/{source}" for source in SOURCES], tmp_path / "store")
    from_disk = scored([str(buckets / "bucket" / source) for source in SOURCES], tmp_path / "disk")
    assert [row.score for row in from_store] == [row.score for row in from_disk]


def test_a_run_that_was_stopped_goes_on_and_a_missing_object_is_a_row(
    buckets: Path, store: None, tmp_path: Path
) -> None:
    sources = ["s3://bucket/shards/0.tar", "s3://bucket/photos/nothing.jpg", "s3://bucket/shards/1.tar"]
    with pytest.raises(DataError, match="--max-errors 0"):
        scored(sources, tmp_path / "r", max_errors=0)
    rows = scored(sources, tmp_path / "r")
    assert [row.photo.rpartition("/")[2] for row in rows] == [
        *("0.tar#" + name if "/" not in name else "c.jpg" for name in NAMES),
        "nothing.jpg",
        *("1.tar#" + name if "/" not in name else "c.jpg" for name in NAMES),
    ]
    assert [row.error_reason for row in rows] == [None, None, None, "missing", None, None, None]


def test_a_shard_that_was_replaced_meanwhile_is_noticed(
    buckets: Path, store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = buckets / "bucket" / "other.tar"
    shutil.copy(buckets / "bucket" / "shards" / "0.tar", shard)
    sources = ["s3://bucket/other.tar", "s3://bucket/photos/nothing.jpg"]
    with pytest.raises(DataError, match="--max-errors 0"):
        scored(sources, tmp_path / "r", max_errors=0)
    with shard.open("ab") as file:
        file.write(bytes(512))
    fsspec.filesystem("s3").invalidate_cache()
    with pytest.raises(DataError, match="the photos changed; --restart"):
        scored(sources, tmp_path / "r")


def scored(sources: list[str], out: Path, **options: int) -> list[Assessment]:
    with open_run(StandIn(), Plan(sources, out, batch_size=2, **options)) as run:  # type: ignore[arg-type]
        run.complete()
    return list(read_results(out))
