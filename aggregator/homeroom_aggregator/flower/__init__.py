"""Homeroom on Flower's engine: the same devices, updates and merge, with `flwr` in the place of our own server.

`flwr` and `ray` come with the extra [flower], which wants an environment of its own: its pins are not ours.
"""

from __future__ import annotations

import os
from importlib.util import find_spec

from homeroom.errors import MissingExtraError
from homeroom.system.installation import how_to_install


def check_installed() -> None:
    """Raise MissingExtraError unless Flower and its simulation are here; and keep both from calling home.

    Call it before `flwr` or `ray` is imported: both read these settings once.
    """
    for name in ("flwr", "ray"):
        if find_spec(name) is None:
            raise MissingExtraError(
                f"Flower's engine needs a part that is not installed ({name})",
                remedy=f"{how_to_install('flower')}, in an environment of its own",
            )
    os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
