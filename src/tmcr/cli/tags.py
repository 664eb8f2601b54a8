"""`tmcr tags`: look into the tag libraries, check them, build one's own from comments."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tmcr.cli.options import Offline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from tmcr.encoders import ImageTextEncoder
    from tmcr.tags import TagLibraries
    from tmcr.tags.building import Estimate
    from tmcr.tags.check import WordCounts
    from tmcr.tags.comments import Half

app = typer.Typer(help="The tag libraries: look into them, check them, build your own.", no_args_is_help=True)

Tags = Annotated[
    Path | None, typer.Option("--tags", help="Folder with semantic.txt and attribute.txt (default: the shipped ones).")
]
Field = Annotated[str, typer.Option("--field", help="Field or column that holds the comment.")]


@app.command()
def check(
    tags: Tags = None,
    comments: Annotated[
        list[Path] | None, typer.Option("--comments", help="Comments to measure coverage on (repeatable).")
    ] = None,
    field: Field = "comment",
    model: Annotated[
        str, typer.Option("--model", "-m", help="'starter', a model folder, an encoder's folder or Hub id, or none.")
    ] = "starter",
    near: Annotated[float, typer.Option(min=0, max=1, help="Cosine from which two tags are near-duplicates.")] = 0.95,
    update_frequencies: Annotated[
        bool, typer.Option("--update-frequencies", help="Count the tags anew and write them to the folder of --tags.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the report as JSON.")] = None,
    missed: Annotated[int, typer.Option(min=0, help="Missed words to print.")] = 40,
    offline: Offline = False,
) -> None:
    """Check the rules of tag libraries, and how well they cover comments; exit code 1 when a rule is broken.

    Coverage is told for either half of the comments, split by photo; missed words are those of the held-out half.
    Near-duplicates are those of the model's text encoder; --model none leaves them out.

    Examples:

        tmcr tags check

        tmcr tags check --tags my-tags --comments comments.jsonl --out report.json
    """
    from tmcr.errors import ConfigError
    from tmcr.report.tags import print_check
    from tmcr.report.terminal import make_console
    from tmcr.tags import TagLibraries
    from tmcr.tags.check import check_libraries, with_frequencies

    if update_frequencies and (tags is None or not comments):
        raise ConfigError("--update-frequencies needs --tags (the folder to write to) and --comments (to count in)")
    libraries = TagLibraries.load(tags) if tags else TagLibraries.default()
    console = make_console()
    counts = None
    if comments:
        found, counts = _count(libraries, comments, field)
        if update_frequencies and tags is not None:
            libraries = with_frequencies(libraries, found)
            libraries.save(tags)
    embeddings = None
    if model != "none":
        from tmcr.matching import text_matrix

        embeddings = text_matrix(_encoder(model, offline=offline), libraries.names).numpy()
    result = check_libraries(libraries, counts=counts, embeddings=embeddings, encoder=model, least=near)
    print_check(result, console, missed=missed)
    if out is not None:
        import json

        out.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def show(
    word: Annotated[str | None, typer.Argument(help="Tags that hold this word, in any form.")] = None,
    facet: Annotated[str | None, typer.Option("--facet", "-f", help="Only this facet.")] = None,
    library: Annotated[str | None, typer.Option("--library", "-l", help="semantic or attribute.")] = None,
    polarity: Annotated[str | None, typer.Option("--polarity", "-p", help="praise, fault or neutral.")] = None,
    tags: Tags = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows to print.")] = 60,
) -> None:
    """Search the tags; without arguments, the facets and what they hold.

    Examples:

        tmcr tags show

        tmcr tags show blur --polarity fault

        tmcr tags show --facet light
    """
    from tmcr.errors import ConfigError
    from tmcr.report.tags import print_facets, print_tags
    from tmcr.report.terminal import make_console
    from tmcr.tags import TagLibraries
    from tmcr.tags.search import search

    libraries = TagLibraries.load(tags) if tags else TagLibraries.default()
    console = make_console()
    if word is facet is library is polarity is None:
        print_facets(libraries, console)
        return
    found = search(libraries, word=word, facet=facet, library=library, polarity=polarity)
    if not found:
        raise ConfigError("no tag fits; 'tmcr tags show' lists the facets")
    print_tags(found, console, limit=limit)


@app.command()
def build(
    comments: Annotated[
        list[Path] | None, typer.Argument(help="Comments: .txt, .jsonl, .csv or .parquet.", show_default=False)
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the build; run again to go on.")] = None,
    field: Field = "comment",
    least: Annotated[int, typer.Option(min=1, help="Occurrences that a tag needs.")] = 5,
    strength: Annotated[float, typer.Option(min=-1, max=1, help="Collocation strength (NPMI) of phrases.")] = 0.2,
    most: Annotated[int, typer.Option(min=1, help="Candidates at most, the most frequent.")] = 10_000,
    tags: Tags = None,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Text encoder of the offline classifier: as for check; none.")
    ] = "starter",
    llm: Annotated[str | None, typer.Option("--llm", help="Classify with this OpenAI-compatible address.")] = None,
    llm_model: Annotated[str | None, typer.Option("--llm-model", help="The language model's name there.")] = None,
    key_from: Annotated[
        str, typer.Option("--key-from", help="Environment variable with the key; may be unset for local servers.")
    ] = "OPENAI_API_KEY",
    batch: Annotated[int, typer.Option(min=1, help="Candidates in one request.")] = 40,
    parallel: Annotated[int, typer.Option(min=1, help="Requests at a time.")] = 4,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a request may take.")] = 120.0,
    price_in: Annotated[float, typer.Option(min=0, help="Dollars for a million tokens in.")] = 0.0,
    price_out: Annotated[float, typer.Option(min=0, help="Dollars for a million tokens out.")] = 0.0,
    max_cost: Annotated[float | None, typer.Option(min=0, help="Stop before it would cost more dollars.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before using the language model.")] = False,
    sure: Annotated[
        float, typer.Option(min=0, help="Confidence from which candidates are kept unreviewed; 2 keeps none.")
    ] = 0.3,
    all_languages: Annotated[bool, typer.Option("--all-languages", help="Do not skip other languages.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one for each core).")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure the offline classifier on held-out tags, and build nothing.")
    ] = False,
    offline: Offline = False,
) -> None:
    """Build tag libraries from comments: clean → count → propose → classify → merge → review → freeze.

    Edit review.tsv in the folder with a spreadsheet (decision: keep, drop, move, rename) and run the same command
    again: only what has changed is done anew, decisions stay.

    Examples:

        tmcr tags build comments.jsonl --out my-tags

        tmcr tags build comments.csv --field text --out my-tags --llm http://localhost:8080/v1 --llm-model NAME

        tmcr tags build --measure
    """
    import os

    from tmcr.errors import ConfigError
    from tmcr.report.tags import print_measured
    from tmcr.report.terminal import make_console, progress
    from tmcr.tags import TagLibraries
    from tmcr.tags.building import Build, BuildOptions, Endpoint
    from tmcr.tags.building.offline import measure as measure_offline

    known = TagLibraries.load(tags) if tags else TagLibraries.default()
    encoder = None if model == "none" or (llm and not measure) else _encoder(model, offline=offline)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        from tmcr.matching import text_matrix

        assert encoder is not None
        return text_matrix(encoder, texts).numpy()

    console = make_console()
    if measure:
        print_measured(measure_offline(known, embed if encoder else None), console)
        return
    if not comments or out is None:
        raise ConfigError("give comments and --out, e.g. tmcr tags build comments.jsonl --out my-tags")
    if llm and offline:
        raise ConfigError("--llm uses the network, --offline forbids it; leave one out")
    if bool(llm) != bool(llm_model):
        raise ConfigError("--llm (an address) and --llm-model (a name) go together; give both")
    if max_cost is not None and llm and not (price_in or price_out):
        raise ConfigError("--max-cost needs --price-in and --price-out to reckon with")
    endpoint = None
    if llm and llm_model:
        endpoint = Endpoint(
            llm, llm_model, os.environ.get(key_from, ""), batch=batch, parallel=parallel, timeout=timeout,
            price_in=price_in, price_out=price_out,
        )  # fmt: skip

    def approve(estimate: Estimate) -> None:
        console.print(f"  {estimate}", highlight=False)
        if max_cost is not None and estimate.dollars is not None and estimate.dollars > max_cost:
            raise ConfigError(f"that is more than --max-cost {max_cost:g}; raise it, or lower --most")
        if yes or not estimate.tags:
            return
        if not sys.stdin.isatty():
            raise ConfigError("add --yes to use the language model without being asked")
        typer.confirm("Go on?", abort=True)

    options = BuildOptions(
        field=field,
        english_only=not all_languages,
        least=least,
        strength=strength,
        most=most,
        sure=sure,
        workers=workers or os.cpu_count() or 1,
    )
    built = Build(
        comments,
        out,
        options,
        known=known,
        embed=embed if encoder else None,
        embed_name=encoder.fingerprint if encoder else "",
        endpoint=endpoint,
        approve=approve,
        watch=progress,
        say=lambda line: console.print(line, highlight=False, markup=False),
    ).run()
    if built.undecided:
        console.print(f"next: decide on {built.undecided:,} rows of {built.review}, then run the same command again")


def _encoder(model: str, *, offline: bool) -> ImageTextEncoder:
    """The text side of the starter, of a model folder, or an encoder of its own."""
    from tmcr.encoders import load_image_text_encoder
    from tmcr.modelfolder import STARTER

    folder = (STARTER if model == "starter" else Path(model)) / "image_text"
    return load_image_text_encoder(str(folder) if folder.is_dir() else model, offline=offline)


def _count(libraries: TagLibraries, paths: list[Path], field: str) -> tuple[dict[str, int], dict[Half, WordCounts]]:
    """Comments that hold each tag, and the content words of either half of the comments."""
    from tmcr.report.terminal import progress
    from tmcr.tags.check import count_halves, count_tags
    from tmcr.tags.comments import Reading, read_comments

    reading = Reading()
    size = sum(path.stat().st_size for path in paths if path.is_file())
    with progress("counting", 2 * size) as bar:
        counts = count_halves(read_comments(paths, field=field, reading=reading, on_bytes=bar.advance))
        found = count_tags(libraries, read_comments(paths, field=field, on_bytes=bar.advance))
    for line in reading.lines():
        typer.echo(line, err=True)
    return found, counts
