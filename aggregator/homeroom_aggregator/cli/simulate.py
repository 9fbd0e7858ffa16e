"""`homeroom research simulate`: a federation of simulated schools."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click
import msgspec

from homeroom.cli.options import Decorator
from homeroom.cli.parameters import OUT_FILE, PATH, Finite, NamedPath, Whole
from homeroom.errors import InputError
from homeroom.system.files import write_durable
from homeroom.system.printable import counted
from homeroom_aggregator import flower
from homeroom_aggregator.admin.configuration import FIELD_OF_OPTION, DistrictConfiguration, with_options
from homeroom_aggregator.cli.privacy import privacy_options
from homeroom_aggregator.cli.round_options import optimizer_options, rule_options, setting
from homeroom_aggregator.simulation.configuration import SimulationConfiguration


def option(*names: str, **settings: Any) -> Decorator:
    """An option with the default of the simulation's field of its name; names, settings: as for `click.option`."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(SimulationConfiguration)}
    default = defaults[names[-1].lstrip("-").replace("-", "_")]
    return click.option(*names, default=default, show_default=default is not None, **settings)


@click.command()
@click.argument("bundle", type=PATH)
@click.argument("schools", nargs=-1, required=True, type=NamedPath(exists=True))
@option("--rounds", type=Whole(1))
@option("--epochs", type=Whole(1), help="Of each school in each round.")
@option("--participation", type=Finite(0, 1, min_open=True), help="Share of schools a round.")
@option("--lag", type=Finite(0, 1), help="Share that trains on old theta.")
@rule_options
@optimizer_options
@privacy_options
@setting(
    "--statistics",
    type=click.Choice(["off", "plain"]),
    help="Exchange sums once, and score heads solved from them beside theta (docs/statistics.md).",
)
@option("--seed", type=Whole(0))
@option(
    "--engine",
    type=click.Choice(["homeroom", "flower"]),
    help="Where the schools train: this process, or Flower's simulation on every core [flower].",
)
@option("--measure-every", type=Whole(1), help="Score every so many rounds, not only the last.")
@click.option("--plot", type=OUT_FILE, help="Draw the schools' accuracy round by round into this .svg.")
@click.option("--json", "out", type=OUT_FILE, help="Write every figure here.")
def simulate(bundle: Path, schools: tuple[Path, ...], plot: Path | None, out: Path | None, **options: Any) -> None:
    """Train BUNDLE together with simulated schools; SCHOOLS are folders, .jsonl or .csv files of samples, one a school.

    Hundreds of schools, on every core: --engine flower --measure-every 5 --plot simulated.svg
    """
    import tempfile

    from homeroom_aggregator.simulation import chart
    from homeroom_aggregator.simulation import schools as virtual

    if plot and plot.suffix.lower() != ".svg":
        raise InputError("the picture is an .svg", where=str(plot), remedy=f"name it {plot.with_suffix('.svg').name}")
    fields = {name: options[name] for name in SimulationConfiguration.__struct_fields__}
    configuration, remote = SimulationConfiguration(**fields), None
    given = {name: value for name, value in options.items() if name in FIELD_OF_OPTION and value is not None}
    terms = with_options(DistrictConfiguration(), given).round
    if configuration.engine == "flower":
        flower.check_installed()
        from homeroom_aggregator.flower import simulation

        remote = simulation.simulate
    with tempfile.TemporaryDirectory() as scratch:
        simulated = virtual.run(
            bundle,
            schools,
            Path(scratch),
            asked=configuration,
            terms=terms,
            measure_every=configuration.measure_every or int(plot is not None),
            tell=click.echo,
            on_trained=_arrived,
            remote=remote,
        )
    if out:
        write_durable(out, msgspec.json.format(msgspec.json.encode(virtual.simulation_document(simulated)), indent=1))
    if plot:
        title = f"{counted(len(schools), 'school')}, {counted(configuration.rounds, 'round')}"
        write_durable(plot, chart.svg(simulated, title).encode())
    virtual.check_finite(simulated)


def _arrived(done: int, of: int) -> None:
    """On a terminal, a line that says how many schools are done with the round; nothing where no person looks."""
    if sys.stderr.isatty():
        click.echo(f"\r  {done} of {counted(of, 'school')}" if done < of else "\r\033[K", nl=False, err=True)
