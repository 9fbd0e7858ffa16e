"""Checks of an encoder's graph before anything is fitted on it: nothing is drawn at random."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import AttributeProto, numpy_helper

from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec

RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")
TRAINING_INPUT = 2  # of Dropout


def check(spec: EncoderSpec, encoder: Encoder) -> None:
    """ExportError for an operator that draws at random, or is in training mode."""
    stored = _constants(encoder.graph.graph)
    for node in _nodes(encoder.graph.graph):
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


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
                yield from _nodes(inner)


GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _constants(graph: onnx.GraphProto) -> dict[str, np.ndarray]:
    """Every stored value by its name, those of inner graphs too."""
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in _nodes(graph):
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in GRAPHS else ():
                values |= {tensor.name: numpy_helper.to_array(tensor) for tensor in inner.initializer}
    return values
