"""How numbers of things are put into words."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """ "1 photo", "1,371 photos" """
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
