"""The spelling of letters, made of the Unicode that this Python knows: no case, no compatibility forms, words alone."""

from __future__ import annotations

import sys
import unicodedata
from functools import cache

import numpy as np

from homeroom.train.solve.vectors.letters import END, Spelling

BETWEEN_WORDS = "PSZC"  # categories: punctuation, symbols, blanks, controls
UNASSIGNED = ("Cn", "Co", "Cs")  # they stay as they are: another Unicode may know them
HANGUL = range(0xAC00, 0xD7A4)  # 11,172 syllables, which are written composed as it is


@cache
def make_spelling() -> Spelling:
    """Each character that is written otherwise: NFKD of its folded NFKD, END for what stands between words."""
    table = {}
    for code in range(sys.maxunicode + 1):
        character = chr(code)
        if code in HANGUL or unicodedata.category(character) in UNASSIGNED:
            continue
        folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", character).casefold())
        written = "".join(END if unicodedata.category(one)[0] in BETWEEN_WORDS else one for one in folded)
        if written != character:
            table[code] = written
    text = "\n".join(table.values()).encode()
    return Spelling(np.array(list(table), np.uint32), np.frombuffer(text, np.uint8))
