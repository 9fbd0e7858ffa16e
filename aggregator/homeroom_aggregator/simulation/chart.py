"""A chart of a simulation as one SVG picture: the schools' accuracy round by round, not only on average.

Nothing is loaded from anywhere; colours follow the reader's light or dark setting, and the lines differ in dashes too.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from homeroom.errors import InputError
from homeroom.system.html.render import colours, render
from homeroom.system.printable import counted
from homeroom_aggregator.simulation.federate import Simulation
from homeroom_aggregator.simulation.schools import skill_name, skills

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 56, 590, 56, 352  # edges of the plot


def svg(simulation: Simulation, title: str) -> str:
    """The picture: mean accuracy of the schools, the worst school's, and where eight of ten lie between.

    A school's accuracy is the mean over its tasks; of numbers their skill counts, drawn from 0 on. Raises InputError
    where no school was measured.
    """
    measured = [(facts.number, list(skills(facts.scores).values())) for facts in simulation.rounds]
    measured = [(number, values) for number, values in measured if values]
    if not measured:
        raise InputError("no school has samples for validation, so there is nothing to draw")
    low, mid, high = ([(number, float(np.percentile(v, q))) for number, v in measured] for q in (10, 50, 90))
    mean, worst = [(number, float(np.mean(v))) for number, v in measured], [(number, min(v)) for number, v in measured]
    first, last, what = mean[0][0], mean[-1][0], skill_name(simulation.rounds[-1].scores)
    light, dark = colours()
    return render(
        Path(__file__).with_suffix(".svg"),
        title=title,
        caption=f"{counted(len(measured[-1][1]), 'school')} after round {last}: mean {what} {mean[-1][1]:.3f}, "
        f"median {mid[-1][1]:.3f}",
        band=high + low[::-1],
        mean=mean,
        worst=worst,
        labels=_labels({"mean": mean[-1][1], "worst": worst[-1][1], "8 of 10 within": (low[-1][1] + high[-1][1]) / 2}),
        x=lambda number: LEFT + (RIGHT - LEFT) * (number - first) / max(1, last - first),
        y=_y,
        light=light,
        dark=dark,
        width=WIDTH,
        height=HEIGHT,
        left=LEFT,
        right=RIGHT,
        bottom=BOTTOM,
    )


def _y(value: float) -> float:
    return TOP + (BOTTOM - TOP) * (1 - max(value, 0.0))


def _labels(values: dict[str, float]) -> list[tuple[str, float]]:
    """Names and heights beside the ends of the lines, the higher first, and none over another."""
    labels, free = [], float(TOP)
    for name, value in sorted(values.items(), key=lambda item: -item[1]):
        y = max(_y(value) + 4, free)
        free = y + 17
        labels.append((name, y))
    return labels
