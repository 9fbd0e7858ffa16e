"""Names of people: as they are stored, and which of them may be the same person's; short texts beside a sample."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from homeroom.errors import InputError

NAME_LIMIT_CHARACTERS = 256
MARKS = re.compile("[\u0300-\u036f]")  # of Latin, Greek and Cyrillic letters
WHOLE = re.compile(r"(\d+)[.,]0*")  # 7.0
JOINED = re.compile(r"(?<!\d)-+|-+(?!\d)")  # but 1-11 is not 11-1
ZEROS = re.compile(r"(?<!\d)0+(?=\d)")  # 07
UMLAUT = re.compile("([aou])e")  # Mueller for Müller
# Control characters that are no blanks, and halves of surrogate pairs.
CONTROL = re.compile("[\0-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")


def normal_name(name: str) -> str:
    """A person's name as it is stored: letters composed (NFC), one blank between words, nothing that is not seen."""
    seen = "".join(c for c in unicodedata.normalize("NFC", name) if unicodedata.category(c) != "Cf")
    return " ".join(seen.split())


def near_names(name: str, known: Iterable[str]) -> list[str]:
    """Other known names that may be the same person's: P-1, p1, p_01; 7.0, 07, 7; José, Jose; Ray, Ann and Ann Ray."""
    key = _near_key(name)
    return [other for other in known if other != name and _near_key(other) == key]


def all_near_names(known: Iterable[str]) -> dict[str, list[str]]:
    """Of each known name that has any, the others that are near it, in their order."""
    by_key: dict[str, list[str]] = {}
    for name in known:
        by_key.setdefault(_near_key(name), []).append(name)
    groups = (group for group in by_key.values() if len(group) > 1)
    return {name: [other for other in group if other != name] for group in groups for name in group}


def _near_key(name: str) -> str:
    """Equal for names that differ in case, accents, blanks and signs, zeros before a number or the order of a comma."""
    seen = normal_name(name)
    if whole := WHOLE.fullmatch(seen):
        seen = whole[1]
    last, comma, first = seen.partition(",")
    key = unicodedata.normalize("NFKD", f"{first} {last}" if comma else last).casefold()
    key = MARKS.sub("", unicodedata.normalize("NFKD", key)).replace("\u0131", "i")
    key = JOINED.sub("", "".join(c if unicodedata.category(c)[0] in "LMN" else "-" for c in key)) or key
    return UMLAUT.sub(r"\1", ZEROS.sub("", key))


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
