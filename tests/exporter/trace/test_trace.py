"""Graphs of the step: the same numbers as torch, the same bytes each time, finite at every edge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny
import torch
from torch._decomp import core_aten_decompositions
from torch.fx.experimental.proxy_tensor import make_fx

from homeroom.contract.manifest import Objective, Slot, Task
from homeroom.errors import ExportError
from homeroom.runtime.backend import load
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.export.steps import grad_graph_rows, step_graphs
from homeroom_exporter.model.design import Design, initial_theta
from homeroom_exporter.trace.aten_to_onnx import aten_to_onnx
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.trace import trace

TOKENS = {"text": 8, "image": 5, "audio": 20, "table": 1}


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Design:
    return tiny.design_and_backbones(tmp_path_factory.mktemp("backbones"))[0]


def test_a_step_is_cut_into_parts_but_where_rows_are_compared(design: Design) -> None:
    assert [grad_graph_rows(design, batch) for batch in (8, 16, 24, 32)] == [8, 16, 24, 16]
    aligned = replace(design, objectives=(Objective(name="same", kind="alignment", reads=("word", "picture")),))
    assert grad_graph_rows(aligned, 32) == 32


def with_question(design: Design) -> Design:
    """Only a triple of texts with a pair head."""
    return Design(
        modalities=(design.modality("text"),),
        scales={"text": design.scales["text"]},
        slots=(Slot("question", "text"), Slot("reference", "text"), Slot("answer", "text")),
        tasks=(
            Task(
                name="mark",
                kind="ordinal",
                reads=("question", "reference", "answer"),
                labels=("0", "1", "2"),
                width=2,
            ),
        ),
        heads={"mark": "pair"},
        width=16,
        hidden=32,
    )


def test_every_variant_of_the_tiny_bundle_agrees_with_torch_and_stays_finite(
    design: Design, tiny_bundle: tiny.Tiny
) -> None:
    theta = initial_theta(design.layout, 0)
    theta += np.random.default_rng(0).standard_normal(theta.size).astype(np.float32) * 0.05
    for graph in tiny_bundle.manifest.every_graph:
        if graph.role == "features":
            continue
        made = GraphFile(tiny_bundle.path / graph.file, graph.role, batch=graph.batch, tokens=graph.tokens)
        found = check.check_step(design, theta, made, threads=1)
        assert found.parity < check.PARITY[graph.role], graph.file
        assert found.unfinite == (), graph.file


def test_a_step_of_the_heads_gives_their_part_of_the_gradient_and_passes_nothing_back(
    design: Design, tiny_bundle: tiny.Tiny
) -> None:
    theta = initial_theta(design.layout, 0)
    heads = np.concatenate([np.full(segment.size, segment.task is not None) for segment in design.layout])
    whole = [graph for graph in tiny_bundle.manifest.graphs if graph.role == "grad"]
    assert [graph.tokens for graph in whole] == [graph.tokens for graph in tiny_bundle.manifest.settled]
    for one, other in zip(whole, tiny_bundle.manifest.settled, strict=True):
        feeds = {"theta": theta, **example(design, "grad", one.batch, one.tokens)}
        wanted, made = (load(tiny_bundle.path / graph.file, threads=1)(feeds) for graph in (one, other))
        assert np.allclose(made["gradient"], np.where(heads, wanted["gradient"], 0.0), rtol=1e-5, atol=1e-7)
        assert np.allclose(made["losses"], wanted["losses"])
        nodes = [len(onnx.load(tiny_bundle.path / graph.file).graph.node) for graph in (one, other)]
        assert nodes[1] < 0.8 * nodes[0]


def test_no_group_adds_more_than_the_clip_norm_and_a_row_of_none_adds_nothing(
    design: Design, tiny_bundle: tiny.Tiny
) -> None:
    facts = next(g for g in tiny_bundle.manifest.graphs if g.role == "grad_clipped")
    run, theta = load(tiny_bundle.path / facts.file, threads=1), initial_theta(design.layout, 0)
    feeds = example(design, "grad_clipped", facts.batch, facts.tokens, seed=5)
    feeds["weights"] *= 1e6
    feeds["groups"][:] = 2
    alone = run({"theta": theta, **feeds})
    assert alone["norms"][2] > 1e3
    assert np.count_nonzero(alone["norms"]) == 1
    assert np.linalg.norm(alone["gradient"]) == pytest.approx(0.5, rel=1e-5)
    feeds["groups"][:] = -1
    assert not run({"theta": theta, **feeds})["gradient"].any()


def test_a_triple_of_texts_agrees_with_torch(design: Design, tmp_path: Path) -> None:
    triple = with_question(design)
    theta = initial_theta(triple.layout, 0)
    for role in ("grad", "predict"):
        path = tmp_path / f"{role}.onnx"
        path.write_bytes(trace(triple, role, 4, {"text": 16}).SerializeToString())
        found = check.check_step(triple, theta, GraphFile(path, role, batch=4, tokens={"text": 16}), threads=1)
        assert found.parity < check.PARITY[role]
        assert found.unfinite == ()


def test_the_question_counts(design: Design, tmp_path: Path) -> None:
    triple = with_question(design)
    path = tmp_path / "predict.onnx"
    path.write_bytes(trace(triple, "predict", 4, {"text": 8}).SerializeToString())
    run, theta = load(path, threads=1), initial_theta(triple.layout, 0)
    feeds = check.edge_feeds(example(triple, "predict", 4, {"text": 8}), "longest")
    before = run({"theta": theta, **feeds})["mark.output"]
    feeds["question.features"] = -feeds["question.features"]
    assert np.abs(run({"theta": theta, **feeds})["mark.output"] - before).max() > 1e-3


def test_without_text_there_is_one_variant_and_one_sample_may_be_predicted_alone(
    design: Design, tmp_path: Path
) -> None:
    table = Design(
        modalities=(design.modality("table"),),
        scales={"table": design.scales["table"]},
        slots=(Slot("facts", "table"),),
        tasks=(Task(name="weight", kind="regression", reads=("facts",), width=1),),
        heads={"weight": "fused"},
        width=16,
        hidden=32,
    )
    graphs = step_graphs(table, tmp_path, 4, single=True)
    assert [graph.name for graph in graphs] == [
        "graphs/grad.batch4.onnx",
        "graphs/predict.batch4.onnx",
        "graphs/predict.batch1.onnx",
        "graphs/grad_heads.batch4.onnx",
    ]
    theta = initial_theta(table.layout, 0)
    assert all(check.check_step(table, theta, graph, threads=1).parity < check.PARITY[graph.role] for graph in graphs)


def test_the_same_design_gives_the_same_bytes(design: Design) -> None:
    first, second = (trace(design, "predict", 4, TOKENS).SerializeToString(deterministic=True) for _ in range(2))
    assert first == second
    assert str(Path(__file__).parents[3]).encode() not in first


def test_a_step_holds_no_optimizer_and_no_weights(tiny_bundle: tiny.Tiny) -> None:
    for path in tiny_bundle.path.glob("graphs/grad*.onnx"):
        model = onnx.load(path)
        largest = max((int(np.prod(tensor.dims)) for tensor in model.graph.initializer), default=0)
        assert largest < 200
        assert {o.domain for o in model.opset_import} == {""}


def lowered(function: object, *arguments: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """What onnxruntime and torch give for a function of one result."""
    import onnxruntime

    traced = make_fx(lambda *a: (function(*a),), decomposition_table=core_aten_decompositions())(*arguments)  # type: ignore[operator]
    names = [f"x{i}" for i in range(len(arguments))]
    model = aten_to_onnx(traced, names, ["y"])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {name: value.numpy() for name, value in zip(names, arguments, strict=True)}
    return session.run(["y"], feeds)[0], function(*arguments).numpy()  # type: ignore[operator]


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: a @ b.t(),
        lambda a, b: a.t() @ b,
        lambda a, b: (a.reshape(2, 3, 4) * b.reshape(2, 3, 4)).permute(1, 0, 2).reshape(3, 8),
        lambda a, b: torch.cat([a, b], 1)[:, 2:6] + 1.5,
        lambda a, b: torch.softmax(a, -1) / (b.abs() + 1e-8),
        lambda a, b: torch.log_softmax(a, 0) - b.sum(1, keepdim=True).expand(6, 4),
        lambda a, b: a.mean(0, keepdim=True).expand(6, 4).reshape(-1) + b.reshape(-1),
        lambda a, b: a.clamp(min=0.0, max=1.0) + torch.rsqrt(b * b + 1e-6),
        lambda a, b: torch.where(a > 0, a, b) ** 3,
        lambda a, b: torch.stack(torch.split(a, 1, 1), 0).squeeze(-1).sum() * b,
        lambda a, b: a[:, [2, 0]] - b.select(1, 3).unsqueeze(1),
        lambda a, b: a.unsqueeze(0).transpose(0, 1).reshape(6, 4) * b,
        lambda a, b: a,
    ],
)
def test_each_operation_is_lowered_as_torch_means_it(function: object) -> None:
    generator = torch.Generator().manual_seed(3)
    a, b = (torch.randn(6, 4, generator=generator) for _ in range(2))
    made, wanted = lowered(function, a, b)
    assert made.shape == wanted.shape
    np.testing.assert_allclose(made, wanted, rtol=2e-6, atol=2e-6)


def test_a_small_constant_is_not_dropped() -> None:
    zero = torch.zeros(3)
    made, wanted = lowered(lambda x: x / (x.abs() + 1e-8) + 1e-12, zero)
    np.testing.assert_array_equal(made, wanted)


def test_an_unknown_operation_is_refused_by_name() -> None:
    with pytest.raises(ExportError, match="cumsum"):
        lowered(lambda x: torch.cumsum(x, 0), torch.ones(3))
