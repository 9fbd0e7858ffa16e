"""Text for people: without characters that steer a terminal or a page; numbers with their nouns."""

from __future__ import annotations

JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner, which some scripts and emoji need
LINES = "\n\t"


def is_printable(character: str) -> bool:
    """Whether a character steers no terminal or page: no control, no direction mark, no half of a surrogate pair."""
    return character.isprintable() or character in JOINERS


def printable(text: str, also: str = "") -> str:
    """The text with a space for each character that is not printable, save those of `also`."""
    return "".join(c if is_printable(c) or c in also else " " for c in text)


def counted(number: int, noun: str, several: str = "") -> str:
    """A number with its noun, such as 1 sample, 2 samples. several: a plural that is not with an s."""
    return f"{number:,} {noun if number == 1 else several or f'{noun}s'}"
