"""Quality gate of texts: without words, one key held down, in another script or language than the sample says.

The language check is light on purpose: the script, and the commonest words of a few languages in texts long enough to
have some. A single word is judged by its script alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from itertools import chain, groupby

from homeroom.data.quality.finding import QualityFinding

MOST_REPEATED_LETTERS = 8  # in a row
MOST_FOREIGN_LETTERS = 0.5  # share of letters in another script than the language's
LEAST_WORDS = 8  # of a text whose language is judged
LEAST_COMMON_WORDS = 0.15  # share of words that are common ones of another language

# Scripts (first word of a letter's Unicode name): the languages written in them.
SCRIPT_TABLE = """
ARABIC: ar fa ur ps
CYRILLIC: ru uk bg be mk kk ky mn
DEVANAGARI: hi mr ne
BENGALI: bn
TAMIL: ta
TELUGU: te
GREEK: el
HEBREW: he
THAI: th
GEORGIAN: ka
ARMENIAN: hy
ETHIOPIC: am
CJK: zh
CJK HIRAGANA KATAKANA: ja
HANGUL CJK: ko
CYRILLIC LATIN: sr
LATIN: en es fr de it pt nl ca gl eu pl cs sk sl hr ro hu fi sv no nb nn da is et lv lt tr vi id ms sw af sq ga cy mt tl
"""
COMMON_WORD_TABLE = """
en: the of and to in is that it was for are with as they this have from not by what were when your there
es: el la de que y en los se del las un por con no una su para es al lo como más pero sus le ya porque
fr: le la de et les des en un du une que est pour qui dans par plus pas au sur ne se ce il sont avec
de: der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden
it: di e il la che in un per è non una sono le del si con da come al dei nel della più ma gli lo
pt: de a o que e do da em um para com não uma os no se na por mais as dos como mas ao ele das seu sua
nl: de het een van en in is dat op te zijn met voor niet aan er om ook als dan maar bij uit nog naar
"""


def _read_table(table: str) -> list[tuple[list[str], list[str]]]:
    return [(left.split(), right.split()) for left, _, right in (line.partition(":") for line in table.split("\n"))]


SCRIPTS_OF_LANGUAGE = {code: frozenset(scripts) for scripts, codes in _read_table(SCRIPT_TABLE) for code in codes}
COMMON_WORDS = {codes[0]: frozenset(words) for codes, words in _read_table(COMMON_WORD_TABLE) if codes}


def assess(value: str, language: str | None, read: Collection[str] = ()) -> QualityFinding | None:
    """Returns why a text is poor, or None; language: a BCP 47 tag; read: languages of the model, none: not known."""
    letters = [c for c in value if c.isalpha()]
    if not any(c.isalnum() for c in value):
        return QualityFinding("without a letter or a digit", empty=True)
    if max((len(list(run)) for c, run in groupby(value) if c.isalpha()), default=0) > MOST_REPEATED_LETTERS:
        return QualityFinding(f"one letter more than {MOST_REPEATED_LETTERS} times in a row", empty=True)
    scripts = frozenset(chain.from_iterable(SCRIPTS_OF_LANGUAGE.get(code, ()) for code in read))
    if scripts and letters:
        foreign = sum(script_of(c) not in scripts for c in letters) / len(letters)
        if foreign > MOST_FOREIGN_LETTERS:
            unread = f"{foreign:.0%} of the letters are of a script that the model does not read"
            return QualityFinding(f"{unread}: it reads {', '.join(read)}")
    code = _primary_subtag(language or "")
    if code in SCRIPTS_OF_LANGUAGE and letters:
        foreign = sum(script_of(c) not in SCRIPTS_OF_LANGUAGE[code] for c in letters) / len(letters)
        if foreign > MOST_FOREIGN_LETTERS:
            return QualityFinding(f"said to be {code!r}, but {foreign:.0%} of the letters are of another script")
    if code in COMMON_WORDS and (other := _detect_other_language(value, code)):
        return QualityFinding(f"said to be {code!r}, but its words are those of {other!r}")
    return None


def language_doubt(language: str, read: Collection[str]) -> str:
    """Says so where a stated language is not known here, or the model does not read it; empty else.

    language: as stated. read: languages of the model, none: not known.
    """
    code = _primary_subtag(language)
    if code not in SCRIPTS_OF_LANGUAGE and code not in read:
        return f"of language {language!r}, which is not known here, so nothing is checked by it: write a tag such as en"
    unread = read and code not in read
    return f"of language {language!r}, which the model does not read: it reads {', '.join(read)}" if unread else ""


def _primary_subtag(language: str) -> str:
    return language.strip().lower().replace("_", "-").split("-")[0]


def script_of(letter: str) -> str:
    """The script of a letter, by the first word of its Unicode name."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]


def _detect_other_language(value: str, code: str) -> str | None:
    """Returns another language whose common words the text has, if it has hardly any of its own language's."""
    words = re.findall(r"[^\W\d_]+", value.lower())
    if len(words) < LEAST_WORDS:
        return None
    hits = Counter({name: sum(word in common for word in words) for name, common in COMMON_WORDS.items()})
    best, count = hits.most_common(1)[0]
    return best if best != code and count >= LEAST_COMMON_WORDS * len(words) and hits[code] * 3 < count else None
