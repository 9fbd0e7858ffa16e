"""Members of a secure round who lie, withdraw, replay and drop, over HTTP: nobody else loses an update by it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from conftest import Attack
from faults.devices import make_sample

from aggregator.admin.starting import contents, start
from aggregator.institution import ROOT, START, School, make_folder
from aggregator.secagg.district import RULES, SIGNER, District
from aggregator.secagg.test_rounds_over_http import expected, offer
from aggregator.server.officer import signed_in, text
from homeroom.cli.main import homeroom
from homeroom.contract.roster import make_roster
from homeroom.contract.secagg import Survivors, unpack
from homeroom.contract.signing import certify
from homeroom.errors import TrustError, UpdateError
from homeroom.federation import sync
from homeroom_aggregator.admin.folder import ROSTER_FILE, load_roster, replace_roster
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state import claims
from homeroom_aggregator.state.secure_sum import read_header

EVERYBODY = (0, 1, 2, 3)


def until_version(district: District, version: int, *numbers: int) -> None:
    for _ in range(8):
        if district.version < version:
            district.visit(*numbers)
    assert district.version == version


# Whose an update is


@pytest.mark.attack("members", "another member's update id: offered as one's own, or withdrawn by who offered it")
def test_an_update_id_belongs_to_its_maker_before_during_and_after_the_sum(district: District, attack: Attack) -> None:
    thief, victim = district.members[0], district.members[1]
    rounds, offered = district.service.rounds, victim.update_id
    victim.visit()
    with pytest.raises(UpdateError, match="another device's"):  # the same cohort
        offer(district, thief.school, offered)
    thief.client.unlearn(offered)
    district.secure_rounds.store.end(district.secure_rounds.store.live().notice.round_id, "failed: a test")  # type: ignore[union-attr]
    with pytest.raises(UpdateError, match="another device's"):  # the next one, before its maker is there again
        offer(district, thief.school, offered)
    wanted = expected(district, [*EVERYBODY])
    until_version(district, 1, *EVERYBODY)
    attack.got += district.theta != wanted
    district.restart()
    with pytest.raises(UpdateError, match="another device's"):  # when it is in a sum
        offer(district, thief.school, offered)
    thief.client.unlearn(offered)
    attack.got += rounds.log.count("withdraw")
    victim.client.unlearn(offered)
    assert rounds.log.withdrawn(offered), "its maker still may"
    attack.noticed = "nothing: the victim is in the sum, and withdraws its update itself"


def test_a_claim_outlives_the_servers_sudden_death_before_the_log_was_written(district: District) -> None:
    thief, victim = district.members[0], district.members[1]
    victim.visit()
    district.service.rounds.log.database.write("DELETE FROM claims")
    district.restart()
    with pytest.raises(UpdateError, match="another device's"):
        offer(district, thief.school, victim.update_id)


def test_sums_of_a_log_from_before_claims_are_claimed_by_their_makers(district: District) -> None:
    until_version(district, 1, *EVERYBODY)
    district.service.rounds.log.database.write("DROP TABLE claims")
    district.service.close()
    district.service = open_service(district.folder)
    thief, victim = district.members[0], district.members[1]
    rounds = district.service.rounds
    assert not rounds.withdraw(victim.update_id, thief.school.name)
    assert district.secure_rounds.status(victim.school.name)["standing"]["summed"] == (victim.update_id,)  # type: ignore[index]
    assert rounds.withdraw(victim.update_id, victim.school.name)


@pytest.mark.attack("members", "endless update ids offered, to fill the server's tables")
def test_a_member_claims_a_bounded_number_of_ids_and_old_ones_are_forgotten(district: District, attack: Attack) -> None:
    thief, rounds = district.members[0], district.service.rounds
    for number in range(claims.MOST_CLAIMS):
        offer(district, thief.school, f"{number:032x}")
    with pytest.raises(UpdateError, match="too many"):
        offer(district, thief.school, "e" * 32)
    attack.got += rounds.log.database.one("SELECT count(*) FROM claims")[0] - claims.MOST_CLAIMS
    wanted = expected(district, [1, 2, 3])
    for _ in range(8):
        if district.version == 0:
            before = district.phase
            district.visit(1, 2, 3)
            if district.phase == before:
                district.later_s += RULES.phase_s + 1
    attack.got += district.theta != wanted
    for _ in range(rounds.configuration.max_staleness + 2):
        rounds.release_unchanged()
    offer(district, thief.school, "f" * 32)
    assert rounds.log.database.one("SELECT count(*) FROM claims WHERE NOT summed")[0] == 1
    attack.noticed = "a drop-out"


# Who leaves


@pytest.mark.parametrize("phase", ["consent", "reveal"])
@pytest.mark.attack("members", "withdrawing between signature and opening, so that no version ever comes")
def test_one_who_forgets_after_signatures_ends_the_round_in_an_unchanged_version_and_all_go_on(
    district: District, attack: Attack, phase: str
) -> None:
    rounds, leaver = district.service.rounds, district.members[0]
    district.until(phase)
    leaver.client.unlearn(leaver.update_id)
    until_version(district, 1, 1, 2, 3)
    assert district.theta == START.tobytes()
    assert [entry.kind for entry in rounds.log.entries()] == ["withdraw", "release"], "the sum was never opened"
    district.visit(*EVERYBODY)  # the round is over, and a new one is announced
    live = district.secure_rounds.store.live()
    assert live
    assert live.phase == "keys"
    assert leaver.update_id not in [one.update_id.hex() for one in district.secure_rounds._advertised().values()]
    for member in district.members:
        member.queue(base=1)  # trained anew
    until_version(district, 2, *EVERYBODY)
    attack.got += district.theta == START.tobytes()
    assert rounds.log.count("secure") == 1
    assert rounds.verify() == []
    district.service.close()
    district.service = open_service(district.folder)
    assert district.version == 2, "a replay understands it"
    attack.noticed = "one version without a change"


def test_an_honest_forget_between_signature_and_opening_lets_its_device_and_all_others_go_on(
    district: District,
) -> None:
    """The pupil is forgotten in the device's own store, which asks for unlearning at its next sync."""
    leaver = district.members[0]
    leaver.store.add([make_sample(0, "pupil")])
    leaver.store.outbox.drop(leaver.update_id)
    leaver.update_id = leaver.queue(subjects=("pupil",))
    district.until("reveal")
    leaver.store.forget("pupil")
    assert leaver.store.outbox.unlearning() == [leaver.update_id]
    sync.ask_unlearning(leaver.store, leaver.client)
    district.visit(0)
    until_version(district, 1, *EVERYBODY)
    assert district.theta == START.tobytes()
    for member in district.members:
        member.queue(base=1)
    until_version(district, 2, *EVERYBODY)
    assert district.theta != START.tobytes()
    assert district.service.rounds.verify() == []


