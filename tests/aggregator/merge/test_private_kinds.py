"""Private rounds of other kinds on the server: by subject, with a clip that adapts, in a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.institution import SEGMENTS, START, School, make_folder
from aggregator.merge.test_private_release import PROMISE, A, B, C, directly
from homeroom.contract import adaptive_clipping, envelope
from homeroom.contract.banded_matrix import coefficients
from homeroom.contract.layout import Layout
from homeroom.contract.privacy import Privacy, squared_norm
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.contract.update import UPDATE_MAGIC, UpdateHeader, make_private
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import read_version
from homeroom.errors import DiskFullError, UpdateError
from homeroom.system.sqlite import Database
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.admin.privacy_report import folder_figures, report_lines
from homeroom_aggregator.merge import correlated_noise, private_release
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.merge.segment_sums import SegmentSums

LAYOUT = Layout(SEGMENTS)


def test_a_promise_by_subject_divides_by_what_an_update_may_hold_and_bounds_it(tmp_path: Path) -> None:
    by_subject = msgspec.structs.replace(PROMISE, subjects=3, noise_multiplier=1000.0, epsilon=1.0, clip_norm=2.0)
    folder = make_folder(tmp_path, privacy=by_subject)
    rounds = open_rounds(folder)
    asked, layout = rounds.configuration, rounds.rules.layout
    part = np.full(10, 0.5, np.float32)
    for school in (A, B):
        rounds.update(make_private(school.key, asked, layout, [part, part, part], 0), school.name)
    noise = by_subject.noise_multiplier * 2.0 / (2 * 3)
    moved = (rounds.state.theta - START)[:7]
    assert 0 < np.sqrt(np.mean(np.square(moved))) < 4 * noise
    assert rounds.ledger
    (event,) = rounds.ledger.events().values()
    assert (event.unit, event.sensitivity, event.sigma) == ("subject", 2 << 20, 2000 << 20)
    assert rounds.verify() == []
    greedy = msgspec.structs.replace(asked, privacy=msgspec.structs.replace(by_subject, subjects=4))
    data = make_private(C.key, greedy, layout, [10 * part] * 4, 1)
    with pytest.raises(UpdateError) as caught:
        rounds.update(_claiming(data, by_subject, C.key), C.name)
    assert caught.value.code == "not_clipped"
    text = "\n".join(report_lines(folder_figures(folder)))
    assert "for each subject (pupil) of a device" in text
    assert "at most 3 such parts" in text
    rounds.close()


def _claiming(data: bytes, promise: Privacy, key: Any) -> bytes:
    """The update with another promise in its header."""
    header, payload, _ = envelope.unpack(
        data, UPDATE_MAGIC, "update", UpdateHeader, limit_bytes=1 << 20, where="update", error=UpdateError
    )
    return envelope.pack(UPDATE_MAGIC, "update", msgspec.structs.replace(header, privacy=promise), payload, key)


def test_without_noise_worth_the_name_the_mean_is_that_of_the_parts(tmp_path: Path) -> None:
    by_subject = msgspec.structs.replace(PROMISE, subjects=3, noise_multiplier=1e-4, epsilon=1e12)
    rounds = open_rounds(make_folder(tmp_path, privacy=by_subject))
    asked, layout = rounds.configuration, rounds.rules.layout
    parts = [np.full(10, value, np.float32) for value in (0.1, 0.2, -0.05)]
    for school in (A, B):
        rounds.update(make_private(school.key, asked, layout, parts, 0), school.name)
    np.testing.assert_allclose((rounds.state.theta - START)[:7], 0.25 / 3, atol=1e-3)
    rounds.close()


ADAPTS = msgspec.structs.replace(PROMISE, quantile=0.5)


def clip_of(rounds: Rounds, version: int) -> Any:
    body = rounds.version(version)
    assert body
    return read_version(body, LAYOUT, bundle_id=rounds.bundle.bundle_id, root_fingerprint=place_root(rounds))[
        0
    ].clip_norm


def place_root(rounds: Rounds) -> str:
    from homeroom.contract.signing import fingerprint

    return fingerprint(rounds.certificate.root)


def update_of(rounds: Rounds, school: School, delta: float, base: int | None = None) -> bytes:
    """As a device makes it: with the clip that its base version states."""
    base = rounds.state.version if base is None else base
    asked = rounds.configuration.with_clip(clip_of(rounds, base) if base else msgspec.UNSET)
    return school.update(asked, delta, base)


@pytest.mark.parametrize(("delta", "grows"), [(0.001, False), (50.0, True)])
def test_the_clip_follows_the_updates_and_both_ends_know_it(tmp_path: Path, delta: float, grows: bool) -> None:
    quiet = msgspec.structs.replace(ADAPTS, noise_multiplier=0.01, epsilon=1e9)
    folder = make_folder(tmp_path, privacy=quiet)
    rounds = open_rounds(folder)
    for _ in range(6):
        for school in (A, B):
            rounds.update(update_of(rounds, school, delta), school.name)
    clips = [clip_of(rounds, version) for version in range(1, 7)]
    assert clips == sorted(clips, reverse=not grows)
    assert clips[-1] == pytest.approx(np.exp(0.1 * 6 * (1 if grows else -1)), rel=0.05)
    assert rounds.verify() == []
    state = (rounds.state.clip, rounds.state.theta.tobytes())
    events = list(rounds.ledger.events().values()) if rounds.ledger else []
    assert [event.sensitivity for event in events[1:]] == [int(clip * 2**20) for clip in clips[:-1]]
    assert all(event.sigma >= 0.01 * event.sensitivity for event in events)
    assert "The clip follows" in "\n".join(report_lines(folder_figures(folder)))
    rounds.close()
    again = open_rounds(folder)
    assert (again.state.clip, again.state.theta.tobytes()) == state
    again.close()


def test_what_was_made_for_a_longer_clip_counts_under_the_one_in_force(tmp_path: Path) -> None:
    quiet = msgspec.structs.replace(ADAPTS, noise_multiplier=0.01, epsilon=1e9)
    rounds = open_rounds(make_folder(tmp_path, privacy=quiet))
    late = update_of(rounds, C, 0.9, 0)
    for school in (A, B):
        rounds.update(update_of(rounds, school, 0.001), school.name)
    assert rounds.state.clip < 1 << 20
    rounds.update(late, C.name)
    numerators = rounds.state.sums.numerators.values()
    assert (
        sum(squared_norm(v.astype(np.int32)) for v in numerators) + rounds.state.sums.signal**2 <= rounds.state.clip**2
    )
    assert rounds.state.sums.signal < 0, "it was not within its clip"
    rounds.close()


def test_values_and_number_together_are_no_longer_than_the_clip() -> None:
    for quantile in (0.1, 0.5, 0.9):
        for clip_norm in (1e-4, 0.3, 7.0):
            promise = msgspec.structs.replace(ADAPTS, quantile=quantile, clip_norm=clip_norm)
            asked = RoundConfiguration(bundle_id="0" * 64, privacy=promise)
            for size in (1e-7, 1e3):
                part = np.full(LAYOUT.size, size, np.float32)
                read = read_update(make_private(A.key, asked, LAYOUT, [part], 0), asked, LAYOUT)
                whole = sum(squared_norm(v) for v in read.values.values()) + read.signal**2
                assert whole <= promise.clip_grid(20) ** 2
                assert (read.signal > 0) == (size < 1)
                if size > 1 and clip_norm > 0.1:
                    assert whole > 0.9 * promise.clip_grid(20) ** 2
    with pytest.raises(ValueError, match="quantile"):
        msgspec.structs.replace(PROMISE, quantile=1.0)
    with pytest.raises(ValueError, match="adapts where"):
        msgspec.structs.replace(ADAPTS, subjects=3)


def test_the_clip_moves_as_the_paper_says_and_never_far() -> None:
    unit = (1 << 20) // adaptive_clipping.CLIPS_A_SIGNAL * 2 * 10  # of ten updates, quantile 0.5
    for share in (0.0, 0.2, 0.5, 1.0):
        found = adaptive_clipping.next_clip(ADAPTS, round((share - 0.5) * unit), 10, 20)
        assert found == pytest.approx(2**20 * np.exp(-0.2 * (share - 0.5)), rel=1e-5)
    assert adaptive_clipping.next_clip(ADAPTS, 1 << 50, 10, 20) == pytest.approx(2**20 * np.exp(-0.2), rel=1e-6)
    assert adaptive_clipping.bounded_clip(1, ADAPTS, 20) == (1 << 20) // adaptive_clipping.MOST_CLIP_CHANGE
    assert adaptive_clipping.bounded_clip(1 << 40, ADAPTS, 20) == 1 << 24


def test_the_number_that_the_clip_follows_is_noised_like_the_rest(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=ADAPTS))
    rounds.update(update_of(rounds, A, 0.1), A.name)
    state = rounds.state.copy()
    drawn = []
    for _ in range(1000):
        body = private_release.pack_noised(state.sums, rounds.rules.layout, rounds.configuration)
        found = envelope.tensors(body, where="release", error=UpdateError)
        drawn.append(int(found[private_release.SIGNAL_KEY][0]) - state.sums.signal)
    assert 0.85 < np.std(drawn) / ADAPTS.noise_grid(20) < 1.15, "6.7 standard errors"
    assert len(set(drawn)) > 990
    rounds.close()


def test_a_promise_with_a_clip_that_adapts_costs_what_dp_accounting_says(tmp_path: Path) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=ADAPTS))
    for _ in range(3):
        for school in (A, B):
            rounds.update(update_of(rounds, school, 0.2), school.name)
    assert rounds.ledger
    assert rounds.ledger.cost(A.name) == pytest.approx(directly(2.0, 3), rel=1e-4)
    assert rounds.ledger.cost(A.name) <= rounds.ledger.spent() <= directly(2.0, 3) * (1 + 1e-5)
    with pytest.raises(UpdateError) as caught:
        rounds.update(A.update(msgspec.structs.replace(rounds.configuration, privacy=PROMISE), 0.1, 3), A.name)
    assert caught.value.code == "not_private"
    rounds.close()


STREAM = msgspec.structs.replace(PROMISE, bands=4)


def matrix(length: int, bands: int) -> np.ndarray:
    """C of the factorization, float64 [length, length]."""
    factors = coefficients(bands)
    return np.array(
        [[factors[t - s] / 1024 if 0 <= t - s < bands else 0.0 for s in range(length)] for t in range(length)]
    )


def test_in_a_stream_fresh_noise_is_added_to_the_banded_sums_and_much_of_it_cancels_out() -> None:
    steps, size, rng = 24, 1500, np.random.default_rng(3)
    exact = rng.integers(-(1 << 20), 1 << 20, (steps, size))
    database = Database(Path(":memory:"))
    made = np.zeros_like(exact)
    for t in range(steps):
        made[t] = correlated_noise.add_noise(database, t + 1, exact[t], STREAM, 20)
        correlated_noise.forget(database, t + 1, 4)
    assert [version for (version,) in database.rows("SELECT version FROM stream ORDER BY version")] == [22, 23, 24]
    database.close()
    fresh = matrix(steps, 4) @ (made - exact)
    sigma = STREAM.noise_grid(20) / 1024
    assert 0.97 < fresh.std() / sigma < 1.03
    across = np.corrcoef(fresh)
    assert np.abs(across[~np.eye(steps, dtype=bool)]).max() < 0.2, "it is drawn anew for each release"
    prefix = (made - exact).cumsum(0).std(1)
    wanted = sigma * np.sqrt(np.square(np.tril(np.ones((steps, steps))) @ np.linalg.inv(matrix(steps, 4))).sum(1))
    np.testing.assert_allclose(prefix, wanted, rtol=0.12)
    alone = PROMISE.noise_grid(20) * np.sqrt(np.arange(1, steps + 1))
    assert prefix[-1] < 0.65 * alone[-1], "the same promise without a stream"


def test_one_part_moves_what_is_noised_by_the_sensitivity_at_most() -> None:
    for bands in (2, 8, 64):
        promise = msgspec.structs.replace(STREAM, bands=bands)
        least = sum((a * promise.clip_grid(20)) ** 2 for a in coefficients(bands))
        assert least <= promise.sensitivity_grid(20) ** 2
        assert promise.sensitivity_grid(20) - 1 < least**0.5
        assert promise.noise_grid(20) >= promise.noise_multiplier * promise.sensitivity_grid(20)
        assert list(coefficients(bands)) == sorted(set(coefficients(bands)), reverse=True) or bands == 64
    for wrong in ({"mechanism": "distributed"}, {"quantile": 0.5}):
        with pytest.raises(ValueError, match="correlated where"):
            msgspec.structs.replace(STREAM, **wrong)


def test_a_device_enters_one_of_so_many_releases_and_its_update_waits_for_the_next(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, privacy=STREAM)
    rounds = open_rounds(folder)
    pairs = [(School(), School()) for _ in range(4)]

    def enter(school: School) -> None:
        rounds.update(school.update(rounds.configuration, 0.1, rounds.state.version), school.name)

    for number, pair in enumerate(pairs):
        for school in pair:
            enter(school)
        assert rounds.state.version == number + 1
        for school in (s for earlier in pairs[max(0, number - 2) : number + 1] for s in earlier):
            with pytest.raises(UpdateError) as caught:
                enter(school)
            assert caught.value.code == "not_selected"
    assert rounds.verify() == []
    theta = rounds.state.theta.tobytes()
    rounds.close()
    again = open_rounds(folder)
    assert again.state.theta.tobytes() == theta
    rounds = again
    with pytest.raises(UpdateError):
        enter(pairs[1][0])
    for school in pairs[0]:
        enter(school)
    assert rounds.state.version == 5
    assert rounds.verify() == []
    assert rounds.ledger
    assert rounds.ledger.cost(pairs[0][0].name) == pytest.approx(directly(2.0, 2), rel=1e-6)
    assert rounds.ledger.cost(pairs[1][0].name) == pytest.approx(directly(2.0, 1), rel=1e-6)
    assert {(event.bands, event.scale_bits) for event in rounds.ledger.events().values()} == {(4, 30)}
    assert "correlated" in "\n".join(report_lines(folder_figures(folder)))
    rounds.close()


def test_a_full_disk_takes_no_release_out_of_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds = open_rounds(make_folder(tmp_path, privacy=STREAM))
    rounds.update(A.update(rounds.configuration, 0.1), A.name)

    def full(*_: object) -> None:
        raise DiskFullError("no space left")

    monkeypatch.setattr(rounds.log, "put_version", full)
    data = B.update(rounds.configuration, 0.1)
    with pytest.raises(DiskFullError):
        rounds.update(data, B.name)
    monkeypatch.undo()
    rounds.update(data, B.name)
    assert rounds.log.waiting
    assert rounds.log.waiting.rows("SELECT version FROM stream") == [(1,)]
    assert rounds.verify() == []
    rounds.close()


def test_by_subject_the_noised_sums_of_secure_rounds_are_divided_alike() -> None:
    rules = SecureRules(minimum=3, cohort=4, drop_rate=0.3, corrupt_rate=0.1)
    promise = msgspec.structs.replace(PROMISE, subjects=5, mechanism="distributed")
    asked = RoundConfiguration(bundle_id="0" * 64, privacy=promise, secure=rules, min_devices=3)
    sums, names = SegmentSums(), [A.name, B.name, C.name]
    total = {"ladder.table": np.full(4, 15 << 20, np.int64), "head.grade": np.full(3, -30 << 20, np.int64)}
    sums.add_sum(total, dict.fromkeys(total, 3), dict.fromkeys(total, names))
    theta, devices, _ = sums.release(np.zeros(10, np.float32), LAYOUT, asked)
    np.testing.assert_allclose(theta[:7], [1, 1, 1, 1, -2, -2, -2])
    assert devices == dict.fromkeys(total, 3)
