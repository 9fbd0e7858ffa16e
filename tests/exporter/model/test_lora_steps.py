"""LoRA's further steps: gradients clipped by subject, tiers by rank, saliency; torch's numbers, on real devices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from exporter import lessons, models
from homeroom import Device, Sample
from homeroom.contract.manifest import Tensor
from homeroom.data.validation import resolve
from homeroom.federation.versions import theta_of
from homeroom.inference import attribution
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle
from homeroom.train.evaluate import outputs_of
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.export.design import design_of
from homeroom_exporter.export.steps import step_graphs
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.tiers import THETA_SHARES, TierName, make_tiers
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd

TIERS: tuple[TierName, ...] = ("quarter", "half")
SHAPES = {"text": models.bert, "image": models.vit}
SETTINGS = {
    "B alone": "rank = 4",
    "both, everywhere": 'rank = 4\nfederated = "both"\ntargets = ["all-linear"]\nranks = {"layer.1.output.dense" = 2}',
    "recomputing": 'rank = 4\nrecompute = true\ntargets = ["query", "output.dense"]',
}


def steps(
    folder: Path, modality: str, setting: str, **options: bool
) -> tuple[Design, lora.LoraEncoder, list[GraphFile]]:
    """The steps of a lesson, of pictures where the modality is image."""
    plan = lessons.recipe(SHAPES[modality](folder / "model"), rank=setting)
    if modality == "image":
        text = lessons.RECIPE.format(model=folder / "model").replace("text", "image").replace("rank = 4", setting)
        plan = lessons.parse_recipe(text.replace('head = "pair"\n', ""))
    assert plan.adapter
    inside = lora.build(plan.encoders[0], plan.adapter, folder, pairs=modality == "text", seed=0)
    design = design_of(plan, {}, inside)
    return design, inside, step_graphs(design, folder, 4, inside=inside, **options)


def moved(design: Design) -> np.ndarray:
    """A theta whose every factor has a gradient."""
    assert design.adapter
    theta = design.adapter.initial(design.layout, initial_theta(design.layout, 0))
    return theta + np.random.default_rng(0).standard_normal(theta.size).astype(np.float32) * np.float32(0.05)


def agrees(design: Design, theta: np.ndarray, graph: GraphFile) -> bool:
    """As `check.check_step`, without the cost of a step: torch's numbers, and finite ones at every edge."""
    run = load(graph.path, threads=1)
    feeds = example(design, graph.role, graph.batch, dict(graph.tokens or {}), seed=1)
    made, wanted = run({"theta": theta, **feeds}), by_autograd(design, graph.role, theta, feeds)
    for edge in check.EDGES:
        at_edge = run({"theta": theta, **check.edge_feeds(feeds, edge)})
        assert all(np.isfinite(value).all() for value in at_edge.values()), edge
    assert wanted.keys() <= made.keys()
    return max(check.relative_error(made[n], v) for n, v in wanted.items()) < check.PARITY[graph.role]


@pytest.mark.parametrize(
    ("modality", "setting"), [*(("text", setting) for setting in SETTINGS), ("image", "both, everywhere")]
)
def test_clipped_gradients_of_subjects_are_those_of_torch(modality: str, setting: str, tmp_path: Path) -> None:
    design, _, graphs = steps(tmp_path, modality, SETTINGS[setting], clipped=True)
    (graph,) = (g for g in graphs if g.role == "grad_clipped")
    assert agrees(design, moved(design), graph)


def test_no_subject_moves_lora_by_more_than_the_clip_norm(tmp_path: Path) -> None:
    design, _, graphs = steps(tmp_path, "text", SETTINGS["B alone"], clipped=True)
    run = load(next(g.path for g in graphs if g.role == "grad_clipped"), threads=1)
    feeds = example(design, "grad_clipped", 4, {"text": 16}, seed=5)
    feeds["weights"][:] = 1e6
    feeds["groups"][:] = [0, 1, 0, -1]
    feeds["clip"][:] = 0.25
    made = run({"theta": moved(design), **feeds})
    assert (made["norms"][:2] > 1e3).all()
    assert 0.25 <= np.linalg.norm(made["gradient"]) <= 0.5001
    feeds["groups"][:] = 3
    assert np.linalg.norm(run({"theta": moved(design), **feeds})["gradient"]) == pytest.approx(0.25, rel=1e-4)


