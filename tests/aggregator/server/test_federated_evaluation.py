"""A federated evaluation through the whole house: devices count, the sum is the pooled counts, people see it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import tiny
from click.testing import CliRunner

from aggregator.institution import enrol, make_folder, running
from aggregator.server.officer import signed_in
from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.contract.evaluation_counts import COUNTS_LIMIT_BYTES, DeviceCounts, add_counts
from homeroom.contract.policy import Policy
from homeroom.contract.round import EvaluationRules, RoundConfiguration
from homeroom.data.tasks import kind_of
from homeroom.errors import NetworkError, UpdateError
from homeroom.federation import evaluation, versions
from homeroom.federation.agreement import read_agreement
from homeroom.federation.policy import POLICY
from homeroom_aggregator.admin.folder import create_folder, invite_devices
from homeroom_aggregator.server.service import Service, open_service

PLAIN = EvaluationRules(mode="plain")


def test_counts_that_cannot_be_read_or_are_not_asked_for_are_refused(tmp_path: Path) -> None:
    service = open_service(make_folder(tmp_path, evaluation=PLAIN))
    with running(service) as address:
        client = enrol(service, address)
        long = b'{"version": 1, "before": 0, "tasks": {}}'.ljust(COUNTS_LIMIT_BYTES + 1)
        for body in (b"", b"[]", b'{"version": 1, "before": 0, "tasks": {"grade": [["", "", [1], ["a"]]]}}', long):
            with pytest.raises(UpdateError):
                client.send("POST", "/v1/evaluation", body)
        with pytest.raises(UpdateError, match="never released"):
            client.tell_evaluation(DeviceCounts(version=1, before=0, tasks={}))
        off = msgspec.structs.replace(service.rounds.configuration, evaluation=EvaluationRules())
        service.rounds.configure(off)
        with pytest.raises(NetworkError, match="no counts are asked for"):
            client.tell_evaluation(DeviceCounts(version=1, before=0, tasks={}))
    service.close()


@pytest.fixture
def district(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Iterator[tuple[Service, str]]:
    asked = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, min_devices=2, evaluation=PLAIN)
    folder, root = tmp_path / "district", tiny_bundle.root_key
    create_folder(folder, tiny_bundle.path, institution="tests", root_key=root, configuration=asked)
    service = open_service(folder)
    with running(service) as address:
        yield service, address
    service.close()


def test_devices_tell_what_they_count_and_the_sum_is_the_pooled_count(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, address = district
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    for number, invitation in enumerate(invite_devices(tmp_path / "district", address, 3)):
        folder = tmp_path / f"{number}"
        with Device.open(folder, tiny_bundle.path, tiny_bundle.root, threads=1) as device:
            rows = tiny.samples(120, number, subjects=120)
            device.add(
                *(
                    Sample(
                        facts=r["facts"],
                        labels={"size": r["labels"]["size"], **({"weight": r["labels"]["weight"]} if n < 30 else {})},
                        subject=r["subject"],
                    )
                    for n, r in enumerate(rows)
                )
            )
        (tmp_path / f"{number}.json").write_bytes(msgspec.json.encode(invitation))
        said = CliRunner().invoke(homeroom, ["device", "join", str(folder), str(tmp_path / f"{number}.json")])
        assert "how often each version is right and wrong" in said.output
        assert "--evaluation keep" in said.output
    kept = CliRunner().invoke(homeroom, ["device", "network", str(tmp_path / "2"), "--evaluation", "keep"])
    assert "evaluation: keep" in kept.output
    for number in range(2):
        with Device.open(tmp_path / f"{number}", threads=1) as device:
            device.train(minutes=1, epochs=1)
            device.sync()
    shown = CliRunner().invoke(homeroom, ["district", "evaluation", str(tmp_path / "district")])
    assert "nothing is shown yet" in shown.output
    parts = []
    for number in range(3):
        with Device.open(tmp_path / f"{number}", threads=1) as device:
            outcome = device.sync().evaluation
            assert outcome is not None
            if number == 2:
                assert "nobody said yes" in outcome.why_not
                continue
            assert outcome.version == 1
            newest = versions.newest_global(device.store, device.bundle)
            theta = versions.theta_of(device.store, device.bundle, newest)
            counts = device._validation_counts([theta, device.bundle.theta()])
            assert set(counts[0]) == {"size", "weight"}
            assert number or "are told of 20" in outcome.held["weight"]  # the other one told as the version came
            parts.append(counts)
            configuration = read_agreement(device.store).configuration
            assert configuration is not None
            by_number = evaluation.counter(device.store, device.bundle, configuration, device._validation_counts)
            assert by_number(1) in dict(service.rounds.evaluation.stored.of_version(1)).values()
            assert by_number(2) is None
            assert device.sync().evaluation == type(outcome)(1)  # once a version
    ((version, told),) = service.rounds.evaluation.stored.sums().items()
    assert version == 1
    assert set(told) == {"size"}
    task = next(task for task in tiny_bundle.manifest.tasks if task.name == "size")
    counting = kind_of(task).counting
    assert counting is not None
    size = counting.shape(task).size
    (group,) = told["size"].groups
    assert group.group == ("", "facts")
    for place, summed in enumerate((group.now, group.before)):
        assert summed == add_counts((counts[place]["size"]["", "facts"].tolist() for counts in parts), size)
    assert sum(group.now) >= 40
    shown = CliRunner().invoke(homeroom, ["district", "evaluation", str(tmp_path / "district"), "--json"])
    (figures,) = json.loads(shown.output)["tasks"]
    assert (figures["task"], figures["devices"], figures["samples"]) == ("size", 2, sum(group.now))
    with signed_in(service, address) as browser:
        page = browser.get("/dashboard/schools").text
    assert "Who is served" in page
    assert "Worst tenth" in page
    assert f"{100 * figures['now']:.1f} %" in page


def test_a_policy_that_keeps_updates_keeps_counts(
    district: tuple[Service, str], tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    _, address = district
    (invitation,) = invite_devices(tmp_path / "district", address, 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / "0", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.join(tmp_path / "invitation.json")
        outcome = device.sync().evaluation
        assert outcome is not None
        assert outcome.why_not == ""
        POLICY.write(device.store, Policy(institution="North", version=1, rounds=("secure",)))
        outcome = device.sync().evaluation
        assert outcome is not None
        assert "the policy allows rounds that are secure" in outcome.why_not
