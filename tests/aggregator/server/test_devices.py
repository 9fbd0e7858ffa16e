"""Whole devices against the whole aggregator: join, train, sync, forget, in the order of a school year."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny

from aggregator.institution import announce, running
from homeroom import Device, Sample
from homeroom.contract.invitation import as_text
from homeroom.contract.privacy import Privacy, squared_norm
from homeroom.contract.roster import make_roster
from homeroom.contract.round import CohortRules, RoundConfiguration, UnlearningRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, TrustError
from homeroom.federation import agreement, privacy_ledger
from homeroom.federation.enrolment import follow_bundle, set_network
from homeroom.federation.make_update import queue_newest_update
from homeroom.store.records import VoidReport
from homeroom.system import clock
from homeroom_aggregator.admin import backup
from homeroom_aggregator.admin.folder import create_folder, invite_devices, make_invitations, replace_roster
from homeroom_aggregator.server.service import Service, open_service

PROMISE = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=12.0, delta=1e-5)
PRIVATE = pytest.mark.parametrize("rules", [{"buffer_size": 2, "min_devices": 2, "privacy": PROMISE}])
OpenSchool = Callable[..., Device]


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"buffer_size": 2, "min_devices": 2}


def make_district(folder: Path, bundle: tiny.Tiny, **rules: Any) -> Service:
    asked = RoundConfiguration(bundle_id="0" * 64, **rules)
    create_folder(folder, bundle.path, institution="tests", root_key=bundle.root_key, configuration=asked)
    return open_service(folder)


@pytest.fixture
def service(tiny_bundle: tiny.Tiny, tmp_path: Path, rules: dict[str, Any]) -> Iterator[Service]:
    opened = make_district(tmp_path / "district", tiny_bundle, **rules)
    yield opened
    opened.close()


@pytest.fixture
def school(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenSchool]:
    """Opens a device with 24 samples of their own, enrolled where a service is given; closes it at the end."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    (tmp_path / "keys").mkdir()
    devices: list[Device] = []

    def open_one(service: Service | None = None, address: str = "", seed: int | None = None) -> Device:
        number = len(devices)
        device = Device.open(tmp_path / f"s{number}", bundle=tiny_bundle.path, root=tiny_bundle.root, threads=1)
        devices.append(device)
        device.add(*(Sample(**row) for row in tiny.samples(24, number if seed is None else seed)))
        if service:
            enrol(device, service, address)
        return device

    yield open_one
    for device in devices:
        device.close()


def enrol(device: Device, service: Service, address: str) -> None:
    (invitation,) = invite_devices(service.rounds.log.database.path.parent, address, 1)
    device.join(as_text(invitation))


def test_a_device_trains_with_the_proximal_term_that_its_aggregator_asks_for(
    tiny_bundle: tiny.Tiny, tmp_path: Path, school: OpenSchool
) -> None:
    moved: list[float] = []
    for number, mu in enumerate((0.0, 20.0)):
        service, device = make_district(tmp_path / f"d{number}", tiny_bundle, proximal=mu), school(seed=0)
        with running(service) as address:
            enrol(device, service, address)
        service.close()
        trained = device.train(minutes=1, epochs=2)
        moved.append(float(np.linalg.norm(device.store.versions.theta(trained.version_id) - device.bundle.theta())))
    assert 0 < moved[1] < moved[0]


def test_two_schools_learn_together_and_one_forgets_a_pupil(service: Service, address: str, school: OpenSchool) -> None:
    schools = [school(service, address) for _ in range(2)]
    for device in schools:
        assert device.train(minutes=1, epochs=2).update == "queued"
    first = schools[0].sync()
    assert len(first.sent) == 1
    assert first.version is None
    second = schools[1].sync()
    assert len(second.sent) == 1
    assert second.version == 1
    assert schools[0].sync().version == 1
    a, b = (next(v for v in d.store.versions.all() if v.kind == "global") for d in schools)
    assert (
        schools[0].store.versions.theta(a.version_id).tobytes()
        == schools[1].store.versions.theta(b.version_id).tobytes()
    )

    subject = schools[0].store.subjects()[0]
    schools[0].forget(subject)
    asked = schools[0].sync()
    assert asked.unlearned == first.sent
    assert service.rounds.log.withdrawn(first.sent[0])
    for device in schools:
        assert device.train(minutes=1, epochs=1).update == "queued"
        device.sync()
    assert service.rounds.state.version == 2
    assert service.rounds.verify() == []


