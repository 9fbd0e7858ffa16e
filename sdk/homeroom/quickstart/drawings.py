"""The starter lesson's drawings: the things of drawings.toml as SVG, in any two colours, turned and mirrored."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

PAPERS = ("#ffffff", "#f4f0e4", "#e8f1f7", "#eef5e9")
COLOURS = (
    ("#d9482b", "#f2b134"),
    ("#2f6fb3", "#8cc4e0"),
    ("#7a4ea3", "#e59ac1"),
    ("#2f8f5b", "#c6d94a"),
    ("#b3562f", "#f0d9a0"),
    ("#3b4a6b", "#d96c75"),
)


@dataclass(frozen=True)
class Thing:
    """One thing of the lesson. words: by language; shape: SVG in a square of 100, colours `{a}` and `{b}`."""

    name: str
    kind: str
    words: dict[str, str]
    shape: str


DRAWINGS = tomllib.loads(Path(__file__).with_name("drawings.toml").read_text("utf-8"))
THINGS = tuple(Thing(**thing) for thing in DRAWINGS["things"])
KINDS_TAUGHT = tuple(dict.fromkeys(thing.kind for thing in THINGS))
SCRIBBLE: str = DRAWINGS["nothing"]["shape"]
FRAME: str = DRAWINGS["frame"]


def draw(shape: str, variant: int) -> bytes:
    """An SVG of a shape. variant: 0 and up; decides colours, paper, size, tilt and side."""
    (a, b), paper = COLOURS[variant % len(COLOURS)], PAPERS[variant % len(PAPERS)]
    tilt, size, side = (variant * 37) % 25 - 12, 0.72 + 0.06 * (variant * 5 % 4), -1 if variant % 2 else 1
    move = f"translate(50 50) rotate({tilt}) scale({side * size:.2f} {size:.2f}) translate(-50 -50)"
    return FRAME.format(paper=paper, move=move, inner=shape.format(a=a, b=b)).encode()
