"""What goes on in a later bundle's log, by the folder of a small institution: states, waiting updates, withdrawals."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.institution import EXPORTER, ROOT, START, School, make_folder, write_bundle
from homeroom.contract.canonical_json import canonical
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration, ServerOptimizer, UnlearningRules
from homeroom.contract.signing import certify
from homeroom.errors import InputError, StoreError, UpdateError
from homeroom.runtime.bundle import write_signature
from homeroom_aggregator.admin import bundle_upgrade
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import LISTENING_FILE, open_rounds
from homeroom_aggregator.merge.rounds import Rounds

HEAD = slice(4, 7)  # head.grade in START
REWIND = {"unlearning": UnlearningRules(rule="rewind", within_days=0)}


def newer(out: Path, *begins_anew: str, version: int = 2) -> Path:
    """The institution's bundle as a later version, where these segments have another meaning."""
    write_bundle(out, version=version)
    manifest = read_manifest((out / "manifest.json").read_bytes())
    segments = tuple(
        msgspec.structs.replace(s, meaning=f"test/{version}") if s.name in begins_anew else s for s in manifest.segments
    )
    manifest = msgspec.structs.replace(manifest, segments=segments)
    (out / "manifest.json").write_bytes(canonical(manifest))
    write_signature(out, manifest, certify(ROOT, "exporter", EXPORTER, "tests"), EXPORTER)
    return out


def member(rounds: Rounds) -> School:
    school = School()
    rounds.log.database.write(
        "INSERT INTO devices (device, code, member) VALUES (?, ?, ?)", (school.name, school.name, school.name)
    )
    return school


def send(rounds: Rounds, school: School, delta: float, **more: Any) -> str:
    base = more.pop("base", rounds.state.version)
    return rounds.update(school.update(rounds.configuration, delta, base, **more), school.name)[0]


def came(rounds: Rounds, version: int) -> tuple[str, str]:
    """The first update that came while a version was the newest, and whose it is."""
    sql = "SELECT update_id, device FROM log WHERE kind = 'update' AND version = ? ORDER BY number"
    update_id, device = rounds.log.database.one(sql, (version,))
    return update_id, device


@contextlib.contextmanager
def opened(folder: Path) -> Any:
    with contextlib.closing(open_rounds(folder)) as rounds:
        yield rounds


def begin(tmp_path: Path, **rules: Any) -> tuple[Path, list[School], RoundConfiguration]:
    """A district with two versions that two of three schools made, and an update of the third that waits."""
    folder = make_folder(tmp_path, **rules)
    with opened(folder) as rounds:
        schools = [member(rounds) for _ in range(3)]
        for step in (0.5, 0.25):
            for school in schools[:2]:
                send(rounds, school, step)
        assert rounds.state.version == 2
        send(rounds, schools[2], 0.125)
        return folder, schools, rounds.configuration


ADAM = ServerOptimizer(name="fedadam")


def test_what_is_the_same_goes_on_and_the_rest_begins_with_the_bundle(tmp_path: Path) -> None:
    folder, schools, _ = begin(tmp_path, optimizer=ADAM)
    with opened(folder) as rounds:
        before = rounds.state.copy()
    carried = upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two", "head.grade")).carried
    assert (carried.version, carried.same, carried.new) == (2, ["ladder.table", "own"], ["head.grade"])
    assert (carried.updates, carried.left, carried.parts) == (1, 0, [])
    with opened(tmp_path / "later") as rounds:
        state = rounds.state
        assert state.theta[:4].tobytes() == before.theta[:4].tobytes() != START[:4].tobytes()
        assert state.theta[HEAD].tobytes() == START[HEAD].tobytes()
        assert state.moments.keys() == {"ladder.table"}
        assert {n: m.tolist() for n, m in state.moments["ladder.table"].items()} == {
            n: m.tolist() for n, m in before.moments["ladder.table"].items()
        }
        assert (state.pending, {*state.sums.devices}) == (1, {"ladder.table"})
        send(rounds, schools[0], 0.5, ladder_table=4)
        assert rounds.state.version == 3
        assert rounds.verify() == []


@pytest.mark.parametrize("rule", ["mean", "bounded", "trimmed"])
def test_an_update_made_with_the_bundle_before_counts_where_it_goes_on(tmp_path: Path, rule: Any) -> None:
    folder, schools, old = begin(tmp_path, rule=rule)
    upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two", "head.grade"))
    with opened(tmp_path / "later") as rounds:
        late = schools[0].update(old, 0.5, 2)
        assert rounds.update(late, schools[0].name)[1] == "accepted"
        assert rounds.state.version == 3
        assert np.all(rounds.state.theta[:4] > START[:4] + 0.75)
        assert rounds.state.theta[HEAD].tobytes() == START[HEAD].tobytes()
        with pytest.raises(UpdateError) as caught:  # once a version, whichever of its bundles
            rounds.update(schools[2].update(rounds.configuration, 0.5, 2, ladder_table=4), schools[2].name)
        assert caught.value.code == "once_a_version"
        with pytest.raises(UpdateError) as caught:
            rounds.update(schools[1].update(old, 0.5, 3), schools[1].name)
        assert caught.value.code == "unknown_version"
        with pytest.raises(UpdateError, match="nothing in it goes on") as caught:
            rounds.update(schools[1].update(old, 0.5, 2, head_grade=4), schools[1].name)
        assert caught.value.code == "other_bundle"
        assert rounds.verify() == []


