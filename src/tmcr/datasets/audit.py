"""Whether a download is what was published: counts, photos, labels, and what its parts share with each other.

Three levels: a *problem* spoils numbers (photos of the test part in the training part, labels that are not the
published ones, many photos missing), a *warning* is worth knowing before one quotes a number, a *note* is for
information.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl

import numpy as np

from tmcr.datasets import load_manifest
from tmcr.datasets.leakage import leaks
from tmcr.datasets.manifest import PARTS, Manifest
from tmcr.errors import ConfigError, ImageError
from tmcr.images import content_hash, decode
from tmcr.streaming import ordered_map

Level = Literal["problem", "warning", "note"]

# Photos in each part of the sets as published; TAD66K's counts are those of its lists.
PUBLISHED: dict[str, dict[str, int]] = {
    "ava:official": {"train": 235_600, "val": 0, "test": 19_930},
    "ava:tanet": {"train": 229_979, "val": 12_775, "test": 12_776},
    "aadb": {"train": 8_458, "val": 500, "test": 1_000},
    "para": {"train": 28_220, "val": 0, "test": 3_000},
    "tad66k:merge": {"train": 52_248, "val": 0, "test": 14_079},
    "eva": {"all": 4_070},
}
LOST_SHARE = 0.005  # missing or unreadable photos up to this share of a part leave its numbers comparable
ODD_SHARE = 0.001  # lists that leave out the handful of unusable photos differ by less than this
FEW_VOTES = 10
MOST_LISTED = 1000  # names in a finding, beyond which nobody would read on
DECODED_SIDE = 32
_LEARNT_PARTS = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class Finding:
    """One thing to know.

    Attributes:
        kind: machine-readable: "counts", "labels", "missing", "unreadable", "duplicates", "leakage", "parts".
        message: one line for people.
        photos: names of the photos it is about, at most `MOST_LISTED`.
    """

    level: Level
    kind: str
    message: str
    photos: tuple[str, ...] = ()


@dataclass(frozen=True)
class PhotoCheck:
    """A photo file: its content hash, or the reason and the detail why it cannot be used."""

    content: str | None
    reason: str = ""
    detail: str = ""


@dataclass
class SetAudit:
    """What was found in one set.

    Attributes:
        spec: as given.
        description: the manifest's.
        counts: photos in each part.
        published: the same as published, where it is known.
        labels: smallest, mean and largest score, mean spread of the ratings, smallest and median number of votes.
        photos: how many were read, missing, unreadable; None where they were not looked at.
        leaks: (photo of a training part, photo of the test part) with the same content.
    """

    spec: str
    description: str
    counts: dict[str, int] = field(default_factory=dict)
    published: dict[str, int] | None = None
    labels: dict[str, float] = field(default_factory=dict)
    photos: dict[str, int] | None = None
    leaks: list[tuple[str, str]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


@dataclass(frozen=True)
class Overlap:
    """Photos that two sets share, for every two parts: (part of first, part of second) → number.

    Attributes:
        by_id: where the ids of both mean the same photos, else None.
        by_content: where the photos of both were read, else None.
    """

    first: str
    second: str
    by_id: dict[tuple[str, str], int] | None
    by_content: dict[tuple[str, str], int] | None


@dataclass
class Audit:
    sets: list[SetAudit]
    overlaps: list[Overlap]
    findings: list[Finding]  # about the sets together

    @property
    def all_findings(self) -> list[tuple[str, Finding]]:
        """Findings with the set that they are about ("" for all together), problems first."""
        everything = [(each.spec, finding) for each in self.sets for finding in each.findings]
        everything += [("", finding) for finding in self.findings]
        order = {"problem": 0, "warning": 1, "note": 2}
        return sorted(everything, key=lambda pair: order[pair[1].level])

    @property
    def ok(self) -> bool:
        """Nothing was found that would spoil numbers."""
        return all(finding.level != "problem" for _, finding in self.all_findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""

        def pairs(shared: dict[tuple[str, str], int] | None) -> dict[str, int] | None:
            return None if shared is None else {f"{one}/{other}": number for (one, other), number in shared.items()}

        return {
            "ok": self.ok,
            "sets": [asdict(each) for each in self.sets],
            "overlaps": [
                {
                    "first": each.first,
                    "second": each.second,
                    "by_id": pairs(each.by_id),
                    "by_content": pairs(each.by_content),
                }
                for each in self.overlaps
            ],
            "findings": [asdict(finding) for finding in self.findings],
        }


def read_sets(specs: Iterable[str]) -> dict[str, Manifest]:
    """Each SPEC's manifest.

    Raises:
        DataError: one cannot be read.
    """
    return {spec: load_manifest(spec) for spec in specs}


def refuse_ratings(out: Path, specs: Iterable[str]) -> None:
    """Refuse to write over a ratings file of `specs`.

    Raises:
        ConfigError: `out` is one.
    """
    for spec in specs:
        name = spec.removeprefix("csv:").partition("?")[0]
        if spec.startswith("csv:") and Path(name).expanduser().resolve() == out.resolve():
            raise ConfigError(f"{out}: is the ratings file itself; choose another place")


def audit(
    sets: Mapping[str, Manifest],
    *,
    photos: bool = True,
    workers: int = 1,
    watch: Callable[[], None] = lambda: None,
) -> Audit:
    """Audit sets.

    Args:
        sets: by SPEC.
        photos: look at every photo file too.
        workers: threads that read photos.
        watch: called after each photo.
    """
    results = [_audit_labels(spec, manifest) for spec, manifest in sets.items()]
    contents: dict[str, list[str | None]] = {}
    if photos:
        for result in results:
            contents[result.spec] = _audit_photos(result, sets[result.spec], workers, watch)
    overlaps = [
        _overlap(one, other, sets, contents)
        for one, other in itertools.combinations(sets, 2)
        if photos or (sets[one].namespace and sets[one].namespace == sets[other].namespace)
    ]
    findings = [finding for each in overlaps for finding in _forbidden(each, sets)]
    return Audit(results, overlaps, findings)


def check_photo(path: Path) -> PhotoCheck:
    """Read a photo file to its end and decode it, small."""
    try:
        content = content_hash(path)
        decode(path, target_side=DECODED_SIDE)
    except ImageError as error:
        return PhotoCheck(None, error.reason, error.detail)
    return PhotoCheck(content)


def _audit_labels(spec: str, manifest: Manifest) -> SetAudit:
    counts = {part: manifest.splits.count(part) for part in PARTS}
    result = SetAudit(spec, manifest.description, counts, PUBLISHED.get(manifest.source))
    spread = np.sqrt((manifest.distributions * (manifest.score_values - manifest.scores[:, None]) ** 2).sum(1))
    result.labels = {
        "lowest": float(manifest.scores.min()),
        "mean": float(manifest.scores.mean()),
        "highest": float(manifest.scores.max()),
        "spread": float(spread.mean()),
    }
    if manifest.votes is not None:
        result.labels |= {
            "fewest votes": float(manifest.votes.min()),
            "median votes": float(np.median(manifest.votes)),
        }
    options = dict(parse_qsl(spec.partition("?")[2]))
    if result.published is not None and not {"subset", "exclude"} & set(options):
        result.findings += _count_findings(counts, result.published)
    result.findings += _label_findings(manifest)
    return result


def _count_findings(counts: dict[str, int], published: dict[str, int]) -> list[Finding]:
    there = {"all": sum(counts.values())} | counts
    findings = []
    for part, expected in published.items():
        if there[part] == expected:
            continue
        message = f"{part}: {there[part]:,} photos instead of the {expected:,} published"
        if part != "val" and abs(there[part] - expected) > ODD_SHARE * expected:
            findings.append(Finding("problem", "counts", f"{message}; numbers cannot be compared with others'"))
        else:
            findings.append(Finding("warning", "counts", f"{message}; say so where you quote numbers"))
    return findings


def _label_findings(manifest: Manifest) -> list[Finding]:
    findings = []

    def found(level: Level, kind: str, message: str, rows: Iterable[int] = ()) -> None:
        names = tuple(manifest.ids[row] for row in itertools.islice(rows, MOST_LISTED))
        findings.append(Finding(level, kind, message, names))

    shares = manifest.distributions
    broken = np.flatnonzero(~(np.isfinite(shares).all(1) & (shares >= 0).all(1) & (np.abs(shares.sum(1) - 1) < 1e-6)))
    if len(broken):
        found("problem", "labels", f"photos without a distribution of ratings: {len(broken):,}", broken)
    outside = np.flatnonzero(~((manifest.scores >= 1 - 1e-6) & (manifest.scores <= 10 + 1e-6)))
    if len(outside):
        found("problem", "labels", f"scores outside 1..10: {len(outside):,}", outside)
    repeated = {photo for photo, times in Counter(manifest.ids).items() if times > 1}
    if repeated:
        rows = (row for row, photo in enumerate(manifest.ids) if photo in repeated)
        found("problem", "labels", f"ids that stand more than once: {len(repeated):,}", rows)
    if len(manifest) > 1 and np.ptp(manifest.scores) < 1e-9:
        found("problem", "labels", "all photos have the same score")
    if manifest.votes is None:
        found("note", "labels", "only means are published: distributions are derived, EMD is not against real votes")
    elif len(few := np.flatnonzero(manifest.votes < FEW_VOTES)):
        found("warning", "labels", f"photos with fewer than {FEW_VOTES} votes: {len(few):,}", few)
    for part, use in (("train", "trained on"), ("test", "tested on")):
        if part not in manifest.splits:
            found("warning", "parts", f"no photo is marked {part!r}: it cannot be {use}")
    if manifest.groups is not None:
        inside: dict[str, set[str]] = {part: set() for part in PARTS}
        for group, split in zip(manifest.groups, manifest.splits, strict=True):
            inside[split].add(group)
        tested = inside["test"]
        if torn := tested & (inside["train"] | inside["val"]):
            where = " or ".join(name for part, name in _LEARNT_PARTS.items() if tested & inside[part])
            found(
                "note", "parts", f"groups of the test part that are also in {where}: {len(torn):,} of {len(tested):,}"
            )
    return findings


def _audit_photos(result: SetAudit, manifest: Manifest, workers: int, watch: Callable[[], None]) -> list[str | None]:
    """Fill in what the photo files are like; returns the content hash of each photo, None where it has none."""
    contents: list[str | None] = []
    lost: dict[str, list[int]] = {"missing": [], "unreadable": []}
    first_detail: dict[str, str] = {}
    for row, check in enumerate(ordered_map(check_photo, manifest.paths, workers=workers, ahead=8 * workers)):
        contents.append(check.content)
        if check.content is None:
            kind = "missing" if check.reason == "missing" else "unreadable"
            lost[kind].append(row)
            first_detail.setdefault(kind, f"{manifest.paths[row]}: {check.detail}")
        watch()
    result.photos = {"read": sum(content is not None for content in contents)}
    for kind, rows in lost.items():
        result.photos[kind] = len(rows)
        if rows:
            result.findings.append(_lost_finding(kind, rows, manifest, first_detail[kind]))

    rows_of: dict[str, list[int]] = defaultdict(list)
    for row, content in enumerate(contents):
        if content is not None:
            rows_of[content].append(row)
    copies = [rows for rows in rows_of.values() if len(rows) > 1]
    result.photos["repeated"] = sum(len(rows) - 1 for rows in copies)
    kept = np.array([row for row, content in enumerate(contents) if content is not None], dtype=np.int64)
    result.leaks = leaks(manifest.take(kept), [content for content in contents if content is not None])
    if result.leaks:
        tested = len({photo for _, photo in result.leaks})
        result.findings.append(
            Finding(
                "problem",
                "leakage",
                f"test photos that are, byte for byte, also in a training part: {tested:,}; see --exclusions",
                tuple(f"{learnt} = {photo}" for learnt, photo in result.leaks[:MOST_LISTED]),
            )
        )
    alike = [rows for rows in copies if len({manifest.splits[row] == "test" for row in rows}) == 1]
    if alike:
        result.findings.append(
            Finding(
                "warning",
                "duplicates",
                f"copies of another photo of the same part: {sum(len(rows) - 1 for rows in alike):,}",
                tuple(" = ".join(manifest.ids[row] for row in rows) for rows in alike[:MOST_LISTED]),
            )
        )
    return contents


def _lost_finding(kind: str, rows: list[int], manifest: Manifest, detail: str) -> Finding:
    splits = Counter(manifest.splits)
    lost = Counter(manifest.splits[row] for row in rows)
    worst = max(lost[part] / splits[part] for part in lost)
    parts = ", ".join(f"{lost[part]:,} of {splits[part]:,} {part}" for part in PARTS if lost[part])
    message = f"{kind} photos: {parts} (the first: {detail})"
    if kind == "missing" and len(rows) == len(manifest):
        message = f"no photo is where it should be (the first: {manifest.paths[0]}); say where with ?images=FOLDER"
    names = tuple(manifest.ids[row] for row in rows[:MOST_LISTED])
    return Finding("problem" if worst > LOST_SHARE else "warning", kind, message, names)


def _overlap(one: str, other: str, manifests: Mapping[str, Manifest], contents: dict[str, list[str | None]]) -> Overlap:
    first, second = manifests[one], manifests[other]
    by_id = by_content = None
    if first.namespace and first.namespace == second.namespace:
        by_id = _shared(first.ids, first.splits, second.ids, second.splits)
    if one in contents and other in contents:
        by_content = _shared(contents[one], first.splits, contents[other], second.splits)
    return Overlap(one, other, by_id, by_content)


def _shared(
    first: Sequence[str | None], first_parts: Sequence[str], second: Sequence[str | None], second_parts: Sequence[str]
) -> dict[tuple[str, str], int]:
    """How many different keys are in a part of the first and in a part of the second, for every two parts."""
    keys: list[dict[str, set[str]]] = []
    for names, parts in ((first, first_parts), (second, second_parts)):
        inside: dict[str, set[str]] = {part: set() for part in PARTS}
        for name, part in zip(names, parts, strict=True):
            if name is not None:
                inside[part].add(name)
        keys.append(inside)
    return {(a, b): len(keys[0][a] & keys[1][b]) for a in PARTS for b in PARTS if keys[0][a] and keys[1][b]}


def _forbidden(overlap: Overlap, manifests: Mapping[str, Manifest]) -> list[Finding]:
    """Which of the two sets must not be tested with a model trained on the other."""
    findings = []
    counts = [counted for counted in (overlap.by_id, overlap.by_content) if counted is not None]
    for trained, tested, turn in (
        (overlap.first, overlap.second, lambda learnt: (learnt, "test")),
        (overlap.second, overlap.first, lambda learnt: ("test", learnt)),
    ):
        seen = max(sum(each.get(turn(part), 0) for part in ("train", "val")) for each in counts)
        total = manifests[tested].splits.count("test")
        if seen and total:
            findings.append(
                Finding(
                    "warning",
                    "leakage",
                    f"a model trained on {trained} has seen {seen:,} of the {total:,} test photos "
                    f"({100 * seen / total:.1f} %) of {tested}: never test it there",
                )
            )
    return findings
