"""Names of people: as they are stored, and which of them may be the same person's."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable


def normal_name(name: str) -> str:
    """A person's name as it is stored: letters composed (NFC), one blank between words, nothing that is not seen."""
    seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Other known names that differ in case, blanks, letters' forms or a number's zeros alone: P-1, p-1; 7.0, 7."""
    key = _near_key(name)
    return [other for other in known if other != name and _near_key(other) == key]


def _near_key(name: str) -> str:
    key = unicodedata.normalize("NFKC", normal_name(name)).casefold().replace(" ", "")
    number, point, decimals = key.partition(".")
    return number if point and number.isdecimal() and not decimals.strip("0") else key
