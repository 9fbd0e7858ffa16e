"""Tasks weighed by how uncertain they are: one whose labels are noise gets a high log-variance, and counts less."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiered
import torch

from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.model.losses import LOG_VARIANCE_LIMIT, balanced


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return tiered.build(tmp_path_factory.mktemp("weighed"), (), "uncertainty")


def test_the_weighed_step_agrees_with_torch(bundle: Bundle, tmp_path: Path) -> None:
    design, _ = tiered.design(tmp_path, "uncertainty")
    theta = bundle.theta() + np.random.default_rng(0).standard_normal(bundle.layout.size).astype(np.float32) * 0.3
    for facts in (graph for graph in bundle.manifest.graphs if graph.role != "features"):
        graph = GraphFile(bundle.path / facts.file, facts.role, batch=facts.batch, tokens=facts.tokens)
        assert check.check_step(design, theta, graph, threads=1).parity < check.PARITY[facts.role]


def test_noisy_labels_raise_their_own_log_variance_alone(bundle: Bundle) -> None:
    graphs, rng = Graphs(bundle, {}, 1), np.random.default_rng(4)
    stored = [resolve(Sample(**row), bundle.manifest) for row in tiered.rows(96, seed=2)]
    ready = examples(None, bundle, graphs, stored)
    noise = rng.permutation([e.targets["weight"] for e in ready]) * 3
    noisy = [
        Example(e.inputs, {**e.targets, "weight": n}, e.subject, e.sample_id) for e, n in zip(ready, noise, strict=True)
    ]
    settings = Settings(epochs=30, learning_rate=2e-2, balance=0.0)
    found = {
        name: bundle.layout.split(fit(graphs, Dataset(bundle.manifest, rows), None, bundle.theta(), settings).theta)
        for name, rows in (("clean", ready), ("noisy", noisy))
    }
    clean, loud = (float(found[name]["weighting.weight"][0]) for name in ("clean", "noisy"))
    assert clean < -1 < 0 < loud
    assert float(found["noisy"]["weighting.size"][0]) < 0


def test_at_the_start_it_is_the_plain_sum_and_no_task_is_ever_lost() -> None:
    sums, totals = torch.tensor([2.0, 0.5]), torch.tensor([1.0, 3.0])
    assert balanced(sums, totals, torch.zeros(2)) == sums.sum()
    extreme = balanced(sums, totals, torch.tensor([-100.0, 100.0]))
    assert extreme == balanced(sums, totals, torch.tensor([-LOG_VARIANCE_LIMIT, LOG_VARIANCE_LIMIT]))
    rest = torch.tensor([np.log(4.0), np.log(1 / 3)], dtype=torch.float32, requires_grad=True)
    balanced(sums, totals, rest).backward()
    assert torch.allclose(rest.grad, torch.zeros(2), atol=1e-6)  # s = log(2 loss / weight) is the optimum


def test_what_a_school_thinks_of_its_labels_stays_there(bundle: Bundle) -> None:
    asked = RoundConfiguration(bundle_id="0" * 64)
    counts = {segment.name: 5 for segment in bundle.layout}
    data = make_update(new_key(), asked, bundle.layout, np.full(bundle.layout.size, 0.1, np.float32), counts, 0)
    sent = read_update(data, asked, bundle.layout).values
    assert "head.weight" in sent
    assert not [name for name in sent if name.startswith("weighting.")]
