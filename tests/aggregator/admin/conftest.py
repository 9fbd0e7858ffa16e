"""Starts of the aggregator without its process."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest

from homeroom_aggregator.admin.configuration import (
    DistrictConfiguration,
)
from homeroom_aggregator.server.service import Service, open_service


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """What each start of the true command brought into force; the process itself is left out."""
    services: list[Service] = []

    def run(folder: Path, listening: Any, token: str | None, configuration: DistrictConfiguration, **_: Any) -> None:
        service = open_service(folder, token, configuration)
        services.append(service)
        service.close()
        listening.close()

    monkeypatch.setattr("homeroom_aggregator.server.serve.serve", run)
    monkeypatch.setattr("homeroom.federation.network.discovery.announce", lambda *_: contextlib.nullcontext())
    return services
