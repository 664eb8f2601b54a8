"""Finding tags by word, facet, library and polarity."""

from __future__ import annotations

from tmcr.errors import TagError
from tmcr.tags.library import LibraryName, TagLibraries, TagRow
from tmcr.tags.words import lemmas


def search(
    libraries: TagLibraries,
    *,
    word: str | None = None,
    facet: str | None = None,
    library: str | None = None,
    polarity: str | None = None,
) -> list[tuple[LibraryName, TagRow]]:
    """Tags that fit all that is given, in library order.

    Args:
        word: a word or phrase that the tag holds, in any form, or a part of the tag as it is written.

    Raises:
        TagError: the facet, library or polarity is unknown; names those there are.
    """
    _known("facet", facet, sorted(set(libraries.facets) - {""}))
    _known("library", library, ["semantic", "attribute"])
    _known("polarity", polarity, ["praise", "fault", "neutral"])
    wanted = lemmas(word) if word is not None else ()
    return [
        (of.name, row)
        for of in (libraries.semantic, libraries.attribute)
        for row in of.rows()
        if library in (None, of.name)
        and facet in (None, row.facet)
        and polarity in (None, row.polarity)
        and (word is None or word.lower() in row.tag or (wanted and _holds(lemmas(row.tag), wanted)))
    ]


def _holds(tag: tuple[str, ...], wanted: tuple[str, ...]) -> bool:
    return any(tag[start : start + len(wanted)] == wanted for start in range(len(tag) - len(wanted) + 1))


def _known(what: str, value: str | None, there: list[str]) -> None:
    if value is not None and value not in there:
        raise TagError(f"no {what} is called {value!r}; there are: {', '.join(there)}")
