"""A pytest plugin: runs each test, then again without each check that refused in it and that no test has noticed yet.

A test that fails without the check has noticed its removal. Where one did, the test runs once more with all checks: if
that fails, the test cannot run twice, and its removals are tried in a process of their own (`MUTATIONS_ONLY`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

FOLDER = Path(os.environ["MUTATIONS_FOLDER"])
ONLY = int(os.environ.get("MUTATIONS_ONLY", "-1"))
LIMIT_S, QUICK_S = 300, 8
NONE = -1


class _Sibling:
    """Stands for a next test of the same module, so that its fixtures stay."""

    def __init__(self, item: pytest.Item) -> None:
        self.chain = [*item.listchain()[:-1], None]

    def listchain(self) -> list[Any]:
        return self.chain


class Plugin:
    """Keeps what earlier runs found: a line of `results.jsonl` a test."""

    def __init__(self) -> None:
        self.results = FOLDER / "results.jsonl"
        known, wanted = json.loads((FOLDER / "wanted.json").read_text("utf-8"))
        self.known, self.wanted = set(known), set(wanted)
        self.epoch, self.noticed, self.done = 0, set(), set()
        if self.results.is_file():
            for line in self.results.read_text("utf-8").splitlines():
                row = json.loads(line)
                self.done.add(row["test"])
                self.noticed |= set(row["noticed"])
        running = FOLDER / "running"
        if running.is_file() and (test := running.read_text("utf-8")) not in self.done:
            self.write(
                {"test": test, "passed": False, "seconds": 0, "refused": [], "tried": [], "noticed": [], "unsure": []}
            )

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.nodeid not in self.done]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool:
        (FOLDER / "running").write_text(item.nodeid, "utf-8")
        began, log = time.monotonic(), FOLDER / "log"
        before = log.stat().st_size
        passed = self.run(item, NONE, LIMIT_S, show=True)
        seconds = time.monotonic() - began
        with log.open("rb") as file:
            file.seek(before)
            refused = sorted({int(number) for number in file.read().split()} & self.known)
        wanted = [check for check in refused if check in self.wanted - self.noticed]
        tried = wanted if passed and seconds < QUICK_S else []
        noticed = [check for check in tried if not self.run(item, check, 30 + 5 * seconds)]
        again = not noticed or self.run(item, NONE, LIMIT_S)
        item.session._setupstate.teardown_exact(None if noticed else nextitem)
        (FOLDER / "running").unlink()
        row = {"test": item.nodeid, "passed": passed, "seconds": round(seconds, 2), "refused": refused, "tried": tried}
        row |= {"noticed": noticed if again else [], "unsure": [] if again else noticed}
        self.write(row)
        return True

    def write(self, row: dict[str, Any]) -> None:
        self.done.add(row["test"])
        self.noticed |= set(row["noticed"])
        with self.results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def run(self, item: pytest.Item, removed: int, limit_s: float, *, show: bool = False) -> bool:
        """Whether a test passes without a check."""
        self.epoch += 1
        write_state(removed, self.epoch)
        try:
            with limited(limit_s):
                if not show:
                    item._initrequest()  # type: ignore[attr-defined]
                reports = runtestprotocol(item, log=show, nextitem=_Sibling(item))  # type: ignore[arg-type]
        except TimeoutError:  # outside the test's own phases
            return False
        finally:
            write_state(NONE, self.epoch)
        return not any(report.failed for report in reports)


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in a test that hangs."""

    def end(*_: Any) -> None:
        raise TimeoutError("the test hangs")

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def write_state(removed: int, epoch: int) -> None:
    with (FOLDER / "state").open("r+b") as file:
        file.write(struct.pack("qq", removed, epoch))


def pytest_configure(config: pytest.Config) -> None:
    if ONLY == NONE:
        config.pluginmanager.register(Plugin(), "mutations")
    else:
        write_state(ONLY, 1)
