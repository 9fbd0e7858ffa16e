"""The weight of poor inputs is learned from validation samples: high where they tell much, low where they mislead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from homeroom.data.quality.finding import DEFAULT_INPUT_WEIGHT
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.fit import fit
from homeroom.train.input_weights import CANDIDATE_WEIGHTS, LEAST_POOR_SAMPLES, learn_input_weights, with_input_weight
from homeroom.train.settings import Settings
from homeroom.train.step import drop_inputs
from sdk.learning import dataset, opened, without

POOR = {("picture", 0): DEFAULT_INPUT_WEIGHT}


@pytest.fixture(scope="module")
def theta() -> np.ndarray:
    bundle, graphs = opened()
    return fit(graphs, dataset(), None, bundle.theta(), Settings(epochs=12, learning_rate=1e-2)).theta


def lessons(misleading: bool) -> list[Example]:
    """Word and picture of a category, the pictures said to be poor; misleading: each is another animal's."""
    given = [e for e in dataset(120, 7).examples if {("word", 0), ("picture", 0)} <= set(e.inputs)]
    examples = []
    for e in given:
        kept = without(
            e, "reference", "answer", "pictures", "speech", "facts", targets={"category": e.targets["category"]}
        )
        other = next(o for o in given if not np.array_equal(o.targets["category"], e.targets["category"]))
        picture = (other if misleading else e).inputs["picture", 0]
        examples.append(replace(kept, inputs={**kept.inputs, ("picture", 0): picture}, input_weights=POOR))
    return examples


@pytest.mark.parametrize("misleading", [True, False])
def test_the_weight_follows_from_what_poor_inputs_are_worth(theta: np.ndarray, misleading: bool) -> None:
    bundle, graphs = opened()
    weights = learn_input_weights(graphs, Dataset(bundle.manifest, lessons(misleading)), theta, {})
    assert set(weights) == {"image"}
    assert weights["image"] < DEFAULT_INPUT_WEIGHT if misleading else weights["image"] == 1.0


def test_few_samples_change_no_weight(theta: np.ndarray) -> None:
    bundle, graphs = opened()
    few = Dataset(bundle.manifest, lessons(True)[: LEAST_POOR_SAMPLES - 1])
    assert learn_input_weights(graphs, few, theta, {}) == {}
    assert learn_input_weights(graphs, few, theta, {"image": 0.25}) == {"image": 0.25}
    unlabelled = Dataset(bundle.manifest, [replace(e, targets={}) for e in lessons(True)])
    assert learn_input_weights(graphs, unlabelled, theta, {}) == {}


def test_a_weight_leads_from_left_out_to_in_full(theta: np.ndarray) -> None:
    bundle, graphs = opened()
    given = lessons(True)

    def answers(examples: list[Example]) -> np.ndarray:
        return outputs_of(graphs, Dataset(bundle.manifest, examples), theta)["category"]

    full, absent = (
        answers([replace(e, input_weights={}) for e in given]),
        answers([without(e, "picture") for e in given]),
    )
    distances = [
        np.abs(answers([with_input_weight(e, {"picture"}, w) for e in given]) - absent).mean()
        for w in CANDIDATE_WEIGHTS
    ]
    assert distances == sorted(distances)
    assert distances[0] < 0.1 * np.abs(full - absent).mean()
    assert np.allclose(answers([with_input_weight(e, {"picture"}, 1.0) for e in given]), full)
    alone = [without(e, "word") for e in given]
    weighed = answers(
        [with_input_weight(e, {"picture"}, 0.01) for e in [replace(e, input_weights=POOR) for e in alone]]
    )
    assert np.allclose(weighed, answers(alone), rtol=1e-3), "where it is all there is, it is looked at"


def test_dropout_keeps_what_an_input_counts() -> None:
    data = Dataset(opened()[0].manifest, lessons(False))
    dropped = drop_inputs(data.presence, data.manifest, 0.4, np.random.default_rng(0))
    assert set(np.unique(dropped)) == set(np.unique(data.presence)) | {0.0}
    assert len(np.unique(data.presence[data.presence > 0])) == 2
