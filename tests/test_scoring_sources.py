"""Wherever photos are, they are found in a fixed order and get the same scores; what cannot be read is a row."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pyarrow as pa
import pytest
from photo_servers import http_server, s3_server
from PIL import Image
from pyarrow import parquet
from scoring_stand_in import StandIn

from tmcr.assessment import Assessment
from tmcr.assessor import Assessor, load
from tmcr.errors import ConfigError
from tmcr.images import ImageLimits
from tmcr.results import read_results
from tmcr.scoring import photo as photo_module
from tmcr.scoring.listing import list_sources, listed_photos
from tmcr.scoring.numbering import SPAN
from tmcr.scoring.photo import Photo
from tmcr.scoring.rows import RowSet
from tmcr.scoring.run import Plan, open_run

NAMES = ("a.jpg", "b.png", "sub/c.webp")


@pytest.fixture(scope="module")
def starter() -> Assessor:
    return load("starter", device="cpu", workers=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, one in a folder of its own, and a file that is none."""
    here = tmp_path_factory.mktemp("bucket") / "photos"
    (here / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in NAMES:
        rough = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
        rough.resize((210, 150)).save(here / name)
    (here / "notes.txt").write_text("no photo")
    return here


@pytest.fixture(scope="module")
def plain(folder: Path, starter: Assessor) -> list[float]:
    return [starter.assess(folder / name).score for name in NAMES]


def write_tar(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def listed(sources: list[str], tmp_path: Path, **options: object) -> list[Photo]:
    settings = {"column": None, "limits": ImageLimits(), "done": RowSet(), "shard_rows": {}} | options
    list_sources(sources, tmp_path / "listing")
    return list(listed_photos(tmp_path / "listing", **settings))  # type: ignore[arg-type]


def scored(assessor: Assessor, sources: list[str], out: Path, **options: object) -> list[Assessment]:
    with open_run(assessor, Plan(sources, out, batch_size=2, **options)) as run:  # type: ignore[arg-type]
        run.complete()
    return list(read_results(out))


@pytest.fixture
def wrapped(request: pytest.FixtureRequest, folder: Path, tmp_path: Path) -> Iterator[list[str]]:
    """The same three photos in one of many wrappers."""
    contents = {name: (folder / name).read_bytes() for name in NAMES}
    match request.param:
        case "folder":
            yield [str(folder)]
        case "glob":
            yield [str(folder / "*.[jp][pn]g"), str(folder / "**" / "*.webp")]
        case "list":
            (tmp_path / "names.txt").write_text("".join(f"{folder / name}\n" for name in NAMES) + "\n")
            yield [f"@{tmp_path / 'names.txt'}"]
        case "tar" | "tgz":
            mode = "w" if request.param == "tar" else "w:gz"
            extra = {"a.json": b"{}", "a.cls": b"3", "._a.jpg": b"a fork"}
            yield [str(write_tar(tmp_path / f"shard.{request.param}", contents | extra, mode))]
        case "parquet":
            table = pa.table({"id": [1, 2, 3], "photo_bytes": pa.array(contents.values(), pa.binary())})
            parquet.write_table(table, tmp_path / "bytes.parquet")
            yield [str(tmp_path / "bytes.parquet")]
        case "parquet, Hugging Face":
            rows = [{"bytes": data, "path": name} for name, data in contents.items()]
            parquet.write_table(pa.table({"image": rows, "label": [0, 1, 2]}), tmp_path / "hf.parquet")
            yield [str(tmp_path / "hf.parquet")]
        case "parquet, paths":
            parquet.write_table(pa.table({"path": [str(folder / name) for name in NAMES]}), tmp_path / "p.parquet")
            yield [str(tmp_path / "p.parquet")]
        case "file:":
            yield [f"file://{folder}"]
        case "memory:":
            memory = fsspec.filesystem("memory")
            for name, data in contents.items():
                memory.pipe(f"/scored/{name}", data)
            yield ["memory://scored/?.*", "memory://scored/sub"]
            memory.rm("/scored", recursive=True)
        case "memory: shard":
            write_tar(tmp_path / "shard.tar", contents)
            fsspec.filesystem("memory").pipe("/shards/0.tar", (tmp_path / "shard.tar").read_bytes())
            yield ["memory://shards/*.tar"]
            fsspec.filesystem("memory").rm("/shards", recursive=True)
        case "http:":
            pytest.importorskip("aiohttp")
            with http_server(folder) as address:
                yield [f"{address}/{name}" for name in NAMES]
        case "http: folder and shard":
            pytest.importorskip("aiohttp")
            write_tar(folder.parent / "last.tar", {NAMES[2]: contents[NAMES[2]]})
            with http_server(folder.parent) as address:
                yield [f"{address}/photos/", f"{address}/last.tar"]
        case "s3:":
            pytest.importorskip("s3fs")
            with s3_server(folder.parent.parent) as endpoint:
                fsspec.config.conf["s3"] = {"anon": True, "endpoint_url": endpoint, "use_listings_cache": False}
                photo_module.file_system.cache_clear()
                bucket = folder.parent.name
                yield [f"s3://{bucket}/photos/*.jpg", f"s3://{bucket}/photos/b.png", f"s3://{bucket}/photos/sub/"]
                del fsspec.config.conf["s3"]
            photo_module.file_system.cache_clear()


WRAPPERS = (
    "folder", "glob", "list", "tar", "tgz", "parquet", "parquet, Hugging Face", "parquet, paths",
    "file:", "memory:", "memory: shard", "http:", "s3:",
)  # fmt: skip


@pytest.mark.parametrize("wrapped", WRAPPERS, indirect=True)
def test_scores_are_the_same_whatever_the_photos_are_wrapped_in(
    wrapped: list[str], starter: Assessor, plain: list[float], tmp_path: Path
) -> None:
    verdicts = scored(starter, wrapped, tmp_path / "results")
    assert [verdict.error for verdict in verdicts] == [None] * 3
    np.testing.assert_allclose([verdict.score for verdict in verdicts], plain, atol=1e-5)


@pytest.mark.parametrize("wrapped", ["http: folder and shard"], indirect=True)
def test_a_web_page_with_links_is_a_folder(
    wrapped: list[str], starter: Assessor, plain: list[float], tmp_path: Path
) -> None:
    verdicts = scored(starter, wrapped, tmp_path / "results")
    assert [verdict.photo.rpartition("/")[2] for verdict in verdicts] == ["a.jpg", "b.png", "c.webp", "c.webp"]
    np.testing.assert_allclose([verdict.score for verdict in verdicts], [*plain, plain[2]], atol=1e-5)


def test_names_say_where_a_photo_is(folder: Path, tmp_path: Path) -> None:
    data = (folder / "a.jpg").read_bytes()
    shard = write_tar(tmp_path / "s.tar", {"x/1.jpg": data, "../../up.jpg": data})
    parquet.write_table(pa.table({"img": [data], "n": [1]}), tmp_path / "b.parquet")
    pairs = [(data, "cat.jpg"), (None, str(folder / "b.png")), (None, None)]
    hugging_face = [{"bytes": content, "path": path} for content, path in pairs]
    parquet.write_table(pa.table({"image": hugging_face}), tmp_path / "h.parquet")
    sources = [str(shard), str(tmp_path / "b.parquet"), str(tmp_path / "h.parquet")]
    photos = listed(sources, tmp_path)
    assert [photo.name for photo in photos] == [
        f"{shard}#x/1.jpg", f"{shard}#../../up.jpg", f"{sources[1]}#0", f"{sources[2]}#0:cat.jpg",
        str(folder / "b.png"), f"{sources[2]}#2",
    ]  # fmt: skip
    assert [divmod(photo.row, SPAN) for photo in photos] == [(0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2)]
    assert photos[5].error.reason == "empty"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["b.parquet", "h.parquet", "listing", "s.tar"]


def test_only_regular_members_are_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE):
            member = tarfile.TarInfo("evil.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert listed([str(tmp_path / "s.tar")], tmp_path) == []


def test_a_member_beyond_the_limit_is_passed_over(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", {"big.jpg": bytes(3000), "small.jpg": b"small"})
    big, small = listed([str(shard)], tmp_path, limits=ImageLimits(max_bytes=2000))
    assert (big.error.reason, big.data) == ("too_large", None)
    assert small.data == b"small"


def test_columns_are_found_by_name_and_type_or_named(folder: Path, tmp_path: Path) -> None:
    data = [(folder / "a.jpg").read_bytes()]
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"mask": [b"m"], "image": data, "url": ["memory://x"]}), path)
    assert listed([str(path)], tmp_path)[0].data == data[0]
    assert listed([str(path)], tmp_path, column="mask")[0].data == b"m"
    assert listed([str(path)], tmp_path, column="url")[0].where == "memory://x"
    assert "'masks' is not there" in listed([str(path)], tmp_path, column="masks")[0].error.detail
    parquet.write_table(pa.table({"left": data, "right": data}), path)
    assert "--column" in listed([str(path)], tmp_path)[0].error.detail


