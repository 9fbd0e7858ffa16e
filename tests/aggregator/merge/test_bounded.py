"""The bounded rule: no liar moves theta further than an honest device; any order and any replay give the same bits."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Mapping
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import SEGMENTS, START, School, make_folder
from homeroom.contract.layout import Layout
from homeroom.contract.round import UNITS_A_DEVICE, RoundConfiguration
from homeroom.contract.update import make_update
from homeroom.errors import DiskFullError, UpdateError
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge import bounded, checkpoint, round_state
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.segment_sums import WaitingUpdate
from homeroom_aggregator.state import audit, set_apart
from homeroom_aggregator.state.members import StoredInvitation

BOUNDED: dict[str, Any] = {"rule": "bounded", "buffer_size": 3, "min_devices": 3}
LADDER = slice(0, 4)
SCHOOLS = [School() for _ in range(6)]
A, B, C, D, *_ = SCHOOLS


def send(rounds: Rounds, device: School, delta: Any, base: int | None = None, **examples: int) -> str:
    base = rounds.state.version if base is None else base
    return rounds.update(device.update(rounds.configuration, delta, base, **examples), device.name)[0]


def held(rounds: Rounds) -> None:
    """Every version follows from the log, and so does the state of another start, from any checkpoint on."""
    assert rounds.verify() == []
    before, folder, retain = checkpoint.pack(rounds.state), rounds.log.database.path.parent, rounds.retain
    rounds.close()
    for _ in range(2):
        with closing(open_rounds(folder, retain=retain)) as again:
            assert checkpoint.pack(again.state) == before
            assert again.verify() == []
            again.put_checkpoint()


def released(rounds: Rounds) -> Mapping[str, Any]:
    return [entry for entry in audit.records(rounds.log.database) if entry.event == "released"][-1].about


def test_a_liar_moves_theta_no_further_than_an_honest_device(tmp_path: Path) -> None:
    moved = {}
    for rule in ("mean", "bounded"):
        folder = make_folder(tmp_path / rule, **{**BOUNDED, "rule": rule, "buffer_size": 5})
        with closing(open_rounds(folder)) as rounds:
            for device in SCHOOLS[:4]:
                send(rounds, device, 0.25, ladder_table=20)
            send(rounds, SCHOOLS[4], -12.5, ladder_table=500)
            moved[rule] = rounds.state.theta[LADDER] - START[LADDER]
            if rule == "bounded":
                liar, about = SCHOOLS[4].name, released(rounds)
                assert about["bounds"] == {"ladder.table": 0.5}, "four values of 0.25"
                assert (about["shortened"], about["longest"]) == (1, {liar: 50.0})
            held(rounds)
    assert (moved["mean"] < -10).all()
    np.testing.assert_allclose(moved["bounded"], 0.25 * (4 - 1) / 5, atol=1e-6)


VALUES = st.one_of(
    st.floats(-8, 8, width=32),
    st.sampled_from([0.0, -0.0, 1e-45, -1e-45, 2.0**-21, 15.9, -15.9]),
)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.lists(VALUES, min_size=10, max_size=10), st.integers(1, 900)), min_size=3, max_size=6),
    st.randoms(use_true_random=False),
)
def test_any_order_of_devices_gives_the_same_bits(rows: list[tuple[list[float], int]], shuffle: Any) -> None:
    devices, thetas = list(zip(SCHOOLS, rows, strict=False)), list[bytes]()
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(2):
            folder = make_folder(Path(scratch) / str(number), **{**BOUNDED, "buffer_size": 9})
            with closing(open_rounds(folder)) as rounds:
                for device, (values, examples) in devices:
                    send(rounds, device, np.array(values), ladder_table=examples, head_grade=examples)
                rounds.release_now()
                assert rounds.state.version == 1
                assert np.isfinite(rounds.state.theta).all()
                assert rounds.verify() == []
                thetas.append(rounds.state.theta.tobytes())
            shuffle.shuffle(devices)
    assert thetas[0] == thetas[1]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-(1 << 24), 1 << 24), min_size=1, max_size=40), st.integers(0, 1 << 20))
def test_a_shortened_update_is_within_the_bound_and_points_the_same_way(values: list[int], bound: int) -> None:
    encoded, total = np.array(values, np.int32), np.zeros(len(values), np.int64)
    norm = bounded.norm_of(encoded)
    bounded.add_shortened(total, encoded, 1, bound, norm)
    assert sum(int(v) ** 2 for v in total) <= max(bound, 0) ** 2 or norm <= bound
    exact = [int(Fraction(v * bound, norm)) if norm > bound else v for v in values]
    assert total.tolist() == exact, "towards zero, as Python's int"


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(1, UNITS_A_DEVICE)), min_size=1, max_size=12),
    st.sampled_from([0.0, 0.1, 0.25, 0.4, 0.5, 0.6, 1.0]),
)
def test_no_school_has_more_than_its_share_where_enough_schools_are_there(
    rows: list[tuple[int, int]], share: float
) -> None:
    waiting = {n: WaitingUpdate(update_id="", member=f"{n}", units=u, norms={}) for n, (_, u) in enumerate(rows, 1)}
    names = {f"{n}": f"school {s}" for n, (s, _) in enumerate(rows, 1)}
    units = bounded.capped_units(waiting, list(waiting), share, "segment", names.__getitem__)
    totals = {school: sum(u for n, u in units.items() if names[f"{n}"] == school) for school in names.values()}
    slack = 2 * len(rows)  # of integers rounded down
    limit = max(Fraction(repr(share)), Fraction(1, len(totals)))
    assert all(total <= limit * sum(totals.values()) + slack for total in totals.values())
    assert all(1 <= units[n] <= waiting[n].units for n in waiting)
    if share == 0.0:
        assert max(totals.values()) - min(totals.values()) <= slack, "each school the same"
    if share == 1.0:
        assert units == {n: one.units for n, one in waiting.items()}


def test_the_bound_is_the_lower_median_and_rises_by_a_quarter_at_most() -> None:
    assert bounded.bound_of([(9, 1), (1, 1), (5, 1)], 0) == 5
    assert bounded.bound_of([(9, 1), (1, 1)], 0) == 1
    assert bounded.bound_of([(9, 3), (1, 1), (5, 1)], 0) == 9
    assert bounded.bound_of([(90, 1), (91, 1), (92, 1)], 50) == 63
    assert bounded.bound_of([(40, 1)], 50) == 40


def test_a_bound_rises_slowly_even_if_all_updates_grow(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, **BOUNDED))
    bounds = []
    for step in (0.25, 4.0, 4.0, 0.0, 4.0):
        for device in (A, B, C):
            send(rounds, device, step, ladder_table=1)
        bounds.append(released(rounds)["bounds"]["ladder.table"])
    assert bounds == [0.5, 0.625, 0.78125, 0.0, 8.0], "a bound of nothing limits nothing afterwards"
    held(rounds)


def test_one_school_has_half_of_the_weight_whatever_number_of_devices_it_has(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, **{**BOUNDED, "buffer_size": 6, "k_of": "schools", "school_share": 0.5}))
    for device, school in zip(SCHOOLS, ("Hill", "Hill", "Hill", "Hill", "Lake", "Mill"), strict=True):
        rounds.members.join(device.name, StoredInvitation(device.name, school=school))
    for device in SCHOOLS:
        send(rounds, device, 0.5 if device in SCHOOLS[:4] else -0.5, ladder_table=1)
    assert rounds.state.version == 1
    np.testing.assert_array_equal(rounds.state.theta[LADDER], START[LADDER])
    held(rounds)


def test_the_newest_update_of_a_device_counts_and_an_older_one_again_if_it_is_withdrawn(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, **BOUNDED))
    send(rounds, A, 0.5, head_grade=1)  # waits across the release of the other segment
    for device in (B, C, D):
        send(rounds, device, 0.25, ladder_table=1)
    assert rounds.state.version == 1
    newest = send(rounds, A, 1.0, head_grade=1)
    send(rounds, B, 1.0, head_grade=1)
    assert rounds.state.sums.fed()["head.grade"] == {A.name, B.name}
    rounds.withdraw(newest, A.name)
    send(rounds, C, 1.0, head_grade=1)
    send(rounds, D, 1.0, head_grade=1)
    assert rounds.state.version == 2
    np.testing.assert_allclose((rounds.state.theta - START)[4:7], (3 + 0.5) / 4, rtol=1e-6)
    held(rounds)


def test_a_school_that_leaves_mid_round_counts_no_more(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, **{**BOUNDED, "k_of": "schools"}))
    for device, school in zip(SCHOOLS, ("Hill", "Lake", "Mill", "Vale", "Wood", "Moor"), strict=True):
        rounds.members.join(device.name, StoredInvitation(device.name, school=school))
    send(rounds, A, 8.0)
    send(rounds, B, 0.5)
    rounds.members.revoke(A.name, "an officer")
    rounds.withdraw_gone()
    send(rounds, C, 0.5)
    assert (rounds.state.version, len(rounds.state.sums.waiting)) == (0, 2), "two schools are left"
    rounds.release_now()
    assert rounds.state.version == 0
    send(rounds, D, 0.5)
    np.testing.assert_array_equal(rounds.state.theta[LADDER], START[LADDER] + np.float32(0.5))
    held(rounds)


def damage(folder: Path, update_id: str) -> None:
    with closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.execute(
            "UPDATE bodies SET body = CAST(substr(body, 1, length(body) - 1) || x'ff' AS BLOB) WHERE number ="
            " (SELECT number FROM log WHERE kind = 'update' AND update_id = ?)",
            (update_id,),
        )


@pytest.mark.parametrize("lost", ["damaged", "gone"])
@pytest.mark.parametrize("restart", [False, True])
def test_a_body_that_cannot_be_read_again_is_set_apart_and_the_version_comes_without_it(
    tmp_path: Path, lost: str, restart: bool
) -> None:
    folder = make_folder(tmp_path, **BOUNDED)
    rounds = open_rounds(folder)
    bad = send(rounds, A, 8.0)
    send(rounds, B, 0.5)
    rounds.put_checkpoint()  # a start reads what came before it no more, until the release
    if lost == "damaged":
        damage(folder, bad)
    else:
        rounds.log.database.write("DELETE FROM bodies WHERE number = 1")
    if restart:
        rounds.close()
        rounds = open_rounds(folder)
    send(rounds, C, 0.5)
    assert rounds.state.version == 0, "two of three are left"
    ((what, _),) = set_apart.reasons(rounds.log.database)
    assert what == "entry 1"
    assert rounds.log.withdrawn(bad)
    send(rounds, D, 0.5)
    assert rounds.state.version == 1
    np.testing.assert_array_equal(rounds.state.theta[LADDER], START[LADDER] + np.float32(0.5))
    held(rounds)


def test_a_body_that_is_damaged_after_its_release_is_left_out_at_the_next_start(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **BOUNDED)
    with closing(open_rounds(folder)) as rounds:
        bad = send(rounds, A, 0.5)
        send(rounds, B, 0.5)
        rounds.put_checkpoint()
        send(rounds, C, 0.5)
        rounds.log.database.write("DELETE FROM checkpoints WHERE number > 2")
        assert rounds.state.version == 1
    damage(folder, bad)
    rounds = open_rounds(folder)  # its checkpoint waits for this very body
    assert set_apart.reasons(rounds.log.database)[0][0] == "entry 1"
    assert rounds.state.version == rounds.log.newest() == 1
    send(rounds, D, 0.5)
    rounds.close()
    with closing(open_rounds(folder)) as again:
        assert again.state.version == again.log.newest()


def test_pruning_keeps_what_waits_and_withdrawal_takes_it_out(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, **BOUNDED)
    rounds = open_rounds(folder, retain=2)
    old = send(rounds, A, 8.0, head_grade=1)
    older = send(rounds, D, 0.5, head_grade=1)
    for _ in range(6):
        for device in (B, C, SCHOOLS[4]):
            send(rounds, device, 0.125, ladder_table=1)
        rounds.put_checkpoint()
    assert rounds.log.base > 2, "the base has passed both"
    kept = {number for (number,) in rounds.log.database.rows("SELECT number FROM bodies")}
    assert {1, 2} <= kept
    assert not {3, 4} & kept
    assert rounds.withdraw(old, A.name), "it still waits, so it can be taken out"
    assert rounds.state.sums.fed()["head.grade"] == {D.name}
    assert rounds.verify() == []
    rounds.close()
    rounds = open_rounds(folder, retain=2)
    assert rounds.log.number(older) in rounds.state.sums.waiting
    for device in (B, C):
        send(rounds, device, 0.5, head_grade=1)
    rounds.release_now()
    np.testing.assert_allclose((rounds.state.theta - START)[4:7], 0.5, atol=1e-6)
    held(rounds)


def test_a_full_disk_inside_a_release_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = open_rounds(make_folder(tmp_path, **BOUNDED))
    send(rounds, A, 0.5)
    send(rounds, B, 0.25)
    before = checkpoint.pack(rounds.state)

    def full(*_: Any) -> int:
        raise DiskFullError("is full", where="log.db")

    with monkeypatch.context() as patched:
        patched.setattr(rounds.log, "put_version", full)
        with pytest.raises(DiskFullError):
            send(rounds, C, 0.125)
    assert checkpoint.pack(rounds.state) == before
    send(rounds, C, 0.125)
    assert rounds.state.version == 1
    held(rounds)


@pytest.mark.parametrize("values", [np.full(10, np.nan), np.full(10, np.inf), np.full(10, 1e30)])
def test_what_is_not_finite_or_too_large_never_gets_so_far(tmp_path: Path, values: np.ndarray) -> None:
    with closing(open_rounds(make_folder(tmp_path, **BOUNDED))) as rounds:
        with pytest.raises(UpdateError):
            send(rounds, A, values)
        assert rounds.state.pending == 0


@pytest.mark.parametrize("rule", ["bounded", "trimmed", "multi-krum"])
@pytest.mark.parametrize("value", [0.0, -0.0, 5e-324, -5e-324, np.finfo(np.float32).tiny, 15.0, -15.0])
def test_every_rule_takes_zeros_denormals_and_the_largest_values_and_replays_them(
    tmp_path: Path, rule: str, value: float
) -> None:
    rounds = open_rounds(make_folder(tmp_path, rule=rule, buffer_size=5, min_devices=3))
    odd = np.full(4, value)
    for device, step in zip(SCHOOLS[:5], (odd, 0.5, 0.5, odd, 0.5), strict=True):
        send(rounds, device, np.concatenate([step, np.zeros(6)]) if step is odd else step, ladder_table=1)
    moved = rounds.state.theta[LADDER] - START[LADDER]
    assert rounds.state.version == 1
    assert (np.abs(moved) <= 0.5 + 1e-6).all(), "none counts as longer than the median"
    if abs(value) < 1:
        assert (moved >= 0).all()
        assert not np.signbit(rounds.state.theta[rounds.state.theta == 0]).any()
    held(rounds)
    if value == 0.0:
        again = open_rounds(make_folder(tmp_path / "zeros", rule=rule, buffer_size=3, min_devices=3))
        for device in (A, B, C):
            send(again, device, value, ladder_table=1)
        assert again.state.version == 1
        np.testing.assert_array_equal(again.state.theta, START)
        held(again)


def test_another_rule_takes_what_waits_as_it_came(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, buffer_size=4, min_devices=3))
    send(rounds, A, 0.5, ladder_table=1)
    rounds.configure(msgspec.structs.replace(rounds.configuration, rule="bounded", school_share=0.5))
    for device in (B, C):
        send(rounds, device, 0.25, ladder_table=1)
    rounds.configure(msgspec.structs.replace(rounds.configuration, rule="mean", school_share=1.0))
    send(rounds, D, 0.5, ladder_table=1)
    assert rounds.state.version == 1
    few, many = 2 * 16 * 0.5, 2 * UNITS_A_DEVICE * 0.25
    expected = (few + many) / (2 * 16 + 2 * UNITS_A_DEVICE)
    np.testing.assert_allclose((rounds.state.theta - START)[LADDER], expected, rtol=1e-6)
    held(rounds)


def test_a_checkpoint_of_the_mean_rule_is_as_it_was_before() -> None:
    packed = checkpoint.pack(round_state.RoundState(START.copy()))
    assert b"waiting" not in packed
    assert b"bounds" not in packed


def test_an_update_of_another_codec_waits_across_its_change(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, **BOUNDED, codec="int8", max_norm=10))
    send(rounds, A, 0.5)
    send(rounds, B, 0.5)
    rounds.configure(msgspec.structs.replace(rounds.configuration, codec="fixed32", max_norm=0.5))
    send(rounds, C, 0.125)
    assert rounds.state.version == 1
    held(rounds)


def test_a_smaller_tier_counts_for_its_own_slices() -> None:
    layout = Layout(SEGMENTS, (("small", np.array([0, 1], np.int32)),))
    asked = RoundConfiguration(bundle_id="0" * 64, **{**BOUNDED, "min_devices": 1})
    rules, bodies = round_state.MergeRules(layout, asked, START), dict[int, bytes]()
    rules = round_state.MergeRules(layout, asked, START, body=bodies.__getitem__)
    state = rules.begin()
    for number, (device, tier) in enumerate([(A, "small"), (B, "full"), (C, "full")], 1):
        delta = np.full(10, 0.5, np.float32)
        bodies[number] = make_update(device.key, asked, layout, delta, {"ladder.table": 1}, 0, tier=tier)
        update = bounded.read_admitted(bodies[number], layout)
        round_state.add_update(state, update, 0, rules, device.name, number)
    assert state.sums.fed() == {
        "ladder.table@small": {A.name, B.name, C.name},
        "ladder.table@full": {B.name, C.name},
    }
    round_state.release(state, rules)
    np.testing.assert_allclose(state.theta[LADDER], START[LADDER] + 0.5, atol=1e-6)
