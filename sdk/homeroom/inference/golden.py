"""Golden samples: checks that this machine computes what the exporter did, and chooses each backbone's precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from homeroom.contract.manifest import Modality, Precision, Runtime
from homeroom.data.ingest import Intake
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input
from homeroom.data.samples import StoredSample
from homeroom.data.validation import reserved_fields, resolve
from homeroom.errors import BundleError, FallbackNeededError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.fallback import absent, add_fallback, fallback_needed, second_file
from homeroom.runtime.graphs import Graphs, precisions
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.compute import compute
from homeroom.train.features.dataset import Dataset, Example


@dataclass(frozen=True)
class Drift:
    """Cosines of this machine's features with the float reference, over the golden samples of one modality.

    Where LoRA is inside the backbone: cosines of each task's outputs, with that modality's inputs alone. `within`: both
    the mean and the worst reach the modality's tolerance.
    """

    modality: str
    precision: Precision
    mean: float
    worst: float
    within: bool


def golden_samples(bundle: Bundle) -> list[StoredSample]:
    """Reads the bundle's golden samples."""
    path = bundle.file(bundle.manifest.golden) / "samples.jsonl"
    lines = read_jsonl(path, intake := Intake(), reserved_fields(bundle.manifest))
    samples = [resolve(sample, bundle.manifest, base=path.parent, trusted=True) for sample in lines]
    intake.finish()
    return samples


def expected_arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    """Reads the exporter's arrays, by name.

    `features.<row>.<slot>.<index>`: int8 [taps, n, dim]. `output.<row>.<task>`: float32 [width], or [n, width] of tasks
    per token, n tokens without padding. `direct.<row>.<task>`: the same, with only the inputs whose backbone has LoRA.
    """
    return dict(safetensors.numpy.load_file(Path(bundle.file(bundle.manifest.golden)) / "expected.safetensors"))


def cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean and worst cosine of pairs of arrays; a pair of unlike shapes counts 0, a pair of zeros 1."""
    values = []
    for a, b in pairs:
        if a.shape != b.shape:
            values.append(0.0)
            continue
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        values.append(float(x @ y) / norm if norm else float(np.array_equal(x, y)))
    return (float(np.mean(values)), min(values)) if values else (1.0, 1.0)


def drift(bundle: Bundle, graphs: Graphs, modality: str) -> Drift:
    """Measures the drift of a modality in the precision that `graphs` uses; BundleError if an array is missing."""
    if bundle.manifest.modality(modality).adapter == "lora":
        return output_drift(bundle, bundle.manifest.modality(modality), graphs.threads, graphs.runtime)
    expected = expected_arrays(bundle)
    slots = {slot.name for slot in bundle.manifest.slots if slot.modality == modality}
    inputs = {
        f"features.{row}.{slot}.{index}": value
        for row, sample in enumerate(golden_samples(bundle))
        for slot in slots & sample.inputs.keys()
        for index, value in enumerate(sample.inputs[slot])
        if value is not None
    }
    if missing := [key for key in inputs if key not in expected]:
        raise BundleError(f"lacks the expected {missing[0]}", where=bundle.manifest.golden)
    features = dict(compute(bundle, graphs, modality, list(inputs.values())))
    pairs = [(features[i], expected[key]) for i, key in enumerate(inputs)]
    return _drift(bundle.manifest.modality(modality), graphs.precision[modality], pairs)


def output_drift(bundle: Bundle, modality: Modality, threads: int | None, runtime: Runtime = "onnx") -> Drift:
    """Measures the drift of outputs, at the bundle's theta, of a modality whose steps read raw inputs."""
    expected, rows = expected_arrays(bundle), []
    slots = [slot.name for slot in bundle.manifest.slots if slot.modality == modality.name]
    for sample in golden_samples(bundle):
        values = [(s, i, v) for s in slots for i, v in enumerate(sample.inputs.get(s, ())) if v is not None]
        inputs = {(s, i): raw_input(modality, prepare(modality, v, bundle.file)) for s, i, v in values}
        rows.append(Example(inputs=inputs, targets={}))
    graphs = Graphs(bundle, threads=threads, runtime=runtime)
    outputs, token_outputs = all_outputs_of(graphs, Dataset(bundle.manifest, rows), bundle.theta())
    try:
        pairs = [(v, np.stack([expected[f"direct.{i}.{t}"] for i in range(len(rows))])) for t, v in outputs.items()]
        for task, arrays in token_outputs.items():
            references = [expected[f"direct.{i}.{task}"] for i in range(len(rows))]
            unpadded = [array[: len(other)] for array, other in zip(arrays, references, strict=True)]
            pairs.append((np.concatenate(unpadded), np.concatenate(references)))
    except KeyError as problem:
        raise BundleError(f"lacks the expected {problem.args[0]}", where=bundle.manifest.golden) from None
    return _drift(modality, graphs.steps("predict")[0].precision, pairs)


def _drift(modality: Modality, precision: Precision, pairs: list[tuple[np.ndarray, np.ndarray]]) -> Drift:
    (mean, worst), limit = cosines(pairs), modality.tolerance
    return Drift(modality.name, precision, mean, worst, mean >= limit.mean and worst >= limit.worst)


def _drifts(bundle: Bundle, modality: Modality, threads: int | None, runtime: Runtime) -> Iterator[Drift]:
    if modality.adapter == "lora":
        yield output_drift(bundle, modality, threads, runtime)
    for precision in precisions(bundle, modality.name, runtime):
        yield drift(bundle, Graphs(bundle, {modality.name: precision}, threads, runtime=runtime), modality.name)


def choose_precision(bundle: Bundle, *, threads: int | None = None, runtime: Runtime = "onnx") -> dict[str, Precision]:
    """Chooses by modality the lowest precision within the tolerance on this machine; BundleError if none is.

    FallbackNeededError where that may be one of the bundle's second file, which is not here.
    """
    chosen: dict[str, Precision] = {}
    for modality in bundle.manifest.modalities:
        tried: list[Drift] = []
        for measured_drift in _drifts(bundle, modality, threads, runtime):
            tried.append(measured_drift)
            if measured_drift.within:
                chosen[modality.name] = measured_drift.precision
                break
        else:
            if graphs := absent(bundle, modality.name, runtime):
                raise fallback_needed(bundle, second_file(bundle.path), graphs)
            measured = ", ".join(f"{d.precision} {d.mean:.4f} (worst {d.worst:.4f})" for d in tried)
            raise BundleError(
                f"this machine computes other {modality.name} features than the bundle's golden samples: {measured}",
                where=f"features/{modality.name}",
                remedy="update the runtime, or ask the exporter for a bundle for this processor",
            )
    return chosen


def with_precision(
    bundle: Bundle, source: Path, *, threads: int | None = None, runtime: Runtime = "onnx", into: Path | None = None
) -> tuple[Bundle, dict[str, Precision]]:
    """The bundle, with what this machine needs of its second file, and the precisions as `choose_precision` does.

    source, into: of `add_fallback`, which is called where no lower precision will do.
    """
    while True:
        try:
            return bundle, choose_precision(bundle, threads=threads, runtime=runtime)
        except FallbackNeededError as problem:
            bundle = add_fallback(bundle, source, problem.graphs, into)
