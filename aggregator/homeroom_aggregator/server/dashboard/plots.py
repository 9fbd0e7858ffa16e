"""Two inline SVG plots, each with its figures in words; colours come from the page's style by class."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from homeroom_aggregator.server.dashboard.queries import VersionRow

WIDE, HIGH, FLOOR, GAP = 360, 112, 92, 4
SCALE, ROW = 200, 16  # of a dumbbell


def bars(recent: Sequence[VersionRow]) -> Markup:
    """A bar for each version, the newest on the right: how many devices sent updates for it."""
    shown = list(reversed(recent))
    if not shown:
        return Markup("")
    highest = max(1, *(version.senders for version in shown))
    step = min(40.0, (WIDE - GAP) / len(shown))
    drawn = []
    for index, version in enumerate(shown):
        height = max(2.0, (FLOOR - 18) * version.senders / highest)
        kind = "back" if version.to is not None else "bar"
        drawn.append(
            Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" rx="2"/>').format(
                kind, GAP + index * step, FLOOR - height, step - GAP, height
            )
        )
        if index in (0, len(shown) - 1) or len(shown) <= 9:
            middle = GAP + index * step + (step - GAP) / 2
            drawn.append(_text(middle, HIGH - 4, str(version.number)))
            drawn.append(_text(middle, FLOOR - height - 5, str(version.senders)))
    figures = "; ".join(f"version {version.number}: {version.senders}" for version in shown)
    axis = Markup('<path class="axis" d="M0 {0}H{1}"/>').format(FLOOR, WIDE)
    return Markup('<svg class="bars" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}</svg>').format(
        WIDE, HIGH, f"Devices that sent updates, by version. {figures}", axis, Markup("").join(drawn)
    )


def dumbbell(before: float | None, after: float, label: str) -> Markup:
    """A task's skill from 0 to 1: a ring where it was, a disc where it is; `label` says it in words."""
    at = _along(after)
    parts = [Markup('<path class="axis" d="M4 8H{}"/>').format(SCALE - 4)]
    if before is not None:
        was, kind = _along(before), "good" if after > before else "bad" if after < before else "plain"
        parts.append(Markup('<path class="move {}" d="M{:.1f} 8H{:.1f}"/>').format(kind, was, at))
        parts.append(Markup('<circle class="was" cx="{:.1f}" cy="8" r="4"/>').format(was))
        parts.append(Markup('<circle class="is {}" cx="{:.1f}" cy="8" r="5"/>').format(kind, at))
    else:
        parts.append(Markup('<circle class="is plain" cx="{:.1f}" cy="8" r="5"/>').format(at))
    return Markup('<svg class="dumbbell" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        SCALE, ROW, label, Markup("").join(parts)
    )


def _along(share: float) -> float:
    return 6 + (SCALE - 12) * max(share, 0.0)


def _text(x: float, y: float, text: str) -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="middle">{}</text>').format(x, y, text)
