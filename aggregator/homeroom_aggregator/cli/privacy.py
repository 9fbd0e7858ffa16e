"""`homeroom district privacy report`, and the options for private rounds."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import add_options, as_json, print_record, say
from homeroom.cli.parameters import FOLDER, Finite, Whole
from homeroom_aggregator.cli.round_options import setting

privacy_options = add_options(
    setting("--epsilon", type=Finite(), help="Private rounds: the budget of one device over all releases."),
    setting("--delta", type=Finite(), help="Chance that the promise fails."),
    setting("--clip-norm", type=Finite(), help="Longest update (L2) of a private round."),
    setting("--noise-multiplier", type=Finite(), help="Noise of a private release, in clip norms."),
    setting(
        "--subjects",
        type=Whole(1, 1 << 14),
        help="Promise it to each subject (pupil) of a device; the most of them in one update.",
    ),
    setting(
        "--clip-quantile",
        type=Finite(0, 1, min_open=True, max_open=True),
        help="Let the clip follow the updates, so that this share of them is within it; --clip-norm is the first one.",
    ),
    setting(
        "--bands",
        type=Whole(2, 64),
        help="Correlate the noise of so many releases in a row, of which a device then enters one at most.",
    ),
)


@click.command()
@click.argument("folder", type=FOLDER)
@as_json
def report(folder: Path) -> None:
    """Say what the releases of FOLDER may reveal about one device, while it serves or not."""
    from homeroom_aggregator.admin.privacy_report import folder_figures, report_lines

    spent = folder_figures(folder)
    print_record(spent)
    for line in report_lines(spent):
        say(line)
