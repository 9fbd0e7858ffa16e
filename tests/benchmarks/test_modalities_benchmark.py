"""What the benchmark of senses makes of its runs, and what it does to a sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from sdk.learning import dataset, opened

import modalities
from homeroom.train.features.dataset import Example
from homeroom.train.settings import Settings


def run(ahead: float, gates: float, no_gates: float) -> dict[str, Any]:
    """Gates lose `gates` points at both rates, no gates `no_gates`; of four faults alike."""
    two = {"+".join(s): {"one model": 70.0 + ahead, "taught with these alone": 70.0} for s in modalities.SUBSETS}
    names = [*(f"sense missing, {where}" for where in modalities.WHERE), "label wrong"]
    lost = {f"{name}, gates": {"0.1": 80 - gates, "0.5": 80 - gates} for name in names}
    lost |= {f"{name}, no gates": {"0.1": 80 - no_gates, "0.5": 80 - no_gates} for name in names}
    lost[modalities.FLOOR] = {"0.1": 79.0, "0.5": 79.0}
    return {"subsets": two, "faults": {"none": 80.0, **lost}}


def test_the_targets_of_senses_follow_from_the_runs() -> None:
    good = modalities.targets([run(-0.9, 2.0, 6.0)])
    assert len(good) == 7
    assert all(target["met"] for target in good)
    assert {target["value"] for target in good} == {-0.9, 0.3333}
    assert not any(target["met"] for target in modalities.targets([run(-1.1, 3.0, 6.0)])), "half is not less than half"
    assert not any(t["met"] for t in modalities.targets([run(-2.0, -1.0, 0.0)])), (
        "where nothing is lost nothing is shown"
    )
    medians = modalities.targets([run(0.0, 1.0, 6.0), run(0.0, 1.0, 6.0), run(-9.0, 9.0, 6.0)])
    assert all(target["met"] for target in medians)


def test_a_sample_never_loses_all_senses_and_gates_leave_out_what_they_noticed() -> None:
    inputs = {(sense, 0): np.zeros((1, 1, 1), np.int8) for sense in modalities.SENSES}
    empties = [modalities.Empty(np.full((1, 1, 1), n, np.int8), n % 2 == 1) for n in range(1, 7)]
    one: Any = type("Lesson", (), {"empty": {"test": dict.fromkeys(modalities.SENSES, empties)}})
    rng = np.random.default_rng(0)
    for _ in range(50):
        asked = modalities.without_some(one, modalities.Asked(Example(inputs, {})), "test", 0.9, rng)
        values = {sense: int(asked.example.inputs[sense, 0].item()) for sense in modalities.SENSES}
        assert asked.there == tuple(sense for sense, value in values.items() if value == 0) != ()
        assert asked.empty == {sense for sense, value in values.items() if value % 2}
        assert {sense for sense, _ in asked.gated().inputs} == set(modalities.SENSES) - asked.empty


def test_a_poor_sense_is_weighed_or_left_out_with_those_that_are_empty() -> None:
    inputs = {(sense, 0): np.zeros((1, 1, 1), np.int8) for sense in modalities.SENSES}
    spoilt = {"picture": np.ones((1, 1, 1), np.int8)}
    asked = modalities.Asked(Example(inputs, {}), empty=frozenset({"word"}), spoilt=spoilt)
    badly = modalities.spoil_some(asked, 1.0, np.random.default_rng(0))
    assert badly.example.inputs["picture", 0].item() == 1
    assert badly.poor == {"picture"}
    assert set(badly.gated(0.0).inputs) == {("speech", 0)}
    assert set(badly.gated(0.5).inputs) == {("picture", 0), ("speech", 0)}
    assert badly.gated(0.5).input_weights == {("picture", 0): 0.5}


def test_a_wrong_label_is_another_one() -> None:
    right = Example({}, {modalities.TASK: np.eye(11, dtype=np.float32)[3]})
    rng = np.random.default_rng(0)
    made = [modalities._mislabelled(right, 0.5, rng).targets[modalities.TASK] for _ in range(200)]
    wrong = [target for target in made if not target[3]]
    assert 70 < len(wrong) < 130
    assert all(target.sum() == 1 for target in made)


def test_it_runs_from_samples_to_targets() -> None:
    def spoilt(example: Example) -> dict[str, np.ndarray]:
        return {sense: example.inputs[sense, 0] // 2 for sense in ("picture", "speech")}

    bundle, graphs = opened()
    found = [modalities.only(e, modalities.SENSES) for e in dataset(120).examples]
    asked = [
        modalities.Asked(e, spoilt=spoilt(e)) for e in found if len(e.inputs) == 3 and modalities.TASK in e.targets
    ]
    recorded = modalities.recorded_of_nothing()
    empty = {part: modalities.empties(bundle, graphs, values) for part, values in recorded.items()}
    every = [one for senses in empty.values() for some in senses.values() for one in some]
    assert all(one.noticed for one in every), "the gates notice what is empty"
    one = modalities.Lesson(graphs, bundle, asked[:50], asked[50:], empty, Settings(epochs=3, learning_rate=1e-2))
    good = one.learn([p.example for p in one.train])
    alone = modalities.specialists(one, good)
    run = {
        "subsets": modalities.subsets(one, good, alone),
        "faults": modalities.faults(one, good, alone, (0.3,), 0),
    }
    assert set(run["subsets"]) == {"+".join(s) for s in modalities.SUBSETS}
    assert all(list(value) == ["0.3"] for name, value in run["faults"].items() if name != "none")
    assert set(modalities.BADLY) < set(run["faults"])
    assert len(modalities.targets([run])) == 7