REWINDS = {"buffer_size": 2, "min_devices": 2, "unlearning": UnlearningRules(rule="rewind", within_days=7)}


@pytest.mark.parametrize("rules", [REWINDS])
def test_whoever_learned_on_what_is_unlearned_drops_it_and_trains_anew(
    service: Service, address: str, school: OpenSchool
) -> None:
    one, two, away = (school(service, address) for _ in range(3))
    for device in (one, two):
        device.train(minutes=1, epochs=2)
        device.sync()
    subject = two.store.subjects()[0]
    (held,) = (version for version in two.store.versions.all() if version.kind == "local")
    for device in (one, two, away):
        device.sync()
        device.train(minutes=1, epochs=4)
    two.train(minutes=1, epochs=1, profile=subject)
    before = two.store.versions.current()
    assert before is not None
    assert before.base == 1
    one.forget(one.store.subjects()[0])
    report = one.sync()
    assert len(report.unlearned) == 1
    assert report.unlearned_by == (clock.now().date() + datetime.timedelta(days=7)).isoformat()
    assert service.rounds.state.version == 1
    service.rounds.rewind(by="tests")
    two.store.versions.set_current(before.version_id)

    report = two.sync()
    assert report.version == 2
    assert report.in_use == "global", "it is not compared with what is void"
    (refusal,) = report.refused.values()
    assert "of before a restore or a rewind" in refusal
    assert report.dropped == VoidReport(trainings=1, updates=0, profiles=1)
    assert report.local_scores == {}
    bases = {(version.kind, version.base) for version in two.store.versions.all()}
    assert bases == {("local", 0), ("global", 2)}
    assert two.store.versions.theta(held.version_id).size, "what it learned from the bundle's own theta stays"
    assert two.store.profile(subject) is None
    assert two.status()["updates_waiting"] == 0
    assert two.sync().dropped == VoidReport()
    for device in (two, one):
        device.sync()
        assert device.train(minutes=1, epochs=1).update == "queued"
        device.sync()
    assert service.rounds.state.version == 3
    assert away.sync().dropped.trainings == 1, "the header of a later version says it too"
    assert service.rounds.verify() == []


@pytest.mark.parametrize("rules", [REWINDS])
def test_a_device_that_was_away_through_two_rewinds_drops_what_grew_from_either(
    service: Service, address: str, school: OpenSchool
) -> None:
    one, two, away = (school(service, address) for _ in range(3))
    for number in (1, 3):  # the versions that become void
        for device in (one, two):
            device.sync()
            assert device.train(minutes=1, epochs=1).update == "queued"
            device.sync()
        assert service.rounds.state.version == number
        if number == 1:
            away.sync()
            away.train(minutes=1, epochs=1)
        asks = one if number == 1 else two
        asks.forget(asks.store.subjects()[0])
        assert asks.sync().unlearned
        service.rounds.rewind(by="tests")
    report = away.sync()
    assert (report.version, report.in_use) == (4, "global")
    assert report.dropped.trainings == 1
    assert {version.base for version in away.store.versions.all()} == {4}
    assert away.train(minutes=1, epochs=1).update == "queued"
    assert not away.sync().refused
    assert service.rounds.verify() == []


def test_a_device_asks_a_restored_aggregator_again_to_unlearn(
    service: Service, address: str, school: OpenSchool, tmp_path: Path
) -> None:
    schools = [school(service, address) for _ in range(2)]
    for device in schools:
        assert device.train(minutes=1, epochs=1).update == "queued"
        device.sync()
    backup.backup(tmp_path / "district", tmp_path / "saved")
    schools[0].forget(schools[0].store.subjects()[0])
    (asked,) = schools[0].sync().unlearned
    assert service.rounds.log.withdrawn(asked)
    backup.restore(tmp_path / "saved", tmp_path / "again")
    again = open_service(tmp_path / "again")
    with running(again) as new_address:
        set_network(schools[0].store, address=new_address)
        assert not again.rounds.log.withdrawn(asked)
        assert schools[0].sync().version == again.rounds.state.version
        assert schools[0].sync().unlearned == (asked,)
        assert again.rounds.log.withdrawn(asked)
        assert schools[0].sync().unlearned == ()
    again.close()