def test_a_bundle_that_shares_nothing_says_what_it_leaves(tmp_path: Path) -> None:
    folder, *_ = begin(tmp_path)
    carried = upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two", "head.grade", "ladder.table")).carried
    assert (carried.updates, carried.left, carried.same) == (0, 1, ["own"])
    with opened(tmp_path / "later") as rounds:
        assert (rounds.state.version, rounds.state.pending) == (2, 0)
        assert rounds.state.theta.tobytes() == START.tobytes()


def test_two_bundles_on_an_update_still_counts_where_both_go_on(tmp_path: Path) -> None:
    folder, schools, old = begin(tmp_path)
    upgrade_bundle(tmp_path / "second", folder, newer(tmp_path / "two", "head.grade"))
    upgrade_bundle(tmp_path / "third", tmp_path / "second", newer(tmp_path / "three", "head.grade", version=3))
    with opened(tmp_path / "third") as rounds:
        assert rounds.state.pending == 1
        assert [one.version for one in rounds.configuration.earlier_bundles] == [2, 2]
        rounds.update(schools[0].update(old, 0.5, 2), schools[0].name)
        assert rounds.state.version == 3
        assert rounds.verify() == []


def test_what_was_learned_with_the_bundle_before_is_unlearned_by_a_rewind(tmp_path: Path) -> None:
    folder, schools, _ = begin(tmp_path, **REWIND)
    with opened(folder) as rounds:
        first = rounds.kept(1)[1]
        second, owner = came(rounds, 1)
    upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two", "head.grade"))
    with opened(tmp_path / "later") as rounds:
        assert rounds.withdraw(second, owner)
        planned = rounds.to_unlearn()
        assert planned
        assert (planned.to, planned.versions) == (1, 1)
        rounds.rewind()
        assert rounds.state.version == 3
        assert rounds.state.theta[:4].tobytes() == first[:4].tobytes()
        assert rounds.verify() == []
        send(rounds, schools[1], 0.5, ladder_table=4)
        send(rounds, schools[2], 0.5, ladder_table=4)
        assert rounds.state.version == 4
        assert rounds.verify() == []


def test_what_waits_is_taken_out_when_it_is_withdrawn_later(tmp_path: Path) -> None:
    folder, schools, _ = begin(tmp_path)
    upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two"))
    with opened(tmp_path / "later") as rounds:
        waits, _ = came(rounds, 2)
        assert rounds.withdraw(waits, schools[2].name)
        assert rounds.state.pending == 0
        assert rounds.verify() == []
        assert not rounds.withdraw(*came(rounds, 0))  # nothing rewinds here: it says no


def test_private_updates_that_wait_come_along_and_nothing_is_charged_twice(tmp_path: Path) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=12.0, delta=1e-5)
    folder, schools, _ = begin(tmp_path, privacy=promise)
    upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two"))
    with opened(tmp_path / "later") as rounds:
        assert rounds.ledger
        assert [rounds.ledger.entered(s.name) for s in schools] == [2, 2, 0]
        send(rounds, schools[0], 0.1)
        assert rounds.state.version == 3
        assert [rounds.ledger.entered(s.name) for s in schools] == [3, 2, 1]
        assert rounds.bounded(*came(rounds, 0))
        assert rounds.verify() == []


STEPS = ["install", "_take_over", "carry_rounds", "write_durable", "create_folder"]


def cut_short(monkeypatch: pytest.MonkeyPatch, step: str, folder: Path, old: Path, bundle: Path) -> None:
    """A carry-over whose process ends at a step, so that nothing of it is tidied up."""

    def killed(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    folder.mkdir(mode=0o700)
    holder = bundle_upgrade.district if step == "create_folder" else bundle_upgrade
    with monkeypatch.context() as patched:
        patched.setattr(holder, step, killed)
        with pytest.raises(KeyboardInterrupt):
            upgrade_bundle(folder, old, bundle)


@pytest.mark.parametrize("step", STEPS)
def test_a_carry_over_that_is_killed_is_finished_by_the_same_command(
    tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, *_ = begin(tmp_path)
    (folder / LISTENING_FILE).write_text("{}")
    bundle = newer(tmp_path / "two", "head.grade")
    cut_short(monkeypatch, step, tmp_path / "later", folder, bundle)
    carried = upgrade_bundle(tmp_path / "later", folder, bundle).carried
    assert (carried.version, carried.updates) == (2, 1)
    with opened(tmp_path / "later") as rounds:
        assert (rounds.state.version, rounds.state.pending) == (2, 1)
        assert rounds.verify() == []
        events = [row[0] for row in rounds.log.database.rows("SELECT event FROM audit")]
        assert events.count("succeeded") == 1


def test_an_unfinished_folder_is_not_finished_with_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, schools, _ = begin(tmp_path)
    bundle = newer(tmp_path / "two")
    cut_short(monkeypatch, "create_folder", tmp_path / "later", folder, bundle)
    with pytest.raises(InputError, match="begun with another bundle"):
        upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "three", version=3))
    with opened(folder) as rounds:
        send(rounds, schools[0], 0.5)
    with pytest.raises(InputError, match="before the old folder went on"):
        upgrade_bundle(tmp_path / "later", folder, bundle)


def test_a_folder_that_is_still_served_is_not_taken_over(tmp_path: Path) -> None:
    folder, *_ = begin(tmp_path)
    with opened(folder), pytest.raises(StoreError):
        upgrade_bundle(tmp_path / "later", folder, newer(tmp_path / "two"))
    assert not (tmp_path / "later").exists()
