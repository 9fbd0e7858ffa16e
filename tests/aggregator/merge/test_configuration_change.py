"""Changes of the round configuration within a log: replay, roll-back, unlearning and late updates across them."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings

from aggregator.institution import START, School, make_folder
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import CohortRules, EarlierBundle, RoundConfiguration, ServerOptimizer, StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.errors import DiskFullError, InputError, StoreError, UpdateError
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint, rollback, rounds
from homeroom_aggregator.merge.configuration_change import ROUND_FIELDS, field_values
from homeroom_aggregator.merge.replay import replay
from homeroom_aggregator.merge.rounds import Rounds

A, B, C, D = School(), School(), School(), School()
PLAIN = {"buffer_size": 2, "min_devices": 2}
ADAM, YOGI = ServerOptimizer(name="fedadam"), ServerOptimizer(name="fedyogi")
SECURE, COHORT = SecureRules(), CohortRules(deadline_s=60, quorum=1)
PRIVACY = Privacy(clip_norm=1, noise_multiplier=2, epsilon=8, delta=1e-5)

CHANGES: dict[str, tuple[dict[str, Any], Any]] = {  # by field: what the log was begun with, and another value
    "format": ({}, 2),
    "bundle_id": ({}, "1" * 64),
    "scale_bits": ({}, 18),
    "codec": ({}, "int8"),
    "keep": ({}, 16),
    "buffer_size": ({}, 4),
    "min_devices": ({}, 3),
    "k_of": ({}, "schools"),
    "rule": ({}, "bounded"),
    "school_share": ({"rule": "bounded"}, 0.5),
    "max_staleness": ({}, 3),
    "cap_examples": ({}, 3),
    "max_norm": ({}, 5.0),
    "server_rate": ({}, 0.5),
    "update_limit_bytes": ({}, 1 << 20),
    "secure": ({}, SECURE),
    "secure.minimum": ({"secure": SECURE}, 6),
    "secure.cohort": ({"secure": SECURE}, 30),
    "secure.drop_rate": ({"secure": SECURE}, 0.2),
    "secure.corrupt_rate": ({"secure": SECURE}, 0.2),
    "secure.phase_s": ({"secure": SECURE}, 60),
    "school_devices": ({"secure": SECURE}, 4),
    "privacy": ({}, PRIVACY),
    "privacy.clip_norm": ({"privacy": PRIVACY}, 2.0),
    "privacy.noise_multiplier": ({"privacy": PRIVACY}, 3.0),
    "privacy.epsilon": ({"privacy": PRIVACY}, 9.0),
    "privacy.delta": ({"privacy": PRIVACY}, 1e-6),
    "privacy.mechanism": ({"privacy": PRIVACY}, "distributed"),
    "privacy.subjects": ({"privacy": PRIVACY}, 3),
    "privacy.quantile": ({"privacy": PRIVACY}, 0.5),
    "privacy.bands": ({"privacy": PRIVACY}, 4),
    "scope": ({}, "institution"),
    "scopes": ({}, {"head.grade": "personal"}),
    "optimizer.name": ({"optimizer": ADAM}, "fedyogi"),
    "optimizer.beta1": ({"optimizer": ADAM}, 0.5),
    "optimizer.beta2": ({"optimizer": ADAM}, 0.5),
    "optimizer.tau": ({"optimizer": ADAM}, 0.5),
    "cohort": ({"max_staleness": 0}, COHORT),
    "cohort.deadline_s": ({"max_staleness": 0, "cohort": COHORT}, 30.0),
    "cohort.quorum": ({"max_staleness": 0, "cohort": COHORT}, 2),
    "cohort.over": ({"max_staleness": 0, "cohort": COHORT}, 2.0),
    "by_school": ({}, True),
    "proximal": ({}, 0.1),
    "earlier_codecs": ({}, ("int4",)),
    "earlier_bundles": ({}, (EarlierBundle(bundle_id="1" * 64, version=1, segments=(), tiers=()),)),
    "statistics.mode": ({"statistics": StatisticsRules(mode="plain")}, "off"),
    "statistics.k": ({}, 4),
    "statistics.k_of": ({}, "devices"),
    "statistics.subjects": ({}, 11),
    "statistics.sample_limit": ({}, 9),
    "statistics.within_days": ({}, 9),
    "evaluation.mode": ({}, "plain"),
    "unlearning.rule": ({}, "rewind"),
    "unlearning.within_days": ({}, 9),
    "unlearning.most_versions": ({}, 9),
}


def changed(configuration: RoundConfiguration, field: str, value: Any) -> RoundConfiguration:
    """A configuration with another value of a field by its dotted name."""
    name, _, part = field.partition(".")
    if part:
        value = msgspec.structs.replace(getattr(configuration, name), **{part: value})
    with_it = {"secure": SECURE} if field == "privacy.mechanism" else {}
    return msgspec.structs.replace(configuration, **{name: value}, **with_it)


def send(opened: Rounds, school: School, delta: float, base: int | None = None) -> str:
    base = opened.state.version if base is None else base
    return opened.update(school.update(opened.configuration, delta, base), school.name)[0]


def configure(opened: Rounds, **fields: Any) -> list[str]:
    return [one.name for one in opened.configure(msgspec.structs.replace(opened.configuration, **fields))]


def held(opened: Rounds) -> None:
    """Every version follows from the log, and so does the state of another start, from any checkpoint on."""
    assert opened.verify() == []
    before, path = checkpoint.pack(opened.state), opened.log.database.path.parent
    configuration = opened.configuration
    opened.close()
    for _ in range(2):  # the second time from a checkpoint
        with closing(open_rounds(path)) as again:
            assert (checkpoint.pack(again.state), again.configuration) == (before, configuration)
            assert again.verify() == []
            again.put_checkpoint()


def test_the_table_has_every_field_of_the_type() -> None:
    configuration = RoundConfiguration(bundle_id="0" * 64)
    parts = [changed(configuration, name, value) for name, value in (("secure", SECURE), ("privacy", PRIVACY))]
    parts += [msgspec.structs.replace(configuration, max_staleness=0, cohort=COHORT)]
    assert set().union(*map(field_values, parts)) == ROUND_FIELDS.keys() == CHANGES.keys()


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_changes_as_an_entry_of_the_log_or_is_refused_by_its_name(field: str, tmp_path: Path) -> None:
    begun, value = CHANGES[field]
    rule, start = ROUND_FIELDS[field], PLAIN | begun
    if start.get("secure"):
        start |= {"min_devices": 5}
    opened = open_rounds(make_folder(tmp_path, **start))
    before, wanted = opened.configuration, changed(opened.configuration, field, value)
    if rule.change in ("never", "follows"):
        facts, last = opened.facts(), opened.log.last()
        if rule.change == "follows":
            assert opened.configure(wanted) == []
        else:
            named = "secure" if field == "privacy.mechanism" else field  # they change together
            with pytest.raises(InputError, match=f" {named} cannot change") as caught:
                opened.configure(wanted)
            assert caught.value.remedy == rule.remedy
        assert (opened.configuration, opened.facts(), opened.log.last()) == (before, facts, last)
        opened.close()
        return
    if not opened.configuration.secure and not opened.configuration.cohort:
        send(opened, A, 0.5)
    assert [one.name for one in opened.configure(wanted)][:1] == [field]
    assert opened.configure(opened.configuration) == []
    entries = opened.log.configurations()
    assert [entry.kind for entry in entries] == ["configuration"]
    if rule.change == "up":
        with pytest.raises(InputError, match=f" {field} cannot be lowered"):
            opened.configure(before)
    if not opened.configuration.secure and not opened.configuration.cohort:
        for school in (B, C, D):
            send(opened, school, 0.25)
        assert opened.state.version
    held(opened)


def test_what_waits_counts_towards_a_smaller_buffer_which_is_released_at_once(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, buffer_size=9, min_devices=2))
    send(opened, A, 0.5)
    assert configure(opened, buffer_size=3) == ["buffer_size"]
    assert opened.state.version == 0
    send(opened, B, 0.5)
    assert configure(opened, buffer_size=2) == ["buffer_size"]
    assert opened.state.version == 1
    np.testing.assert_array_equal(opened.state.theta[:7], START[:7] + np.float32(0.5))
    held(opened)


def test_a_late_update_counts_in_the_codec_that_it_was_made_in(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, codec="int8"))
    late = C.update(opened.configuration, 0.5, 0)
    send(opened, A, 0.5)
    assert configure(opened, codec="topk") == ["codec", "earlier_codecs"]
    assert opened.configuration.earlier_codecs == ("int8",)
    never = msgspec.structs.replace(opened.configuration, codec="int4")
    with pytest.raises(UpdateError, match="codec int4"):
        opened.update(D.update(never, 0.5, 0), D.name)
    opened.update(late, C.name)
    assert opened.state.version == 1
    configure(opened, codec="int8")
    assert opened.configuration.earlier_codecs == ("topk",)
    held(opened)


def test_a_late_update_is_judged_and_weighed_by_what_is_in_force(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, buffer_size=3))
    long, heavy = C.update(opened.configuration, 1.0, 0), D.update(opened.configuration, 0.25, 0)
    send(opened, A, 1.0)
    configure(opened, max_norm=1.0, cap_examples=1)
    with pytest.raises(UpdateError) as caught:
        opened.update(long, C.name)
    assert caught.value.code == "too_large"
    opened.update(heavy, D.name)
    assert opened.state.sums.weights["head.grade"] == 16 * 4 + 16, "what came before keeps its weight"
    held(opened)


def test_bases_that_were_too_old_stay_so(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, max_staleness=1))
    for _ in range(4):
        send(opened, A, 0.125)
        send(opened, B, 0.125)
    configure(opened, max_staleness=20)
    send(opened, C, 0.125, base=3)
    for base in (0, 2):  # what A and B sent on them is not known any more
        with pytest.raises(UpdateError) as caught:
            send(opened, A, 0.125, base=base)
        assert caught.value.code == "too_stale"
    path = opened.log.database.path.parent
    opened.close()
    with closing(open_rounds(path)) as again, pytest.raises(UpdateError, match="too old already"):
        send(again, A, 0.125, base=2)


def test_moments_begin_anew_with_another_optimizer_only(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, optimizer=ADAM))
    send(opened, A, 0.5)
    send(opened, B, 0.5)
    assert opened.state.moments
    configure(opened, optimizer=ServerOptimizer(name="fedadam", beta1=0.5))
    assert opened.state.moments
    configure(opened, optimizer=None)
    assert not opened.state.moments
    held(opened)


def test_going_back_and_unlearning_reach_across_a_change(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, optimizer=ADAM, server_rate=0.1)
    opened = open_rounds(folder)
    gone = send(opened, A, 3.0)
    send(opened, B, 0.25)
    opened.put_checkpoint()
    configure(opened, optimizer=None, server_rate=1.0, buffer_size=3)
    for school in (A, B, C):
        send(opened, school, 0.25)
    assert opened.roll_back(1, "Ms Lee", "worse") == 3
    assert opened.configuration.server_rate == 1.0, "going back changes theta, not the configuration"
    for school in (A, B, C):
        send(opened, school, 0.25)
    assert opened.withdraw(gone, A.name)
    for school in (A, B, C):
        send(opened, school, 0.25)
    with pytest.raises(InputError, match="unlearned"):
        opened.roll_back(1, "Ms Lee", "worse")
    assert opened.state.version == 5
    kept = [entry for entry in opened.log.entries() if entry.update_id != gone]
    as_if_never = replay(lambda: kept, opened._rules_at(0), targets=rollback.targets(opened.log.database))
    assert opened.state.theta.tobytes() == as_if_never.theta.tobytes()
    held(opened)


def test_a_replay_from_a_checkpoint_begins_with_what_was_in_force_there(tmp_path: Path) -> None:
    opened = open_rounds(make_folder(tmp_path, buffer_size=3))
    configure(opened, cap_examples=1)
    opened.put_checkpoint()
    send(opened, A, 0.5)
    assert opened.state.sums.weights["head.grade"] == 16
    held(opened)


def test_entries_outlive_the_updates_that_are_pruned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", 2)
    opened = open_rounds(make_folder(tmp_path), retain=2)
    configure(opened, server_rate=0.5)
    for _ in range(8):
        send(opened, A, 0.125)
        send(opened, B, 0.125)
    assert opened.log.base > opened.log.configurations()[0].number
    held(opened)


def test_a_change_that_cannot_be_written_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = open_rounds(make_folder(tmp_path, buffer_size=9, optimizer=ADAM))
    for _ in range(2):
        for school in (A, B):
            send(opened, school, 0.5)
        if not opened.state.version:
            assert opened.release_now() == 1
    assert opened.state.moments
    before, configuration = checkpoint.pack(opened.state), opened.configuration

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(opened.log, "put_version", full)
        with pytest.raises(DiskFullError):
            configure(opened, buffer_size=2, optimizer=None)
    assert (checkpoint.pack(opened.state), opened.configuration) == (before, configuration)
    assert opened.rules == opened.admission.rules
    send(opened, C, 0.5)
    held(opened)


def test_an_altered_change_is_found(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with closing(open_rounds(folder)) as opened:
        configure(opened, server_rate=0.5)
        opened.log.database.write("UPDATE bodies SET body = CAST(replace(body, '0.5', '0.7') AS BLOB)")
    with pytest.raises(StoreError, match="do not agree"):
        open_rounds(folder)


def test_a_homeroom_that_knows_of_no_changes_refuses_the_log(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    with closing(open_rounds(folder)) as opened:
        configure(opened, server_rate=0.5)
        begun = read_facts(folder).configuration.configuration_id.encode()
        assert opened.log.fact("configuration") != begun == opened.log.fact("begun")


STEP = st.one_of(
    st.tuples(st.just("send"), st.integers(0, 99)),
    st.tuples(st.just("withdraw"), st.integers(0, 99)),
    st.tuples(st.just("back"), st.integers(0, 99)),
    st.tuples(
        st.just("change"),
        st.fixed_dictionaries(
            {},
            optional={
                "buffer_size": st.integers(1, 4),
                "codec": st.sampled_from(["fixed32", "int8", "int4", "topk"]),
                "keep": st.integers(1, 128),
                "max_staleness": st.integers(0, 5),
                "cap_examples": st.integers(1, 8),
                "max_norm": st.floats(1, 50),
                "server_rate": st.floats(0.01, 2),
                "optimizer": st.sampled_from([None, ADAM, YOGI, ServerOptimizer(name="fedavgm", beta1=0.5)]),
                "proximal": st.floats(0, 1),
            },
        ),
    ),
)


@settings(max_examples=25)
@given(st.lists(STEP, max_size=30), st.integers(1, 5), st.booleans())
def test_any_sequence_of_changes_replays_bit_for_bit(steps: list[tuple[str, Any]], every: int, owned: bool) -> None:
    with tempfile.TemporaryDirectory() as scratch, pytest.MonkeyPatch.context() as patched:
        patched.setattr(rounds, "CHECKPOINT_ENTRIES", every)
        opened, sent = open_rounds(make_folder(Path(scratch))), list[tuple[str, School]]()
        for kind, value in steps:
            if kind == "change":
                configure(opened, **value)
            elif kind == "back" and opened.state.version:
                target = value % opened.state.version
                if not rollback.holds_withdrawn(opened.log.database, target):
                    opened.roll_back(target, "Ms Lee", "worse")
            elif kind == "withdraw" and sent:
                update_id, school = sent[value % len(sent)]
                opened.withdraw(update_id, school.name)
            elif kind == "send":
                school = School()
                late = max(opened.oldest_base, opened.state.version - opened.configuration.max_staleness)
                base = late + value % (opened.state.version - late + 1)
                update = school.update(
                    opened.configuration, value / 1000 - 0.05, base, ladder_table=4, head_grade=value + 1
                )
                sent.append((opened.update(update, school.name)[0], school))
        held(opened)
