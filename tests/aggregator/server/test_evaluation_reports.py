"""What devices tell of a new version: nothing unless the school wants it, then what they measured, and no more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from click.testing import CliRunner

from aggregator.institution import School, make_folder, running
from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.contract.evaluation_report import LEAST_VALIDATION_SAMPLES, EvaluationReport, make_report
from homeroom.contract.round import RoundConfiguration
from homeroom.data.tasks.metrics import Score
from homeroom.errors import NetworkError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state.last_seen import reports


def test_a_report_has_only_tasks_with_enough_samples() -> None:
    new = {
        "grade": Score(n=LEAST_VALIDATION_SAMPLES, accuracy=0.666),
        "size": Score(n=LEAST_VALIDATION_SAMPLES - 1, accuracy=1.0),
    }
    found = make_report(3, "global", new, {"grade": Score(n=LEAST_VALIDATION_SAMPLES, accuracy=0.5)})
    assert found is not None
    assert set(found.tasks) == {"grade"}
    assert (found.tasks["grade"].now, found.tasks["grade"].before) == (0.67, 0.5)
    assert make_report(3, "global", {"size": new["size"]}, {}) is None


def test_a_strange_report_is_refused(tmp_path: Path) -> None:
    service = open_service(make_folder(tmp_path))
    with running(service) as address:
        (invitation,) = invite_devices(tmp_path / "district", address, 1)
        key = School().key
        client = Client(join(invitation, key), key)
        with pytest.raises(UpdateError, match="never released"):
            client.report(EvaluationReport(version=9, in_use="global", tasks={}))
        for body in (b"", b"[]", b'{"version": 1, "in_use": "global", "tasks": {"a": {"samples": 3, "now": 2}}}'):
            with pytest.raises(UpdateError, match="no report"):
                client.send("POST", "/v1/report", body)
    assert reports(service.reader.database) == {}
    service.close()


@pytest.fixture
def district(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[tuple[Service, str]]:
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2)
    root = tiny_bundle.root_key
    create_folder(tmp_path / "district", tiny_bundle.path, institution="tests", root_key=root, configuration=asked)
    service = open_service(tmp_path / "district")
    with running(service) as address:
        yield service, address
    service.close()


def lesson(row: dict[str, Any]) -> Sample:
    return Sample(facts=row["facts"], labels={"size": row["labels"]["size"]}, subject=row["subject"])


def test_a_device_tells_only_where_its_school_lets_it(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = district
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    devices, invitations = [], invite_devices(tmp_path / "district", address, 2)
    for number, invitation in enumerate(invitations):
        device = Device.open(tmp_path / f"{number}", tiny_bundle.path, tiny_bundle.root, threads=1)
        rows = tiny.samples(105, number, subjects=105)
        device.add(
            *(Sample(facts=r["facts"], labels={"size": r["labels"]["size"]}, subject=r["subject"]) for r in rows)
        )
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode(invitation))
        device.join(tmp_path / f"{number}.json")
        device.train(minutes=1, epochs=1)
        devices.append(device)
    quiet, open_ = devices
    open_.close()
    told = CliRunner().invoke(homeroom, ["device", "network", str(tmp_path / "1"), "--scores", "tell"])
    assert "scores: tell" in told.output
    open_ = Device.open(tmp_path / "1", threads=1)
    quiet.sync()
    taken = open_.sync()
    assert quiet.sync().version == taken.version == 1
    ((key, (_, report)),) = reports(service.reader.database).items()
    assert key == open_.status()["device_key"]
    assert set(report.tasks) == {"size"}
    assert report.tasks["size"].now == round(taken.global_scores["size"].accuracy, 2)
    assert report.tasks["size"].before == round(taken.local_scores["size"].accuracy, 2)

    def unknown(*_: object) -> None:
        raise NetworkError("answered with status 404")

    monkeypatch.setattr(Client, "report", unknown)  # an aggregator of before there were reports
    for device in (quiet, open_):
        device.train(minutes=1, epochs=1)
        device.sync()
    assert quiet.sync().version == 2
    for device in (quiet, open_):
        device.close()
