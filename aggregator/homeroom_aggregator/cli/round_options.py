"""Options for the rounds: buffer, optimizer, synchronous and secure rounds."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from homeroom.cli.options import Decorator, add_options
from homeroom.cli.parameters import FILE, Finite, Whole
from homeroom_aggregator.admin.configuration import OptimizerSection, RoundSection, SecureSection


def option(section: type[msgspec.Struct], *names: str, **settings: Any) -> Decorator:
    """An option whose default is that of the section's field of its name. names, settings: as for `click.option`."""
    defaults = {field.name: field.default for field in msgspec.structs.fields(section)}
    default = defaults[names[-1].lstrip("-").replace("-", "_")]
    return click.option(*names, default=default, show_default=default is not None, **settings)


round_options = add_options(
    option(RoundSection, "--buffer", "buffer_size", type=Whole(1), help="Updates a release."),
    option(RoundSection, "--min-devices", type=Whole(1), help="Devices before a release."),
    option(RoundSection, "--max-staleness", type=Whole(0), help="Versions that an update may be behind."),
    option(
        RoundSection,
        "--codec",
        type=click.Choice(["fixed32", "int8", "int4", "topk"]),
        help="How updates travel: about 1/1, 1/4, 1/7 or 1/20 of float32.",
    ),
    option(RoundSection, "--deadline", type=Finite(0, min_open=True), help="Synchronous rounds: seconds for one."),
    option(RoundSection, "--quorum", type=Whole(1), help="Updates that make a release at the deadline."),
    option(RoundSection, "--over", type=Finite(1, 10), help="Devices asked, of buffer."),
    click.option("--by-school", is_flag=True, help="Merge a school's own segments among its devices (docs/policy.md)."),
)

optimizer_options = add_options(
    option(
        OptimizerSection,
        "--optimizer",
        type=click.Choice(["fedavg", "fedavgm", "fedadam", "fedyogi"]),
        help="Of the server.",
    ),
    option(OptimizerSection, "--server-rate", type=Finite(0, min_open=True), help="The server's learning rate."),
    option(OptimizerSection, "--beta1", type=Finite(), help="FedAvgM, FedAdam, FedYogi."),
    option(OptimizerSection, "--beta2", type=Finite(), help="FedAdam, FedYogi."),
    option(OptimizerSection, "--tau", type=Finite(), help="FedAdam, FedYogi."),
    option(OptimizerSection, "--proximal", type=Finite(0), help="FedProx's mu."),
)

secure_options = add_options(
    click.option("--secure", is_flag=True, help="Secure rounds: the server sees sums only (docs/secure.md)."),
    option(SecureSection, "--cohort", type=click.IntRange(3, 10_000), help="Devices of one sum."),
    option(SecureSection, "--drop-rate", type=Finite(0, 0.45), help="Share of a cohort that may drop out."),
    option(SecureSection, "--corrupt-rate", type=Finite(0, 0.3), help="Share of a cohort that may be corrupt."),
    option(SecureSection, "--phase-hours", type=Finite(0, 8760, min_open=True), help="Longest wait in a phase."),
    click.option("--roster", type=FILE, help="Who may form cohorts (`trust roster`); may be given anew at each start."),
)
