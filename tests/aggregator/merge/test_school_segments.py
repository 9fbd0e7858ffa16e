"""Segments that schools own, merged by school inside one aggregator: each school gets its own, and nobody another's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.institution import ROOT, SEGMENTS, START, School, enrol, latest, learn, make_folder, running
from homeroom import Device
from homeroom.contract.layout import Layout
from homeroom.contract.policy import Policy, sign_policy
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import UpdateError
from homeroom.federation import versions
from homeroom.federation.enrolment import device_key
from homeroom_aggregator.admin import offline
from homeroom_aggregator.admin.folder import make_invitations, open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state.members import StoredInvitation

BY_SCHOOL: dict[str, Any] = {"by_school": True, "scopes": {"head.grade": "institution"}}
LADDER, HEAD = slice(0, 4), slice(4, 7)
HILL, LAKE = (School(), School()), (School(), School())
WORD = new_key()


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    """Two devices in each of two schools, and one of no school; four updates a release."""
    with closing(opened(make_folder(tmp_path, buffer_size=4, **BY_SCHOOL))) as found:
        for name, devices in (("Hill", HILL), ("Lake", LAKE)):
            for device in devices:
                found.members.join(device.name, StoredInvitation(f"{name} {device.name}", school=name))
        yield found


def opened(folder: Path, retain: int = 0) -> Rounds:
    return open_rounds(folder, retain)


def send(rounds: Rounds, device: School, head: float, ladder: float = 0.5) -> str:
    delta = np.full(START.shape, ladder, np.float32)
    delta[HEAD] = head
    return rounds.update(device.update(rounds.configuration, delta, rounds.state.version), device.name)[0]


def both_schools(rounds: Rounds, hill: float = 0.5, lake: float = -0.25) -> list[str]:
    return [send(rounds, d, step) for devices, step in ((HILL, hill), (LAKE, lake)) for d in devices]


def theta(rounds: Rounds, body: bytes | None) -> np.ndarray:
    assert body is not None
    root = read_facts(rounds.log.database.path.parent).root
    return read_version(body, rounds.rules.layout, bundle_id=rounds.bundle.bundle_id, root_fingerprint=root)[1]


def test_each_school_gets_its_own_segments_and_all_share_the_rest(rounds: Rounds) -> None:
    both_schools(rounds)
    both_schools(rounds, 0.25, 0.0)
    for school, step in (("Hill", 0.75), ("Lake", -0.25), ("", 0.0), ("Elsewhere", 0.0)):
        found = theta(rounds, rounds.version(2, school))
        np.testing.assert_array_equal(found[HEAD], START[HEAD] + np.float32(step))
        np.testing.assert_array_equal(found[LADDER], START[LADDER] + np.float32(1.0))
    first = theta(rounds, rounds.version(1, "Hill"))
    np.testing.assert_array_equal(first[HEAD], START[HEAD] + np.float32(0.5))
    assert rounds.verify() == []


def test_one_device_of_a_school_moves_nothing_of_its_school(rounds: Rounds) -> None:
    for _ in range(2):
        send(rounds, HILL[0], 0.5)
        send(rounds, LAKE[0], -0.5)
        rounds.release_now()
    assert rounds.state.version == 2, "the shared segments had two devices"
    assert rounds.version(2, "Hill") == rounds.version(2)
    send(rounds, HILL[1], 0.5)
    rounds.release_now()
    assert (theta(rounds, rounds.version(3, "Hill"))[HEAD] == START[HEAD] + np.float32(0.5)).all()
    assert rounds.version(3, "Lake") == rounds.version(3)
    assert rounds.verify() == []


def test_an_update_of_no_school_with_a_schools_segment_is_refused(rounds: Rounds) -> None:
    stranger = School()
    rounds.members.join(stranger.name, StoredInvitation("of no school"))
    with pytest.raises(UpdateError) as caught:
        send(rounds, stranger, 0.5)
    assert caught.value.code == "personal_segment"
    assert rounds.state.pending == 0
    rounds.update(stranger.update(rounds.configuration, 0.5, 0, ladder_table=4), stranger.name)


def test_the_log_gives_the_same_bits_after_a_restart_and_from_a_checkpoint(rounds: Rounds) -> None:
    folder = rounds.log.database.path.parent
    both_schools(rounds)
    send(rounds, HILL[0], 0.125)
    rounds.put_checkpoint()
    send(rounds, LAKE[0], 0.125)
    before, version = checkpoint.pack(rounds.state), rounds.version(1, "Lake")
    rounds.close()
    with closing(opened(folder)) as again:
        assert checkpoint.pack(again.state) == before
        assert checkpoint.pack(checkpoint.unpack(before, again.rules.layout)) == before
        assert again.version(1, "Lake") == version
        assert again.verify() == []


def test_what_is_withdrawn_leaves_its_school_as_if_it_had_never_come(rounds: Rounds) -> None:
    gone, *_ = both_schools(rounds, hill=0.5)
    rounds.withdraw(gone, HILL[0].name)
    assert theta(rounds, rounds.version(1, "Hill"))[HEAD][0] == START[HEAD][0] + np.float32(0.5), "released already"
    both_schools(rounds, hill=0.25)
    without = replay(rounds.log.entries, rounds.rules, without=frozenset({gone}))
    hill = theta(rounds, rounds.version(2, "Hill"))
    np.testing.assert_array_equal(hill[HEAD], without.own["Hill"]["head.grade"])
    assert rounds.verify() == []


def test_a_failed_release_leaves_every_school_as_it_was(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    both_schools(rounds)
    send(rounds, HILL[0], 0.5)
    send(rounds, HILL[1], 0.5)
    send(rounds, LAKE[0], 0.5)
    before = checkpoint.pack(rounds.state)
    with monkeypatch.context() as failing:
        failing.setattr("homeroom_aggregator.state.school_segments.put", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            send(rounds, LAKE[1], 0.5)
    assert checkpoint.pack(rounds.state) == before
    assert rounds.log.newest() == 1


def test_rebuilding_tells_which_school_was_tampered_with(rounds: Rounds) -> None:
    both_schools(rounds)
    rounds.log.database.write("UPDATE owned SET body = (SELECT body FROM owned WHERE school = 'Lake')")
    assert rounds.verify() == ["version 1 of Hill is not what the log gives"]


def test_retention_keeps_what_each_school_has_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom_aggregator.merge.rounds.CHECKPOINT_ENTRIES", 3)
    with closing(opened(make_folder(tmp_path, buffer_size=2, **BY_SCHOOL), retain=2)) as rounds:
        for name, devices in (("Hill", HILL), ("Lake", LAKE)):
            for device in devices:
                rounds.members.join(device.name, StoredInvitation(f"{name} {device.name}", school=name))
        for device in LAKE:
            send(rounds, device, -0.25)
        for _ in range(12):
            for device in HILL:
                send(rounds, device, 0.125)
        rows = rounds.log.database.rows("SELECT school, count(*) FROM owned GROUP BY school ORDER BY school")
        assert rows[0][1] < 8, "old ones go"
        assert rows[1] == ("Lake", 1), "the only one stays"
        newest = theta(rounds, rounds.version(rounds.state.version, "Lake"))
        np.testing.assert_array_equal(newest[HEAD], START[HEAD] - np.float32(0.25))
        assert rounds.verify() == []


def test_masks_and_noise_are_for_rounds_of_the_whole_federation_only() -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5)
    for more in ({"secure": SecureRules(minimum=3)}, {"privacy": promise}, {"scope": "institution"}):
        with pytest.raises(ValueError, match="plain rounds"):
            RoundConfiguration(bundle_id="0" * 64, by_school=True, **more)
    plain = RoundConfiguration(bundle_id="0" * 64)
    assert "by_school" not in plain.document, "a round from before keeps its identity"


# Over HTTP


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"buffer_size": 4, **BY_SCHOOL}


def test_what_one_schools_devices_fetch_tells_nothing_of_another_school(service: Service, tmp_path: Path) -> None:
    with running(service) as address:
        clients = {
            name: [enrol(service, address, name, consents={name: "a letter"}) for _ in range(2)]
            for name in ("Hill", "Lake")
        }
        outside = enrol(service, address)
        for name, step in (("Hill", 0.5), ("Lake", -0.25)):
            for client in clients[name]:
                delta = np.full(START.shape, step, np.float32)
                assert client.update(School(client.key).update(client.round(), delta)) == "accepted"
        bodies = {name: latest(clients[name][0], 0) for name in clients} | {"": latest(outside, 0)}
        for name, step in (("Hill", 0.5), ("Lake", -0.25), ("", 0.0)):
            expected = START[HEAD] + np.float32(step)
            assert (theta(service.rounds, bodies[name])[HEAD] == expected).all()
            twin = clients[name][1] if name else outside
            fetched, _ = twin.newest(0, START, tmp_path / "parts")
            assert fetched == bodies[name], "the same bytes for every device of a school, whole or as a difference"
        foreign = (START[HEAD] + np.float32(0.5)).tobytes()
        for path in ("/v1/versions/1", "/v1/versions/latest"):
            assert foreign not in clients["Lake"][0].send("GET", path)
            assert foreign in clients["Hill"][0].send("GET", path)


def test_a_school_is_told_only_once_enough_of_its_devices_could_feed_it(service: Service) -> None:
    with running(service) as address:
        first = enrol(service, address, "Hill", consents={"Hill": "a letter"})
        first.round()
        assert first.school == ""
        enrol(service, address, "Hill", consents={"Hill": "a letter"})
        first.round()
        assert first.school == "Hill"


# The device's side


@pytest.fixture
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr(
        "homeroom.inference.golden.choose_precision", lambda *_, **__: {}
    )  # these bundles hold no graphs


def policy(tmp_path: Path, institution: str, *merged_by: str) -> Path:
    word = certify(ROOT, "institution", WORD, institution)
    rules = Policy(institution=institution, version=1, scopes={"head.grade": "institution"}, merged_by=merged_by)
    path = tmp_path / f"policy-{institution}-{len(merged_by)}.json"
    path.write_bytes(sign_policy(rules, WORD, word))
    return path


@contextlib.contextmanager
def classroom(service: Service, address: str, tmp_path: Path, name: str, document: Path | None) -> Iterator[Device]:
    consents = {"Hill": "a letter"}
    (invitation,) = make_invitations(tmp_path / "district", address, [("Hill", "device")], consents=consents)
    (tmp_path / f"{name}.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / name, tmp_path / "bundle") as device:
        device.join(tmp_path / f"{name}.json")
        if document:
            device.policy(document)
        device.sync()  # now it knows which school it is taken for
        yield device


def in_log(service: Service, device: Device) -> set[str]:
    """The segments of the newest update that the aggregator logged of this device."""
    key = device_key(device.store)
    assert key is not None
    name = key.public_key().public_bytes_raw().hex()
    bodies = [e.body for e in service.rounds.log.entries() if e.kind == "update" and e.device == name]
    return set(read_update(bodies[-1], service.rounds.configuration, Layout(SEGMENTS)).values)


def test_a_devices_own_segments_leave_only_if_its_institution_says_who_merges_them(
    service: Service, tmp_path: Path, quickly: None
) -> None:
    cases = {
        "none": (None, True),  # nobody said that this segment is the school's: the bundle's word is that it is shared
        "not named": (policy(tmp_path, "Hill"), False),
        "of another school": (policy(tmp_path, "Lake", "District 7"), False),
        "named": (policy(tmp_path, "Hill", "District 7"), True),
    }
    with running(service) as address:
        enrol(service, address, "Hill", consents={"Hill": "a letter"})  # so that there are enough of them
        for name, (document, leaves) in cases.items():
            with classroom(service, address, tmp_path, name, document) as device:
                learn(device, 0.5)
                device.sync()
                assert ("head.grade" in in_log(service, device)) == leaves, name


def test_two_classrooms_of_a_school_learn_from_each_other_and_by_hand_too(tmp_path: Path, quickly: None) -> None:
    service = open_service(make_folder(tmp_path, buffer_size=4, **BY_SCHOOL))
    document = policy(tmp_path, "Hill", "District 7")
    with running(service) as address, contextlib.ExitStack() as rooms:
        devices = [rooms.enter_context(classroom(service, address, tmp_path, n, document)) for n in ("one", "two")]
        devices[0].sync()  # there are two of them by now
        for device, step in zip(devices, (0.25, 0.75), strict=True):
            learn(device, step)
            device.sync()
        service.rounds.release_now()
        for device in devices:
            device.sync()
            newest = versions.newest_global(device.store, device.bundle)
            found = versions.theta_of(device.store, device.bundle, newest)
            np.testing.assert_array_equal(found[HEAD], START[HEAD] + np.float32(0.5))
    service.close()
    (tmp_path / "stick").mkdir()
    with Device.open(tmp_path / "three", tmp_path / "bundle") as third:
        (invitation,) = make_invitations(tmp_path / "district", "http://nowhere.example", [("Hill", "device")])
        (tmp_path / "three.json").write_bytes(msgspec.json.encode(invitation))
        offline.take_in_messages(tmp_path / "district", tmp_path / "stick", lambda _: None)
        third.join_by_hand(tmp_path / "three.json")
        third.carry_out(tmp_path / "stick")
        offline.take_in_messages(tmp_path / "district", tmp_path / "stick", lambda _: None)
        third.policy(document)
        third.carry_in(tmp_path / "stick")
        assert third.store.get_secret("identity.school") == b"Hill"
        newest = versions.newest_global(third.store, third.bundle)
        found = versions.theta_of(third.store, third.bundle, newest)
        np.testing.assert_array_equal(found[HEAD], START[HEAD] + np.float32(0.5))
