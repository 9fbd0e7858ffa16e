"""A served district."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.institution import make_folder
from aggregator.server.test_kill import kill, start
from aggregator.state.served import District
from homeroom_aggregator.admin.folder import open_rounds


@pytest.fixture
def district(tmp_path: Path) -> Iterator[District]:
    folder = make_folder(tmp_path, buffer_size=3, min_devices=2)
    process, address = start(folder)
    try:
        yield District(folder, address)
        process.terminate()
        process.wait(60)
        with contextlib.closing(open_rounds(folder)) as rounds:
            assert rounds.verify() == []
    finally:
        kill(process)
