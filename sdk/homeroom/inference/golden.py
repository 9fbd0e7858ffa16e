"""Golden samples: does this machine compute what the exporter saw? Imports bundle, runtime, features, training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy

from homeroom.contract.manifest import Modality, Precision, Runtime
from homeroom.data.ingest.jsonl import read_jsonl
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.raw_inputs import raw_input
from homeroom.data.samples import StoredSample
from homeroom.data.validation import resolve
from homeroom.errors import BundleError
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs, precisions
from homeroom.train.evaluate import all_outputs_of
from homeroom.train.features.compute import compute
from homeroom.train.features.dataset import Dataset, Example


@dataclass(frozen=True)
class Drift:
    """Cosine of this machine's features with the float reference, over the golden samples of one modality.

    Where LoRA is inside the backbone: of the outputs of each task, with that modality's inputs alone.
    """

    modality: str
    precision: Precision
    mean: float
    worst: float
    within: bool


def golden_samples(bundle: Bundle) -> list[StoredSample]:
    path = bundle.file(bundle.manifest.golden) / "samples.jsonl"
    return [resolve(sample, bundle.manifest, base=path.parent) for sample in read_jsonl(path)]


def expected_arrays(bundle: Bundle) -> dict[str, np.ndarray]:
    """`features.<row>.<slot>.<place>` int8 [taps, n, dim], `output.<row>.<task>` and `direct.<row>.<task>` [width].

    Of tasks per token these are [n, width], n tokens that are not padding. The last are outputs with the inputs alone
    whose backbone has LoRA inside.
    """
    return dict(safetensors.numpy.load_file(Path(bundle.file(bundle.manifest.golden)) / "expected.safetensors"))


def cosines(pairs: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
    """Mean and worst cosine of pairs of arrays; arrays of another shape count 0, two of zeros 1."""
    found = []
    for a, b in pairs:
        if a.shape != b.shape:
            found.append(0.0)
            continue
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        found.append(float(x @ y) / norm if norm else float(np.array_equal(x, y)))
    return (float(np.mean(found)), min(found)) if found else (1.0, 1.0)


def drift(bundle: Bundle, graphs: Graphs, modality: str) -> Drift:
    """Compute the golden samples' features with the variant that `graphs` uses and compare."""
    if bundle.manifest.modality(modality).adapter == "lora":
        return output_drift(bundle, bundle.manifest.modality(modality), graphs.threads, graphs.runtime)
    wanted = expected_arrays(bundle)
    slots = {slot.name for slot in bundle.manifest.slots if slot.modality == modality}
    keys, values = [], []
    for row, sample in enumerate(golden_samples(bundle)):
        for slot in slots & sample.inputs.keys():
            for place, value in enumerate(sample.inputs[slot]):
                if value is not None:
                    keys.append(f"features.{row}.{slot}.{place}")
                    values.append(value)
    if missing := [key for key in keys if key not in wanted]:
        raise BundleError(f"lacks the expected {missing[0]}", where=bundle.manifest.golden)
    made = dict(compute(bundle, graphs, modality, values))
    mean, worst = cosines([(made[i], wanted[key]) for i, key in enumerate(keys)])
    limit = bundle.manifest.modality(modality).tolerance
    return Drift(modality, graphs.precision[modality], mean, worst, mean >= limit.mean and worst >= limit.worst)


def output_drift(bundle: Bundle, modality: Modality, threads: int | None, runtime: Runtime = "onnx") -> Drift:
    """Compute the first theta's outputs from the golden samples' inputs of a modality whose steps read them."""
    wanted, rows = expected_arrays(bundle), []
    slots = [slot.name for slot in bundle.manifest.slots if slot.modality == modality.name]
    for sample in golden_samples(bundle):
        places = [(s, i, v) for s in slots for i, v in enumerate(sample.inputs.get(s, ())) if v is not None]
        inputs = {(s, i): raw_input(modality, prepare(modality, v, bundle.file)) for s, i, v in places}
        rows.append(Example(inputs=inputs, targets={}))
    graphs = Graphs(bundle, threads=threads, runtime=runtime)
    whole, tokens = all_outputs_of(graphs, Dataset(bundle.manifest, rows), bundle.theta())
    try:
        pairs = [(v, np.stack([wanted[f"direct.{i}.{t}"] for i in range(len(rows))])) for t, v in whole.items()]
        for task, made in tokens.items():
            seen = [wanted[f"direct.{i}.{task}"] for i in range(len(rows))]
            here = [one[: len(other)] for one, other in zip(made, seen, strict=True)]
            pairs.append((np.concatenate(here), np.concatenate(seen)))
    except KeyError as problem:
        raise BundleError(f"lacks the expected {problem.args[0]}", where=bundle.manifest.golden) from None
    mean, worst = cosines(pairs)
    limit, precision = modality.tolerance, graphs.steps("predict")[0].precision
    return Drift(modality.name, precision, mean, worst, mean >= limit.mean and worst >= limit.worst)


def choose_precision(bundle: Bundle, *, threads: int | None = None, runtime: Runtime = "onnx") -> dict[str, Precision]:
    """For each modality the lowest precision whose golden samples come out right on this machine, else BundleError."""
    chosen: dict[str, Precision] = {}
    for modality in bundle.manifest.modalities:
        tried: list[Drift] = []
        if modality.adapter == "lora":
            tried.append(output_drift(bundle, modality, threads, runtime))
            if tried[0].within:
                chosen[modality.name] = tried[0].precision
                continue
        for precision in precisions(bundle, modality.name, runtime):
            graphs = Graphs(bundle, {modality.name: precision}, threads, runtime=runtime)
            tried.append(drift(bundle, graphs, modality.name))
            if tried[-1].within:
                chosen[modality.name] = tried[-1].precision
                break
        else:
            seen = ", ".join(f"{d.precision} {d.mean:.4f} (worst {d.worst:.4f})" for d in tried)
            raise BundleError(
                f"this machine computes other {modality.name} features than the bundle's golden samples: {seen}",
                where=f"features/{modality.name}",
                remedy="update the runtime, or ask the exporter for a bundle for this processor",
            )
    return chosen
