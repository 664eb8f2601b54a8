"""What a run is to score, listed once: a file with one entry for each photo or shard, in a fixed order.

The list is on disk, so that neither five million names fill the memory nor a photo that vanishes later
changes the place of any other.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tmcr.destinations import same_place
from tmcr.errors import ConfigError
from tmcr.images import IMAGE_SUFFIXES, ImageLimits, find_photos
from tmcr.scoring.numbering import SPAN, entries
from tmcr.scoring.photo import Photo, file_system, is_url, scheme_of
from tmcr.scoring.rows import RowSet
from tmcr.scoring.shards import is_shard, members, photo_count
from tmcr.wording import counted


@dataclass(frozen=True)
class Survey:
    """What a listing amounts to.

    Attributes:
        entries: photos and shards.
        photos: photos, those in shards included; None where only reading a shard can tell.
        shard_bytes: size of all shards together, as far as it is known.
        digest: hash of every name, and of size and time of every shard.
    """

    entries: int
    photos: int | None
    shard_bytes: int
    digest: str

    def __str__(self) -> str:
        if self.photos is None:
            return "1 entry" if self.entries == 1 else f"{self.entries:,} entries"
        return counted(self.photos, "photo")


def list_sources(sources: Sequence[str], into: Path | None, *, never: Path | None = None) -> Survey:
    """Find the photos and shards that `sources` name, and write the list of them.

    Args:
        sources: files, folders, globs, shards, URLs, `@FILE` with one name a line, or `-` for names on
            standard input.
        into: file for the list; None only counts and hashes.
        never: where results go; a source of that name would be lost.

    Raises:
        ConfigError: a list file cannot be read, a URL's plug-in is missing, or a source is `never`.
        OSError: `into` cannot be written.
    """
    digest = hashlib.blake2b(digest_size=16)
    entries = photos = shard_bytes = 0
    all_known = True
    file = into.open("w", encoding="ascii") if into is not None else None
    try:
        for name in _names(sources):
            entry: list[Any] = [name]
            if never is not None and same_place(never, name):
                raise ConfigError(f"{never}: results would be written over this photo or shard; choose another --out")
            if is_shard(name):
                size, changed = _stamp(name)
                count = photo_count(name)
                entry += [size, changed]
                shard_bytes += size or 0
                photos += count or 0
                all_known &= count is not None
            else:
                photos += 1
            line = json.dumps(entry) + "\n"
            digest.update(line.encode())
            entries += 1
            if file is not None:
                file.write(line)
    finally:
        if file is not None:
            file.close()
    return Survey(entries, photos if all_known else None, shard_bytes, digest.hexdigest())


def listed_photos(
    listing: Path,
    *,
    column: str | None,
    limits: ImageLimits,
    done: RowSet,
    shard_rows: dict[str, int],
) -> Iterator[Photo]:
    """The photos of a listing that are not done, in order; for the arguments see `photos_of`."""
    for first, name, _ in entries(listing):
        yield from photos_of(first, name, column=column, limits=limits, done=done, shard_rows=shard_rows)


def photos_of(
    first: int,
    name: str,
    *,
    column: str | None,
    limits: ImageLimits,
    done: RowSet,
    shard_rows: dict[str, int],
) -> Iterator[Photo]:
    """The photos of one entry of a listing that are not done, in order.

    A shard may be read less far than the time before, when a connection breaks. The row that says so then comes after
    all of its rows that are done.

    Args:
        first: number of its first row.
        name: the photo or shard.
        column: Parquet column that holds photos.
        done: rows that are.
        shard_rows: how many rows each shard has; used to pass over those that are done, and filled on the way.
    """
    if not is_shard(name):
        if not done.contains(first, first + 1):
            yield Photo(first, name, where=name)
        return
    known = shard_rows.get(name)
    if known is not None and done.contains(first, first + known):
        return
    row = first
    end = max((end for _, end in done.within(first, first + SPAN)), default=first)
    for member in members(name, column=column, limits=limits):
        if member.breaks_off:
            row = max(row, end)
        if not done.contains(row, row + 1):
            yield Photo(row, member.name, member.where, member.data, member.error)
        row += 1
    shard_rows[name] = max(row, end) - first


def _names(sources: Iterable[str]) -> Iterator[str]:
    for source in sources:
        if source == "-":
            if isinstance(sys.stdin, io.TextIOWrapper):
                sys.stdin.reconfigure(errors="surrogateescape")  # file names need not be UTF-8
            yield from _lines(sys.stdin)
        elif source.startswith("@") and not Path(source).exists():
            try:
                with Path(source[1:]).open(encoding="utf-8", errors="surrogateescape") as file:
                    yield from _lines(file)
            except OSError as error:
                raise ConfigError(f"{source}: the list cannot be read ({error.strerror or error})") from None
        elif is_url(source):
            yield from _names_at(source)
        else:
            yield from map(str, find_photos([source]))


def _lines(file: Iterable[str]) -> Iterator[str]:
    """Names as they stand there, one a line; nothing is expanded."""
    return (name for line in file if (name := line.rstrip("\r\n")).strip())


def _names_at(url: str) -> Iterator[str]:
    """What a URL names: one photo or shard, the photos of a folder, or the matches of a glob."""
    scheme = scheme_of(url)
    web = scheme in ("http", "https")  # there, "?" begins a query, and only a slash at the end tells a folder
    files = file_system(scheme)
    try:
        if any(mark in url for mark in ("*" if web else "*?[")) and not files.exists(url):
            matches = files.glob(url, detail=True)
            found = sorted(name for name, info in matches.items() if info.get("type") != "directory")
            yield from map(files.unstrip_protocol, found)
        elif url.endswith("/") or not (web or _looks_like_a_file(url) or not files.isdir(url)):
            yield from map(files.unstrip_protocol, _photos_at(files, url))
        else:
            yield url
    except Exception:  # each plug-in has exceptions of its own; reading it again makes a row that says why
        yield url


def _looks_like_a_file(url: str) -> bool:
    return is_shard(url) or Path(url).suffix.lower() in IMAGE_SUFFIXES


def _photos_at(files: Any, url: str) -> Iterator[str]:
    """Names of the photos below a remote folder; one folder's names are in memory at a time."""
    waiting = [files._strip_protocol(url)]
    while waiting:
        here = waiting.pop()
        entries = sorted(files.ls(here, detail=True), key=lambda entry: entry["name"])
        folders = []
        for entry in entries:
            name = str(entry["name"]).rstrip("/")
            base = name.rpartition("/")[2]
            if base.startswith(".") or name == str(here).rstrip("/"):
                continue
            if entry["type"] == "directory":
                folders.append(name)
            elif Path(base).suffix.lower() in IMAGE_SUFFIXES:
                yield name
        waiting += reversed(folders)


def _stamp(shard: str) -> tuple[int | None, str | None]:
    """Size of a shard in bytes, and what tells its versions apart; None where unknown."""
    try:
        if not is_url(shard):
            status = Path(shard).stat()
            return status.st_size, str(status.st_mtime_ns)
        info = file_system(scheme_of(shard)).info(shard)
    except Exception:  # reading it makes a row that says why
        return None, None
    version = next((str(info[key]) for key in ("ETag", "etag", "LastModified", "mtime") if key in info), None)
    return info.get("size"), version
