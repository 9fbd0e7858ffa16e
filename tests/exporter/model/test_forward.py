"""The model: what is absent teaches nothing, what is padded changes nothing, losses are those of the textbook."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
from torch.nn import functional

from homeroom_exporter.model.design import Design, initial_theta, name_parts, unflatten
from homeroom_exporter.model.forward import forward, objective
from homeroom_exporter.model.tasks import KINDS
from homeroom_exporter.trace.example_inputs import example

TOKENS = {"text": 8, "image": 5, "audio": 20, "table": 1}


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Design:
    return tiny.design_and_backbones(tmp_path_factory.mktemp("backbones"))[0]


@pytest.fixture(scope="module")
def theta(design: Design) -> np.ndarray:
    values = initial_theta(design.layout, 1)
    return values + np.random.default_rng(2).standard_normal(values.size).astype(np.float32) * 0.05


def gradient(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    leaf = torch.from_numpy(theta.copy()).requires_grad_()
    parts = name_parts(design.layout, unflatten(design.layout, leaf))
    objective(design, parts, {name: torch.from_numpy(value) for name, value in feeds.items()})[0].backward()
    return design.layout.split(leaf.grad.numpy())


def outputs(design: Design, theta: np.ndarray, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    parts = name_parts(design.layout, unflatten(design.layout, torch.from_numpy(theta)))
    found = forward(design, parts, {name: torch.from_numpy(value) for name, value in feeds.items()})
    return {name: value.detach().numpy() for name, value in found.items()}


def without(design: Design, feeds: dict[str, np.ndarray], modality: str) -> dict[str, np.ndarray]:
    feeds = {name: value.copy() for name, value in feeds.items()}
    for slot in design.slots:
        if slot.modality == modality:
            feeds[f"{slot.name}.features"][:] = 0
            feeds[f"{slot.name}.mask"][:] = 0
            feeds["presence"][:, design.columns(slot.name)] = 0
    return feeds


@pytest.mark.parametrize("modality", ["text", "image", "audio", "table"])
def test_a_modality_that_is_absent_gets_no_gradient(design: Design, theta: np.ndarray, modality: str) -> None:
    feeds = example(design, "grad", 8, TOKENS)
    feeds["weights"][:] = 1
    assert np.abs(gradient(design, theta, feeds)[f"ladder.{modality}"]).max() > 0
    absent = gradient(design, theta, without(design, feeds, modality))
    assert np.abs(absent[f"ladder.{modality}"]).max() == 0
    assert np.abs(absent["head.category"]).max() > 0


def test_a_task_without_weight_gets_no_gradient(design: Design, theta: np.ndarray) -> None:
    feeds = example(design, "grad", 8, TOKENS)
    feeds["weights"][:] = 1
    feeds["weights"][:, 0] = 0
    found = gradient(design, theta, feeds)
    assert np.abs(found["head.grade"]).max() == 0
    assert np.abs(found["head.size"]).max() > 0


def test_rows_of_zero_weight_pad_a_batch(design: Design, theta: np.ndarray) -> None:
    feeds = example(design, "grad", 8, TOKENS)
    feeds["weights"][5:] = 0
    padded = {name: value.copy() for name, value in feeds.items()}
    for name, value in padded.items():
        if name != "weights":
            value[5:] = 0
    one, other = gradient(design, theta, feeds), gradient(design, theta, padded)
    for name, value in one.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-6)


def test_a_larger_bucket_changes_no_output(design: Design, theta: np.ndarray) -> None:
    feeds = example(design, "predict", 4, TOKENS)
    wide = dict(feeds)
    for slot in ("reference", "answer", "word"):
        wide[f"{slot}.features"] = np.pad(feeds[f"{slot}.features"], [(0, 0)] * 3 + [(0, 8), (0, 0)])
        wide[f"{slot}.mask"] = np.pad(feeds[f"{slot}.mask"], [(0, 0), (0, 0), (0, 8)])
    small, large = outputs(design, theta, feeds), outputs(design, theta, wide)
    for name, value in small.items():
        np.testing.assert_allclose(large[name], value, rtol=1e-4, atol=1e-5)


def test_the_pair_head_reads_both_texts_and_their_order(design: Design, theta: np.ndarray) -> None:
    feeds = example(design, "predict", 4, TOKENS)
    feeds["presence"][:] = 1
    for slot in ("reference", "answer"):
        feeds[f"{slot}.mask"][:] = 1
    before = outputs(design, theta, feeds)["grade"]
    for slot in ("reference", "answer"):
        other = dict(feeds)
        other[f"{slot}.features"] = -feeds[f"{slot}.features"]
        assert np.abs(outputs(design, theta, other)["grade"] - before).max() > 1e-3
    swapped = dict(feeds)
    swapped["reference.features"], swapped["answer.features"] = feeds["answer.features"], feeds["reference.features"]
    assert np.abs(outputs(design, theta, swapped)["grade"] - before).max() > 1e-3


def test_an_absent_option_is_never_chosen(design: Design, theta: np.ndarray) -> None:
    feeds = example(design, "predict", 8, TOKENS)
    feeds["presence"][:] = 1
    column = design.columns("pictures")[2]
    feeds["presence"][:, column] = 0
    chosen = outputs(design, theta, feeds)["which_picture"]
    assert (chosen[:, 2] < -9000).all()
    assert (chosen.argmax(1) != 2).all()


def test_segments_are_one_a_module_and_only_meaning_changes_their_identity(design: Design) -> None:
    names = [segment.name for segment in design.layout]
    assert names[:5] == ["ladder.text", "ladder.image", "ladder.audio", "ladder.table", "fusion"]
    assert names[5:] == [f"head.{task.name}" for task in design.tasks]
    assert len({segment.segment_id for segment in design.layout}) == len(names)
    assert design.layout["head.grade"].reads == (design.modality("text").features_id,)


@pytest.mark.parametrize(
    ("kind", "reference"),
    [
        ("classification", lambda x, y: functional.cross_entropy(x, y, reduction="none")),
        ("choice", lambda x, y: functional.cross_entropy(x, y, reduction="none")),
        ("ordinal", lambda x, y: functional.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)),
        ("multilabel", lambda x, y: functional.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)),
        ("matching", lambda x, y: functional.binary_cross_entropy_with_logits(x, y, reduction="none").mean(1)),
        ("regression", lambda x, y: functional.huber_loss(x, y, reduction="none").sum(1)),
    ],
)
def test_losses_are_those_of_torch(kind: str, reference: object) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(16, 3, generator=generator) * 3
    target = torch.softmax(torch.randn(16, 3, generator=generator), 1)
    torch.testing.assert_close(KINDS[kind].loss(output, target), reference(output, target))  # type: ignore[operator]
