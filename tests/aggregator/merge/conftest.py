"""Rounds that collect plain statistics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.institution import make_folder
from aggregator.statistics_lesson import PLAIN
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge.rounds import Rounds


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    opened = open_rounds(make_folder(tmp_path, statistics=PLAIN))
    yield opened
    opened.close()
