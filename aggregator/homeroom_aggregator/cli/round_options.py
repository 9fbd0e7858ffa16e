"""The options by which `serve` and `simulate` choose optimizer and FedProx, and `serve` synchronous rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
import msgspec

from homeroom.cli.numbers import Finite, Whole
from homeroom.contract.round import CohortRules, ServerOptimizer
from homeroom.errors import InputError

OPTIONS = (
    click.option(
        "--optimizer",
        type=click.Choice(["fedavg", "fedavgm", "fedadam", "fedyogi"]),
        default="fedavg",
        show_default=True,
        help="Of the server.",
    ),
    click.option("--server-rate", type=Finite(0, min_open=True), default=1.0, show_default=True),
    click.option("--beta1", type=Finite(), default=0.9, show_default=True, help="FedAvgM, FedAdam, FedYogi."),
    click.option("--beta2", type=Finite(), default=0.99, show_default=True, help="FedAdam, FedYogi."),
    click.option("--tau", type=Finite(), default=1e-3, show_default=True, help="FedAdam, FedYogi."),
    click.option("--proximal", type=Finite(0), default=0.0, show_default=True, help="FedProx's mu."),
)


def optimizer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options; `chosen` reads them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


COHORT = (
    click.option("--deadline", type=Finite(0, min_open=True), help="Synchronous rounds: seconds for one."),
    click.option("--quorum", type=Whole(1), help="Updates that make a release at the deadline."),
    click.option("--over", type=Finite(1, 10), default=1.3, show_default=True, help="Devices asked, of buffer."),
    click.option("--by-school", is_flag=True, help="Merge a school's own segments among its devices (docs/policy.md)."),
)


def cohort_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the options of synchronous rounds, which `synchronous` reads, and `by_school`."""
    for option in reversed(COHORT):
        command = option(command)
    return command


def synchronous(deadline: float | None, quorum: int | None, over: float) -> CohortRules | None:
    """None where rounds are asynchronous; InputError if only a part was given."""
    if (deadline is None) != (quorum is None):
        raise InputError("--deadline and --quorum belong together", where="options")
    return None if deadline is None or quorum is None else CohortRules(deadline_s=deadline, quorum=quorum, over=over)


def chosen(name: str, beta1: float, beta2: float, tau: float) -> ServerOptimizer | None:
    """None for FedAvg, so that a round which uses nothing else keeps its identity."""
    if name == "fedavg":
        return None
    try:
        return msgspec.convert({"name": name, "beta1": beta1, "beta2": beta2, "tau": tau}, ServerOptimizer)
    except msgspec.ValidationError as problem:
        raise InputError(f"no such optimizer: {problem}", where="options", remedy="0 <= beta < 1, tau > 0") from None
