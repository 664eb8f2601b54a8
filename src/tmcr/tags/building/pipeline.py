"""From comments to tag libraries (the paper's Figure 3), in steps that each leave one file in the build's folder.

    clean.txt        words of each comment                                      clean
    counts.tsv       words and phrases with their occurrences                   count
    candidates.tsv   those that could be tags                                   propose
    labels.tsv       library, facet, polarity of each                           classify
    merged.tsv       misspellings brought together                              merge
    review.tsv       for a person to decide                                     review
    libraries/       semantic and attribute, .txt and .tsv, and library.json    freeze

A step is skipped while what it depends on is unchanged; a killed build goes on at the step it was in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from tmcr.errors import TagError
from tmcr.tags.building.clean import clean
from tmcr.tags.building.count import WIDTH, count_phrases, write_counts
from tmcr.tags.building.freeze import freeze, save_frozen
from tmcr.tags.building.label import Label, facets_of
from tmcr.tags.building.llm import Endpoint, Estimate, LlmClassifier
from tmcr.tags.building.merge import Merged, merge
from tmcr.tags.building.offline import Embed, OfflineClassifier, labelled_tags
from tmcr.tags.building.opposites import find_opposites
from tmcr.tags.building.propose import Candidate, propose
from tmcr.tags.building.review import Reviewed, read_review, rows_from, with_decisions, write_review
from tmcr.tags.building.step import Step, file_hash
from tmcr.tags.building.table import read_table, write_table
from tmcr.tags.check import NEAR, near_duplicates
from tmcr.tags.comments import Reading, read_comments
from tmcr.tags.library import TagLibraries

RULES = 1  # raised when a step's rules change, so that older output is not taken for current


class Bar(Protocol):
    def advance(self, amount: int = 1) -> None: ...


Watch = Callable[[str, int | None], AbstractContextManager[Bar]]


@dataclass(frozen=True)
class BuildOptions:
    """What a build can be told.

    Attributes:
        field: field or column of the comments.
        english_only: skip comments in other languages.
        least: occurrences that a candidate needs.
        strength: collocation strength (NPMI) that a phrase needs.
        most: candidates at most.
        sure: keep what nobody reviewed where the classifier's confidence is at least this; over 1 keeps nothing.
        workers: processes.
        width: phrases between two prunings of the counts; see `tmcr.tags.building.count`.
    """

    field: str = "comment"
    english_only: bool = True
    least: int = 5
    strength: float = 0.2
    most: int = 10_000
    sure: float = 0.3
    workers: int = 1
    width: int = WIDTH


@dataclass(frozen=True)
class Built:
    """What a build made.

    Attributes:
        libraries: frozen.
        folder: where they are.
        review: the table that decides on them.
        undecided: rows that nobody has decided on.
    """

    libraries: TagLibraries
    folder: Path
    review: Path
    undecided: int


class Build:
    """One build in one folder."""

    def __init__(
        self,
        comments: Sequence[Path],
        out: Path,
        options: BuildOptions | None = None,
        *,
        known: TagLibraries | None = None,
        embed: Embed | None = None,
        embed_name: str = "",
        endpoint: Endpoint | None = None,
        approve: Callable[[Estimate], None] = lambda _: None,
        watch: Watch | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Nothing is done yet.

        Args:
            known: libraries whose labels, facets and opposites are learnt from; by default those shipped.
            embed: texts → (T, E), L2-normalised, for the offline classifier and the review's `like` column.
            embed_name: what `embed` is, as part of the inputs of the steps that use it.
            endpoint: classify with this language model.
            approve: gets the cost before anything is asked; raises where it is too much.
            watch: opens a progress bar for a step and its size.
            say: gets one line for each step.
        """
        self.comments = list(comments)
        self.out = out
        self.options = options or BuildOptions()
        self.known = known or TagLibraries.default()
        self._embed, self._embed_name = embed, embed_name
        self._endpoint, self._approve = endpoint, approve
        self._watch = watch or _unwatched
        self._say = say

    def run(self) -> Built:
        """Do what is not done yet.

        Raises:
            DataError: the comments cannot be used.
            TagError: the review cannot be understood, the endpoint fails, or nothing is left for a library.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        review = self.out / "review.tsv"
        before = read_review(review) if review.exists() else []  # a bad table is known before hours of work
        cleaned = self._clean()
        counted = self._count(cleaned)
        candidates, proposed = self._propose(counted)
        labels, classified = self._classify(candidates, proposed)
        merged = self._merge(candidates, labels, classified)
        rows = self._review(merged, before, review)
        return self._freeze(rows, review)

    # --- the steps ---

    def _clean(self) -> Step:
        options = self.options
        inputs = {
            "rules": RULES,
            "comments": [[str(path), *_stamp(path)] for path in self.comments],
            "field": options.field,
            "english_only": options.english_only,
        }

        def work(part: Path) -> dict[str, Any]:
            reading = Reading()
            with self._watch("clean", sum(_stamp(path)[0] for path in self.comments)) as bar:
                comments = read_comments(
                    self.comments,
                    field=options.field,
                    english_only=options.english_only,
                    reading=reading,
                    on_bytes=bar.advance,
                )
                done = clean(comments, part, workers=options.workers)
            if not done.comments:
                raise TagError(f"no comment can be used: {'; '.join(reading.lines())}")
            repeated = [f"{done.repeated:,} left out: said before, word for word"] if done.repeated else []
            return {"comments": done.comments, "said": reading.lines() + repeated}

        step = Step(self.out, "clean.txt", inputs)
        self._do(step, work, lambda summary: "; ".join(summary["said"]))
        return step

    def _count(self, cleaned: Step) -> Step:
        options = self.options
        # With fewer occurrences in one form a phrase may still be frequent enough in all of them.
        least = max(options.least // 3, 1)

        def work(part: Path) -> dict[str, Any]:
            total = cleaned.summary["comments"]
            with self._watch("count", total) as bar, cleaned.output.open(encoding="utf-8") as file:
                lines = _advancing(file, bar)
                counter, words = count_phrases(lines, workers=options.workers, width=options.width)
            return write_counts(counter, words, part, least=least)

        step = Step(self.out, "counts.tsv", {"from": cleaned.digest, "least": least, "width": options.width})
        self._do(step, work, lambda said: f"{said['words']:,} words, {said['phrases']:,} words and phrases kept")
        return step

    def _propose(self, counted: Step) -> tuple[list[Candidate], Step]:
        options = self.options

        def work(part: Path) -> dict[str, Any]:
            counts = {row["phrase"]: int(row["count"]) for row in read_table(counted.output, ("phrase", "count"))}
            found = propose(
                counts,
                counted.summary["words"],
                least=options.least,
                strength=options.strength,
                most=options.most,
            )
            rows = ((item.tag, item.count, item.strength) for item in found)
            return {"candidates": write_table(part, ("tag", "count", "strength"), rows)}

        inputs = {
            "from": counted.digest,
            "least": options.least,
            "strength": options.strength,
            "most": options.most,
        }
        step = Step(self.out, "candidates.tsv", inputs)
        self._do(step, work, lambda said: f"{said['candidates']:,} candidates")
        if not step.summary["candidates"]:
            raise TagError(f"no word occurs {options.least} times; give more comments, or a lower --least")
        rows = read_table(step.output, ("tag", "count", "strength"))
        return [Candidate(row["tag"], int(row["count"]), float(row["strength"])) for row in rows], step

    def _classify(self, candidates: Sequence[Candidate], proposed: Step) -> tuple[list[Label], Step]:
        inputs: dict[str, Any] = {
            "from": proposed.digest,
            "known": self.known.hash,
            "facets": self.known.facets,
            "polarities": self.known.polarities,
            "embed": self._embed_name,
        }
        if self._endpoint:
            inputs["model"] = self._endpoint.model

        def work(part: Path) -> dict[str, Any]:
            tags = [candidate.tag for candidate in candidates]
            asked = self._ask_model(tags) if self._endpoint else [None] * len(tags)
            left = [tag for tag, label in zip(tags, asked, strict=True) if label is None]
            guessed: dict[str, Label] = {}
            if left:
                with self._watch("classify", None):
                    classifier = OfflineClassifier(labelled_tags(self.known), self._embed)
                    guessed = dict(zip(left, classifier.classify(left), strict=True))
            labels = [label or guessed[tag] for tag, label in zip(tags, asked, strict=True)]
            rows = (
                (tag, label.library, label.facet, label.polarity, label.confidence, label.by)
                for tag, label in zip(tags, labels, strict=True)
            )
            write_table(part, _LABEL_COLUMNS, rows)
            count = {where: sum(label.library == where for label in labels) for where in _WHERE}
            return count | {"offline": len(left)}

        step = Step(self.out, "labels.tsv", inputs)
        self._do(
            step,
            work,
            lambda said: (
                ", ".join(f"{said[where]:,} {where}" for where in _WHERE)
                + (f"; {said['offline']:,} without a usable answer, by the offline classifier"
                   if self._endpoint and said["offline"] else "")
            ),
        )  # fmt: skip
        labels = [
            Label(row["library"], row["facet"], row["polarity"], float(row["confidence"]), row["by"])  # type: ignore[arg-type]
            for row in read_table(step.output, _LABEL_COLUMNS)
        ]
        return labels, step

    def _ask_model(self, tags: Sequence[str]) -> list[Label | None]:
        assert self._endpoint is not None
        classifier = LlmClassifier(self._endpoint, facets_of(self.known), self.out / "answers.jsonl")
        estimate = classifier.estimate(tags)
        self._approve(estimate)
        with self._watch("classify", estimate.tags) as bar:
            labels = classifier.classify(tags, bar.advance)
        if classifier.tokens_in or classifier.tokens_out:
            self._say(f"  {classifier.tokens_in:,} tokens in, {classifier.tokens_out:,} tokens out")
        return labels

    def _merge(self, candidates: Sequence[Candidate], labels: Sequence[Label], classified: Step) -> list[Merged]:
        def work(part: Path) -> dict[str, Any]:
            found = merge(candidates, labels)
            rows = ((item.candidate.tag, item.candidate.count, "; ".join(item.variants)) for item in found)
            return {"left": write_table(part, ("tag", "count", "variants"), rows)}

        step = Step(self.out, "merged.tsv", {"from": classified.digest, "rules": RULES})
        self._do(step, work, lambda said: f"{len(candidates) - said['left']:,} misspellings brought to the right form")
        known = {candidate.tag: (candidate, label) for candidate, label in zip(candidates, labels, strict=True)}
        merged = []
        for row in read_table(step.output, ("tag", "count", "variants")):
            candidate, label = known[row["tag"]]
            variants = tuple(part for part in row["variants"].split("; ") if part)
            merged.append(Merged(replace(candidate, count=int(row["count"])), label, variants))
        return merged

    def _review(self, merged: Sequence[Merged], before: Sequence[Reviewed], path: Path) -> list[Reviewed]:
        kept = [item for item in merged if item.label.library != "neither"]
        attributes = [item.candidate.tag for item in kept if item.label.library == "attribute"]
        rows = rows_from(merged, find_opposites(attributes, self.known.attribute), self._like(kept))
        rows = with_decisions(rows, before)
        write_review(rows, path)
        decided = sum(bool(row.decision) for row in rows)
        self._say(f"review: {len(rows):,} rows in {path}, {decided:,} decided")
        return rows

    def _like(self, kept: Sequence[Merged]) -> dict[str, str]:
        """For each candidate the most frequent one before it that the encoder hardly tells apart from it."""
        if self._embed is None or not kept:
            return {}
        tags = [item.candidate.tag for item in kept]
        place = {tag: i for i, tag in enumerate(tags)}
        found: dict[str, str] = {}
        for _, one, other in near_duplicates(tags, self._embed(tags), least=NEAR):
            first, second = sorted((one, other), key=place.__getitem__)
            found.setdefault(second, first)
        return found

    def _freeze(self, rows: Sequence[Reviewed], review: Path) -> Built:
        libraries = freeze(rows, sure=self.options.sure)
        folder = self.out / "libraries"
        save_frozen(libraries, folder, review_hash=file_hash(review))
        built = Built(libraries, folder, review, sum(not row.decision for row in rows))
        self._say(
            f"freeze: {len(libraries.semantic):,} semantic and {len(libraries.attribute):,} attribute tags in "
            f"{folder}, hash {libraries.hash[:12]}"
        )
        return built

    def _do(self, step: Step, work: Callable[[Path], dict[str, Any]], said: Callable[[dict[str, Any]], str]) -> None:
        name = step.name.partition(".")[0]
        again = "" if step.run(work) else " (unchanged)"
        self._say(f"{name}: {said(step.summary)}{again}")


_WHERE = ("semantic", "attribute", "neither")
_LABEL_COLUMNS = ("tag", "library", "facet", "polarity", "confidence", "by")


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change: what tells an input file from an earlier one without reading it."""
    try:
        found = path.stat()
    except OSError:
        return (0, 0)
    return (found.st_size, found.st_mtime_ns)


def _advancing(lines: Iterable[str], bar: Bar) -> Iterator[str]:
    for line in lines:
        bar.advance()
        yield line


class _NoBar:
    def advance(self, amount: int = 1) -> None: ...


@contextlib.contextmanager
def _unwatched(_: str, __: int | None) -> Iterator[Bar]:
    yield _NoBar()
