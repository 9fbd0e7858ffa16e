"""Checks of an encoder's graph before anything is fitted on it: nothing is drawn at random."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
TRAINING_INPUT = 2  # of Dropout
GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def check(spec: EncoderSpec, encoder: Encoder) -> None:
    """ExportError for an operator that draws at random, or is in training mode."""
    graphs = list(_graphs(encoder.graph.graph))
    stored = _constants(graphs)
    for node in (node for graph in graphs for node in graph.node):
        if fault := _draws(node, stored):
            remedy = "choose a model that computes the same each time, or export it in evaluation mode"
            raise ExportError(f"{encoder.title} {fault}", where=spec.source, remedy=remedy)


def _draws(node: onnx.NodeProto, stored: dict[str, np.ndarray]) -> str:
    """What is random about a node; empty where nothing is."""
    if node.op_type in RANDOM:
        return f"draws at random: {node.op_type} ({node.name})"
    training = any(one.name == "training_mode" and one.i for one in node.attribute)
    if node.op_type == "Dropout" and len(node.input) > TRAINING_INPUT and node.input[TRAINING_INPUT]:
        training = bool(np.any(stored.get(node.input[TRAINING_INPUT], np.array(True))))
    return f"is in training mode: {node.op_type} ({node.name})" if training else ""


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside its nodes, at any depth."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        for inner in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
            yield from _graphs(inner)


def _constants(graphs: Iterable[onnx.GraphProto]) -> dict[str, np.ndarray]:
    """Every stored value by its name."""
    values: dict[str, np.ndarray] = {}
    for graph in graphs:
        values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values
