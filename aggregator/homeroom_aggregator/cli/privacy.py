"""`homeroom privacy`, and the options by which `serve` and `simulate` ask for private rounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from homeroom.cli.numbers import Finite, Folder
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import InputError

OPTIONS = (
    click.option("--epsilon", type=Finite(), help="Private rounds: the budget of one device over all releases."),
    click.option("--delta", type=Finite(), default=1e-5, show_default=True, help="Chance that the promise fails."),
    click.option("--clip-norm", type=Finite(), help="Longest update (L2) of a private round."),
    click.option("--noise-multiplier", type=Finite(), help="Noise of a private release, in clip norms."),
    click.option(
        "--subjects",
        type=click.IntRange(1, 1 << 14),
        help="Promise it to each subject (pupil) of a device; the most of them in one update.",
    ),
    click.option(
        "--clip-quantile",
        type=Finite(0, 1, min_open=True, max_open=True),
        help="Let the clip follow the updates, so that this share of them is within it; --clip-norm is the first one.",
    ),
    click.option(
        "--bands",
        type=click.IntRange(2, 64),
        help="Correlate the noise of so many releases in a row, of which a device then enters one at most.",
    ),
)


def privacy_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds these options; `asked` reads them."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


def asked(
    epsilon: float | None,
    delta: float,
    clip_norm: float | None,
    noise_multiplier: float | None,
    subjects: int | None = None,
    clip_quantile: float | None = None,
    bands: int | None = None,
    *,
    secure: bool = False,
) -> Privacy | None:
    """The promise that the options ask for; InputError if only a part of one was given.

    secure: the devices add the noise.
    """
    given = {"--epsilon": epsilon, "--clip-norm": clip_norm, "--noise-multiplier": noise_multiplier}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given) and subjects is None and clip_quantile is None and bands is None:
        return None
    if missing or epsilon is None or clip_norm is None or noise_multiplier is None:
        raise InputError(
            f"a private round also needs {' and '.join(missing)}",
            where="options",
            remedy="a clip without noise, or noise without a budget, promises nothing",
        )
    try:
        return Privacy(
            epsilon=epsilon,
            delta=delta,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            mechanism="distributed" if secure else "central",
            subjects=msgspec.UNSET if subjects is None else subjects,
            quantile=msgspec.UNSET if clip_quantile is None else clip_quantile,
            bands=msgspec.UNSET if bands is None else bands,
        )
    except ValueError as problem:
        raise InputError(str(problem), where="options") from None


def configuration(**fields: Any) -> RoundConfiguration:
    """A round configuration; InputError if its parts do not go together."""
    try:
        return RoundConfiguration(bundle_id="0" * 64, **fields)
    except ValueError as problem:
        raise InputError(str(problem), where="options") from None


@click.group()
def privacy() -> None:
    """What private rounds promised and spent."""


@privacy.command("report")
@click.argument("folder", type=Folder())
@click.option("--json", "machine", is_flag=True, help="Print one JSON object.")
def report(folder: Path, machine: bool) -> None:
    """Say in plain words what the releases of FOLDER may tell about one device, while it serves or not.

    Example: homeroom privacy report district/
    """
    from homeroom_aggregator.admin.privacy_report import figures, words

    found = figures(folder)
    click.echo(msgspec.json.encode(found).decode() if machine else "\n".join(words(found)))


commands: list[click.Command] = [privacy]
