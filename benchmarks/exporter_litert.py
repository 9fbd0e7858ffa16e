"""Section `litert`: one bundle in onnxruntime and in LiteRT: values, gradients, scores of int8, time and memory.

Real MiniLM and the short-answer recipe (Beetle). Each time and peak is of a fresh process, one thread. Scores are of
devices that run entirely in one runtime: features, training, and answers to the official unseen answers.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from exporter_section import Section, Target
from exporter_tiers import RECIPE, stored
from homeroom.contract.manifest import Modality, Runtime
from homeroom.data.preprocess import Prepared, prepare
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.fit import fit
from homeroom.train.settings import Settings
from homeroom_exporter.check.check import relative_error
from homeroom_exporter.encoders.backbone import Backbone
from homeroom_exporter.export.design import calibration_values, design_of, draft
from homeroom_exporter.interchange import litert
from homeroom_exporter.model.design import initial_theta
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.recipe.recipe import read_recipe
from homeroom_exporter.trace.example_inputs import example
from peers import data as answers
from peers.bundles import assembled, signed

BUCKETS = (32, 64)
LIMIT = 1e-4
POINTS = 1.0  # of macro-F1 that int8 in LiteRT may cost
SEEDS, EPOCHS = 3, 10


def export(folder: Path, rows: Sequence[answers.Answer]) -> tuple[Bundle, litert.Conversion, Backbone, list[Prepared]]:
    """The short-answer bundle with both runtimes' graphs, its backbone, and prepared texts."""
    recipe = read_recipe(RECIPE)
    (spec,) = recipe.encoders
    recipe = msgspec.structs.replace(recipe, encoders=(msgspec.structs.replace(spec, buckets=BUCKETS),))
    samples = stored(rows, draft(recipe))
    contents, backbones = assembled(recipe, samples, folder, clipped=True, saliency=True)
    made, values = backbones["text"], calibration_values(recipe, "text", samples)
    texts = [prepare(made.modality, value, made.files.__getitem__) for value in values]
    (folder / "litert").mkdir()
    found = litert.convert(contents, {"text": texts}, folder / "litert", threads=1)
    contents = replace(contents, converted=found.graphs, unconverted=found.refused)
    return signed(contents, folder), found, made, texts


def before_rounding(modality: Modality, source: Path, texts: Sequence[Prepared], folder: Path) -> float:
    """Largest relative error of a batch of the float backbone's values, before they are rounded to int8."""
    model = onnx.load(source)
    rounded = next(node for node in model.graph.node if node.op_type == "Round")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(rounded.input[0], onnx.TensorProto.FLOAT, None))
    onnx.save(model, folder / "values.onnx")
    errors = []
    for number, (feeds, _) in enumerate(fidelity.batches(modality, texts)):
        if not number:
            shapes = litert.signatures(modality, feeds)
            litert.run_converter(folder / "values.onnx", folder / "values.tflite", shapes)
            ours, theirs = (load(folder / f"values.{kind}", threads=1) for kind in ("onnx", "tflite"))
        wanted, got = (next(iter(run(feeds).values())) for run in (ours, theirs))
        errors.append(relative_error(got, wanted))
    return max(errors)


def step_errors(bundle: Bundle, design: Any) -> dict[str, float]:
    """Largest relative error of each result of each converted step, over three thetas and batches."""
    graphs = {runtime: Graphs(bundle, None, 1, runtime=runtime) for runtime in ("onnx", "litert")}
    worst: dict[str, float] = {}
    for facts in (g for g in bundle.manifest.graphs if g.role != "features"):
        if facts.file in bundle.manifest.unconverted:
            continue
        for seed in range(3):
            theta = initial_theta(design.layout, seed)
            theta += np.random.default_rng(seed).standard_normal(theta.size).astype(np.float32) * np.float32(0.05)
            feeds = {"theta": theta, **example(design, facts.role, facts.batch, facts.tokens, seed=seed)}
            wanted, got = (graphs[runtime].loaded(facts)(feeds) for runtime in ("onnx", "litert"))
            for name, value in wanted.items():
                key = f"{facts.role} {name}"
                worst[key] = max(worst.get(key, 0.0), relative_error(got[name], value))
    return worst


