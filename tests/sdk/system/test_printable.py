"""Numbers with their nouns."""

from __future__ import annotations

import re
from pathlib import Path

from homeroom.system.printable import counted

ROOT = Path(__file__).parents[3]
SOURCES = [*ROOT.glob("sdk/homeroom/**/*.py"), *ROOT.glob("aggregator/homeroom_aggregator/**/*.py")]
SAID = re.compile(r"\{[a-z_.()]+\} (?:devices|updates|samples|schools|versions|files)\b")
SPEAKS = ("say(f", "echo(f", "tell(f")


def test_one_has_no_plural() -> None:
    assert [counted(n, "sent update") for n in (0, 1, 2, 1234)] == [
        "0 sent updates",
        "1 sent update",
        "2 sent updates",
        "1,234 sent updates",
    ]


def test_no_command_puts_a_plural_behind_a_number_that_may_be_one() -> None:
    assert SAID.search('say(f"sent {n} updates")')
    lines = [line.strip() for path in SOURCES for line in path.read_text().splitlines()]
    assert [line for line in lines if any(word in line for word in SPEAKS) and SAID.search(line)] == []
