"""Drawing of SVG files: within bounds, with the one font that ships; nothing of the machine or the web is read."""

from __future__ import annotations

import re
import unicodedata
import zlib
from functools import lru_cache
from pathlib import Path
from xml.parsers import expat

import numpy as np

from homeroom.data.decoder.limits import narrow_time
from homeroom.errors import Code, InputError

CANVAS_PIXELS = 1024  # of either side; the shape fits in
FIRST_WIDTH_PIXELS, FIRST_HEIGHT_PIXELS = 512, 8192  # the canvas of version 1
MOST_SHAPE = 16  # times as long as wide
PIXELS_PER_INCH = 96.0  # of CSS, for sizes in mm, in or pt
SVG_LIMIT_BYTES = 8 << 20
SVG_LIMIT_S = 4.0  # of the processor: a few filters, masks or patterns of a small file can take hours
GZIP_MAGIC, GZIP_WINDOW = b"\x1f\x8b", 31  # zlib's number for gzip's header
FONT, FONT_NAME = Path(__file__).with_name("DejaVuSans.ttf"), "DejaVu Sans"
SHOWN_LETTERS = 5  # of those that the font lacks
VARIATIONS = frozenset("\ufe0e\ufe0f")
# What these elements refer to is drawn, or paints something.
REFERRING = re.compile("image|feImage|use|tref|textPath|pattern|linearGradient|radialGradient|filter")
INSIDE = re.compile(r"\s*(#|$)")
PICTURE_INSIDE = re.compile(r"\s*(#|$|data:image/(png|jpe?g|gif|webp);base64,)")
OUTSIDE_PAINT = re.compile(r"url\(\s*['\"]?\s*(?!['\"#\s)])")
PAINT = re.compile("fill|stroke|filter|mask|clip-path|marker(-start|-mid|-end)?|style")
FONT_FACE = re.compile(r"@font-face\s*\{[^}]*\}")


def is_svg(data: bytes) -> bool:
    """Whether a file begins as an SVG does."""
    head = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or (
        head.startswith((b"<?xml", b"<!doctype svg", b"<!--")) and b"<svg" in data[:65536]
    )


def unpack(data: bytes, where: str) -> bytes:
    """Unpacks an .svgz, no further than an SVG may be long; b"" where it is another file."""
    try:
        text = zlib.decompressobj(GZIP_WINDOW).decompress(data, SVG_LIMIT_BYTES + 1)
    except zlib.error as problem:
        raise InputError(f"the picture is damaged: {problem}", where=where, remedy="copy it again") from None
    return text if is_svg(text) else b""


def draw(data: bytes, where: str, version: int) -> bytes:
    """Draws an SVG, as PNG; InputError where something in it would be missing, or it cannot be drawn.

    version: of the preprocessing; the first draws no text
    """
    import resvg_py

    if len(data) > SVG_LIMIT_BYTES:
        raise InputError(f"an SVG of over {SVG_LIMIT_BYTES >> 20} MB is not drawn", code=Code.TOO_LARGE, where=where)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    contents = _Contents(where)
    contents.read(text)
    try:
        narrow_time(SVG_LIMIT_S)
        # The shape is kept within both sides, whatever size the file claims.
        if version == 1:
            width, height = FIRST_WIDTH_PIXELS, FIRST_HEIGHT_PIXELS
            return bytes(resvg_py.svg_to_bytes(svg_string=text, width=width, height=height, skip_system_fonts=True))
        contents.check_letters()
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=text,
                width=CANVAS_PIXELS,
                height=CANVAS_PIXELS,
                dpi=PIXELS_PER_INCH,
                skip_system_fonts=True,
                font_files=[str(FONT)],
                font_family=FONT_NAME,
                serif_family=FONT_NAME,  # also what any family that is not there falls back to
                sans_serif_family=FONT_NAME,
                monospace_family=FONT_NAME,
            )
        )
    except InputError:
        raise
    except Exception as problem:  # the library raises bare ValueError and its own panic type
        raise InputError(f"the SVG cannot be drawn: {problem}", where=where, remedy="save it as PNG") from None


class _Contents:
    """Reads an SVG's elements, refuses what is not drawn, and keeps its texts."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.texts: list[str] = []
        self._open: list[str] = []

    def read(self, text: str) -> None:
        parser = expat.ParserCreate("utf-8")  # whatever encoding the declaration names: it is decoded
        parser.buffer_text = True
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = lambda name: self._open.pop()
        parser.CharacterDataHandler = self._text
        parser.ProcessingInstructionHandler = self._instruction
        try:
            parser.Parse(text.encode("utf-8", "replace"), True)
        except expat.ExpatError as problem:
            raise InputError(f"the SVG cannot be drawn: {problem}", where=self.where, remedy="save it as PNG") from None

    def check_letters(self) -> None:
        """Refuses letters that the font lacks."""
        used = set(unicodedata.normalize("NFC", "".join(self.texts))) - VARIATIONS
        lacking = sorted(c for c in used if c.isprintable() and not c.isspace() and ord(c) not in font_letters())
        if lacking:
            shown = " ".join(lacking[:SHOWN_LETTERS])
            raise InputError(
                f"the SVG has text in letters that the font here lacks: {shown}",
                where=self.where,
                remedy="save it as PNG, or its text as paths",
            )

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        name, parent = name.rpartition(":")[2], self._open[-1] if self._open else ""
        self._open.append(name)
        if name == "foreignObject" and parent != "switch":  # which has another form beside it
            self._refuse("a part of a web page (foreignObject)")
        allowed = PICTURE_INSIDE if name in ("image", "feImage") else INSIDE
        for key, value in attributes.items():
            if REFERRING.fullmatch(name) and key.rpartition(":")[2] == "href" and not allowed.match(value):
                self._refuse(f"a link to something outside it ({value.strip()[:80]})")
            if PAINT.fullmatch(key) and OUTSIDE_PAINT.search(value):
                self._refuse(f"a link to something outside it ({value.strip()[:80]})")

    def _text(self, text: str) -> None:
        if "style" in self._open and ("@import" in text or OUTSIDE_PAINT.search(FONT_FACE.sub("", text))):
            self._refuse("a style with a link to something outside it")
        if "text" in self._open:
            self.texts.append(text)

    def _instruction(self, target: str, _: str) -> None:
        if target == "xml-stylesheet":
            self._refuse("a link to a style sheet outside it")

    def _refuse(self, what: str) -> None:
        raise InputError(
            f"the SVG has {what}, which is not drawn", where=self.where, remedy="put it inside, or save it as PNG"
        )


@lru_cache(maxsize=1)
def font_letters() -> frozenset[int]:
    """The code points that the font has, by its character map of format 4 (OpenType's `cmap`)."""
    data = FONT.read_bytes()
    tables = {data[at : at + 4]: int.from_bytes(data[at + 8 : at + 12]) for at in range(12, 12 + 16 * data[5], 16)}
    start = tables[b"cmap"]
    start += int.from_bytes(data[start + 8 : start + 12])  # its first encoding
    count = int.from_bytes(data[start + 6 : start + 8]) // 2
    last = np.frombuffer(data, ">u2", count, start + 14)
    first = np.frombuffer(data, ">u2", count, start + 16 + 2 * count)
    return frozenset(code for a, b in zip(first.tolist(), last.tolist(), strict=True) for code in range(a, b + 1))