def test_a_device_whose_school_has_not_consented_gets_versions_and_says_why_its_updates_wait(
    service: Service, address: str, school: OpenSchool
) -> None:
    folder = service.rounds.log.database.path.parent
    device = school()
    (invitation,) = make_invitations(folder, address, [("Hill School", "device")])
    device.join(as_text(invitation))
    device.train(minutes=1, epochs=1)
    service.rounds.release_unchanged()
    report = device.sync()
    assert (report.version, report.sent, report.refused) == (1, (), {})
    assert report.held == "Hill School has not consented"
    service.rounds.members.consent("Hill School", "Ms Lee")
    assert len(device.sync().sent) == 1


def test_without_a_network_the_update_waits_and_is_sent_later(
    service: Service, address: str, school: OpenSchool
) -> None:
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    enrolment = device.store.get_secret("identity.enrolment")
    assert enrolment is not None
    device.store.put_secret("identity.enrolment", enrolment.replace(address.encode(), b"http://127.0.0.1:9"))
    with pytest.raises(NetworkError):
        device.sync()
    assert device.status()["updates_waiting"] == 1
    device.store.put_secret("identity.enrolment", enrolment)
    assert len(device.sync().sent) == 1
    assert device.status()["updates_waiting"] == 0
    assert service.rounds.state.pending == 1


