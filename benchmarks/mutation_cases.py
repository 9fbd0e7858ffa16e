"""What the mutations work on: the folders of security checks, removals that are always tried, and equivalent ones."""

from __future__ import annotations

from dataclasses import dataclass

FOLDERS = (
    "sdk/homeroom/contract",
    "sdk/homeroom/privacy",
    "sdk/homeroom/runtime",
    "sdk/homeroom/store",
    "sdk/homeroom/federation",
    "sdk/homeroom/data/ingest",
    "sdk/homeroom/agent",
    "aggregator/homeroom_aggregator/state",
    "aggregator/homeroom_aggregator/merge",
    "aggregator/homeroom_aggregator/secagg",
    "aggregator/homeroom_aggregator/admin",
    "aggregator/homeroom_aggregator/server",
)


@dataclass(frozen=True)
class Removal:
    """A check by its text, which stands once in the file at `path`, and what replaces it."""

    name: str
    path: str
    text: str
    replacement: str


SURVIVORS: tuple[Removal, ...] = ()
"""Removals that no test noticed in an earlier trial."""

EQUIVALENT: dict[str, str] = {}
"""Removals that change nothing which a person or a program could notice, by `Check.key`, each with its reason."""
