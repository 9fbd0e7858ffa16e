"""Options that bound a training beside its minutes, the same wherever one is started; imports cli_numbers, budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

from homeroom.cli.numbers import Finite

if TYPE_CHECKING:
    from homeroom.device.resources.budget import Budget

SPANS = "Such as 'mon-fri 16:00-20:00'; may be given again."
OPTIONS = (
    click.option("--megabytes", type=Finite(0, min_open=True), help="Of memory, at most."),
    click.option("--threads", type=click.IntRange(1, 256), help="In place of as many as were measured to be fastest."),
    click.option("--free-megabytes", type=Finite(0), default=100.0, show_default=True, help="Of disk that stay free."),
    click.option(
        "--battery",
        type=Finite(0, 100),
        default=30.0,
        show_default=True,
        help="Percent below which, unplugged, it rests.",
    ),
    click.option(
        "--celsius", type=Finite(0), default=85.0, show_default=True, help="The hottest its processor may get."
    ),
    click.option("--quiet", multiple=True, help=f"Hours in which it never trains. {SPANS}"),
)


def budget_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options; the command takes them as keywords, for `budget_of`."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def budget_of(minutes: float, limits: Mapping[str, Any]) -> Budget:
    """limits: the options' values. InputError for hours that are none."""
    from homeroom.device.resources.budget import Budget, read_weekly_hours

    quiet = tuple(map(read_weekly_hours, limits["quiet"]))
    return Budget(minutes, **{**limits, "battery": limits["battery"] / 100, "quiet": quiet})