def test_a_change_of_key_that_was_cut_short_is_finished_at_the_next_sync(
    service: Service, address: str, school: OpenSchool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    before = device.store.get_secret("identity.key")

    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(device.store, "step", cut)
        with pytest.raises(KeyboardInterrupt):
            device.rotate_key()
    assert device.store.get_secret("identity.key") == before
    report = device.sync()
    assert len(report.sent) == 1, "the update that the old key signed"
    assert report.clock_off_s is not None
    assert abs(report.clock_off_s) < 60
    assert device.store.get_secret("identity.key") != before
    assert service.members.count() == 1


@PRIVATE
def test_two_schools_in_private_rounds_end_with_the_same_noised_theta_and_know_what_it_cost(
    service: Service, address: str, school: OpenSchool
) -> None:
    schools = [school(service, address) for _ in range(2)]
    for device in schools:
        assert device.train(minutes=1, epochs=2).update == "queued"
        (waiting,) = device.store.outbox.pending()
        sent = read_update(waiting.data, service.rounds.configuration, device.bundle.manifest.layout)
        assert sum(squared_norm(part) for part in sent.values.values()) <= PROMISE.clip_grid(20) ** 2
    first = schools[0].sync()
    assert schools[1].sync().version == 1
    assert schools[0].sync().version == 1
    a, b = (next(v for v in d.store.versions.all() if v.kind == "global") for d in schools)
    assert (
        schools[0].store.versions.theta(a.version_id).tobytes()
        == schools[1].store.versions.theta(b.version_id).tobytes()
    )
    for device in schools:
        told = device.status()["privacy"]
        assert told["updates_sent"] == 1
        assert told["epsilon_spent"] == pytest.approx(service.rounds.facts()["epsilon_spent"], abs=1e-3)
        assert "private rounds on" in [line["event"] for line in device.store.audit()]
    schools[0].forget(schools[0].store.subjects()[0])
    answered = schools[0].sync()
    assert answered.bounded == first.sent
    assert answered.unlearned == ()
    assert service.rounds.verify() == []


@PRIVATE
def test_an_aggregator_that_drops_its_promise_gets_nothing_until_the_school_joins_anew(
    service: Service, address: str, school: OpenSchool
) -> None:
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    follow_bundle(device.store, device.bundle)  # as after a change of bundle: the promise is not forgotten
    for worse in (None, Privacy(clip_norm=1.0, noise_multiplier=0.1, epsilon=500.0, delta=1e-5)):
        announce(service.rounds, privacy=worse)
        with pytest.raises(TrustError, match="when this device joined"):
            device.sync()
    assert service.rounds.log.count("update") == 0
    assert len(device.store.outbox.pending()) == 1
    assert privacy_ledger.read_ledger(device.store) == []
    announce(service.rounds, privacy=None)
    enrol(device, service, address)
    events = [line["event"] for line in device.store.audit()]
    assert [e for e in events if e.startswith("private rounds")] == ["private rounds on", "private rounds off"]


@PRIVATE
def test_an_update_that_was_made_for_plain_rounds_never_leaves_for_private_ones(
    service: Service, address: str, school: OpenSchool, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    (waiting,) = device.store.outbox.pending()
    plain = RoundConfiguration(bundle_id=device.bundle.bundle_id)
    device.store.outbox.drop(waiting.update_id)
    agreement.store_round(device.store, plain)
    queue_newest_update(device.store, device.bundle)
    (waiting,) = device.store.outbox.pending()
    device.store.outbox.mark_sending(waiting.update_id)  # begun before the rounds became private: it is not made anew
    arrived: list[bytes] = []
    monkeypatch.setattr(service.rounds, "update", lambda data, sender: arrived.append(data))
    report = device.sync()
    assert list(report.refused) == [waiting.update_id]
    assert arrived == []
    assert device.store.outbox.pending() == []


@PRIVATE
def test_a_device_stops_at_its_own_budget_whatever_the_aggregator_says(
    service: Service, address: str, school: OpenSchool
) -> None:
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    entered = [privacy_ledger.LedgerEntry(f"{n:032x}", 1.0) for n in range(9)]
    privacy_ledger.LEDGER.write(device.store, entered)
    (reason,) = device.sync().refused.values()
    assert "epsilon 12" in reason
    assert service.rounds.log.count("update") == 0
    assert device.status()["privacy"]["updates_sent"] == 9


SECURE = SecureRules(minimum=3, cohort=3, drop_rate=0.0)


@pytest.mark.parametrize("rules", [{"secure": SECURE, "unlearning": UnlearningRules(rule="rewind", within_days=7)}])
def test_whole_devices_sum_in_secret_and_one_forgets_a_pupil(
    service: Service, address: str, school: OpenSchool, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    schools, signer = [school(service, address) for _ in range(3)], new_key()
    for device in schools:
        assert device.train(minutes=1, epochs=1).update == "queued"
    names = [device.status()["device_key"] for device in schools]
    word = certify(tiny_bundle.root_key, "roster", signer, "tests")
    roster = make_roster(signer, word, names, serial=1, minimum=3, institution="tests")
    replace_roster(tmp_path / "district", msgspec.json.encode(roster))
    visits = [device.sync() for _ in range(5) for device in schools if service.rounds.state.version == 0]
    masked = 4 * service.rounds.rules.layout.size  # at least so many bytes a device, as nothing is compressed
    assert sum(visit.sent_bytes > masked for visit in visits) == 3, "who sends its masked update counts its bytes"
    said = [visit.secure for visit in visits]
    assert said[0].startswith("joined a cohort; waits for others to join")
    assert service.rounds.state.version == 1
    assert service.rounds.log.count("update") == 0
    reports = [device.sync() for device in schools]
    assert {report.version for report in reports} == {1}
    assert schools[1].train(minutes=1, epochs=1).update == "queued", "learned on what becomes void"
    schools[0].forget(schools[0].store.subjects()[0])
    asked = schools[0].sync()
    assert (len(asked.unlearned), bool(asked.unlearned_by)) == (1, True)
    assert service.rounds.rewind(by="tests") == 2
    assert service.rounds.state.theta.tobytes() == service.rounds.bundle.theta().tobytes()
    told = schools[1].sync()
    assert (told.dropped.trainings, told.dropped.updates, told.rewound) == (1, 1, True)
    assert told.secure.startswith("nothing to contribute yet"), "it offers nothing that it learned on a void version"
    told = schools[2].sync()
    assert (told.dropped.trainings, told.rewound) == (0, True), "its part of the sum went, and nothing of its own"
    assert not schools[2].sync().rewound
    schools[0].sync()
    for device in schools:
        assert device.train(minutes=1, epochs=1).update == "queued"
    for _ in range(5):
        for device in schools if service.rounds.state.version == 2 else ():
            device.sync()
    assert service.rounds.state.version == 3
    assert service.rounds.verify() == []


ONE_A_ROUND = CohortRules(deadline_s=3600, quorum=1, over=1)


@pytest.mark.parametrize("rules", [{"buffer_size": 1, "min_devices": 1, "max_staleness": 0, "cohort": ONE_A_ROUND}])
def test_a_device_that_is_not_asked_into_a_synchronous_round_keeps_its_update(
    service: Service, address: str, school: OpenSchool
) -> None:
    assert service.rounds.synchronous
    assert service.rounds.synchronous.ask("another", 0)
    device = school(service, address)
    device.train(minutes=1, epochs=1)
    report = device.sync()
    assert (report.sent, report.refused) == ((), {})
    assert device.status()["updates_waiting"] == 1
    service.rounds.synchronous.begin_again()
    assert len(device.sync().sent) == 1
    assert service.rounds.state.version == 1
