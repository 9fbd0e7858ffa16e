"""Characters that steer a terminal or a page, and text without them."""

from __future__ import annotations

JOINERS = "\u200c\u200d"  # zero-width non-joiner and joiner, which some scripts and emoji need
LINES = "\n\t"


def is_printable(character: str) -> bool:
    """Whether a character steers no terminal or page: no control, no direction mark, no half of a surrogate pair."""
    return character.isprintable() or character in JOINERS


def printable(text: str, also: str = "") -> str:
    """The text with a space for each character that is not printable, save those of `also`."""
    return "".join(c if is_printable(c) or c in also else " " for c in text)
