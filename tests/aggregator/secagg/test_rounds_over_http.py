"""Secure rounds over real HTTP: cohorts gather, sleep, drop out and sum, and the log proves each sum."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Attack

from aggregator.institution import ROOT, START, School, announce
from aggregator.secagg.district import RULES, SIGNER, District
from homeroom.cli.main import homeroom
from homeroom.contract.roster import make_roster
from homeroom.contract.round import weight
from homeroom.contract.secagg import pack
from homeroom.contract.signing import certify
from homeroom.contract.update_checks import read_update
from homeroom.errors import InputError, TrustError, UpdateError
from homeroom.federation.agreement import SECURE_ROUNDS
from homeroom.privacy.secagg.client import advertise
from homeroom.privacy.secagg.encoding import segment_bits
from homeroom_aggregator.admin.folder import ROSTER_FILE, load_roster, replace_roster
from homeroom_aggregator.server.service import open_service

FEEDS = frozenset({"ladder.table", "head.grade"})


def expected(district: District, numbers: list[int]) -> bytes:
    """Theta after the plain weighted mean of these devices' own updates, which never left them."""
    rounds = district.service.rounds
    layout, configuration = rounds.rules.layout, rounds.configuration
    theta = rounds.bundle.theta()
    for place_, name in enumerate(("ladder.table", "head.grade")):
        total, units, where = np.zeros(layout[name].size, np.int64), 0, layout.slices[name]
        for number in numbers:
            data = district.members[number].store.outbox.pending()[0].data
            update = read_update(data, configuration, layout)
            own = weight(update.header.segments[place_].examples, 0, configuration)
            total += update.values[name].astype(np.int64) * own
            units += own
        step = total.astype(np.float64) / units * 2.0**-configuration.scale_bits
        theta[where] = (theta[where].astype(np.float64) + step).astype(np.float32)
    return theta.tobytes()


def test_devices_that_sleep_and_lose_power_make_a_version_that_none_of_them_showed(district: District) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    for numbers in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0), (0, 1, 2, 3), (3, 2, 1, 0)):
        for number in numbers:
            if district.version == 0:
                district.visit(number)
                district.members[number].power_cut()
    rounds = district.service.rounds
    assert district.theta == wanted
    assert (rounds.log.count("update"), rounds.log.count("secure")) == (0, 1)
    assert rounds.verify() == []
    assert district.secure_rounds.store.bodies("input") == {}, "masked vectors do not outlive the round"
    assert district.visit(0, 1, 2, 3) == ["nothing to contribute yet: train, then sync again"] * 4
    assert all(len(member.store.outbox.sent()) == 1 for member in district.members)


def test_a_device_that_was_away_when_the_sum_was_opened_learns_that_it_is_in_it(district: District) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    district.until("consent")
    signed = district.secure_rounds.store.senders("consent")
    away = next(n for n in range(4) if district.members[n].school.name not in signed)
    for _ in range(3):
        if district.version == 0:
            district.visit(*(n for n in range(4) if n != away))
    assert district.theta == wanted
    district.restart()
    assert district.visit(away) == ["nothing to contribute yet: train, then sync again"], (
        "else the same update would be summed twice"
    )
    assert len(district.members[away].store.outbox.sent()) == 1


def test_a_server_that_is_killed_between_any_two_requests_merges_the_sum_once(district: District) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    while district.version == 0:
        for number in range(4):
            district.visit(number)
            district.restart()
    assert district.theta == wanted
    assert district.service.rounds.log.count("secure") == 1
    district.service.close()
    district.service = open_service(district.folder)
    assert district.theta == wanted, "replayed from the log, bit for bit"
    assert district.service.rounds.verify() == []


