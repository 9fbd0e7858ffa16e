"""Server optimizers: the papers' formulas, and the same bits after a restart, a rebuild and an unlearning."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.institution import START, School, make_folder
from homeroom.contract.round import RoundConfiguration, ServerOptimizer
from homeroom.contract.version import read_version
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint, rounds, server_optimizers
from homeroom_aggregator.merge.server_optimizers import OptimizerState

NAMES = ("fedavg", "fedavgm", "fedadam", "fedyogi")
A, B = School(), School()


def by_hand(name: str, means: list[float], beta1: float, beta2: float, tau: float) -> list[float]:
    """Reddi et al. 2021, algorithm 2, and Hsu et al. 2019, for one number: the steps."""
    m, v, steps = 0.0, tau**2, []
    for x in means:
        if name == "fedavg":
            steps.append(x)
            continue
        if name == "fedavgm":
            m = beta1 * m + x
            steps.append(m)
            continue
        m = beta1 * m + (1 - beta1) * x
        if name == "fedadam":
            v = beta2 * v + (1 - beta2) * x**2
        else:
            v = v - (1 - beta2) * x**2 * float(np.sign(v - x**2))
        steps.append(m / (v**0.5 + tau))
    return steps


@given(st.sampled_from(NAMES), st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=6))
def test_each_step_is_the_papers(name: str, means: list[float]) -> None:
    settings = ServerOptimizer(name=name, beta1=0.7, beta2=0.8, tau=0.05)  # type: ignore[arg-type]
    moments: dict[str, np.ndarray] = {}
    for mean, wanted in zip(means, by_hand(name, means, 0.7, 0.8, 0.05), strict=True):
        step, moments = server_optimizers.STEPS[name](np.array([mean, 0.0]), moments, settings)
        np.testing.assert_allclose(step, [wanted, 0.0], rtol=1e-12, atol=1e-12)


def test_a_segment_that_is_not_released_keeps_its_moments() -> None:
    optimizer = OptimizerState(RoundConfiguration(bundle_id="0" * 64, optimizer=ServerOptimizer(name="fedavgm")), {})
    theta = np.zeros(2, np.float32)
    theta = optimizer.step("a", theta, np.ones(2))
    before = optimizer.moments["a"]
    optimizer.step("b", np.zeros(2, np.float32), np.ones(2))
    assert optimizer.moments["a"] is before
    np.testing.assert_allclose(optimizer.step("a", theta, np.ones(2)), 1 + 1.9)


def folder_with(tmp: Path, name: str) -> Path:
    more: Any = {"optimizer": ServerOptimizer(name=name, tau=0.01), "server_rate": 0.1}  # type: ignore[arg-type]
    return make_folder(tmp, **more)


@pytest.mark.parametrize("name", NAMES[1:])
def test_replay_is_exact_whatever_the_optimizer(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "CHECKPOINT_ENTRIES", 4)
    folder, rng, sent = folder_with(tmp_path, name), np.random.default_rng(3), []
    with closing(open_rounds(folder)) as opened:
        for number in range(9):
            for school in (A, B):
                data = school.update(opened.configuration, rng.normal(0, 0.3, 10).astype(np.float32), number)
                sent.append((opened.update(data, school.name)[0], school))
        update_id, school = sent[9]
        opened.withdraw(update_id, school.name)
        for school in (A, B):
            opened.update(school.update(opened.configuration, 0.2, opened.state.version), school.name)
        assert opened.verify() == []
        assert opened.state.moments
        before = checkpoint.pack(opened.state)
    with closing(open_rounds(folder)) as again:
        assert checkpoint.pack(again.state) == before


def test_fedadam_moves_theta_by_about_its_rate(tmp_path: Path) -> None:
    with closing(open_rounds(folder_with(tmp_path, "fedadam"))) as opened:
        for school in (A, B):
            opened.update(school.update(opened.configuration, 2.0), school.name)
        body = opened.version(1)
        assert body is not None
        root = read_facts(tmp_path / "district").root
        layout, bundle_id = opened.rules.layout, opened.bundle.bundle_id
        _, theta = read_version(body, layout, bundle_id=bundle_id, root_fingerprint=root)
        m, v = 0.1 * 2.0, 0.99 * 0.01**2 + 0.01 * 4.0
        np.testing.assert_allclose(theta[:7], START[:7] + 0.1 * m / (v**0.5 + 0.01), rtol=1e-6)


def test_a_round_with_fedavg_keeps_the_identity_that_it_had_before_there_were_others() -> None:
    plain = RoundConfiguration(bundle_id="0" * 64)
    assert "optimizer" not in plain.document
    other = RoundConfiguration(bundle_id="0" * 64, optimizer=ServerOptimizer(name="fedyogi"))
    assert plain.configuration_id != other.configuration_id
