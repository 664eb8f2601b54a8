"""AVA (Murray et al. 2012): 255,530 contest photos with their votes 1..10, under one of its two test splits.

Expected under FOLDER (the first of each that is there):

- AVA.txt: `AVA.txt`, `AVA_dataset/AVA.txt`, `labels/AVA.txt`. One photo a line: index, image id, votes for 1..10,
  two tag ids (0: none), challenge id.
- photos `<image id>.jpg`: `images/`, `image/`, `AVA_dataset/images/`, `AVA_dataset/image/`, `images/images/`.
- official split: `official_test_ids.txt`, or `aesthetics_image_lists/generic_test.jpgl` of the release, also under
  `AVA_dataset/` or `labels/`: one id a line. All other photos are for training. 70 of the 20,000 ids have no votes.
- TANet's split: `tanet_test.csv` and `tanet_val.csv`, or `test.csv` and `val.csv`, also under `tanet/` or
  `labels/`; their `score2` … `score11` are the votes for 1..10, `tag3` is the challenge. All other photos are for
  training. Without AVA.txt the lists speak for themselves, `tanet_train.csv` or `train.csv` included.
- names of tags and challenges, where wanted: `tags.txt`, `challenges.txt`.

90 % of the official test photos are in TANet's training part: no model may be trained on one and tested on the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tmcr.datasets.manifest import Manifest
from tmcr.datasets.tables import (
    find_file,
    find_optional,
    find_photos_folder,
    numbers,
    read_table,
    refuse_repeated,
    refuse_unrated,
    require_columns,
)
from tmcr.errors import DataError

SPLITS = ("official", "tanet")
SCORE_VALUES = np.arange(1.0, 11.0)
PHOTO_FOLDERS = ("images", "image", "AVA_dataset/images", "AVA_dataset/image", "images/images")
_PLACES = ("", "AVA_dataset/", "labels/", "tanet/", "ava_labels/")
_VOTES = tuple(f"score{number}" for number in range(2, 12))
_RELEASE = "it comes with the AVA release, which github.com/imfing/ava_downloader mirrors"
_LISTS = "github.com/woshidandan/TANet-image-aesthetics-and-quality-assessment has it"


@dataclass(frozen=True)
class _Table:
    """Labels as published: ids (N,), votes (N, 10), tag ids (N, 2), challenge ids (N,)."""

    ids: NDArray[np.int64]
    votes: NDArray[np.int64]
    tags: NDArray[np.int64]
    challenges: NDArray[np.int64]


def load_ava(folder: Path, split: str, photos: Path | None = None) -> Manifest:
    """Read AVA under `split` "official" or "tanet"; photos of one challenge are one group.

    Raises:
        DataError: a file is missing or is not as published.
    """
    if split == "official":
        table = _read_votes(_find_votes(folder))
        tested = _read_ids(_find_official(folder))
        splits = np.where(np.isin(table.ids, tested), "test", "train")
        left_out = len(tested) - int((splits == "test").sum())
        note = f" ({left_out} listed ids have no votes)" if left_out else ""
    elif split == "tanet":
        table, splits = _read_tanet(folder)
        note = ""
    else:
        raise DataError(
            f"ava has two splits that must not be mixed: write ava:official@FOLDER or ava:tanet@FOLDER, not {split!r}"
        )
    images = photos or find_photos_folder(folder, PHOTO_FOLDERS)
    ids = tuple(map(str, table.ids.tolist()))
    counts = table.votes.sum(1)
    parts = ", ".join(f"{int((splits == part).sum()):,} {part}" for part in ("train", "val", "test"))
    return Manifest(
        ids=ids,
        paths=tuple(images / f"{photo}.jpg" for photo in ids),
        distributions=table.votes / counts[:, None],
        score_values=SCORE_VALUES,
        splits=tuple(splits.tolist()),
        groups=tuple(
            f"challenge {challenge}" if challenge else f"photo {photo}"
            for photo, challenge in zip(ids, table.challenges.tolist(), strict=True)
        ),
        votes=counts,
        attributes=_attributes(table, folder),
        source=f"ava:{split}",
        namespace="ava",
        description=f"AVA, {split} split: {len(ids):,} photos ({parts}){note}, 1..10, votes",
    )


def _find_votes(folder: Path) -> Path:
    return find_file(folder, [f"{place}AVA.txt" for place in _PLACES[:3]], "AVA.txt", _RELEASE)


def _find_official(folder: Path) -> Path:
    names = ("official_test_ids.txt", "aesthetics_image_lists/generic_test.jpgl")
    places = [f"{place}{name}" for place in _PLACES for name in names]
    return find_file(folder, places, "list of the official test photos", _RELEASE)


def _find_tanet(folder: Path, part: str) -> Path | None:
    return find_optional(folder, [f"{place}{name}.csv" for place in _PLACES for name in (f"tanet_{part}", part)])


def _read_votes(path: Path) -> _Table:
    try:
        rows = np.loadtxt(path, dtype=np.int64, ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is not as published ({str(error).splitlines()[0][:120]}); {_RELEASE}") from None
    if rows.shape[1] != 15:
        raise DataError(f"{path}: has {rows.shape[1]} columns instead of 15; {_RELEASE}")
    refuse_repeated(rows[:, 1].tolist(), path)
    refuse_unrated(rows[:, 2:12], path, first_row=1)
    return _Table(rows[:, 1], rows[:, 2:12], rows[:, 12:14], rows[:, 14])


def _read_ids(path: Path) -> NDArray[np.int64]:
    try:
        ids = np.loadtxt(path, dtype=np.int64, ndmin=1)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: is no list of image ids ({str(error).splitlines()[0][:120]})") from None
    if ids.ndim != 1:
        raise DataError(f"{path}: is no list of image ids, one a line")
    return np.unique(ids)


def _read_tanet(folder: Path) -> tuple[_Table, NDArray[np.str_]]:
    """Labels and the part of each photo; the lists' own labels where there is no AVA.txt."""
    found = {part: _find_tanet(folder, part) for part in ("train", "val", "test")}
    if found["test"] is None or found["val"] is None:
        part = "test" if found["test"] is None else "val"
        raise DataError(f"{folder} has no tanet_{part}.csv or {part}.csv; {_LISTS}")
    listed = {part: _read_list(path) for part, path in found.items() if path is not None}
    for one, other in (("val", "test"), ("train", "test"), ("train", "val")):
        if one in listed and len(both := np.intersect1d(listed[one].ids, listed[other].ids)):
            raise DataError(
                f"{found[one]}: {len(both)} photos are also in {found[other]} ({both[0]}, …); take TANet's lists"
            )
    votes = find_optional(folder, [f"{place}AVA.txt" for place in _PLACES[:3]])
    if votes is not None:
        table = _read_votes(votes)
        splits = np.full(len(table.ids), "train", dtype="<U5")
        for part in ("val", "test"):
            splits[np.isin(table.ids, listed[part].ids)] = part
        return table, splits
    parts = [listed[part] for part in listed]
    table = _Table(
        np.concatenate([each.ids for each in parts]),
        np.concatenate([each.votes for each in parts]),
        np.concatenate([each.tags for each in parts]),
        np.concatenate([each.challenges for each in parts]),
    )
    return table, np.repeat(np.array(list(listed)), [len(each.ids) for each in parts])