def test_a_server_killed_after_the_merge_and_before_it_forgot_the_round_merges_nothing_twice(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    with monkeypatch.context() as broken:
        broken.setattr(district.secure_rounds.store, "end", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        broken.setattr(district.secure_rounds, "advance", lambda: district.secure_rounds.store.live())
        for _ in range(5):
            for member in district.members:
                member.visit()
            live = district.secure_rounds.store.live()
            assert live
            try:
                while district.secure_rounds._go_on(district.secure_rounds.store.live() or live):
                    pass
            except KeyboardInterrupt:
                break
    assert district.version == 1
    district.restart()
    district.secure_rounds.advance()
    assert district.phase == "none"
    assert district.theta == wanted
    assert district.service.rounds.log.count("secure") == 1


@pytest.mark.attack("members", "masked updates and shares in a backup of the server")
def test_a_backup_of_the_server_holds_the_roster_and_nothing_of_the_round_under_way(district: District) -> None:
    from homeroom_aggregator.admin.backup import backup

    district.until("shares")
    backup(district.folder, district.tmp / "copy")
    copied = {path.name for path in (district.tmp / "copy").iterdir()}
    assert ROSTER_FILE in copied
    assert not [name for name in copied if name.startswith("secure")]
    assert load_roster(district.tmp / "copy") == load_roster(district.folder)


@pytest.mark.parametrize("phase", ["shares", "input", "reveal"])
def test_a_device_that_does_not_come_back_is_left_out_when_time_is_over(district: District, phase: str) -> None:
    everybody = [0, 1, 2, 3]
    wanted: dict[int | None, bytes] = {None: expected(district, everybody)}
    wanted |= {gone: expected(district, [n for n in everybody if n != gone]) for gone in everybody}
    district.until(phase)
    gone = next(
        n for n in everybody if district.secure_rounds.store.body(phase, district.members[n].school.name) is None
    )
    while district.version == 0:
        before = district.phase
        district.visit(*(n for n in everybody if n != gone))
        if district.phase == before:
            district.later_s += RULES.phase_s + 1
    assert district.theta == wanted[gone if phase in ("shares", "input") else None]
    assert district.service.rounds.log.count("secure") == 1
    assert district.service.rounds.verify() == []


def test_a_servers_clock_that_is_set_back_holds_no_phase_for_ever(district: District) -> None:
    district.until("shares")
    district.later_s -= 365 * 86_400
    district.visit(0, 1)
    assert district.phase == "shares"
    district.later_s += RULES.phase_s + 1
    district.visit(0)
    assert district.phase == "input", "the third is left out after the phase's hours"


def test_past_the_promise_the_round_fails_closed_and_its_updates_may_go_into_the_next(district: District) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    district.until("input")
    first = district.secure_rounds.store.live()
    arrived = district.secure_rounds.store.bodies("input")
    district.later_s += RULES.phase_s + 1
    district.visit(0)
    second = district.secure_rounds.store.live()
    assert first
    assert second
    assert second.notice.round_id != first.notice.round_id
    assert len(arrived) < 3
    assert (district.version, district.service.rounds.log.count("secure")) == (0, 0)
    assert district.secure_rounds.facts()["secure_failed"] == 1
    district.visit(1, 2, 3)
    district.until("reveal")
    district.visit(0, 1, 2, 3)
    assert district.theta == wanted


@pytest.mark.attack("members", "a round called failed after its sum was opened, and asked for again without one device")
def test_after_agreeing_an_update_is_spent_even_if_the_round_fails(district: District) -> None:
    """Else a server could call a round failed that it had opened, and ask for the same sum less one device."""
    district.until("consent")
    agreed = next(n for n in range(4) if district.visit(n)[0].startswith("agreed"))
    district.later_s += RULES.phase_s + 1
    district.secure_rounds.advance()
    assert (district.version, district.service.rounds.log.count("secure")) == (1, 0)
    assert district.theta == START.tobytes(), "a new version without a change, so that all may train anew"
    assert district.service.rounds.verify() == []
    (told,) = district.visit(agreed)
    assert "the round before was not opened" in told
    assert "so train, then sync again" in told
    assert district.visit(agreed) == [told]
    assert not district.members[agreed].queue(base=0)
    assert district.members[agreed].queue(base=1)
    assert district.visit(agreed)[0].startswith("joined")
    shown = CliRunner().invoke(homeroom, ["district", "audit", "show", str(district.folder)])
    assert "Version 1 was released without a new update" in shown.output
    for n in {*range(4)} - {agreed}:
        district.members[n].queue(base=1)
    for _ in range(6):
        district.visit(*range(4) if district.version == 1 else ())
    assert district.version == 2
    assert district.visit(agreed) == ["nothing to contribute yet: train, then sync again"], "of a round that was opened"


@pytest.mark.attack("members", "a roster that the institution did not sign, or an older one")
def test_a_device_off_the_roster_stays_out_and_an_old_roster_is_refused(district: District) -> None:
    members = district.members
    replace_roster(district.folder, msgspec.json.encode(district.roster(members[:3], serial=2)))
    assert district.visit(3) == ["this device is not on the institution's roster"]
    assert district.visit(0)[0].startswith("joined")
    old = district.roster(members, serial=1)
    with pytest.raises(TrustError, match="seen before"):
        replace_roster(district.folder, msgspec.json.encode(old))
    district.secure_rounds.store.end("0" * 64, "failed")
    district.secure_rounds.roster = lambda: old  # the server shows it all the same
    with pytest.raises(TrustError, match="seen before"):
        district.visit(0)


@pytest.mark.attack("members", "a way back from secure rounds to plain updates")
def test_a_server_that_asks_for_plain_updates_after_all_gets_none(district: District) -> None:
    member, rounds = district.members[0], district.service.rounds
    member.visit()
    with pytest.raises(UpdateError, match="none is taken by itself"):
        member.client.update(member.store.outbox.pending()[0].data)
    announce(rounds, secure=None)
    with pytest.raises(TrustError, match="asks for plain updates"):
        member.visit()
    assert SECURE_ROUNDS.read(member.store) == b"1"
    assert rounds.log.count("update") == 0


@pytest.mark.parametrize("phase", ["keys", "shares", "input", "consent", "reveal"])
def test_a_change_of_configuration_ends_the_round_without_a_sum_and_the_next_one_is_summed(
    district: District, phase: str
) -> None:
    district.until(phase)
    rounds = district.service.rounds
    secure = msgspec.structs.replace(RULES, phase_s=60)
    rounds.configure(msgspec.structs.replace(rounds.configuration, secure=secure))
    district.restart()
    for _ in range(12):
        if rounds.log.count("secure") == 0:
            district.visit(0, 1, 2, 3)
            for member in district.members:
                if not member.store.outbox.pending():  # agreed to survivors: its update is spent, it trains anew
                    member.queue(district.version)
    assert rounds.log.count("secure") == 1
    assert {body[0] for body in rounds.log.database.rows("SELECT kind FROM log")} >= {"configuration", "secure"}
    assert (phase in ("consent", "reveal")) == (district.version == 2), "a version, so that devices may train anew"
    assert rounds.verify() == []


@pytest.mark.attack("members", "two cohorts or two sets of survivors told to the devices of one round")
def test_a_device_that_caught_the_server_lying_leaves_that_round_for_good(district: District) -> None:
    district.until("consent")
    live, store = district.secure_rounds.store.live(), district.secure_rounds.store
    assert live
    assert live.cohort
    places = {m.device.hex(): place for place, m in enumerate(live.cohort.members)}
    asked_next = [m for m in district.members if store.body("consent", m.school.name) is None]
    victim, left_out = asked_next[0], asked_next[1]
    store.save(msgspec.structs.replace(live, survivors=live.survivors[:1] + live.survivors[-1:]))
    if places[victim.school.name] not in (live.survivors[0], live.survivors[-1]):
        store.save(msgspec.structs.replace(live, survivors=(places[victim.school.name],)))
    with pytest.raises(TrustError, match="that a sum needs"):
        victim.visit()
    store.save(live)
    assert "has left the round" in victim.visit()
    assert store.body("consent", victim.school.name) is None
    rest = tuple(place for place in live.survivors if place != places[left_out.school.name])
    store.save(msgspec.structs.replace(live, survivors=rest))
    assert "dropped out" in left_out.visit(), "nothing is asked of it"


def test_taking_an_update_back_takes_its_device_out_of_the_round(district: District) -> None:
    wanted = expected(district, [1, 2, 3])
    district.until("input")
    district.members[0].client.unlearn(district.members[0].update_id)
    for _ in range(3):
        if district.version == 0:
            district.visit(1, 2, 3)
    assert district.theta == wanted


def test_unlearning_takes_the_whole_sum_that_hides_it_out_of_the_next_version(district: District) -> None:
    while district.version == 0:
        district.visit(0, 1, 2, 3)
    assert district.theta != START.tobytes()
    district.members[2].client.unlearn(district.members[2].update_id)
    district.settled()
    assert district.theta == START.tobytes()
    assert district.version == 1, "not released alone"
    assert district.service.rounds.verify() == []
    district.members[1].client.unlearn(district.members[2].update_id)  # another's: nothing happens
    assert district.service.rounds.log.count("withdraw") == 1


def test_going_back_between_two_sums_and_while_one_is_gathered(district: District) -> None:
    """A cohort that is under way ends as it would have; its sum moves the theta that was gone back to."""
    first, rounds = expected(district, [0, 1, 2, 3]), district.service.rounds
    while district.version == 0:
        district.visit(0, 1, 2, 3)
    for member in district.members:
        assert member.queue(base=1)
    district.until("input")
    assert rounds.roll_back(0, "Ms Lee", "worse grades") == 2
    assert district.theta == START.tobytes()
    for _ in range(4):
        if district.version == 2:
            district.visit(0, 1, 2, 3)
    assert district.version == 3
    assert district.theta == first, "the same four updates, from the same theta as the first time"
    assert rounds.log.count("secure") == 2
    assert rounds.verify() == []
    district.members[1].client.unlearn(district.members[1].update_id)  # it is in the first sum
    with pytest.raises(InputError, match="unlearned"):
        rounds.roll_back(1, "Ms Lee", "better after all")
    assert rounds.verify() == []


@pytest.mark.attack("members", "a round's secrets in a copy of the device")
def test_no_copy_of_a_device_holds_the_secrets_of_its_round_and_forgetting_destroys_them(district: District) -> None:
    member = district.members[0]
    member.visit()
    member.store.back_up()
    sql = "SELECT count(*) FROM secrets WHERE name LIKE 'secure.%'"
    copy = sqlite3.connect(member.store.directory / "backup" / "device.db")
    assert copy.execute(sql).fetchone() == (0,)
    copy.close()
    assert member.store.get_secret(f"secure.{member.update_id}") is not None


def test_what_is_no_part_of_the_phase_is_refused_with_a_reason(district: District) -> None:
    member = district.members[0]
    told = district.secure_rounds.status(member.school.name)
    assert told
    path = f"/v1/secure/{told['standing']['round_id']}"
    for phase, body in (("keys", b"\x80"), ("keys", b"x" * 2000), ("shares", b""), ("nonsense", b""), ("input", b"x")):
        with pytest.raises(UpdateError) as caught:
            member.client.send("POST", f"{path}/{phase}", body)
        assert caught.value.code in ("malformed", "past_phase")
    with pytest.raises(UpdateError, match="being gathered"):
        member.client.send("GET", path)
    assert district.secure_rounds.store.senders("keys") == []


def test_the_command_line_signs_a_roster_and_the_server_takes_no_other(district: District, tmp_path: Path) -> None:
    from homeroom.contract.signing import write_key

    write_key(tmp_path / "root.pem", ROOT)
    names = tmp_path / "names.txt"
    names.write_text("\n".join(member.school.name for member in district.members))

    def run(*arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(homeroom, ["trust", *arguments])
        return done.exit_code, done.output + str(done.exception or "")

    for role, name in (("roster", "signer"), ("aggregator", "server")):
        key = str(tmp_path / f"{name}.pem")
        assert run("certify", role, key, "--root-key", str(tmp_path / "root.pem"), "--name", "District 7")[0] == 0
    out = tmp_path / "roster.json"
    common = ("roster", str(out), "--devices", str(names), "--serial", "2", "--minimum", "3")
    code, said = run(*common, "--key", str(tmp_path / "server.pem"))
    assert code
    assert "not as roster" in said
    assert not out.exists()
    assert run(*common, "--key", str(tmp_path / "signer.pem")) == (0, "4 devices, at least 3 in a sum\n")
    assert replace_roster(district.folder, out.read_bytes()).serial == 2
    assert "no device's key" in run(*common, "--key", str(tmp_path / "signer.pem"), "--device", "abc")[1]


def offer(district: District, school: School, update_id: str, feeds: frozenset[str] = FEEDS) -> None:
    """Offers an update to the round under way, as whoever has the key may."""
    secure = district.secure_rounds
    secure.status(school.name)  # announces a round if there is none
    live = secure.store.live()
    assert live is not None
    shape = secure.sums.shape
    state = advertise(
        live.notice, live.roster, shape, school.key, update_id=update_id, segments=segment_bits(shape, feeds)
    )
    secure.put(live.notice.round_id, "keys", school.name, pack(state.advertisement))


@pytest.mark.attack("members", "a new key: the same update in two secure sums, or two keys in one cohort")
def test_a_new_key_is_the_same_member_in_every_sum(district: District, attack: Attack) -> None:
    thief, fresh, fresher = district.members[0], School(), School()
    names = [*(member.school.name for member in district.members), fresh.name, fresher.name]
    roster = make_roster(SIGNER, certify(ROOT, "roster", SIGNER, "tests"), names, serial=2, minimum=3, institution="t")
    replace_roster(district.folder, msgspec.json.encode(roster))
    while district.version == 0:
        district.visit(0, 1, 2, 3)
    thief.client.rotate(fresh.key)
    with pytest.raises(UpdateError, match="in a sum already"):
        offer(district, fresh, thief.update_id)
    offer(district, fresh, "e" * 32)
    thief.client.rotate(fresher.key)
    with pytest.raises(UpdateError, match="another key of this device"):
        offer(district, fresher, "f" * 32)
    district.restart()
    with pytest.raises(UpdateError, match="in a sum already"):
        offer(district, fresher, thief.update_id)
    attack.got += len(district.secure_rounds.store.senders("keys")) - 1
    attack.noticed = "the round goes on"


@pytest.mark.attack("members", "withdrawing another's update while its secure round is under way")
def test_nobody_withdraws_anothers_update_from_a_secure_round(district: District, attack: Attack) -> None:
    wanted = expected(district, [0, 1, 2, 3])
    district.until("input")
    district.members[0].client.unlearn(district.members[1].update_id)
    district.until("reveal")
    district.members[0].client.unlearn(district.members[2].update_id)
    while district.version == 0:
        district.visit(1, 2, 3, 0)
    attack.got += district.theta != wanted
    attack.noticed = "all four are in the sum"


def test_who_withdraws_after_the_survivors_are_agreed_takes_the_sum_out_in_a_replay_too(district: District) -> None:
    district.until("reveal")
    district.members[0].client.unlearn(district.members[0].update_id)
    for _ in range(3):
        district.visit(1, 2, 3, 0)
    assert district.theta == START.tobytes()
    assert district.service.rounds.verify() == []


@pytest.mark.attack("members", "a key that was revoked while its masked update waits")
def test_a_revoked_key_drops_out_of_the_secure_round(district: District, attack: Attack) -> None:
    wanted = expected(district, [1, 2, 3])
    district.until("input")
    district.members[0].visit()
    district.service.rounds.members.revoke(district.members[0].school.name, "operator")
    for _ in range(3):
        if district.version == 0:
            district.visit(1, 2, 3)
    attack.got += district.theta != wanted
    attack.noticed = "the round goes on without it"