def score(bundle: Bundle, runtime: Runtime, split: answers.Split, seed: int, epochs: int) -> float:
    """Macro-F1 on the unseen answers of a device that does everything in one runtime, from int8 features."""
    graphs = Graphs(bundle, {"text": "int8"}, 1, runtime=runtime)
    train, test = (
        Dataset(bundle.manifest, examples(None, bundle, graphs, stored(part, bundle.manifest)))
        for part in (split.train, split.test)
    )
    theta = fit(graphs, train, None, bundle.theta(), Settings(epochs=epochs, learning_rate=2e-3, seed=seed)).theta
    return evaluate(graphs, test, theta)["grade"].macro_f1


def run(quick: bool, data: Path) -> Section:
    seeds, epochs = (1, 2) if quick else (SEEDS, EPOCHS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        training, _ = answers.read(data, "beetle")
        bundle, found, made, texts = export(folder, training[:: max(1, len(training) // 300)])
        recipe = msgspec.structs.replace(read_recipe(RECIPE))
        features = before_rounding(made.modality, made.graphs["float32"], fidelity.spread(texts, 48), folder)
        errors = step_errors(bundle, design_of(recipe, {"text": made}))
        scores: dict[str, list[float]] = {"onnx": [], "litert": []}
        for seed in range(seeds):
            split = answers.split(data, "beetle", seed)
            if quick:
                split = replace(split, train=split.train[:200], test=split.test[:100])
            for runtime, values in scores.items():
                values.append(score(bundle, runtime, split, seed, epochs))  # type: ignore[arg-type]
        sizes = {
            g.file: bundle.manifest.files[g.file].bytes for g in (*bundle.manifest.graphs, *bundle.manifest.converted)
        }
    lost = 100 * (statistics.mean(scores["onnx"]) - statistics.mean(scores["litert"]))
    gradients = [error for key, error in errors.items() if "gradient" in key or "norms" in key or "losses" in key]
    outputs = [error for key, error in errors.items() if key.endswith(".output")]
    return Section(
        title="LiteRT beside onnxruntime, one bundle",
        rows=table(found, sizes),
        figures={
            "features before rounding": features,
            "steps": errors,
            "macro-F1": scores,
            "unconverted": dict(found.refused),
            "graphs": {
                t.name: {"onnx": vars(t.onnx), "litert": vars(t.litert), "said": t.difference}
                for t in found.comparisons
            },
        },
        targets=[
            Target("relative error of MiniLM's float features before rounding", features, LIMIT),
            Target("relative error of predicted outputs", max(outputs, default=None), LIMIT),
            Target("relative error of losses and gradients", max(gradients, default=None), LIMIT),
            Target("points of macro-F1 lost with int8 in LiteRT", lost, POINTS),
            Target("graphs that did not convert", float(len(found.refused)), 0.0),
        ],
        notes=[
            f"macro-F1 with int8 features: onnxruntime {_mean(scores['onnx'])}, LiteRT {_mean(scores['litert'])}; "
            f"{seeds} seeds, {epochs} epochs; one thread; ms a batch and peak MB are of fresh processes",
            *(f"not converted: {file}: {why}" for file, why in found.refused.items()),
        ],
    )


def table(found: litert.Conversion, sizes: Mapping[str, int]) -> list[list[str]]:
    rows = [["graph", "difference", "onnx ms", "LiteRT ms", "onnx MB", "LiteRT MB", "onnx file", "LiteRT file"]]
    for twin in found.comparisons:
        times = [f"{made.ms:.1f}" for made in (twin.onnx, twin.litert)]
        peaks = ["-" if made.peak_mb is None else f"{made.peak_mb:.0f}" for made in (twin.onnx, twin.litert)]
        files = [f"{sizes[f'graphs/{twin.name}.{suffix}'] / 1e6:.2f} MB" for suffix in ("onnx", "tflite")]
        rows.append([twin.name, twin.difference, *times, *peaks, *files])
    return rows


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{spread}"
