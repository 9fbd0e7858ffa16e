"""Names of people: as they are stored, and which of them may be the same person's; short texts beside a sample."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from homeroom.errors import InputError

NAME_LIMIT_CHARACTERS = 256
APOSTROPHES = str.maketrans("\u2018\u2019\u02bc", "'''")
# Control characters that are no blanks, and halves of surrogate pairs.
CONTROL = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")


def normal_name(name: str) -> str:
    """A person's name as it is stored: letters composed (NFC), one blank between words, nothing that is not seen."""
    seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Other known names that differ in case, blanks, signs' forms or a number's zeros alone: P-1, p-1; 7.0, 07, 7."""
    key = _near_key(name)
    return [other for other in known if other != name and _near_key(other) == key]


def _near_key(name: str) -> str:
    key = unicodedata.normalize("NFKC", normal_name(name)).casefold().replace(" ", "")
    key = "".join("-" if unicodedata.category(c) == "Pd" else c for c in key).translate(APOSTROPHES)
    number, _, decimals = key.partition(".")
    return number.lstrip("0") or "0" if number.isdecimal() and not decimals.strip("0") else key


def check_person(field: str, value: Any) -> str | None:
    """Returns a person's name as it is stored; None where none is given. InputError where nothing of it is seen."""
    text = check_text_field(field, value)
    if text is not None and not normal_name(text):
        raise InputError("names nobody: it has no character that is seen", where=field, remedy="leave it out")
    return text and normal_name(text)


def check_text_field(field: str, value: Any) -> str | None:
    """Returns a short text beside a sample, such as a name; None where it is empty. A whole number is a text.

    Raises InputError, which names the field, where it is none, or too long, or holds control characters.
    """
    if value is None or value == "":
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # a number as JSON has it
    if not isinstance(value, str) or len(value) > NAME_LIMIT_CHARACTERS:
        raise InputError(f"needs a text of at most {NAME_LIMIT_CHARACTERS} characters", where=field)
    refuse_control_characters(value, field)
    return value


def refuse_control_characters(text: str, where: str) -> None:
    """InputError where a text holds a character that is no text."""
    if found := CONTROL.search(text):
        raise InputError(f"holds a character that is no text: {found[0]!r}", where=where, remedy="leave it out")
