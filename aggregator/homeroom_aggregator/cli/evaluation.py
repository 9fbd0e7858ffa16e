"""`homeroom district evaluation`: how versions do at the schools, from the counts that devices told."""

from __future__ import annotations

from pathlib import Path

import click

from homeroom.cli.options import as_json, print_record, say
from homeroom.cli.parameters import FOLDER

NO_COUNTS = (
    "nothing is shown yet: devices tell counts where `evaluation.mode` of district.toml asks for them, "
    "and a figure is shown once `min_devices` fed it"
)


@click.command()
@click.argument("folder", type=FOLDER)
@as_json
def evaluation(folder: Path) -> None:
    """Show how the newest version does: by task the mean and the worst tenth of devices, while FOLDER serves or not."""
    from dataclasses import asdict

    from homeroom_aggregator.admin.evaluation_figures import evaluation_lines, folder_evaluation

    found = folder_evaluation(folder)
    print_record(found | {"tasks": [asdict(task) for task in found["tasks"]]})
    for line in evaluation_lines(found["tasks"]) if found["tasks"] else [NO_COUNTS]:
        say(line)
