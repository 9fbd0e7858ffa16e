"""A chart of a simulation as one SVG picture: the schools' accuracy round by round, not only on average.

Nothing is loaded from anywhere; colours follow the reader's light or dark setting, and the lines differ in dashes too.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from homeroom.errors import InputError
from homeroom_aggregator.simulation.federate import Simulation
from homeroom_aggregator.simulation.schools import skill_name, skills

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 130, 56, 48  # margins around the plot
CHART_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1c2430 } .title { font-size: 16px; font-weight: 600 }
.back { fill: #ffffff } .grid { stroke: #d5dae1 } .band { fill: #1d6fd6; opacity: .18 }
.mean { stroke: #1d6fd6 } .worst { stroke: #de6e14; stroke-dasharray: 6 4 } .line { fill: none; stroke-width: 2.5 }
@media (prefers-color-scheme: dark) { text { fill: #e6eaf0 } .back { fill: #14181e } .grid { stroke: #3a424d } }
"""


def svg(simulation: Simulation, title: str) -> str:
    """The picture: mean accuracy of the schools, the worst school's, and where eight of ten lie between.

    A school's accuracy is the mean over its tasks; of numbers their skill counts, drawn from 0 on. Raises InputError
    where no school was measured.
    """
    measured = [(facts.number, list(skills(facts.scores).values())) for facts in simulation.rounds]
    measured = [(number, values) for number, values in measured if values]
    if not measured:
        raise InputError("no school has samples for validation, so there is nothing to draw")
    rounds = [number for number, _ in measured]
    low, mid, high = ([float(np.percentile(values, q)) for _, values in measured] for q in (10, 50, 90))
    mean, worst = [float(np.mean(v)) for _, v in measured], [min(v) for _, v in measured]
    schools, what = len(measured[-1][1]), skill_name(simulation.rounds[-1].scores)
    band = _points(rounds, high) + _points(rounds, low)[::-1]
    last = f"{schools} schools after round {rounds[-1]}: mean {what} {mean[-1]:.3f}, median {mid[-1]:.3f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="t d">',
        f'<title id="t">{escape(title)}</title><desc id="d">{escape(last)}, worst {worst[-1]:.3f}</desc>',
        f'<style>{CHART_STYLE}</style><rect class="back" width="{WIDTH}" height="{HEIGHT}"/>',
        f'<text class="title" x="{LEFT}" y="24">{escape(title)}</text><text x="{LEFT}" y="43">{escape(last)}</text>',
        *(_gridline(tick / 5) for tick in range(6)),
        *(_round_label(number, rounds) for number in sorted({rounds[0], rounds[len(rounds) // 2], rounds[-1]})),
        f'<polygon class="band" points="{_joined(band)}"/>',
        f'<polyline class="line mean" points="{_joined(_points(rounds, mean))}"/>',
        f'<polyline class="line worst" points="{_joined(_points(rounds, worst))}"/>',
        *_labels({"mean": mean[-1], "worst": worst[-1], "8 of 10 within": (low[-1] + high[-1]) / 2}),
        "</svg>\n",
    ]
    return "".join(parts)


def _points(rounds: Sequence[int], values: Sequence[float]) -> list[tuple[float, float]]:
    return [(_x(number, rounds), _y(value)) for number, value in zip(rounds, values, strict=True)]


def _x(number: int, rounds: Sequence[int]) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * (number - rounds[0]) / max(1, rounds[-1] - rounds[0])


def _y(value: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - max(value, 0.0))


def _joined(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _gridline(value: float) -> str:
    y, right = _y(value), WIDTH - RIGHT
    line = f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
    return f'{line}<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>'


def _round_label(number: int, rounds: Sequence[int]) -> str:
    x = _x(number, rounds)
    return f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 22}" text-anchor="middle">round {number}</text>'


def _labels(values: dict[str, float]) -> list[str]:
    """Beside the ends of the lines, the higher first, and none over another."""
    labels, free = [], float(TOP)
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        y = max(_y(value) + 4, free)
        free = y + 17
        labels.append(f'<text x="{WIDTH - RIGHT + 8}" y="{y:.1f}">{name}</text>')
    return labels