def _read_list(path: Path) -> _Table:
    columns = read_table(path)
    require_columns(columns, ("image_id", *_VOTES), path)

    def integers(name: str) -> NDArray[np.int64]:
        if name not in columns:
            return np.zeros(len(columns["image_id"]), dtype=np.int64)
        return numbers(columns[name], name, path).astype(np.int64)

    columns["image_id"] = [str(value).removesuffix(".jpg") for value in columns["image_id"]]
    refuse_repeated(columns["image_id"], path)
    votes = np.stack([integers(name) for name in _VOTES], 1)
    refuse_unrated(votes, path, first_row=2)
    return _Table(integers("image_id"), votes, np.stack([integers("tag1"), integers("tag2")], 1), integers("tag3"))


def _attributes(table: _Table, folder: Path) -> dict[str, NDArray[Any]]:
    """The challenge, and the tags joined by commas, under their names where those are at hand."""
    tags = _names(folder, "tags.txt", np.unique(table.tags).tolist(), "tag")
    challenges = _names(folder, "challenges.txt", np.unique(table.challenges).tolist(), "challenge")
    labels: Iterable[Sequence[int]] = table.tags.tolist()
    return {
        "tags": np.array([", ".join(tags[tag] for tag in pair if tag) for pair in labels], dtype=object),
        "challenge": np.array([challenges[each] if each else "" for each in table.challenges.tolist()], dtype=object),
    }


def _names(folder: Path, file: str, ids: Iterable[int], what: str) -> dict[int, str]:
    """Names of ids from a file of lines "id name"; "tag 7" where it does not say."""
    names = {number: f"{what} {number}" for number in ids}
    path = find_optional(folder, [f"{place}{file}" for place in _PLACES])
    if path is not None:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            number, _, name = line.strip().partition(" ")
            if number.isdigit() and name:
                names[int(number)] = name.replace("_", " ")
    return names
