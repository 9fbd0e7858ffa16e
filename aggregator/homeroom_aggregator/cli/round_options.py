"""Options for the rounds: buffer, optimizer, synchronous and secure rounds. None of them has a value unless given."""

from __future__ import annotations

from typing import Any

import click

from homeroom.cli.options import Decorator, add_options
from homeroom.cli.parameters import FILE, Finite, Whole
from homeroom_aggregator.admin.configuration import NEW_PLAIN_ROUNDS, AnyBundle, option_default


def setting(*names: str, **settings: Any) -> Decorator:
    """An option over a field of the configuration, None where it is not given; help shows the field's default.

    names, settings: as for `click.option`; `show_default` where a command has another default than the field.
    """
    default = option_default(names[-1].lstrip("-").replace("-", "_"))
    return click.option(*names, default=None, **{"show_default": default or False, **settings})


def _of_new_plain_rounds(field: str) -> str:
    return f"{getattr(AnyBundle, field)}; of a new folder with plain rounds {getattr(NEW_PLAIN_ROUNDS, field)}"


BUFFER = f"follows the devices; {option_default('buffer_size')} with --secure or --deadline"
rule_options = add_options(
    setting(
        "--rule",
        type=click.Choice(["mean", "bounded", "trimmed", "multi-krum"]),
        show_default=_of_new_plain_rounds("rule"),
        help="How plain updates are merged.",
    ),
    setting(
        "--school-share",
        type=Finite(0, 1),
        show_default="0.5, but with --rule mean",
        help="Of a release's weight, that one school has at most; 0: each has the same.",
    ),
)

round_options = add_options(
    setting("--buffer", "buffer_size", type=Whole(1), show_default=BUFFER, help="Updates a release."),
    setting("--min-devices", type=Whole(1), help="Devices, or schools, before a release."),
    setting(
        "--k-of",
        type=click.Choice(["devices", "schools"]),
        show_default=_of_new_plain_rounds("k_of"),
        help="What --min-devices counts.",
    ),
    rule_options,
    setting("--max-staleness", type=Whole(0), help="Versions that an update may be behind."),
    setting(
        "--codec",
        type=click.Choice(["fixed32", "int8", "int4", "topk"]),
        help="How updates travel: about 1/1, 1/4, 1/7 or 1/20 of float32.",
    ),
    setting("--deadline", type=Finite(0, min_open=True), help="Synchronous rounds: seconds for one."),
    setting("--quorum", type=Whole(1), help="Updates that make a release at the deadline."),
    setting("--over", type=Finite(1, 10), help="Devices asked, of buffer."),
    setting(
        "--statistics",
        type=click.Choice(["off", "plain", "secure"]),
        help="plain: this server sees each device's sums; secure: sums over a cohort alone (docs/statistics.md).",
    ),
    setting(
        "--evaluation",
        type=click.Choice(["off", "plain", "secure"]),
        help="Devices tell how often each version is right (docs/evaluation.md); secure: as sums over a cohort alone.",
    ),
    setting("--by-school", is_flag=True, help="Merge a school's own segments among its devices (docs/policy.md)."),
)

optimizer_options = add_options(
    setting("--optimizer", type=click.Choice(["fedavg", "fedavgm", "fedadam", "fedyogi"]), help="Of the server."),
    setting("--server-rate", type=Finite(0, min_open=True), help="The server's learning rate."),
    setting("--beta1", type=Finite(), help="FedAvgM, FedAdam, FedYogi."),
    setting("--beta2", type=Finite(), help="FedAdam, FedYogi."),
    setting("--tau", type=Finite(), help="FedAdam, FedYogi."),
    setting("--proximal", type=Finite(0), help="FedProx's mu."),
)

secure_options = add_options(
    setting("--secure", is_flag=True, help="Secure rounds: the server sees sums only (docs/secure.md)."),
    setting("--cohort", type=Whole(3, 10_000), help="Devices of one sum."),
    setting("--drop-rate", type=Finite(0, 0.45), help="Share of a cohort that may drop out."),
    setting("--corrupt-rate", type=Finite(0, 0.3), help="Share of a cohort that may be corrupt."),
    setting(
        "--school-devices",
        type=Whole(0),
        show_default="2 in a new district",
        help="Of one school on a roster at most; 0: any number.",
    ),
    setting("--phase-hours", type=Finite(0, 8760, min_open=True), help="Longest wait in a phase."),
    click.option("--roster", type=FILE, help="Who may form cohorts (`trust roster`); may be given anew at each start."),
)