def test_damage_ends_a_shard_in_one_row_and_not_the_run(folder: Path, tmp_path: Path) -> None:
    data = (folder / "b.png").read_bytes()
    whole = write_tar(tmp_path / "whole.tar", {f"{n}.png": data for n in range(4)}).read_bytes()
    size = 512 + -(-len(data) // 512) * 512
    (tmp_path / "cut inside.tar").write_bytes(whole[: 2 * size + 700])
    (tmp_path / "cut between.tar").write_bytes(whole[: 2 * size])
    (tmp_path / "scratched.tar").write_bytes(whole[: 2 * size] + b"\xff" * 512 + whole[2 * size + 512 :])
    for name in ("cut inside", "cut between", "scratched"):
        photos = listed([str(tmp_path / f"{name}.tar"), str(folder / "a.jpg")], tmp_path)
        assert [photo.error is None for photo in photos] == [True, True, False, True], name
        assert photos[2].error.reason == "unreadable"
        assert "beyond its first 2 photos" in photos[2].error.detail
    none = {"no.tar": b"no archive", "empty.tar": b"", "no.parquet": b"PAR1", "no.tgz": b"\x1f\x8b"}
    for name, content in none.items():
        (tmp_path / name).write_bytes(content)
        (photo,) = listed([str(tmp_path / name)], tmp_path)
        assert "the shard cannot be read" in photo.error.detail
    (photo,) = listed([str(tmp_path / "gone.tar")], tmp_path)
    assert photo.error.reason == "missing"


def test_photos_that_cannot_be_had_are_rows(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photo_module, "_PAUSE", 0)
    sources = [str(folder / "gone.jpg"), "memory://gone.jpg", "http://127.0.0.1:9/x.jpg", str(folder / "a.jpg")]
    pytest.importorskip("aiohttp")
    with http_server(folder) as address:
        verdicts = scored(StandIn(), [*sources, f"{address}/gone.jpg"], tmp_path / "results")
    assert [verdict.photo for verdict in verdicts[:4]] == sources
    assert [verdict.error_reason for verdict in verdicts] == ["missing", "missing", "unreadable", None, "missing"]
    assert "after 3 attempts" in verdicts[2].error


def test_a_stumbling_server_is_asked_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([OSError("reset"), TimeoutError("slow"), io.BytesIO((folder / "a.jpg").read_bytes())])

    def stumble(url: str) -> io.BytesIO:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    monkeypatch.setattr(photo_module, "_PAUSE", 0)
    monkeypatch.setattr(photo_module, "open_url", stumble)
    assert Photo(0, "x", "s3://bucket/a.jpg").read(ImageLimits()).data == (folder / "a.jpg").read_bytes()


def test_names_come_from_standard_input_and_lists_as_they_stand(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = os.fsdecode(b"caf\xe9 [1].jpg")
    (tmp_path / "list").write_bytes(os.fsencode(f"{odd}\r\n\n  two  spaces.jpg\n"))
    assert [photo.name for photo in listed([f"@{tmp_path / 'list'}"], tmp_path)] == [odd, "  two  spaces.jpg"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a.jpg\ncaf\xe9.jpg\n"), encoding="utf-8"))
    assert [photo.name for photo in listed(["-"], tmp_path)] == ["a.jpg", os.fsdecode(b"caf\xe9.jpg")]
    with pytest.raises(ConfigError, match="list cannot be read"):
        list_sources(["@nowhere.txt"], tmp_path / "listing")
    (folder.parent / "@at.jpg").write_bytes(b"x")
    monkeypatch.chdir(folder.parent)
    assert [photo.name for photo in listed(["@at.jpg"], tmp_path)] == ["@at.jpg"]


def test_a_url_without_its_plug_in_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="plug-in"):
        list_sources(["carrierpigeon://coop/1.jpg"], tmp_path / "listing")


def test_what_a_listing_amounts_to(folder: Path, tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "s.tar", {"1.jpg": b"x"})
    parquet.write_table(pa.table({"image": [b"x"] * 5}), tmp_path / "t.parquet")
    survey = list_sources([str(folder), str(tmp_path / "t.parquet")], tmp_path / "listing")
    assert (survey.entries, survey.photos) == (4, 8)
    assert survey.shard_bytes == (tmp_path / "t.parquet").stat().st_size
    with_tar = list_sources([str(folder), str(shard)], tmp_path / "listing")
    assert (with_tar.entries, with_tar.photos) == (4, None)
    again = list_sources([str(folder), str(shard)], tmp_path / "listing")
    assert again == with_tar
    os.utime(shard, ns=(1, 1))
    assert list_sources([str(folder), str(shard)], tmp_path / "listing").digest != with_tar.digest


def test_shards_that_are_done_are_not_opened_again(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / f"{n}.tar", {f"{i}.jpg": b"x" for i in range(3)}) for n in range(2)]
    counted: dict[str, int] = {}
    assert len(listed([str(shard) for shard in shards], tmp_path, shard_rows=counted)) == 6
    assert counted == {str(shard): 3 for shard in shards}
    list_sources([str(shard) for shard in shards], tmp_path / "listing")
    shards[0].unlink()
    left = listed_photos(
        tmp_path / "listing",
        column=None,
        limits=ImageLimits(),
        shard_rows=counted,
        done=RowSet([[0, 3], [SPAN, SPAN + 1]]),
    )
    assert [(photo.row - SPAN, photo.name) for photo in left] == [
        (1, f"{shards[1]}#1.jpg"),
        (2, f"{shards[1]}#2.jpg"),
    ]
