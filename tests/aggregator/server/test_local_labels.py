"""A served district gets nothing of the labels that a device alone has, in updates, statistics or by hand."""

from __future__ import annotations

from pathlib import Path

import httpx
import msgspec
import pytest
import tiny
from local_lesson import LABEL, SETTINGS, add, called_so, dinosaurs, lesson

from aggregator.institution import running
from homeroom import Device
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.federation import statistics
from homeroom.federation.network import transport
from homeroom_aggregator.admin.folder import create_folder, make_invitations
from homeroom_aggregator.server.service import open_service

PLAIN = StatisticsRules(mode="plain", k=2, subjects=3)


def test_a_district_gets_nothing_of_them(
    solved_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    sent: list[bytes] = []
    make = transport.Connection.request

    def noted(self: transport.Connection, method: str, path: str, body: bytes = b"") -> httpx.Request:
        sent.append(path.encode() + body)
        return make(self, method, path, body)

    monkeypatch.setattr(transport.Connection, "request", noted)
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2, statistics=PLAIN)
    root_key, bundle = solved_bundle.root_key, solved_bundle.path
    create_folder(tmp_path / "district", bundle, institution="t", root_key=root_key, configuration=asked)
    service = open_service(tmp_path / "district")
    try:
        with running(service) as address, Device.open(tmp_path / "room", bundle, solved_bundle.root, threads=1) as room:
            (invitation,) = make_invitations(tmp_path / "district", address, [("a", "device")], consents={"a": "head"})
            room.join(msgspec.json.encode(invitation).decode())
            room.add(*lesson())
            add(room, scope="institution")
            room.add(*dinosaurs(25, 3))
            room.train(settings=SETTINGS)
            assert called_so(room, dinosaurs(6, 77)) == 6
            assert len(room.sync().sent) == 1, "an update left"
            statistics.agree(room.store, yes=True)
            told = room.sync().statistics
            assert told
            assert told.sent
            got = service.rounds.statistics.totals.sum()
            rows = got.rows("category")
            assert {"cat", "dog", "fish"} <= set(rows)
            assert LABEL not in rows
            counts = [int(values[0]) for cell, values in got if cell.kind == "count" and cell.task == "category"]
            assert max(counts) < 60, "no row without a name has them either"
    finally:
        service.close()
    assert any(b"fish" in body for body in sent), "what is looked through does hold names of labels"
    assert not any(LABEL.encode() in body for body in sent)
