"""Masked features and consistency: what samples without a label teach, through the device's own training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from exporter.small import with_checked_io
from homeroom import Device, Sample
from homeroom.contract.manifest import Objective, Task, Training
from homeroom.contract.signing import certify
from homeroom.data.validation import resolve
from homeroom.errors import RecipeError
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.masking import augmented
from homeroom.train.settings import Settings
from homeroom_exporter.bundle import write
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.export import steps
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.model.objectives import consistency, masked
from homeroom_exporter.recipe.recipe import parse_recipe
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd
from homeroom_exporter.trace.trace import trace

SLOTS = ("word", "facts")


def design(work: Path) -> tuple[Any, dict[str, Any]]:
    """The tiny design's word and facts (one token), one task that reads both, and both objectives."""
    whole, backbones = tiny.design_and_backbones(work)
    task = msgspec.structs.replace(next(t for t in whole.tasks if t.name == "category"), reads=SLOTS)
    modalities = (msgspec.structs.replace(whole.modality("text"), buckets=(8,)), whole.modality("table"))
    made = replace(
        whole,
        modalities=modalities,
        scales={m.name: whole.scales[m.name] for m in modalities},
        slots=tuple(whole.slot(name) for name in SLOTS),
        tasks=(task,),
        heads={"category": "fused"},
        objectives=(
            Objective(name="rest", kind="masked", reads=SLOTS),
            Objective(name="alike", kind="consistency", reads=SLOTS),
        ),
    )
    return made, {m.name: replace(backbones[m.name], modality=m) for m in modalities}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    work = tmp_path_factory.mktemp("labelfree")
    made, backbones = design(work / "backbones")
    draft = msgspec.structs.replace(tiny.draft(), slots=made.slots, tasks=made.tasks)
    contents = steps.assemble(
        made,
        backbones,
        [resolve(Sample(word=row["word"], facts=row["facts"]), draft) for row in tiny.samples(4, 7)],
        scratch=work,
        name="labelfree",
        version=1,
        batch=tiny.BATCH,
        seed=3,
        training=Training(learning_rate=1e-2, epochs=12),
        provenance={},
        threads=1,
    )
    with write.staging(work / "bundle") as folder:
        manifest = write.fill(folder, contents)
        write_signature(folder, manifest, certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    return with_checked_io(open_bundle(work / "bundle", root=None))


def unlabelled(count: int, seed: int) -> list[Sample]:
    rows = tiny.samples(count, seed)
    return [Sample(word=r["word"], facts=r["facts"], subject=f"pupil-{i % 5}") for i, r in enumerate(rows)]


@pytest.mark.parametrize("role", ["grad", "predict"])
def test_a_step_agrees_with_torch(bundle: Bundle, tmp_path: Path, role: str) -> None:
    made, _ = design(tmp_path)
    theta = bundle.theta() + np.random.default_rng(0).standard_normal(bundle.layout.size).astype(np.float32) * 0.05
    (facts,) = (graph for graph in bundle.manifest.graphs if graph.role == role)
    feeds = example(made, role, facts.batch, facts.tokens, seed=2)
    assert ("word.augmented" in feeds) == (role == "grad")
    run = load(bundle.path / facts.file, threads=1)
    for name, value in by_autograd(made, role, theta, feeds).items():
        assert check.relative_error(run({"theta": theta, **feeds})[name], value) < 1e-5
    for edge in check.EDGES:
        found = run({"theta": theta, **check.edge_feeds(feeds, edge)})
        assert all(np.isfinite(value).all() for value in found.values())


@pytest.mark.extra
def test_clipped_gradients_with_objectives_agree_with_torch(tmp_path: Path) -> None:
    made, _ = design(tmp_path)
    (tokens,) = steps.variants(made)
    path = tmp_path / "clipped.onnx"
    path.write_bytes(trace(made, "grad_clipped", 8, tokens).SerializeToString())
    theta = initial_theta(made.layout, 1)
    graph = GraphFile(path, "grad_clipped", batch=8, tokens=tokens)
    found = check.check_step(made, theta, graph, threads=1)
    assert found.parity < check.PARITY["grad_clipped"]
    assert found.unfinite == ()


def test_what_is_hidden_is_filled_in_better_and_better(bundle: Bundle) -> None:
    graphs = Graphs(bundle, threads=1)
    ready = examples(None, bundle, graphs, [resolve(sample, bundle.manifest) for sample in unlabelled(48, 5)])
    found = fit(graphs, Dataset(bundle.manifest, ready), None, bundle.theta(), Settings(epochs=6, learning_rate=1e-2))
    assert found.history[-1].loss < 0.9 * found.history[0].loss


def test_a_school_without_labels_trains_and_says_whom_it_taught(bundle: Bundle, tmp_path: Path) -> None:
    with Device.open(tmp_path / "bare", bundle.path, threads=1) as device:
        device.add(*unlabelled(24, 5), gates=False)
        assert device.train(settings=Settings(epochs=2, weight_decay=0.0)).samples == 24
        version = device.store.versions.current()
        assert version is not None
        counts = version.facts["examples"]
        assert counts["objective.rest"] == counts["ladder.text"] == counts["ladder.table"] > 0
        assert counts["head.category"] == 0
        moved = bundle.layout.split(device.store.versions.theta(version.version_id) - bundle.theta())
        assert moved["objective.rest"].any()
        assert moved["ladder.text"].any()


@settings(max_examples=40)
@given(
    hnp.arrays(np.int8, st.tuples(*[st.integers(1, 3)] * 3, st.integers(1, 6), st.integers(1, 4))),
    st.integers(0, 2**32 - 1),
)
def test_something_of_every_input_is_left(features: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, count, _, tokens, _ = features.shape
    mask = (np.arange(tokens) < rng.integers(0, tokens + 1, (rows, count, 1))).astype(np.float32)
    features = np.where(features == 0, np.int8(1), features) * mask[:, :, None, :, None].astype(np.int8)
    found = augmented(features, mask, np.random.default_rng(seed))
    assert found.dtype == np.int8
    assert ((found == features) | (found == 0)).all()
    if tokens > 1:  # whole tokens, and never all of them
        kept = (found != 0).any((2, 4))
        assert (kept.any(-1) == (mask > 0).any(-1)).all()
        assert (found == features * kept[:, :, None, :, None]).all()
    assert (augmented(features, mask, np.random.default_rng(seed)) == found).all()


def test_only_what_is_hidden_is_asked_for() -> None:
    rng = torch.Generator().manual_seed(1)
    features = torch.randint(1, 90, (2, 1, 4, 3), generator=rng).to(torch.int8)
    rest = features.clone()
    rest[0, :, 2] = 0
    parameters = {"text.weight": torch.zeros(5, 3), "text.bias": torch.tensor([1.0, 2.0, 3.0])}
    vectors, presence = [torch.randn(2, 5, generator=rng)], torch.ones(2, 1)
    found = masked(parameters, [("text", features, rest, torch.full((1, 3), 0.5))], vectors, presence)
    wanted = (features[0, 0, 2] * 0.5 - parameters["text.bias"]).square().mean()
    assert found[0] == pytest.approx(float(wanted))
    assert found[1] == 0


def test_answers_are_to_agree_where_the_whole_is_sure() -> None:
    task = Task(name="a", kind="classification", reads=("x",), labels=("p", "q"), width=2)
    sure, unsure = torch.tensor([[6.0, 0.0], [0.1, 0.0]]).requires_grad_(), torch.tensor([[0.0, 0.0]] * 2)
    other = unsure.clone().requires_grad_()
    found = consistency([task], {"a": sure}, {"a": other})
    assert found[0] > 0.6
    assert found[1] < 0.02
    found.sum().backward()
    assert sure.grad is None
    assert other.grad is not None
    assert other.grad[0, 0] < 0 < other.grad[0, 1]


RECIPE = """
name = "lesson"
version = 1
[encoders.text]
source = "pip:minilm"
[encoders.image]
source = "pip:efficientnet-lite0"
[slots]
word = "text"
picture = "image"
pictures = "image[4]"
[tasks.kind]
kind = "classification"
reads = ["word", "pictures"]
labels = ["a", "b"]
[tasks.size]
kind = "regression"
reads = ["picture"]
[objectives.own]
kind = "KIND"
reads = ["SLOT"]
"""


@pytest.mark.parametrize(
    ("kind", "slot", "said"),
    [
        ("masked", "pictures", r"objectives\.own\.reads: masked reads single slots, each once"),
        ("consistency", "picture", r"objectives\.own\.reads: no task with labels reads any of it"),
        ("alignment", "word", r"alignment reads single slots of different modalities"),
        ("guessing", "word", r"line 20: objectives\.own\.kind"),
    ],
)
def test_a_recipe_that_has_nothing_to_learn_so_is_refused(kind: str, slot: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(RECIPE.replace("KIND", kind).replace("SLOT", slot))


def test_an_adapter_inside_the_encoder_has_no_features_to_hide() -> None:
    text = RECIPE.replace("KIND", "masked").replace("SLOT", "word")
    assert parse_recipe(text).objectives[0].kind == "masked"
    with pytest.raises(RecipeError, match="masked hides features, which an adapter has none of"):
        parse_recipe(text + "[adapter]\nfamily = 'lora'\nmodality = 'text'\n")
