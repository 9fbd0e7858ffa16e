"""The result of a section of `benchmarks/exporter.py`: a table, figures, and targets judged from them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.verdict import limited

NAMES = (
    "sizes",
    "speed",
    "accuracy",
    "lora",
    "peft",
    "gradients",
    "clipping",
    "litert",
    "processors",
    "tiers",
    "labelfree",
    "tracing",
    "strict",
)


@dataclass(frozen=True)
class Target:
    """One line of the issue. `value` is None where it could not be measured; `bound` is an upper one or, with
    `at_least`, a lower one.
    """

    name: str
    value: float | None
    bound: float
    at_least: bool = False

    def judged(self) -> dict[str, Any]:
        return limited(self.name, self.value, self.bound, at_least=self.at_least)


@dataclass(frozen=True)
class Section:
    """rows: the table as printed, its header first; figures: whatever JSON holds; targets: judged from the figures."""

    title: str
    rows: list[list[str]]
    figures: dict[str, Any]
    targets: list[Target] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        return {**asdict(self), "targets": [target.judged() for target in self.targets]}


def data_folder() -> Path:
    """The shared data sets beside the project."""
    return Path(__file__).resolve().parents[2] / "shared" / "data"
