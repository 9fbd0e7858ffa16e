"""The sheet of rows that were not taken."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from homeroom.data.ingest.sheet import WHY_COLUMN
from homeroom.system.files import write_durable

if TYPE_CHECKING:
    from homeroom.data.ingest import Problem


def write_refused(problems: Sequence[Problem], path: Path) -> None:
    """Writes rows that were not taken as a sheet, each with the reason, durably and for this user alone."""
    columns = list(dict.fromkeys(name for problem in problems for name in problem.row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, [*columns, WHY_COLUMN])
    writer.writeheader()
    writer.writerows({**problem.row, WHY_COLUMN: str(problem)} for problem in problems)
    write_durable(path, text.getvalue().encode())