@pytest.mark.parametrize("setting", ["B alone", "both, everywhere"])
def test_a_tier_is_the_first_rank_components_of_every_layer(setting: str, tmp_path: Path) -> None:
    design, inside, _ = steps(tmp_path, "text", SETTINGS[setting])
    tiers, theta = make_tiers(design, TIERS), moved(design)
    assert np.isin(tiers["quarter"].index, tiers["half"].index).all()
    for name, tier in tiers.items():
        assert (np.diff(tier.index) > 0).all()
        assert THETA_SHARES[name] / 1.6 < len(tier.index) / design.layout.size < THETA_SHARES[name] * 1.6
        whole, part = design.layout.split(theta), tier.design.layout.split(theta[tier.index])
        b = "lora.encoder.layer.0.attention.self.value.B"
        rank = tier.design.layout[b].parameters[0].shape[1]
        assert rank == {"quarter": 1, "half": 2}[name]
        np.testing.assert_array_equal(part[b].reshape(32, rank), whole[b].reshape(32, 4)[:, :rank])
        for graph in step_graphs(tier.design, tmp_path, 4, clipped=True, tier=name, inside=inside):
            assert agrees(tier.design, theta[tier.index], graph), graph.name


@pytest.mark.parametrize(("modality", "setting"), [("text", "recomputing"), ("image", "both, everywhere")])
def test_the_pull_of_each_token_is_that_of_torch(modality: str, setting: str, tmp_path: Path) -> None:
    design, _, graphs = steps(tmp_path, modality, SETTINGS[setting], saliency=True)
    (graph,) = (g for g in graphs if g.role == "saliency")
    assert agrees(design, moved(design), graph)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("lesson")
    more = 'golden = 3\nclipped = true\ntiers = ["quarter", "half"]'
    return lessons.exported(folder, models.bert(folder / "bert"), golden=more)


def test_a_weak_and_private_device_trains_lora(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    data = lessons.write_rows(tmp_path / "rows.jsonl", 48, 10)
    within = dict(bundle.layout.tiers)["half"]
    settings = Settings(epochs=20, learning_rate=1e-2, clip_norm=1.0)
    with Device.open(tmp_path / "device", bundle=bundle.path, threads=1, tier="half") as device:
        device.add(data)
        report = device.train(minutes=2, settings=settings)
        learned = theta_of(device.store, device.bundle, device.store.versions.current())
    assert report.scores["animal"].accuracy > 0.9
    changed = np.flatnonzero(learned != bundle.theta())
    assert np.isin(changed, within).all()
    b = bundle.layout.slices["lora.encoder.layer.1.attention.self.value.B"]
    assert ((changed >= b.start) & (changed < b.stop)).sum() == 32 * 2


def test_an_answer_is_explained_by_its_words_and_their_attributions_add_up(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", bundle=bundle.path, threads=1) as device:
        device.add(lessons.write_rows(tmp_path / "rows.jsonl", 48, 10))
        device.train(minutes=2, epochs=12)
        found = [
            device.explain(Sample(question="is the dog big", answer=f"the red {animal} likes a bird"), "animal")
            for animal in ("cat", "dog")
        ]
        sample = resolve(Sample(answer="the red cat likes a bird"), bundle.manifest)
        (mine,) = examples(None, bundle, device.graphs, [sample])
        theta = theta_of(device.store, device.bundle, device.store.versions.current())
        weights = np.array([1, 0], np.float32)
        attributions = attribution.expected_gradients(bundle, device.graphs, theta, mine, "animal", weights)
        ids = attribution.reference_inputs(bundle, "text", _input(bundle, "answer.reference"))[:, 0]
        length = len(mine.inputs["answer", 0])
        lines = [Example({("answer", 0): ids[i % len(ids)][:length]}, {}) for i in range(attribution.REFERENCE_SAMPLES)]
        outputs = outputs_of(device.graphs, Dataset(bundle.manifest, [mine, *lines]), theta)["animal"][:, 0]
    assert [one.answer.best for one in found] == ["cat", "dog"]
    assert [(one.parts[0].slot, one.parts[0].name) for one in found] == [("answer", "“cat”"), ("answer", "“dog”")]
    rose = float(outputs[0] - outputs[1:].mean())
    assert float(attributions.tokens["answer"].sum()) == pytest.approx(rose, abs=0.1 * float(np.ptp(outputs)) + 0.05)


def _input(bundle: Bundle, name: str) -> Tensor:
    graph = next(g for g in bundle.manifest.graphs if g.role == "saliency")
    return next(tensor for tensor in graph.inputs if tensor.name == name)
