"""A served district with secure rounds, and four devices with an update each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aggregator.institution import make_folder, running
from aggregator.secagg.district import RULES, District, Member
from homeroom_aggregator.admin.folder import replace_roster
from homeroom_aggregator.server.service import open_service


@pytest.fixture
def district(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rules: dict[str, Any]) -> Iterator[District]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    folder = make_folder(tmp_path, min_devices=3, secure=RULES, **rules)
    service = open_service(folder)
    with running(service) as address:
        found = District(service, address, tmp_path)
        found.members = [Member(found, number) for number in range(4)]
        replace_roster(folder, msgspec.json.encode(found.roster(found.members)))
        yield found
    for member in found.members:
        member.store.close()
    found.service.close()
