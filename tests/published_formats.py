"""Small rated sets written exactly in the formats that AVA, AADB, PARA, TAD66K and EVA are published in."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

VOTE_COLUMNS = [f"score{number}" for number in range(2, 12)]
AADB_LISTS = {"train": "Train", "val": "Validation", "test": "TestNew"}
PARA_SCORES = [1 + 0.5 * step for step in range(9)]


def photo(path: Path, seed: int) -> None:
    """A small JPEG, another one for every seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path, "JPEG")


def votes(seed: int, bins: int = 10) -> list[int]:
    """About 200 votes around a score that grows with the seed."""
    shares = np.exp(-((np.arange(bins) - (1 + seed % (bins - 2))) ** 2) / 4)
    return [int(count) + 1 for count in np.random.default_rng(seed).multinomial(200, shares / shares.sum())]


def write_ava(
    folder: Path,
    ids: Sequence[int],
    *,
    official: Sequence[int] = (),
    tanet_val: Sequence[int] = (),
    tanet_test: Sequence[int] = (),
    photos: str | None = "images",
) -> Path:
    """AVA.txt, the release's list of official test photos, TANet's two lists, names of tags and challenges, photos."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = {each: (votes(each), (each % 3, 0), 900 + each % 4) for each in ids}
    with (folder / "AVA.txt").open("w") as file:
        for number, (each, (counts, tags, challenge)) in enumerate(rows.items(), 1):
            file.write(" ".join(map(str, [number, each, *counts, *tags, challenge])) + "\n")
    (folder / "tags.txt").write_text("1 Abstract\n2 Still Life\n")
    (folder / "challenges.txt").write_text("900 100_Meters\n901 Blue\n902 At_Rest\n")
    (folder / "aesthetics_image_lists").mkdir(exist_ok=True)
    (folder / "aesthetics_image_lists" / "generic_test.jpgl").write_text("".join(f"{each}\n" for each in official))
    for part, listed in (("val", tanet_val), ("test", tanet_test)):
        write_tanet_list(folder / f"tanet_{part}.csv", {each: rows[each] for each in listed})
    for each in ids if photos else ():
        photo(folder / str(photos) / f"{each}.jpg", each)
    return folder


def write_tanet_list(path: Path, rows: dict[int, tuple[list[int], tuple[int, int], int]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image_id", *VOTE_COLUMNS, "tag1", "tag2", "tag3"])
        table.writerows([each, *counts, *tags, challenge] for each, (counts, tags, challenge) in rows.items())


def write_aadb(folder: Path, parts: dict[str, dict[str, float]], attributes: Sequence[str] = ("Light",)) -> Path:
    """The twelve-list layout with `name value` lines, photos of the new test part in their own folder."""
    lists = folder / "imgListFiles_label"
    lists.mkdir(parents=True)
    for part, scores in parts.items():
        (lists / f"imgList{AADB_LISTS[part]}Regression_score.txt").write_text(
            "".join(f"{name} {score}\n" for name, score in scores.items())
        )
        for attribute in attributes:
            (lists / f"imgList{AADB_LISTS[part]}Regression_{attribute}.txt").write_text(
                "".join(f"{name} {2 * score - 1}\n" for name, score in scores.items())
            )
        for number, name in enumerate(scores):
            where = "AADB_newtest_originalSize" if part == "test" else "datasetImages_originalSize"
            photo(folder / where / name, 1000 * len(part) + number)
    return folder


def write_para(folder: Path, train: int, test: int) -> Path:
    """annotation/PARA-Giaa{Train,Test}.csv with the published column names and imgs/<session>/<photo>."""
    (folder / "annotation").mkdir(parents=True)
    columns = [f"aestheticScore_{score:.1f}" for score in PARA_SCORES]
    start = 0
    for part, count in (("Train", train), ("Test", test)):
        with (folder / "annotation" / f"PARA-Giaa{part}.csv").open("w", newline="") as file:
            table = csv.writer(file)
            table.writerow(["imageName", "sessionId", "semantic", *columns, "aestheticScore_mean", "qualityScore_mean"])
            for number in range(start, start + count):
                counts = votes(number, 9)
                mean = float(np.average(PARA_SCORES, weights=counts))
                session, name = f"session{number // 2 + 1}", f"iaa_pub{number}_.jpg"
                table.writerow([name, session, "scene", *map(float, counts), mean, mean / 2])
                photo(folder / "imgs" / session / name, number)
        start += count
    return folder


def write_tad66k(folder: Path, train: dict[str, float], test: dict[str, float]) -> Path:
    """merge/ and unmerge/ lists of `image,score`, photos in TAD66K/."""
    for part, scores in (("train", train), ("test", test)):
        for path in (folder / "merge" / f"{part}.csv", folder / "unmerge" / part / "art.csv"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("image,score\n" + "".join(f"{name},{score}\n" for name, score in scores.items()))
        for number, name in enumerate(scores):
            photo(folder / "TAD66K" / name, 10 * len(part) + number)
    return folder


def write_eva(folder: Path, scores: dict[int, Sequence[int]], *, photos: bool = True) -> Path:
    """data/votes_filtered.csv, `=` between columns and a vote a line, kinds, photos in images/EVA_together/."""
    (folder / "data").mkdir(parents=True)
    lines = ["image_id=user_id=score=difficulty=visual=composition=quality=semantic=vote_time"]
    for image, given in scores.items():
        lines += [f"{image}={user}={score}=2=3=1=4=2=6.5" for user, score in enumerate(given)]
    (folder / "data" / "votes_filtered.csv").write_text("\n".join(lines) + "\n")
    kinds = "".join(f'"{image}","{1 + number % 6}"\n' for number, image in enumerate(scores))
    (folder / "data" / "image_content_category.csv").write_text(f'"image_id","category"\n{kinds}')
    for image in scores if photos else ():
        photo(folder / "images" / "EVA_together" / f"{image}.jpg", image)
    return folder
