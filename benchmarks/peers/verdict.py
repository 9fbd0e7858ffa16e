"""The verdict of a benchmark: its targets, judged, in the JSON and on the screen."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def target(name: str, value: Any, bound: str, met: bool) -> dict[str, Any]:
    """A figure beside what it should be. bound: as people read it, such as "<= 2"."""
    value = float(f"{value:.4g}") if isinstance(value, float) else value
    return {"name": name, "value": value, "bound": bound, "met": bool(met)}


def limited(name: str, value: float | None, bound: float, *, at_least: bool = False) -> dict[str, Any]:
    """As `target`, of a figure that a bound limits from above, or from below; unmet where it was not measured."""
    met = value is not None and (value >= bound if at_least else value <= bound)
    return target(name, value, f"{'>=' if at_least else '<='} {bound:g}", met)


def shown(one: Mapping[str, Any]) -> str:
    """A target on a line."""
    value = "not measured" if one["value"] is None else one["value"]
    return f"{'met    ' if one['met'] else 'NOT MET'}  {one['name']}: {value} ({one['bound']})"


def finish(document: Mapping[str, Any], path: Path | None) -> None:
    """Write the document, if a path is given, and print its `targets` and `minutes`."""
    if path:
        path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    for one in document["targets"]:
        print(shown(one))
    print(f"{document['minutes']} minutes")