@pytest.mark.parametrize("phase", ["keys", "shares", "input"])
def test_one_who_forgets_before_signatures_is_left_out_and_the_others_are_summed(
    district: District, phase: str
) -> None:
    wanted = expected(district, [1, 2, 3])
    leaver = district.members[0]
    if phase == "keys":
        leaver.visit()
    district.until(phase)
    leaver.client.unlearn(leaver.update_id)
    assert "input" not in [p for p in ("input",) if district.secure_rounds.store.body(p, leaver.school.name)]
    for _ in range(8):
        if district.version == 0:
            before = district.phase
            district.visit(1, 2, 3)
            if district.phase == before:
                district.later_s += RULES.phase_s + 1
    assert district.theta == wanted
    assert district.service.rounds.verify() == []


@pytest.mark.attack("members", "a masked update that stays after its key was revoked")
def test_what_a_revoked_device_masked_goes_at_once(district: District, attack: Attack) -> None:
    rounds, store = district.service.rounds, district.secure_rounds.store
    district.until("input")
    sender = next(m for m in district.members if m.visit() and store.body("input", m.school.name))
    rounds.members.revoke(sender.school.name, "operator")
    rounds.withdraw_gone()
    attack.got += store.body("input", sender.school.name) is not None
    attack.noticed = "the round goes on without it"


def test_a_revoked_device_that_had_joined_a_cohort_is_not_in_it(district: District) -> None:
    district.visit(0, 1)
    district.service.rounds.members.revoke(district.members[0].school.name, "operator")
    with pytest.raises(UpdateError):
        district.visit(0)
    district.visit(2, 3)
    district.later_s += RULES.phase_s + 1
    district.visit(1, 2, 3)
    live = district.secure_rounds.store.live()
    assert live
    assert live.cohort
    assert len(live.cohort.members) == 3


