"""Private rounds on the server: noise, ledger, budget, replay, and adversaries from each side."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from dp_accounting import dp_event, privacy_accountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.institution import SEGMENTS, START, School, make_folder, write_bundle
from homeroom.cli.main import homeroom, main
from homeroom.contract.layout import Layout
from homeroom.contract.privacy import Privacy, epsilon_spent
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.update import make_update
from homeroom.errors import DiskFullError, InputError, StoreError, UpdateError
from homeroom_aggregator.admin.bundle_upgrade import upgrade_bundle
from homeroom_aggregator.admin.folder import FACTS_FILE, open_rounds
from homeroom_aggregator.admin.privacy_report import right_guess_limit
from homeroom_aggregator.merge import checkpoint, private_release
from homeroom_aggregator.merge import rounds as rounds_module
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state import privacy_ledger

PROMISE = Privacy(clip_norm=1.0, noise_multiplier=2.0, epsilon=6.0, delta=1e-5)
A, B, C = School(), School(), School()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path, privacy=PROMISE)


@pytest.fixture
def rounds(folder: Path) -> Iterator[Rounds]:
    opened = open_rounds(folder)
    yield opened
    opened.close()


def send(rounds: Rounds, school: School, delta: float = 0.1) -> str:
    return rounds.update(school.update(rounds.configuration, delta, rounds.state.version), school.name)[0]


def release(rounds: Rounds, *schools: School) -> None:
    for school in schools or (A, B):
        send(rounds, school)


def kinds(rounds: Rounds) -> list[str]:
    return [entry.kind for entry in rounds.log.entries()]


def directly(noise_multiplier: float, count: int, delta: float = 1e-5) -> float:
    accountant = RdpAccountant(neighboring_relation=privacy_accountant.NeighboringRelation.REPLACE_SPECIAL)
    event = dp_event.SelfComposedDpEvent(dp_event.GaussianDpEvent(noise_multiplier), count)
    return float(accountant.compose(event).get_epsilon(delta))


def test_a_release_is_noised_logged_after_noise_and_the_updates_are_gone(rounds: Rounds) -> None:
    data = A.update(rounds.configuration, 0.1)
    rounds.update(data, A.name)
    release(rounds, B)
    assert rounds.state.version == 1
    assert kinds(rounds) == ["update", "update", "private_release"]
    assert [bool(entry.body) for entry in rounds.log.entries()] == [False, False, True]
    moved = rounds.state.theta - START
    honest = 2 * 0.1 / 2
    assert (np.abs(moved[:7] - honest) > 1e-4).all(), "noise in every shared coordinate"
    np.testing.assert_array_equal(moved[7:], 0)
    for path in rounds.log.database.path.parent.glob("log.db*"):
        assert data[100:400] not in path.read_bytes(), f"an update's bytes are still in {path.name}"


def test_noise_is_drawn_anew_and_has_the_promised_scale(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=PROMISE))
    release(rounds, A)
    state = rounds.state.copy()
    state.sums.add(_read(rounds, B.update(rounds.configuration, 0.1)), 0, rounds.configuration)
    layout = rounds.rules.layout
    moved = []
    for _ in range(100):
        body = private_release.pack_noised(state.sums, layout, rounds.configuration)
        moved.append(private_release.apply_release(START, body, layout, rounds.configuration)[0][:7] - START[:7])
    values = np.array(moved, np.float64)
    assert len({row.tobytes() for row in values}) == 100
    scale = PROMISE.noise_multiplier * PROMISE.clip_norm / 2  # over a buffer of 2
    assert 0.8 < values.std() / scale < 1.2, "7 standard errors"
    assert np.abs(values.mean(0) - 0.1).max() < 7 * scale / 100**0.5
    rounds.close()


def _read(rounds: Rounds, data: bytes) -> Any:
    from homeroom.contract.update_checks import read_update

    return read_update(data, rounds.configuration, rounds.rules.layout)


def test_every_version_follows_bit_for_bit_from_the_log_also_after_a_restart(folder: Path) -> None:
    rounds = open_rounds(folder)
    for _ in range(4):
        release(rounds, A, B)
    send(rounds, C)
    theta, version = rounds.state.theta.tobytes(), rounds.state.version
    assert rounds.verify() == []
    rounds.close()
    again = open_rounds(folder)
    assert (again.state.theta.tobytes(), again.state.version, again.state.pending) == (theta, version, 1)
    assert again.verify() == []
    send(again, B)
    assert again.state.version == version + 1
    assert again.verify() == []
    again.close()


@pytest.mark.attack("members", "a private update twice in one release, longer than the clip, or beyond the budget")
def test_one_device_is_in_a_release_once(rounds: Rounds) -> None:
    send(rounds, A)
    before = rounds.facts()
    with pytest.raises(UpdateError) as caught:
        send(rounds, A, 0.2)
    assert caught.value.code == "once_a_release"
    assert rounds.facts() == before
    send(rounds, B)
    send(rounds, A)
    assert rounds.state.pending == 1


@pytest.mark.attack("members", "a private update twice in one release, longer than the clip, or beyond the budget")
def test_a_device_that_does_not_clip_is_refused_and_changes_nothing(rounds: Rounds) -> None:
    bare = msgspec.structs.replace(rounds.configuration, privacy=None)
    wide = msgspec.structs.replace(
        rounds.configuration, privacy=msgspec.structs.replace(PROMISE, clip_norm=8.0, noise_multiplier=1.0)
    )
    before = rounds.facts()
    for asked, code in ((bare, "not_private"), (wide, "not_private")):
        with pytest.raises(UpdateError) as caught:
            rounds.update(A.update(asked, 3.0), A.name)
        assert caught.value.code == code
    assert rounds.facts() == before


@pytest.mark.attack("members", "a private update twice in one release, longer than the clip, or beyond the budget")
def test_the_budget_stops_a_device_before_it_is_passed_and_lets_others_on(tmp_path: Path) -> None:
    promise = msgspec.structs.replace(PROMISE, epsilon=4.0)
    rounds = open_rounds(make_folder(tmp_path, privacy=promise))
    assert rounds.ledger
    allowed = rounds.ledger.allowed
    assert directly(2.0, allowed) <= 4.0 < directly(2.0, allowed + 1)
    for _ in range(allowed):
        release(rounds, A, B)
    assert rounds.ledger.spent() == pytest.approx(directly(2.0, allowed))
    for school in (A, B):
        with pytest.raises(UpdateError) as caught:
            send(rounds, school)
        assert caught.value.code == "budget_spent"
    release(rounds, C, School())
    assert rounds.state.version == allowed + 1
    assert rounds.ledger.cost(A.name) <= 4.0
    assert rounds.facts()["epsilon_spent"] <= 4.0
    rounds.close()


@pytest.mark.attack("members", "a new key before each sum is charged, so that several sums count as one")
def test_a_new_key_is_no_new_budget_and_no_second_place_in_a_release(tmp_path: Path) -> None:
    promise = msgspec.structs.replace(PROMISE, epsilon=2.6)  # one release
    rounds = open_rounds(make_folder(tmp_path, privacy=promise))
    new = School()
    send(rounds, A)
    for code in ("once_a_release", "budget_spent"):
        with pytest.raises(UpdateError) as caught:
            rounds.update(new.update(rounds.configuration, 0.1, rounds.state.version), new.name, A.name)
        assert caught.value.code == code
        if rounds.state.version == 0:
            send(rounds, B)
    rounds.close()


def test_a_newer_bundle_is_no_new_budget(folder: Path, tmp_path: Path) -> None:
    rounds = open_rounds(folder)
    for _ in range(2):
        release(rounds, A, B)
    cost = rounds.facts()["epsilon_spent"]
    rounds.close()
    upgrade_bundle(tmp_path / "next", folder, write_bundle(tmp_path / "newer", name="newer"))
    again = open_rounds(tmp_path / "next")
    assert again.state.version == 2
    assert again.facts()["epsilon_spent"] == cost
    release(again, A, C)
    assert again.ledger
    assert again.ledger.entered(A.name) == 3
    assert again.ledger.cost(A.name) == pytest.approx(directly(2.0, 3))
    assert again.verify() == []
    again.close()


def test_a_release_that_would_pass_a_budget_is_not_made_whoever_let_the_update_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    promise = msgspec.structs.replace(PROMISE, epsilon=2.6)
    rounds = open_rounds(make_folder(tmp_path, privacy=promise))
    assert rounds.ledger
    assert rounds.ledger.allowed == 1
    release(rounds, A, B)
    send(rounds, C)
    with pytest.raises(UpdateError), rounds.log.step():
        rounds.ledger.charge(2, [C.name, A.name])
    assert list(rounds.ledger.events()) == [1]
    assert rounds.ledger.entered(C.name) == 0
    rounds.close()


@settings(max_examples=15, deadline=None)
@given(st.floats(0.3, 20), st.floats(0.1, 20), st.sampled_from([1e-3, 1e-5, 1e-8]))
def test_the_number_of_releases_is_the_last_within_the_budget(z: float, epsilon: float, delta: float) -> None:
    promise = Privacy(clip_norm=1.0, noise_multiplier=z, epsilon=epsilon, delta=delta)
    on_grid = promise.noise_grid(20) / promise.clip_grid(20)
    if directly(on_grid, 1, delta) > epsilon:
        with pytest.raises(InputError, match="one release alone"):
            privacy_ledger.releases_within(promise, 20)
        return
    allowed = privacy_ledger.releases_within(promise, 20)
    assert directly(on_grid, allowed, delta) <= epsilon < directly(on_grid, allowed + 1, delta)
    assert epsilon_spent([on_grid] * allowed, delta) == pytest.approx(
        directly(on_grid, allowed, delta), rel=1e-9, abs=1e-9
    )


def test_the_ledger_is_only_ever_added_to(folder: Path) -> None:
    rounds = open_rounds(folder)
    release(rounds, A, B)
    rounds.close()
    raw = sqlite3.connect(folder / "log.db", isolation_level=None)
    for statement in ("UPDATE ledger SET event = '{}'", "DELETE FROM ledger", "DELETE FROM entered"):
        with pytest.raises(sqlite3.IntegrityError, match="only ever added to"):
            raw.execute(statement)
    raw.execute("DROP TRIGGER ledger_no_DELETE")
    raw.execute("DELETE FROM ledger")
    raw.close()
    with pytest.raises(StoreError, match="ledger and log do not agree"):
        open_rounds(folder)


def test_a_release_altered_in_the_log_is_found(folder: Path) -> None:
    rounds = open_rounds(folder)
    release(rounds, A, B)
    release(rounds, A, B)
    rounds.close()
    raw = sqlite3.connect(folder / "log.db", isolation_level=None)
    raw.execute(
        "UPDATE bodies SET body = (SELECT body FROM bodies JOIN log USING (number) "
        "WHERE kind = 'private_release' AND version = 2) "
        "WHERE number = (SELECT number FROM log WHERE kind = 'private_release' AND version = 1)"
    )
    raw.close()
    again = open_rounds(folder)
    assert "version 1 is not what the log gives" in again.verify()
    again.close()


def test_no_checkpoint_holds_a_sum_without_noise(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_module, "CHECKPOINT_ENTRIES", 1)
    rounds = open_rounds(folder)
    release(rounds, A, B)
    send(rounds, A)
    made = rounds.log.checkpoints()
    assert made, "the release brings one"
    assert all(
        not checkpoint.unpack(rounds.log.checkpoint(number), rounds.rules.layout).sums.numerators for number in made
    )
    send(rounds, B)
    send(rounds, C)
    theta = rounds.state.theta.tobytes()
    assert rounds.verify() == []
    rounds.close()
    again = open_rounds(folder)
    assert again.state.theta.tobytes() == theta
    assert again.state.pending == 1
    again.close()


def test_what_waits_can_be_unlearned_and_what_was_released_is_bounded(rounds: Rounds) -> None:
    waits = send(rounds, A)
    assert rounds.withdraw(waits, A.name)
    assert rounds.state.pending == 0
    assert not any(entry.body for entry in rounds.log.entries())
    first = send(rounds, B)
    send(rounds, C)
    assert rounds.state.version == 1
    theta = rounds.state.theta.tobytes()
    assert rounds.bounded(first, B.name)
    assert not rounds.withdraw(first, B.name)
    assert rounds.state.theta.tobytes() == theta
    assert not rounds.bounded(waits, A.name)
    assert rounds.ledger
    assert rounds.ledger.entered(A.name) == 0
    assert rounds.verify() == []


def test_a_full_disk_at_the_release_spends_nothing(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    send(rounds, A)

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(rounds.log, "put_version", full)
    with pytest.raises(DiskFullError):
        send(rounds, B)
    assert rounds.ledger
    assert rounds.ledger.events() == {}
    monkeypatch.undo()
    send(rounds, B)
    assert list(rounds.ledger.events()) == [1]
    assert rounds.verify() == []


def test_releasing_early_keeps_the_denominator_and_the_k_rule(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=PROMISE, buffer_size=5))
    send(rounds, A)
    assert rounds.release_now() == 0
    send(rounds, B)
    assert rounds.release_now() == 1
    assert rounds.verify() == []
    rounds.close()


def test_a_segment_that_a_policy_keeps_back_is_neither_sent_nor_noised(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=PROMISE, scopes={"head.grade": "personal"}))
    release(rounds, A, B)
    moved = rounds.state.theta - START
    assert (moved[:4] != 0).all()
    np.testing.assert_array_equal(moved[4:], 0)
    assert rounds.verify() == []
    rounds.close()


def test_a_budget_that_no_release_fits_in_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="one release alone"):
        make_folder(tmp_path, privacy=msgspec.structs.replace(PROMISE, epsilon=0.5))
    assert not (tmp_path / "district" / FACTS_FILE).exists()


def test_the_report_says_what_dp_accounting_says(folder: Path) -> None:
    rounds = open_rounds(folder)
    for _ in range(3):
        release(rounds, A, B)
    release(rounds, A, C)
    found = json.loads(_run("report", str(folder), "--json"))
    assert found["releases"] == 4
    assert found["devices"] == 3
    assert found["epsilon_spent"] == pytest.approx(directly(2.0, 4), rel=1e-12)
    text = _run("report", str(folder))
    assert f"epsilon {directly(2.0, 4):.3g}" in text
    assert "Not covered" in text
    rounds.close()


def test_the_report_of_plain_rounds_says_that_nothing_is_promised(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    open_rounds(folder).close()
    assert "Nothing here is differential privacy" in _run("report", str(folder))


def _run(*arguments: str) -> str:
    done = CliRunner().invoke(homeroom, ["district", "privacy", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--clip-norm", "1"], "also needs"),
        (["--noise-multiplier", "1", "--clip-norm", "1"], "--epsilon"),
        (["--epsilon", "4", "--clip-norm", "1", "--noise-multiplier", "0"], "noise_multiplier"),
        (["--epsilon", "4", "--clip-norm", "1", "--noise-multiplier", "2", "--codec", "int8"], "lossy"),
        (["--epsilon", "4", "--clip-norm", "1", "--noise-multiplier", "2", "--buffer", "2"], "no private release"),
        (["--epsilon", "4", "--clip-norm", "1", "--noise-multiplier", "0.2"], "one release alone"),
    ],
)
def test_a_promise_by_halves_is_refused_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], says: str
) -> None:
    from aggregator.institution import ROOT
    from homeroom.contract.signing import write_key

    write_key(tmp_path / "root.pem", ROOT)
    bundle = write_bundle(tmp_path / "bundle")
    arguments = [
        "district",
        "serve",
        str(tmp_path / "district"),
        "--bundle",
        str(bundle),
        "--root-key",
        str(tmp_path / "root.pem"),
    ]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, *options])
    assert ended.value.code == 3
    assert says in capsys.readouterr().err


def test_a_folder_keeps_the_promise_that_it_was_begun_with(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--epsilon", "99", "--clip-norm", "1", "--noise-multiplier", "2"]
    with pytest.raises(SystemExit):
        main(["district", "serve", str(folder), *options])
    assert "--epsilon cannot change" in capsys.readouterr().err


def test_a_lawful_guess_has_its_bound() -> None:
    assert right_guess_limit(1e-9, 1e-12) == pytest.approx(0.5)
    assert right_guess_limit(1.0, 0.0) == pytest.approx(np.e / (1 + np.e))
    assert right_guess_limit(800.0, 1e-5) == 1.0


def test_an_update_made_by_the_rules_is_taken(rounds: Rounds) -> None:
    layout = Layout(SEGMENTS)
    asked = RoundConfiguration(**{f: getattr(rounds.configuration, f) for f in rounds.configuration.__struct_fields__})
    data = make_update(A.key, asked, layout, np.full(10, 100, np.float32), {"head.grade": 9}, 0)
    assert rounds.update(data, A.name)[1] == "accepted"
