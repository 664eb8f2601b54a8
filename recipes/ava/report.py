"""The rehearsal as a page."""

from __future__ import annotations

from typing import Any

from cost import lines

INTRODUCTION = """\
# A rehearsal of AVA

What the pipeline costs besides its encoders when it meets as many photos as AVA has, on a small machine; and a
projection of what the encoders cost on a GPU. It measures time, memory and disk, not accuracy: the photos are made.
Back to [reproducing the paper](../reproducing.md).
"""
STAGES_TEXT = """\
## Stages

Each ran in a process of its own. Peak memory is that of the whole process: PyTorch, what earlier stages left, mapped
files. Disk is what the stage leaves.

| stage | measured | time | peak memory | disk |
|---|---|---|---|---|"""
PROJECTION_TEXT = """\
## The real run: a projection

Arithmetic is counted by `torch.utils.flop_counter` on the real architectures, one photo, a multiply–add as two;
`python recipes/ava/cost.py` prints it alone. None of it was run on a GPU.
"""


def markdown(found: dict[str, Any]) -> str:
    """The page for what `rehearse.py` found."""
    facts = {name: each["facts"] for name, each in found["stages"].items()}
    seconds = {name: each["seconds"] for name, each in found["stages"].items()}
    peaks = {name: each["peak"] for name, each in found["stages"].items()}
    rows = _rows(facts, seconds)
    out = [INTRODUCTION, "```sh", found["command"], "```", "", *_conditions(found, facts), "", STAGES_TEXT]
    out += [
        f"| {name} | {what} | {_time(took)} | {peaks[name] / 2**30:.2f} GiB | {_size(facts[name]['disk'])} |"
        for name, (what, took) in rows.items()
    ]
    out += ["", *_findings(facts, seconds, max(peaks[name] for name in rows)), "", PROJECTION_TEXT]
    out += [*lines(facts["cost"]["projection"]), "", *_decoders(facts, seconds)]
    return "\n".join(out) + "\n"


def _conditions(found: dict[str, Any], facts: dict[str, Any]) -> list[str]:
    prepared, tags = facts["prepare"], facts["similarities"]["shape"][1]
    return [
        f"- labels: {prepared['labels']}; seed 0; TANet's split ({_parts(facts['labels']['tanet'])})",
        f"- photos: {prepared['photos']:,} different JPEGs of 24 × 16 pixels in one folder; a photo's score shows in "
        "it, as a ramp of brightness",
        "- encoders: for CLIP a photo's 768 pixel values, and tags as random directions; for Swin-B a vision "
        "transformer of one layer, with as wide a feature (1,024)",
        f"- tags: the first {tags:,} of the shipped libraries, as many as the paper's",
        "- preset `paper` as a linear probe, all stages through the project's own run; "
        f"{facts['rank']['updates']} updates of ranking and {facts['fit']['steps']:,} steps of fitting, not all",
        f"- machine: {found['machine']}; load {found['load']:.1f} at the start",
        f"- {found['seconds'] / 60:.0f} minutes in all",
    ]


