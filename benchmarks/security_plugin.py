"""A pytest plugin: a line of JSON for each phase of a test marked `attack`, written as soon as it ends.

The lines go to the file `SECURITY_REPORT`; the first says how many tests there are. So a run that is ended, or whose
process is killed, leaves what it found.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

import pytest


class Plugin:
    """Writes for the process that sees every report: not in a worker of xdist."""

    def __init__(self) -> None:
        self.counted = False

    def write(self, line: dict[str, Any]) -> None:
        with open(os.environ["SECURITY_REPORT"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def count(self, tests: int) -> None:
        if not self.counted:
            self.counted = True
            self.write({"tests": tests})

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        if session.items:
            self.count(len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: Sequence[str]) -> None:
        self.count(len(ids))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        problem = report.longreprtext.strip().splitlines()[-1:] if report.failed else []
        line = {"test": report.nodeid, "phase": report.when, "outcome": report.outcome, "seconds": report.duration}
        self.write(line | {"problems": problem, "properties": dict(report.user_properties)})


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Plugin(), "security")
