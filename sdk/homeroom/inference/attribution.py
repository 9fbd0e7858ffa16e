"""Attribution: how much each token of an input moves an output, by expected gradients.

Expected gradients (Erion et al. 2021, equation 2): along a straight line from a reference's features to the sample's,
the gradient of the output times the difference, averaged over references and points on the line. The references are the
bundle's golden samples. Where LoRA is inside an encoder there are no features; the line then joins the embeddings of
its tokens, inside the graph. The attributions of all tokens sum to the sample's output minus the references' mean
output (completeness, Sundararajan et al. 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from homeroom.contract.graph_io import ALONG, FEATURES, GRADIENT, MASK, PULL, REFERENCE, SELECT, THETA, named
from homeroom.contract.manifest import Graph, Task, Tensor
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input, token_count
from homeroom.data.samples import StoredSample
from homeroom.inference import golden
from homeroom.inference.regions import Region, regions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.compute import compute
from homeroom.train.features.dataset import Dataset, Example

REFERENCE_SAMPLES = 8
PATH_POINTS = 8  # on the line to each reference


@dataclass(frozen=True)
class Attributions:
    """Expected gradients of one output, by slot.

    tokens: float64 [count, tokens], the attribution of each token, in the output's unit.
    slopes: float64 [count, taps, tokens, dim], the mean gradient in units of the int8 features; slots with features.
    """

    tokens: Mapping[str, np.ndarray]
    slopes: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class _Path:
    """The lines from the references to one example, by slot.

    features: float32 [count, taps, tokens, dim]; masks: [count, 1, tokens, 1]; references: [references, *features].
    raw_references: [references, count, ...], of slots that are read raw.
    """

    features: Mapping[str, np.ndarray]
    masks: Mapping[str, np.ndarray]
    references: Mapping[str, np.ndarray]
    raw_references: Mapping[str, np.ndarray]


def expected_gradients(
    bundle: Bundle, graphs: Graphs, theta: np.ndarray, example: Example, task: str, weights: np.ndarray
) -> Attributions:
    """Attributes one example's output of a task to its tokens.

    theta: float32 [P], the graphs' tier of it or all. weights: float32 [width]; the attributed value is their product
    with the output. Raises BundleError where the bundle has no saliency graph.
    """
    dataset = Dataset(bundle.manifest, [example])
    batch = dataset.plan(graphs.steps("saliency"))[0]
    graph, run = batch.graph, graphs.loaded(batch.graph)
    feeds = {name: np.repeat(array[:1], graph.batch, 0) for name, array in dataset.feeds(batch).items()}
    for tensor in graph.inputs:
        if tensor.name.endswith(f".{SELECT}"):
            feeds[tensor.name] = np.zeros(tensor.shape, np.float32)
    feeds[named(task, SELECT)] += weights
    feeds[THETA] = graphs.masked(graphs.narrow(theta))
    path = _path(bundle, graph, feeds)
    shapes = {tensor.name: tensor.shape for tensor in graph.outputs}
    tokens = {slot: np.zeros((len(value), value.shape[2])) for slot, value in path.features.items()}
    tokens |= {slot: np.zeros(shapes[named(slot, PULL)][1:]) for slot in path.raw_references}
    slopes = {slot: np.zeros(value.shape) for slot, value in path.features.items()}
    points = REFERENCE_SAMPLES * PATH_POINTS
    for start in range(0, points, graph.batch):
        numbers = np.arange(start, start + graph.batch) % points  # the last batch is filled up, with weight 0
        weight = (np.arange(start, start + graph.batch) < points) / points
        differences = _step_along(path, numbers, feeds)
        outputs = run(feeds)
        for slot in path.raw_references:
            tokens[slot] += (outputs[named(slot, PULL)].astype(np.float64) * weight[:, None, None]).sum(0)
        for slot, difference in differences.items():
            gradient = outputs[named(slot, GRADIENT)].astype(np.float64) * weight[:, None, None, None, None]
            tokens[slot] += (gradient * difference).sum((0, 2, 4))
            slopes[slot] += gradient.sum(0)
    return Attributions(tokens, slopes)


def _path(bundle: Bundle, graph: Graph, feeds: Mapping[str, np.ndarray]) -> _Path:
    manifest = bundle.manifest
    inputs = {tensor.name: tensor for tensor in graph.inputs}
    cached = [s for s in manifest.slots if manifest.modality(s.modality).adapter == "ladder"]
    features = {s.name: feeds[named(s.name, FEATURES)][0].astype(np.float32) for s in cached}
    return _Path(
        features,
        {s.name: feeds[named(s.name, MASK)][0][:, None, :, None] for s in cached},
        {s.name: reference_features(bundle, s.modality, features[s.name]) for s in cached},
        {
            s.name: reference_inputs(bundle, s.modality, inputs[named(s.name, REFERENCE)])
            for s in manifest.slots
            if s not in cached
        },
    )


def _step_along(path: _Path, numbers: np.ndarray, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Sets the feeds to points on the path, a row each; returns sample minus reference by slot with features.

    numbers: int [batch], reference * PATH_POINTS + point.
    """
    along = ((numbers % PATH_POINTS + 0.5) / PATH_POINTS).astype(np.float32)
    differences = {}
    for slot, value in path.features.items():
        references = path.references[slot]
        differences[slot] = (value - references[numbers // PATH_POINTS % len(references)]) * path.masks[slot]
        rest = 1 - along[:, None, None, None, None]
        feeds[named(slot, FEATURES)] = (value - rest * differences[slot]).astype(np.float32)
    for slot, references in path.raw_references.items():
        feeds[ALONG] = along
        feeds[named(slot, REFERENCE)] = references[numbers // PATH_POINTS % len(references)]
    return differences


def reference_features(bundle: Bundle, modality: str, like: np.ndarray) -> np.ndarray:
    """Features of the golden samples for every input of a slot, float32 [references, count, taps, tokens, dim].

    Tokens are repeated to the length of `like` [count, taps, tokens, dim].
    """
    slots = {slot.name for slot in bundle.manifest.slots if slot.modality == modality}
    expected = golden.expected_arrays(bundle)
    features = []
    for name in sorted(expected):
        kind, *rest = name.split(".")
        if kind == FEATURES and rest[1] in slots:
            value = expected[name]
            features.append(value[:, np.arange(like.shape[2]) % value.shape[1]])
    features = features[:: max(1, len(features) // REFERENCE_SAMPLES)][:REFERENCE_SAMPLES]
    if not features:
        return np.zeros((1, *like.shape), np.float32)
    return np.repeat(np.stack(features)[:, None].astype(np.float32), len(like), 1)


def reference_inputs(bundle: Bundle, modality: str, like: Tensor) -> np.ndarray:
    """Raw inputs (token ids or pixels) of the golden samples for every input of a slot, [references, count, ...].

    Token ids are repeated to the length of `like`, the graph's input [batch, count, ...].
    """
    described = bundle.manifest.modality(modality)
    slots = [slot.name for slot in bundle.manifest.slots if slot.modality == modality]
    samples = golden.golden_samples(bundle)
    values = [value for one in samples for slot in slots for value in one.inputs.get(slot, ()) if value is not None]
    values = values[:: max(1, len(values) // REFERENCE_SAMPLES)][:REFERENCE_SAMPLES]
    raw = [raw_input(described, prepare(described, value, bundle.file)) for value in values]
    count, *shape = like.shape[1:]
    resized = [np.resize(array, shape) for array in raw] or [np.zeros(shape, like.dtype)]
    return np.repeat(np.stack(resized)[:, None], count, 1)


def attribute_regions(
    bundle: Bundle, graphs: Graphs, sample: StoredSample, example: Example, attributions: Attributions, task: Task
) -> list[tuple[str, int, Region, float]]:
    """Slot, index, region and attribution of every region of the inputs that the task reads."""
    manifest = bundle.manifest
    attributed: list[tuple[str, int, Region, float]] = []
    for (slot, index), features in example.inputs.items():
        if slot not in task.reads:
            continue
        modality, value = manifest.modality(manifest.slot(slot).modality), sample.inputs[slot][index]
        assert value is not None
        tokens = attributions.tokens[slot][index]
        length = len(tokens) if features.dtype == np.uint8 else token_count(modality, features)
        for region in regions(modality, value, length, bundle.file):
            if region.column is None:
                attribution = float(tokens[list(region.tokens)].sum())
            else:
                assert isinstance(value, Mapping)
                ((_, ablated),) = compute(bundle, graphs, modality.name, [{**value, region.column: None}])
                attribution = _feature_attribution(features, ablated, attributions.slopes[slot][index])
            attributed.append((slot, index, region, attribution))
    return attributed


def _feature_attribution(features: np.ndarray, ablated: np.ndarray, slopes: np.ndarray) -> float:
    """The slopes times the features' change, for a column, which has no token of its own."""
    difference = features.astype(np.float64) - ablated
    return float((slopes[:, : difference.shape[1]] * difference).sum())
