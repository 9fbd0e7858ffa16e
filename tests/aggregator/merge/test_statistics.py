"""Plain statistics at the aggregator: exact totals, released from k schools; liars bounded."""

from __future__ import annotations

import datetime
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.institution import LABELS, make_folder
from aggregator.statistics_lesson import PLAIN, Room, Shown, pupil_sums, released, shown_by_fewer
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.pooling import pool, poolings_of
from homeroom.contract.statistics.sums import Cell, Statistics, merge
from homeroom.errors import InputError, UpdateError
from homeroom_aggregator.admin import withdrawal
from homeroom_aggregator.admin.backup import backup, restore
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.admin.officers import OPERATOR
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.server.dashboard.formatting import event
from homeroom_aggregator.server.dashboard.queries import statistics_text
from homeroom_aggregator.state import audit


def rooms(rounds: Rounds, count: int = 4) -> list[Room]:
    """Rooms of a school each, taught all labels by five pupils each."""
    return [Room(f"school {n}").enrol(rounds).teach(n + 1) for n in range(count)]


def refused(rounds: Rounds, message: bytes, sender: Room) -> str:
    """The code of a refusal; nothing is changed by it."""

    def state() -> object:
        totals = rounds.statistics.totals
        return [*totals.each()], [*totals.marks()], totals.sum(), totals.release(), rounds.log.last()

    before = state()
    with pytest.raises(UpdateError) as caught:
        rounds.take_statistics(message, sender.name)
    assert state() == before
    return caught.value.code


def test_three_schools_make_a_release_that_is_the_exact_sum(rounds: Rounds) -> None:
    first, second, third, _ = rooms(rounds)
    for room in (first, second):
        room.send(rounds)
        assert released(rounds) is None
    third.send(rounds)
    whole = merge(sums for room in (first, second, third) for sums in room.pupils.values())
    assert released(rounds) == (1, whole)
    assert rounds.verify() == []


def test_any_order_and_restarts_give_the_same_integers(tmp_path: Path) -> None:
    totals = []
    for number, order in enumerate(([0, 1, 2, 3], [3, 1, 0, 2])):
        folder = make_folder(tmp_path / str(number), statistics=PLAIN)
        with closing(open_rounds(folder)) as opened:
            every = rooms(opened)
        for one in order:
            with closing(open_rounds(folder)) as opened:
                every[one].send(opened)
                totals.append(encode(opened.statistics.totals.sum()))
                assert opened.verify() == []
    assert totals[3] == totals[7] == encode(merge(s for room in every for s in room.pupils.values()))


def test_two_devices_of_one_school_are_one_school(rounds: Rounds) -> None:
    for n, school in enumerate(("north", "north", "south")):
        Room(school).enrol(rounds).teach(n + 1).send(rounds)
    assert released(rounds) is None
    Room("").enrol(rounds).teach(9).send(rounds)  # a device without a school counts by itself
    assert released(rounds) is not None


def test_too_few_subjects_are_not_released(rounds: Rounds) -> None:
    for n in range(3):
        Room(f"school {n}").enrol(rounds).teach(n + 1, pupils=3, samples=12).send(rounds)
    assert released(rounds) is None
    assert "10 subjects" in rounds.statistics_status("").waits


def test_a_change_of_two_schools_waits_for_a_third(rounds: Rounds) -> None:
    every = rooms(rounds, 3)
    for room in every:
        room.send(rounds)
    first = released(rounds)
    for n, room in enumerate(every):
        room.teach(n + 20).send(rounds)
        assert (released(rounds) == first) == (n < 2)
    assert released(rounds) == (2, merge(sums for room in every for sums in room.pupils.values()))


def test_who_takes_a_change_back_has_not_changed_anything(rounds: Rounds) -> None:
    every = rooms(rounds, 3)
    for room in every:
        room.send(rounds)
    before = dict(every[0].pupils)
    every[0].teach(20).send(rounds)
    every[0].pupils = before
    every[0].send(rounds)
    for n in (1, 2):
        every[n].teach(n + 20).send(rounds)
    assert released(rounds) == (
        1,
        merge([*before.values(), *(s for n in (1, 2) for s in list(every[n].pupils.values())[:5])]),
    )


