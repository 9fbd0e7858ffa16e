"""`homeroom simulate`; imports virtual and Flower when used."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from homeroom.cli.numbers import Finite, Whole
from homeroom.errors import InputError
from homeroom.system.files import write_durable
from homeroom_aggregator import flower
from homeroom_aggregator.cli.privacy import asked, privacy_options
from homeroom_aggregator.cli.round_options import chosen, optimizer_options

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("schools", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", type=Whole(1), default=20, show_default=True)
@click.option("--epochs", type=Whole(1), default=2, show_default=True, help="Of each school in each round.")
@click.option("--participation", type=Finite(0, 1, min_open=True), default=1.0, show_default=True)
@click.option("--lag", type=Finite(0, 1), default=0.0, show_default=True, help="Share that trains on old theta.")
@optimizer_options
@privacy_options
@click.option("--seed", type=Whole(0), default=0, show_default=True)
@click.option(
    "--engine",
    type=click.Choice(["homeroom", "flower"]),
    default="homeroom",
    show_default=True,
    help="Where the schools train: this process, or Flower's simulation on every core [flower].",
)
@click.option("--measure-every", type=Whole(1), help="Score every so many rounds, not only the last.")
@click.option("--plot", type=FILE, help="Draw the schools' accuracy round by round into this .svg.")
@click.option("--json", "out", type=FILE, help="Write every figure here.")
def simulate(
    bundle: Path,
    schools: tuple[Path, ...],
    rounds: int,
    epochs: int,
    participation: float,
    lag: float,
    proximal: float,
    optimizer: str,
    server_rate: float,
    beta1: float,
    beta2: float,
    tau: float,
    epsilon: float | None,
    delta: float,
    clip_norm: float | None,
    noise_multiplier: float | None,
    subjects: int | None,
    clip_quantile: float | None,
    bands: int | None,
    seed: int,
    engine: str,
    measure_every: int | None,
    plot: Path | None,
    out: Path | None,
) -> None:
    """Train BUNDLE together with virtual schools; SCHOOLS are folders, .jsonl or .csv files of samples, one a school.

    Example: homeroom simulate vocabulary.homeroom schools/*.jsonl --rounds 30 --json simulated.json
    Hundreds of schools, on every core: --engine flower --measure-every 5 --plot simulated.svg
    """
    import tempfile

    from homeroom_aggregator.simulation import chart
    from homeroom_aggregator.simulation import schools as virtual

    if plot and plot.suffix.lower() != ".svg":
        raise InputError("the picture is an .svg", where=str(plot), remedy=f"name it {plot.with_suffix('.svg').name}")

    remote = None
    if engine == "flower":
        flower.check_installed()
        from homeroom_aggregator.flower import simulation

        remote = simulation.simulate
    with tempfile.TemporaryDirectory() as scratch:
        found = virtual.run(
            bundle,
            schools,
            Path(scratch),
            rounds=rounds,
            epochs=epochs,
            participation=participation,
            lag=lag,
            proximal=proximal,
            privacy=asked(epsilon, delta, clip_norm, noise_multiplier, subjects, clip_quantile, bands),
            optimizer=chosen(optimizer, beta1, beta2, tau),
            server_rate=server_rate,
            measure_every=measure_every or int(plot is not None),
            seed=seed,
            tell=click.echo,
            on_trained=_arrived,
            remote=remote,
        )
    if out:
        write_durable(out, msgspec.json.format(msgspec.json.encode(virtual.simulation_document(found)), indent=1))
    if plot:
        write_durable(plot, chart.svg(found, f"{len(schools)} schools, {rounds} rounds").encode())
    virtual.check_finite(found)


def _arrived(done: int, of: int) -> None:
    """On a terminal, a line that says how many schools are done with the round; nothing where no person looks."""
    if sys.stderr.isatty():
        click.echo(f"\r  {done} of {of} schools" if done < of else "\r\033[K", nl=False, err=True)
