"""The examples of docs/api.md that need an aggregator run against one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import api_page
import msgspec
import pytest
import tiny

from aggregator.institution import running
from homeroom import Device
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.admin.offline import take_in_messages
from homeroom_aggregator.server.service import open_service


def test_the_examples_with_an_aggregator_run(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api_page.prepare(tmp_path, tiny_bundle, monkeypatch)
    district, stick = tmp_path / "district", tmp_path / "stick"
    create_folder(district, tiny_bundle.path, institution="tests", root_key=tiny_bundle.root_key)
    online, carried_out, carried_in = api_page.examples()[api_page.ONLINE]
    names: dict[str, Any] = {"Device": Device}
    service = open_service(district)
    with running(service) as address, Device.open("classroom", tiny_bundle.path, threads=1) as names["device"]:
        for name, invitation in zip(("invitation", "other"), invite_devices(district, address, 2), strict=True):
            Path(f"{name}.json").write_bytes(msgspec.json.encode(invitation))
        api_page.run(online, names)
    service.close()
    stick.mkdir()
    take_in_messages(district, stick, lambda _: None)  # the stick has been there
    api_page.run(carried_out, names)
    take_in_messages(district, stick, lambda _: None)
    api_page.run(carried_in, names)
    assert names["newer"] is False
    assert names["imported"].joined
