"""Options for the rounds: buffer, optimizer, synchronous and secure rounds."""

from __future__ import annotations

import click

from homeroom.cli.options import add_options
from homeroom.cli.parameters import FILE, Finite, Whole
from homeroom_aggregator.admin.configuration import OptimizerSection, RoundSection, SecureSection

ROUNDS, OPTIMIZER, SECURE = RoundSection(), OptimizerSection(), SecureSection()

round_options = add_options(
    click.option(
        "--buffer",
        "buffer_size",
        type=Whole(1),
        default=ROUNDS.buffer_size,
        show_default=True,
        help="Updates a release.",
    ),
    click.option(
        "--min-devices",
        type=Whole(1),
        default=ROUNDS.min_devices,
        show_default=True,
        help="Devices before a release.",
    ),
    click.option("--max-staleness", type=Whole(0), default=ROUNDS.max_staleness, show_default=True),
    click.option(
        "--codec",
        type=click.Choice(["fixed32", "int8", "int4", "topk"]),
        default=ROUNDS.codec,
        show_default=True,
        help="How updates travel: about 1/1, 1/4, 1/7 or 1/20 of float32.",
    ),
    click.option("--deadline", type=Finite(0, min_open=True), help="Synchronous rounds: seconds for one."),
    click.option("--quorum", type=Whole(1), help="Updates that make a release at the deadline."),
    click.option(
        "--over", type=Finite(1, 10), default=ROUNDS.over, show_default=True, help="Devices asked, of buffer."
    ),
    click.option("--by-school", is_flag=True, help="Merge a school's own segments among its devices (docs/policy.md)."),
)

optimizer_options = add_options(
    click.option(
        "--optimizer",
        type=click.Choice(["fedavg", "fedavgm", "fedadam", "fedyogi"]),
        default=OPTIMIZER.optimizer,
        show_default=True,
        help="Of the server.",
    ),
    click.option("--server-rate", type=Finite(0, min_open=True), default=OPTIMIZER.server_rate, show_default=True),
    click.option(
        "--beta1", type=Finite(), default=OPTIMIZER.beta1, show_default=True, help="FedAvgM, FedAdam, FedYogi."
    ),
    click.option("--beta2", type=Finite(), default=OPTIMIZER.beta2, show_default=True, help="FedAdam, FedYogi."),
    click.option("--tau", type=Finite(), default=OPTIMIZER.tau, show_default=True, help="FedAdam, FedYogi."),
    click.option("--proximal", type=Finite(0), default=OPTIMIZER.proximal, show_default=True, help="FedProx's mu."),
)

secure_options = add_options(
    click.option("--secure", is_flag=True, help="Secure rounds: the server sees sums only (docs/secure.md)."),
    click.option(
        "--cohort",
        type=click.IntRange(3, 10_000),
        default=SECURE.cohort,
        show_default=True,
        help="Devices of one sum.",
    ),
    click.option("--drop-rate", type=Finite(0, 0.45), default=SECURE.drop_rate, show_default=True),
    click.option("--corrupt-rate", type=Finite(0, 0.3), default=SECURE.corrupt_rate, show_default=True),
    click.option("--phase-hours", type=Finite(0, 8760, min_open=True), default=SECURE.phase_hours, show_default=True),
    click.option("--roster", type=FILE, help="Who may form cohorts (`trust roster`); may be given anew at each start."),
)
