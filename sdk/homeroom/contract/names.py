"""Names of schools, institutions and people: checked wherever one comes in, by command, request, form or file.

A name is one line of printable text. It goes into the audit log, into signed documents and onto terminals and pages.
"""

from __future__ import annotations

import unicodedata

from homeroom.errors import InputError
from homeroom.system.printable import JOINERS, is_printable

NAME_LIMIT = 200  # characters


def check_name(text: str, what: str = "name") -> str:
    """The name in Unicode's form NFC; InputError unless it is one line of 1 to 200 printable characters.

    what: the name's meaning, for the error.
    """
    name = unicodedata.normalize("NFC", text)
    shown, remedy = f"{what} {text[:40]!a}", f"1 to {NAME_LIMIT} printable characters on one line"
    if not name.strip(f" {JOINERS}"):
        raise InputError(f"{what} is empty", remedy=remedy)
    if name != name.strip():
        raise InputError(f"{shown} begins or ends with a space", remedy=remedy)
    if wrong := next((character for character in name if not is_printable(character)), None):
        raise InputError(f"{shown} holds the character U+{ord(wrong):04X}, which is not printable", remedy=remedy)
    if len(name) > NAME_LIMIT:
        raise InputError(f"{what} of {len(name):,} characters is too long", remedy=remedy)
    return name
