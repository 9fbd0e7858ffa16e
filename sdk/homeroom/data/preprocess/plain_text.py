"""Plain text: what a person reads of a text that was pasted from a page or a document, each character with its origin.

One text has many spellings in Unicode (UAX #15): composed or not, with ligatures, presentation forms, soft hyphens,
curly quotes; pages add tags and entities. A model is to read them alike, and people see places in their own text.
"""

from __future__ import annotations

import html
import re
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.entities import html5
from itertools import chain

Piece = tuple[str, int, int]  # characters, and the [start, end) that they stand for; a run stands for itself

BLOCKS = "address article blockquote br dd div dl dt figure footer h[1-6] header hr li main nav ol p pre section"
BLOCKS += " table tbody td tfoot th thead tr ul"
INLINE = "a abbr b big cite code del em font i img ins kbd mark o:p q s samp small span strike strong sub sup tt u var"
TAG = re.compile(rf"<(?P<close>/?)(?P<name>{'|'.join(f'{BLOCKS} {INLINE}'.split())})(?:\s[^<>]*)?/?>", re.IGNORECASE)
BLOCK = re.compile("|".join(BLOCKS.split()), re.IGNORECASE)
# What is not shown of a page, a line break that follows a word, and an entity.
HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
BREAK = re.compile(r"(?<=[\w.,;:!?)])<br\s*/?>", re.IGNORECASE)
ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z][a-zA-Z0-9]{1,30});")
# Soft hyphen, combining grapheme joiner, marks of direction, zero-width space and its like.
INVISIBLE = re.compile("[\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]")
JOINERS = "\u200c\u200d"  # they change letters in some scripts, from FIRST_JOINED on
FIRST_JOINED = "\u0590"
STRAIGHT = {**dict.fromkeys("‘’‚‛ʼ", "'"), **dict.fromkeys("“”„‟", '"')}
# Ligatures, presentation, small, wide and narrow forms, letters of mathematics: written in plain letters by NFKC.
FORMS = re.compile("[\ufb00-\ufdff\ufe30-\ufe6f\ufe70-\ufefc\uff01-\uffee\U0001d400-\U0001d7ff]")
FOLLOWING = re.compile("[\u1160-\u11ff\uff9e\uff9f]")  # no marks, but written with the letter before: jamo, kana
# Letters that are plain as they stand: ASCII, Latin, Cyrillic, Han. A run of them, with single blanks, is one piece.
LETTERS = "[!-%'-;=-~\u00a1-\u00ac\u00ae-\u024f\u0400-\u0481\u048a-\u052f\u3400-\u9fff]+"
RUN = re.compile(f"{LETTERS}(?: {LETTERS})*")


@dataclass(frozen=True)
class PlainText:
    """A plain text. starts, ends: of each of its characters, the [start, end) of the original that it stands for."""

    text: str
    starts: Sequence[int]
    ends: Sequence[int]

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The [start, end) of the original that [start, end) of the plain text stands for."""
        if start >= end:
            edge = self.starts[start] if start < len(self.starts) else (self.ends[-1] if self.ends else 0)
            return edge, edge
        return self.starts[start], self.ends[end - 1]


def plain(text: str) -> PlainText:
    """The plain text of a text.

    Tags that HTML knows are left out where at least one pair of them shows a page, so that `a <b> c` elsewhere stays;
    entities become their characters; NFC, and NFKC of FORMS; INVISIBLE is left out; curly
    quotes become straight; what is blank becomes one space, none at either end.
    """
    if not text or RUN.fullmatch(text):
        return PlainText(text, range(len(text)), range(1, len(text) + 1))
    characters, starts, ends = list[str](), array("q"), array("q")
    for written, start, end in _spaced(_composed(_visible(list(_unmarked(text))))):
        characters.append(written)
        is_run = len(written) > 1 and RUN.fullmatch(text, start, end + 1)  # with its last letter
        starts.extend(range(start, end) if is_run else [start] * len(written))
        ends.extend(range(start + 1, end + 1) if is_run else [end] * len(written))
    return PlainText("".join(characters), starts, ends)


def _unmarked(text: str) -> Iterator[Piece]:
    """The text's characters without tags, entities resolved."""
    tags = list(TAG.finditer(text))
    opened = {tag["name"].lower() for tag in tags if not tag["close"]}
    page = any(tag["close"] and tag["name"].lower() in opened for tag in tags)
    found = [*tags, *HIDDEN.finditer(text)] if page else [*BREAK.finditer(text)]
    place = 0
    for match in sorted((*found, *ENTITY.finditer(text)), key=lambda match: match.start()):
        start, end = match.span()
        if start < place:
            continue  # within what is hidden
        yield from _runs(text, place, start)
        if match.re is ENTITY:
            whole = html.unescape(match[0]) if match[0][1] == "#" else html5.get(match[0][1:], match[0])
            yield from ((character, start, end) for character in whole)
        elif match.re is not TAG or BLOCK.fullmatch(match["name"]):
            yield " ", start, end
        place = end
    yield from _runs(text, place, len(text))


def _runs(text: str, start: int, end: int) -> Iterator[Piece]:
    """A stretch of the text, run by run; the last letter of each apart, as what follows may be its mark."""
    for match in RUN.finditer(text, start, end):
        yield from ((text[i], i, i + 1) for i in range(start, match.start()))
        start = match.end() - 1
        if match.start() < start:
            yield text[match.start() : start], match.start(), start
    yield from ((text[i], i, i + 1) for i in range(start, end))


def _visible(pieces: list[Piece]) -> Iterator[Piece]:
    """Leaves out what is not seen; a joiner only between letters that it does not change."""
    for index, (character, start, end) in enumerate(pieces):
        if INVISIBLE.match(character):
            continue
        if character in JOINERS:
            beside = (pieces[i][0] for i in (index - 1, index + 1) if 0 <= i < len(pieces))
            if all(one < FIRST_JOINED for one in beside):
                continue
        yield STRAIGHT.get(character, character), start, end


def _composed(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """NFC of each character with the marks that follow it; NFKC of FORMS."""
    cluster: list[Piece] = []
    for piece in chain(pieces, [("", 0, 0)]):
        character = piece[0]
        is_one = len(character) == 1
        if is_one and (unicodedata.category(character)[0] == "M" or FOLLOWING.match(character)):
            cluster.append(piece)
            continue
        if cluster:
            whole = "".join(one[0] for one in cluster)
            whole = unicodedata.normalize("NFKC" if FORMS.search(whole) else "NFC", whole)
            yield whole, cluster[0][1], cluster[-1][2]
        cluster = [piece]


def _spaced(pieces: Iterator[Piece]) -> Iterator[Piece]:
    """Runs of blanks as one space, none at either end."""
    blank: Piece | None = None
    begun = False
    for written, start, end in pieces:
        if not written.strip():
            blank = (" ", blank[1] if blank else start, end)
            continue
        if blank and begun:
            yield blank
        yield written, start, end
        blank, begun = None, True
