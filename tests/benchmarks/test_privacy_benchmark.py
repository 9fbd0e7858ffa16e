"""What the benchmark of private rounds makes of its figures."""

from __future__ import annotations

from typing import Any

import pytest

import privacy
from homeroom.contract.privacy import epsilon_spent


def row(
    mechanism: str, epsilon: float | None, accuracy: list[float], cosine: list[float], in_turn: bool = False
) -> dict[str, Any]:
    """One setting's figures."""
    found = {"mechanism": mechanism, "epsilon": epsilon, "in_turn": in_turn, "accuracy": accuracy, "cosine": cosine}
    return found | {"cosine_end": cosine, "refused": 0, "epsilon_spent": epsilon}


def document(**changes: Any) -> dict[str, Any]:
    """Figures of a run where all is well, with some replaced."""
    good = {
        "ledger": {
            "ledger": [1.0],
            "dp_accounting": [1.0],
            "device": [1.0],
            "privacy_loss_distribution": [0.9],
            "rebuilt": True,
        },
        "noise": {"chi_square_p": 0.4, "kolmogorov_smirnov_p": 0.2},
        "learning": [
            row("none", None, [0.9, 0.8], [1.0, 1.0]),
            row("central", 8.0, [0.7, 0.7], [0.5, 0.6]),
            row("distributed", 8.0, [0.6], [0.2]),
            row("subject", 8.0, [0.8, 0.8], [0.9, 0.9]),
            row("long clip", 8.0, [0.5], [0.2]),
            row("adaptive", 8.0, [0.6], [0.3]),
            row("rotating", 8.0, [0.5], [0.2], in_turn=True),
            row("stream", 8.0, [0.5], [0.4], in_turn=True),
        ],
        "attack": [
            {"epsilon": None, "advantage": 1.0, "standard_error": 0.01},
            {"epsilon": 8.0, "advantage": 0.5, "standard_error": 0.05, "bound_epsilon": 0.99, "bound_gaussian": 0.56},
        ],
    }
    return good | changes


def missed(figures: dict[str, Any]) -> list[str]:
    return [target["name"] for target in privacy.targets(figures) if not target["met"]]


def test_a_run_where_all_is_well_meets_every_target() -> None:
    assert missed(document()) == []


@pytest.mark.parametrize(
    ("part", "place", "change", "says"),
    [
        ("ledger", None, {"ledger": [0.99]}, "dp-accounting called directly"),
        ("ledger", None, {"ledger": [0.8], "dp_accounting": [0.8], "device": [0.8]}, "loss distributions"),
        ("noise", None, {"chi_square_p": 1e-6}, "noise"),
        ("learning", 1, {"epsilon_spent": 8.1}, "beyond the budget"),
        ("learning", 1, {"accuracy": [0.1, 0.1]}, "accuracy"),
        ("learning", 1, {"cosine": [0.001, 0.001]}, "cosine"),
        ("learning", 2, {"refused": 3}, "refused"),
        ("learning", 3, {"accuracy": [0.6, 0.7]}, "by subject"),
        ("learning", 5, {"accuracy": [0.4]}, "adapted"),
        ("learning", 7, {"cosine_end": [0.1]}, "correlated"),
        ("attack", 0, {"advantage": 0.5}, "without noise"),
        ("attack", 1, {"advantage": 0.9}, "exact bound"),
        ("attack", 1, {"advantage": 1.0, "standard_error": 0.0}, "beyond its bound"),
    ],
)
def test_a_figure_that_breaks_a_promise_is_a_missed_target(
    part: str, place: int | None, change: dict[str, Any], says: str
) -> None:
    figures = document()
    (figures[part] if place is None else figures[part][place]).update(change)
    assert any(says in name for name in missed(figures))


@pytest.mark.parametrize("epsilon", [1.0, 2.0, 8.0])
def test_the_noise_it_chooses_is_the_least_that_fits(epsilon: float) -> None:
    chosen = privacy.promise(epsilon, 8).noise_multiplier
    assert epsilon_spent([chosen] * 8, privacy.DELTA) <= epsilon < epsilon_spent([chosen - 2e-4] * 8, privacy.DELTA)
