"""Fixtures of the server's tests: a service on a new folder, and its address while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.institution import make_folder, running
from homeroom_aggregator.server.service import Service, open_service


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    opened = open_service(make_folder(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    with running(service) as where:
        yield where