STEPS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.booleans(), st.booleans()), min_size=6, max_size=14)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_no_number_and_no_difference_of_two_releases_is_of_fewer_than_k(
    steps: list[tuple[int, int, bool, bool]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    opened = open_rounds(make_folder(tmp_path_factory.mktemp("any"), statistics=PLAIN))
    every = [Room(f"school {n}").enrol(opened) for n in range(5)]
    shown, number = list[Shown](), 0
    for seed, (who, labels, removes, passes) in enumerate(steps, 1):
        room = every[who]
        if removes and len(room.pupils) > 5:
            for name in list(room.pupils)[:5]:
                del room.pupils[name]
        else:
            room.teach(seed, labels=LABELS[: labels + 1] if labels else LABELS)
        room.send(opened)
        if passes:  # the deadline
            late = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=31 * seed)
            opened.statistics.look(PLAIN, late)
        if (release := opened.statistics.totals.release()).number > number and release.body:
            number = release.number
            found = released(opened)
            assert found is not None
            assert poolings_of(found[1]) == release.poolings
            shown.append(Shown(release.poolings, {room.school: room.sent.total for room in every}))
            assert merge(pool(total, release.poolings) for total in shown[-1].totals.values()) == found[1]
    opened.close()
    assert shown_by_fewer(3, shown) == []


def test_what_is_forgotten_leaves_the_bytes_of_a_federation_that_never_had_it(rounds: Rounds, tmp_path: Path) -> None:
    every = rooms(rounds, 3)
    for room in every:
        room.send(rounds)
    del every[0].pupils["1.0"]
    for n, room in enumerate(every):
        room.teach(n + 20).send(rounds)
    with closing(open_rounds(make_folder(tmp_path / "never", statistics=PLAIN))) as never:
        for room in every:
            Room(room.school, pupils=dict(room.pupils)).enrol(never).send(never)
        totals = [released(opened) for opened in (never, rounds)]
        assert [number for number, _ in filter(None, totals)] == [1, 2]
        assert len({encode(total) for _, total in filter(None, totals)}) == 1


def test_what_was_taken_away_is_not_served_for_ever(rounds: Rounds) -> None:
    every = rooms(rounds, 3)
    for room in every:
        room.send(rounds)
    every[0].teach(20)
    del every[0].pupils["1.0"]
    every[0].send(rounds)
    now = datetime.datetime.now(datetime.UTC)
    rounds.statistics.look(PLAIN, now + datetime.timedelta(days=29))
    assert released(rounds) is not None
    rounds.statistics.look(PLAIN, now + datetime.timedelta(days=31))
    assert released(rounds) is None
    assert rounds.statistics_status(every[1].name).release == 0
    for n in (1, 2):
        every[n].teach(n + 20).send(rounds)
    assert released(rounds) == (2, merge(sums for room in every for sums in room.pupils.values()))


def test_a_revoked_device_and_a_school_without_consent_leave_the_total(rounds: Rounds) -> None:
    every = rooms(rounds, 5)
    for room in every:
        room.send(rounds)
    rounds.members.revoke(every[0].name, "the district")
    rounds.members.withdraw_consent(every[1].school, "the head")
    rounds.withdraw_gone()
    rest = merge(sums for room in every[2:] for sums in room.pupils.values())
    assert rounds.statistics.totals.sum() == rest
    assert released(rounds) == (2, rest)
    assert rounds.verify() == []


def test_an_old_total_is_erased_from_the_file(rounds: Rounds) -> None:
    room = rooms(rounds, 1)[0]
    room.send(rounds)
    body = encode(room.sent.total)[-64:]
    path = rounds.log.database.path
    assert any(body in (path.parent / name).read_bytes() for name in ("log.db", "log.db-wal"))
    room.teach(20).send(rounds)
    assert not any(body in file.read_bytes() for file in path.parent.glob("log.db*"))


def test_a_kill_in_the_step_leaves_the_state_before_it(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    every = rooms(rounds, 3)
    for room in every[:2]:
        room.send(rounds)
    before = rounds.statistics.totals.sum()

    def fails(database: object, event: str, **_: object) -> None:
        if event == "statistics released":
            raise OSError("no disk")

    with monkeypatch.context() as patch:
        patch.setattr(audit, "record", fails)
        with pytest.raises(OSError, match="no disk"):
            rounds.take_statistics(every[2].message(rounds), every[2].name)
    assert rounds.statistics.totals.sum() == before
    assert released(rounds) is None
    every[2].send(rounds)
    assert released(rounds) is not None


def test_off_erases_all_and_a_later_start_shows_no_single_change(rounds: Rounds) -> None:
    every = rooms(rounds, 3)
    for room in every:
        room.send(rounds)
    off = msgspec.structs.replace(rounds.configuration, statistics=StatisticsRules())
    rounds.configure(off)
    assert [*rounds.statistics.totals.each()] == []
    assert released(rounds) is None
    assert refused(rounds, every[0].message(rounds), every[0]) == "no_statistics"
    rounds.configure(msgspec.structs.replace(off, statistics=PLAIN))
    every[0].teach(20)
    for room in every:
        room.sequence = 0
        room.send(rounds)
    assert released(rounds) is None  # beside the release before, it would show what the first school added


def test_a_restored_folder_asks_every_device_anew(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, statistics=PLAIN)
    with closing(open_rounds(folder)) as opened:
        every = rooms(opened, 3)
        for room in every:
            room.send(opened)
    backup(folder, tmp_path / "saved")
    folder.rename(tmp_path / "lost")
    restore(tmp_path / "saved", folder, tmp_path / "lost")
    with closing(open_rounds(folder)) as opened:
        assert [*opened.statistics.totals.each()] == []
        for n, room in enumerate(every):
            room.teach(n + 20).send(opened, whole=True)
        found = released(opened)
        assert found is not None
        assert found[0] > 2026_00_00
        assert found[1] == merge(sums for room in every for sums in room.pupils.values())


# Who lies, or is not who it says


def lie(room: Room, rounds: Rounds, cell: Cell, values: np.ndarray) -> bytes:
    cells = {**room.own(rounds).total.cells, cell: values}
    return room.message(rounds, Statistics({c: v for c, v in cells.items() if v.any()}))


def test_sums_that_no_samples_have_are_refused(rounds: Rounds) -> None:
    room = rooms(rounds, 1)[0]
    total = room.own(rounds).total
    count = next(cell for cell in total.cells if cell.kind == "count" and cell.task == "grade")
    vector = next(c for c in total.cells if c.kind == "vector" and c.task == "grade")
    moment = next(c for c in total.cells if c.kind == "moment" and c.blocks[0] == c.blocks[1] and c.task == "grade")
    assert refused(rounds, lie(room, rounds, count, -total.cells[count]), room) == "malformed"
    assert refused(rounds, lie(room, rounds, vector, 1000 * total.cells[vector]), room) == "too_large"
    assert refused(rounds, lie(room, rounds, moment, total.cells[moment] // 50), room) == "too_large"
    pair = next(c for c in total.cells if c.kind == "moment" and c.task == "size")
    assert refused(rounds, lie(room, rounds, pair, 9 * total.cells[pair]), room) == "too_large"


def test_a_liar_within_the_bounds_is_let_in_and_moves_no_mean_beyond_norm_one(rounds: Rounds) -> None:
    room = rooms(rounds, 1)[0]
    total = room.own(rounds).total
    turned = Statistics({c: -v if c.kind in ("vector", "product") else v for c, v in total.cells.items()})
    assert rounds.take_statistics(room.message(rounds, turned), room.name) == (1, "accepted")


def test_who_withdraws_updates_is_told_that_statistics_stay(rounds: Rounds) -> None:
    room, other = rooms(rounds, 2)
    for one in (room, other):
        rounds.update(one.device.update(rounds.configuration, 0.5, rounds.state.version), one.name)
    rounds.take_statistics(room.message(rounds), room.name)
    for one, stay in ((room, ["Statistics of 1 of these devices stay"]), (other, [])):
        said = withdrawal.lines(withdrawal.find(rounds, OPERATOR, one.name, ""), withdrawal.Part())
        assert [line[:37] for line in said] == stay


def test_rows_of_too_few_samples_or_subjects_are_refused(rounds: Rounds) -> None:
    room = rooms(rounds, 1)[0]
    own = room.own(rounds)
    fewer = tuple(msgspec.structs.replace(s, subjects=2) if s.row == "a" else s for s in own.subjects)
    assert refused(rounds, room.message(rounds, subjects=fewer), room) == "too_few"
    assert refused(rounds, room.message(rounds, subjects=()), room) == "too_few"
    twice = (msgspec.structs.replace(own.subjects[0], subjects=1 << 31), *own.subjects)  # more than samples, unseen
    assert refused(rounds, room.message(rounds, subjects=twice), room) == "malformed"
    alone = Room("alone").enrol(rounds)
    alone.pupils = {"one": pupil_sums(1, samples=8)}
    assert (
        refused(rounds, alone.message(rounds, merge(alone.pupils.values()), subjects=own.subjects), alone) == "too_few"
    )


def test_more_samples_than_the_round_allows_are_refused(tmp_path: Path) -> None:
    rules = msgspec.structs.replace(PLAIN, sample_limit=39)
    with closing(open_rounds(make_folder(tmp_path, statistics=rules))) as opened:
        room = rooms(opened, 1)[0]
        assert refused(opened, room.message(opened), room) == "too_large"


def test_a_stale_or_repeated_change_and_a_cloned_device_count_nothing_twice(rounds: Rounds) -> None:
    room = rooms(rounds, 1)[0]
    first = room.message(rounds)
    room.send(rounds)
    assert rounds.take_statistics(first, room.name) == (1, "already")
    clone = Room(room.school, room.device, dict(room.pupils), room.sent, room.sequence)
    room.teach(20).send(rounds)
    assert refused(rounds, first, room) == "unknown_base"
    assert refused(rounds, clone.teach(30).message(rounds), room) == "unknown_base"  # its base is gone
    assert refused(rounds, room.message(rounds, base=clone.sent.total), room) == "unknown_base"
    clone.sequence = room.sequence
    clone.send(rounds, whole=True)  # in place of the other's, not beside it
    assert rounds.statistics.totals.sum() == merge(clone.pupils.values())


def test_another_devices_or_bundles_statistics_are_refused(rounds: Rounds, tmp_path: Path) -> None:
    room, thief, *_ = rooms(rounds)
    assert refused(rounds, room.message(rounds), thief) == "bad_signature"
    message = bytearray(room.message(rounds))
    message[20] ^= 1
    assert refused(rounds, bytes(message), room) in ("malformed", "bad_signature")
    total = room.own(rounds).total
    other = Statistics({Cell(c.task, c.kind, c.row, tuple("7" * 64 for _ in c.blocks)): v for c, v in total})
    assert refused(rounds, room.message(rounds, other), room) == "other_bundle"
    unknown = Statistics({Cell(c.task, c.kind, c.row and "nobody", c.blocks): v for c, v in total if c.task == "grade"})
    assert refused(rounds, room.message(rounds, unknown), room) == "malformed"


# Configuration


def test_a_mode_that_would_show_what_rounds_hide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="secure statistics need secure rounds"):
        RoundConfiguration(bundle_id="0" * 64, statistics=StatisticsRules(mode="secure"))
    with pytest.raises(ValueError, match="secure statistics are exact sums"):
        RoundConfiguration(
            bundle_id="0" * 64,
            statistics=StatisticsRules(mode="secure"),
            secure=SecureRules(),
            privacy=Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5, mechanism="distributed"),
        )
    with pytest.raises(ValueError, match="plain statistics would show"):
        RoundConfiguration(
            bundle_id="0" * 64,
            statistics=PLAIN,
            privacy=Privacy(clip_norm=1.0, noise_multiplier=1.0, epsilon=8.0, delta=1e-5),
        )


def test_a_configuration_without_statistics_keeps_its_identity() -> None:
    before = RoundConfiguration(bundle_id="0" * 64)
    assert "statistics" not in before.document
    assert RoundConfiguration(bundle_id="0" * 64, statistics=PLAIN).configuration_id != before.configuration_id


def test_k_only_rises(rounds: Rounds) -> None:
    fewer = msgspec.structs.replace(PLAIN, k=2)
    with pytest.raises(InputError, match=r"statistics\.k cannot be lowered"):
        rounds.configure(msgspec.structs.replace(rounds.configuration, statistics=fewer))


def test_the_dashboard_says_how_statistics_stand(rounds: Rounds) -> None:
    assert statistics_text(rounds) == "Sums of 0 devices are here, no release is served."
    for room in rooms(rounds, 3):
        room.send(rounds)
    assert statistics_text(rounds) == "Sums of 3 devices are here, release 1 is served."
    events = [event(entry.event, entry.about) for entry in audit.records(rounds.log.database)]
    assert events[-1] == "Release 1 of statistics: 5 rows by name"