@pytest.mark.parametrize("phase", ["shares", "input", "consent", "reveal"])
@pytest.mark.attack("members", "a new key in the middle of a round, to be in its sum and in the next one")
def test_a_key_that_is_rotated_within_a_round_gets_no_update_into_two_sums(
    district: District, attack: Attack, phase: str
) -> None:
    thief, fresh = district.members[0], School()
    word = certify(ROOT, "roster", SIGNER, "tests")
    names = [*(member.school.name for member in district.members), fresh.name]
    roster = make_roster(SIGNER, word, names, serial=2, minimum=3, institution="tests")
    replace_roster(district.folder, msgspec.json.encode(roster))
    district.visit(*EVERYBODY)
    district.later_s += RULES.phase_s + 1  # the new key never comes
    district.until(phase)
    thief.client.rotate(fresh.key)
    for _ in range(8):
        if district.version == 0:
            before = district.phase
            district.visit(1, 2, 3)
            if district.phase == before:
                district.later_s += RULES.phase_s + 1
    assert district.version == 1
    rounds = district.service.rounds
    inside = [entry for entry in rounds.log.sums() if thief.update_id in read_header(entry.body).updates]
    try:
        offer(district, fresh, thief.update_id)
        attack.got += bool(inside)
    except UpdateError:
        assert inside
    assert rounds.verify() == []
    attack.noticed = "a drop-out, or nothing"


def test_an_update_whose_base_is_too_far_behind_is_not_offered_any_more(district: District) -> None:
    rounds, member = district.service.rounds, district.members[0]
    rounds.configure(msgspec.structs.replace(rounds.configuration, max_staleness=0))
    district.restart()
    rounds.release_unchanged()
    assert member.visit() == "nothing to contribute yet: train, then sync again"
    assert member.store.outbox.pending() == [], "it would wait for ever"
    rounds.configure(msgspec.structs.replace(rounds.configuration, max_staleness=1))
    district.restart()
    assert district.members[1].visit().startswith("joined"), "one version behind is allowed now"


# Rosters


def test_a_newer_roster_counts_at_once_while_a_cohort_is_gathered(district: District) -> None:
    stranger, told = School(), list[str]()
    district.secure_rounds.tell = told.append
    word = certify(ROOT, "roster", SIGNER, "tests")
    names = [member.school.name for member in district.members]
    wide = make_roster(SIGNER, word, [*names, stranger.name], serial=2, minimum=3, institution="tests")
    replace_roster(district.folder, msgspec.json.encode(wide))
    district.visit(0)
    first = district.secure_rounds.store.live()
    replace_roster(district.folder, msgspec.json.encode(district.roster(district.members[:3], serial=3)))
    assert district.visit(3) == ["this device is not on the institution's roster"]
    second = district.secure_rounds.store.live()
    assert first
    assert second
    assert second.roster.serial == 3
    assert told == [f"roster {n}: {count} devices, at least 3 in a sum" for n, count in ((2, 5), (3, 3))]
    assert second.notice.round_id != first.notice.round_id
    until_version(district, 1, 0, 1, 2)


def test_serve_and_configure_refuse_a_roster_that_can_never_start_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom_aggregator.server.serve.serve", lambda *_, **__: None)
    rules = msgspec.structs.replace(RULES, drop_rate=0.3)
    folder = make_folder(tmp_path, min_devices=3, secure=rules)  # type: ignore[arg-type]
    word, path = certify(ROOT, "roster", SIGNER, "tests"), tmp_path / "roster.json"
    names = [School().name for _ in range(5)]
    roster = make_roster(SIGNER, word, names, serial=1, minimum=5, institution="tests")
    path.write_bytes(msgspec.json.encode(roster))
    before = {name: body for name, body in contents(folder).items() if name != "reading"}
    refused = start(folder, "--roster", path)
    assert refused.exit_code
    assert "5 devices, minimum 5, drop-out 0.3" in str(refused.exception)
    assert "6 devices, or minimum 4" in str(refused.exception)
    assert {name: body for name, body in contents(folder).items() if name != "reading"} == before
    (folder / ROSTER_FILE).write_bytes(path.read_bytes())  # a folder of before: it is refused where it is served
    assert load_roster(folder) == roster
    checked = CliRunner().invoke(homeroom, ["district", "configure", str(folder), "--check"])
    assert "6 devices, or minimum 4" in str(checked.exception)
    with pytest.raises(Exception, match="6 devices, or minimum 4"):
        open_service(folder)
    plain = make_folder(tmp_path / "plain")
    assert "says nothing without --secure" in str(start(plain, "--roster", path).exception)


# Who is missing


