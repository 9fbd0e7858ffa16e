"""The status of a device in words, a line each fact."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def status_lines(facts: Mapping[str, Any]) -> Iterator[str]:
    """The lines of `homeroom device status`; lines below a fact are indented."""
    for name, value in facts.items():
        if name == "statistics" and value:
            value = list(_statistics(value))
        title = name.replace("_", " ")
        if isinstance(value, list):
            yield f"{title}:" if name == "statistics" and value else f"{title}: {len(value) or 'none'}"
            yield from (f"  {line}" for line in value)
        elif name == "privacy" and value:
            yield f"{title}: {_named(value)}"
        else:
            parts = value.values() if isinstance(value, Mapping) else [value]
            yield f"{title}: {', '.join(_in_words(part) for part in parts if part is not None) or 'none'}"


def _statistics(facts: Mapping[str, Any]) -> Iterator[str]:
    """How statistics stand: facts are those of `federation.statistics.StatisticsText`."""
    if facts["sent"] and facts["why_not"]:
        yield "sent before: the next sync takes them back; where this device was revoked, they left at once"
    else:
        yield "the aggregator has this device's" if facts["sent"] else "the aggregator has none of this device"
    if facts["why_not"]:
        yield f"stay here: {facts['why_not']}"
    for task, why in facts["held"].items():
        yield f"{f'of {task} ' if task else ''}wait here: {why}"
    yield from (f"of {task}: {why}" for task, why in facts["nameless"].items())
    if facts["round"]:
        yield f"in the secure round: {facts['round']}"
    if facts["to_subtract_since"]:
        yield f"what was taken away here waits since {facts['to_subtract_since']} to be subtracted there"
    if facts["waits"]:
        yield f"wait at the aggregator: {facts['waits']}"


def _named(facts: Mapping[str, Any]) -> str:
    """Facts with their names, those of a fact in brackets."""
    named = {name.replace("_", " "): value for name, value in facts.items() if value is not None}
    return ", ".join(
        f"{name} ({_named(value)})" if isinstance(value, Mapping) else f"{name} {_in_words(value)}"
        for name, value in named.items()
    )


def _in_words(fact: object) -> str:
    return ("no", "yes")[fact] if isinstance(fact, bool) else str(fact)
