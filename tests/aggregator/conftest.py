"""Fixtures of the aggregator's tests: a service on a new folder, and its address while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aggregator.institution import make_folder, running
from homeroom_aggregator.server.service import Service, open_service


@pytest.fixture(autouse=True)
def nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that failed are tried again at once."""
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=lambda _: None))


@pytest.fixture
def rules() -> dict[str, Any]:
    """What the rounds are like; a module may have others."""
    return {}


@pytest.fixture
def service(tmp_path: Path, rules: dict[str, Any]) -> Iterator[Service]:
    opened = open_service(make_folder(tmp_path, **rules))
    yield opened
    opened.close()


@pytest.fixture
def address(service: Service) -> Iterator[str]:
    with running(service) as where:
        yield where