def test_sync_and_dashboard_say_the_phase_and_who_is_missing(district: District) -> None:
    names = sorted(member.school.name for member in district.members)
    district.visit(0, 1)
    said = district.visit(1)[0]
    absent = sorted(district.members[n].school.name for n in (2, 3))
    assert said == (
        "joined a cohort; waits for others to join (2 of 4 devices have come; "
        f"missing: {absent[0][:12]}, {absent[1][:12]}; 1 h at most)"
    )
    progress = district.secure_rounds.progress
    assert progress
    assert (progress.phase, progress.needed, progress.minimum) == ("keys", 4, 3)
    assert (*sorted(progress.arrived + progress.missing),) == tuple(names)
    assert progress.missing == tuple(absent)
    with signed_in(district.service, district.address) as browser:
        page = text(browser.get("/dashboard").text)
    assert "The secure round is in its phase keys: 2 of 4 devices have come; missing: " in page
    assert f"{absent[0][:12]}, {absent[1][:12]}. A sum needs 3 devices." in page
    district.until("consent")
    store = district.secure_rounds.store
    late = next(n for n in EVERYBODY if store.body("consent", district.members[n].school.name) is None)
    before = district.secure_rounds.status(district.members[late].school.name)
    assert before
    assert district.members[late].school.name in before["standing"]["missing"]
    district.later_s += RULES.phase_s + 1
    district.secure_rounds.advance()
    district.secure_rounds.advance()
    district.visit(late)
    assert district.secure_rounds.progress
    assert district.secure_rounds.progress.last_failure == "too few devices agreed on the survivors"


def test_a_cohort_that_cannot_begin_says_why(district: District) -> None:
    rounds = district.service.rounds
    for number, member in enumerate(district.members):
        offer(district, member.school, f"{number:032x}", frozenset({("ladder.table", "head.grade")[number % 2]}))
    status = district.secure_rounds.status(district.members[0].school.name)
    assert status
    assert status["standing"]["hindrance"] == "no segment is fed by enough of them"
    assert "4 of 4 devices have come, but no segment is fed by enough of them" in district.members[0].visit()
    district.secure_rounds.store.end("0" * 64, "failed: a test")
    district.visit(0, 1)
    district.later_s += RULES.phase_s + 1
    assert "2 of 4 devices have come, but 2 devices cannot bear" in district.visit(1)[0]
    assert rounds.state.version == 0


# Replays and lies in each phase


@pytest.mark.attack("members", "a message of an earlier round, phase or device, sent again")
def test_messages_of_another_round_phase_or_device_change_nothing(district: District, attack: Attack) -> None:
    liar, store = district.members[0], district.secure_rounds.store
    wanted = expected(district, [*EVERYBODY])
    old: dict[tuple[str, str], bytes] = {}
    for phase in ("shares", "input", "consent"):
        district.until(phase)
        for earlier in ("keys", "shares", "input"):
            old |= {(earlier, device): body for device, body in store.bodies(earlier).items()}
        live = store.live()
        assert live
        for (earlier, device), body in old.items():
            before = store.bodies(live.phase)
            if earlier == live.phase and device == liar.school.name:
                continue
            for target in (earlier, live.phase):
                try:
                    district.secure_rounds.put(live.notice.round_id, target, liar.school.name, body)
                except (UpdateError, TrustError):
                    continue
            after = store.bodies(live.phase)
            attack.got += any(after.get(other) != kept for other, kept in before.items())
            store.forget(live.phase, liar.school.name)
            if liar.school.name in before:
                store.put(live.phase, liar.school.name, before[liar.school.name])
    until_version(district, 1, *EVERYBODY)
    attack.got += district.theta != wanted
    attack.noticed = "the sum of all four"


@pytest.mark.attack("members", "a masked update that is nonsense, or shares that do not open")
def test_nonsense_from_one_member_gives_no_sum_rather_than_a_wrong_one(district: District, attack: Attack) -> None:
    rounds, store = district.service.rounds, district.secure_rounds.store
    district.until("consent")
    liar = district.members[0].school.name
    store.put("input", liar, bytes(np.random.default_rng(0).bytes(len(store.body("input", liar) or b""))))
    for _ in range(6):
        if district.version == 0:
            district.visit(*EVERYBODY)
    attack.got += district.theta != START.tobytes()
    assert rounds.log.count("secure") == 0
    assert "impossible" in district.secure_rounds.store.last_failure() or district.version == 1
    for member in district.members:
        member.queue(base=1)
    until_version(district, 2, *EVERYBODY)
    assert district.theta != START.tobytes()
    attack.noticed = "one version without a change; then the rounds go on"


def test_survivors_as_sent_are_those_the_cohort_agrees_on(district: District) -> None:
    district.until("consent")
    live = district.secure_rounds.store.live()
    assert live
    body = district.secure_rounds.get(live.notice.round_id, district.members[0].school.name)
    assert unpack(body, Survivors, where="survivors", error=UpdateError) == Survivors(live.survivors)