def _rows(facts: dict[str, Any], seconds: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """Stage → what was measured, and its seconds."""
    decoded, clustered, sampled = facts["decode"], facts["cluster"], facts["sampling"]
    photos, tags = facts["similarities"]["shape"]
    what = {
        "labels": f"AVA.txt and lists read, both splits (official: {_parts(facts['labels']['official'])})",
        "decode": f"{decoded['photos']} photos of 640 × 480 pixels, {decoded['file_bytes'] / 1e3:.0f} kB, on one core, "
        "for either encoder",
        "match": "all photos hashed, decoded, embedded, stored, checked for leaks",
        "cluster": f"similarities of {clustered['rows']:,} photos to {clustered['columns']:,} tags, K-means into "
        f"{len(clustered['sizes'])} kinds, their names and quantiles",
        "similarities": f"{photos:,} × {tags:,} written as a float16 map, read again and assigned to kinds",
        "sampling": f"all {sampled['epochs'] * sampled['batches_per_epoch']:,} balanced batches of "
        f"{sampled['epochs']} epochs",
        "rank": f"{facts['rank']['updates']} updates of 15 balanced batches, photos decoded anew",
        "fit": f"features of all photos, standardisation ({_time(seconds['fit']['features'])}); one pass over the "
        f"training photos ({_time(seconds['fit']['epochs'])})",
        "evaluate": f"{facts['evaluate']['photos']:,} test photos, 1,000 resamples of challenges",
        "model": "model folder written and read",
    }
    return {name: (text, sum(seconds[name].values())) for name, text in what.items()}


def _findings(facts: dict[str, Any], seconds: dict[str, Any], peak: float) -> list[str]:
    sampled, match, rank, similar = (facts[name] for name in ("sampling", "match", "rank", "similarities"))
    updates = sampled["epochs"] * -(-sampled["batches_per_epoch"] // 15)
    per_update = seconds["rank"]["rank"] / rank["updates"]
    per_step = seconds["fit"]["epochs"] / facts["fit"]["steps"]
    levels = ", ".join(f"{each:,}" for each in sampled["levels"])
    return [
        f"- **Memory**: {peak / 2**30:.1f} GiB at most.",
        f"- **No row got mixed up**: SRCC {facts['evaluate']['srcc']:.3f} on test photos that show their score. Below "
        "0.3 the command fails.",
        f"- **Match** leaves {_size(match['embeddings'])} of embeddings as an array and {_size(match['store'])} in the "
        "feature store that other runs share.",
        f"- **Similarities** need not be kept. As float16 they take {_size(similar['disk'])}, and with them "
        f"{100 * similar['same_kind']:.2f} % of the photos stay in the same kind.",
        f"- **Sampling**: {sampled['batches_per_epoch']} batches an epoch, {sampled['photos_per_batch']:.1f} photos in "
        f"one on average ({sampled['smallest_batch']} at least), {min(sampled['n_bal'])} to {max(sampled['n_bal'])} of "
        f"each level; {sampled['left_out']} kinds are left out because all their photos are of one level.",
        f"  Training photos by level: {levels}. The rarest level's few come again and again: in {sampled['epochs']} "
        f"epochs one photo is drawn {sampled['most_often']:,} times, and {100 * sampled['photos_used']:.0f} % of all "
        "photos once or more.",
        f"- **Rank** takes {per_update:.2f} s an update with the stand-in; all {updates:,} updates would take "
        f"{_time(per_update * updates)}. Loss {rank['first_loss']:.1f} → {rank['last_loss']:.1f}.",
        f"- **Fit** takes {1000 * per_step:.0f} ms a step, validation included; 15 passes would take "
        f"{_time(15 * seconds['fit']['epochs'])}.",
    ]


def _decoders(facts: dict[str, Any], seconds: dict[str, Any]) -> list[str]:
    """How many cores keep the GPU fed, from the decoding measured on one."""
    count = facts["decode"]["photos"]
    match, view = (count / seconds["decode"][name] for name in ("match", "view"))
    needed = [
        f"{each['match'] / match:.0f} cores for match and {each['train'] / view:.0f} for rank and FT beside an {gpu}"
        for gpu, each in facts["cost"]["projection"]["rates"].items()
    ]
    return [
        f"**Decoding.** One core of this machine hashes, decodes and prepares {match:.0f} photos of AVA's size a "
        f"second for CLIP, and {view:.0f} random views for Swin-B (extrapolated from {count} photos): one pass "
        f"over AVA is {255_530 / match / 3600:.1f} core hours. The GPU waits unless there are {', '.join(needed)}.",
    ]


def _parts(parts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {part}" for part, count in parts.items() if count)


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _size(size: float) -> str:
    if size < 1e6:
        return f"{size / 1e3:.0f} kB" if size else "–"
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"
