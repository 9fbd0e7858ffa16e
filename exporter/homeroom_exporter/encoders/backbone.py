"""Builds one modality's frozen backbone: encoder, taps, compression and quantization, as files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray

from homeroom.contract.canonical_json import digest, digest_file, identity
from homeroom.contract.manifest import Licence, Modality, Precision, Tolerance, identifying
from homeroom.data.preprocess import Prepared, prepare
from homeroom.errors import BundleError, ExportError
from homeroom.runtime.backend import LoadedGraph, load
from homeroom_exporter import encoders
from homeroom_exporter.encoders import processors
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize import compress, fidelity, quantize
from homeroom_exporter.quantize.fidelity import FEATURES_BATCH, batches, spread
from homeroom_exporter.quantize.graph_surgery import canonical_bytes, short_names
from homeroom_exporter.quantize.sensitivity import Progress, Sweep, sweep

__all__ = ["Backbone", "EncoderSpec", "build"]

TOKEN_LIMIT = 24_000  # calibration tokens that a compression is fitted on
RANGE_INPUTS = 96  # calibration inputs that the ranges of activations are read from
TOLERANCE_INPUTS = 256
SWEEP_INPUTS = 48  # calibration inputs that the drift of a trial is measured on
DRIFT_MARGIN = 1.5  # a device's features may drift so much further than they did here
TOLERANCE_STEP = 0.005


@dataclass(frozen=True)
class Backbone:
    """A built modality. Its files stand in the scratch directory that the caller gave.

    graphs: precision (`float32`, and `int8` or `int4`) to file; both have the same compression inside and give int8
    features. sweep: which layers kept a higher precision, and what that left of the drift.
    scale: float32 [taps, dim]; a feature's value is int8 * scale. files: bundle name to file (tokenizer, licences).
    float_bytes: size of the encoder's original float32 weights.
    """

    modality: Modality
    graphs: dict[str, Path]
    scale: NDArray[np.float32]
    files: dict[str, Path]
    licences: tuple[Licence, ...]
    float_bytes: int
    sweep: Sweep | None = None

    @property
    def lowest(self) -> Precision:
        """The precision that devices take first."""
        return next(p for p in get_args(Precision) if p in self.graphs)


def build(
    spec: EncoderSpec, calibration: Sequence[Any], scratch: Path, *, progress: Progress = lambda stage: None
) -> Backbone:
    """Build a modality's backbone into `scratch`.

    calibration: raw values (text, encoded picture or sound as bytes or a path to it, table row) that compression and
    quantization are fitted on. The same spec and values give the same bytes. Raises ExportError for a spec that cannot
    be met, InputError for a value that cannot be read.
    """
    encoder = encoders.load(spec, scratch)
    modality = encoder.modality(spec)
    if not calibration:
        raise ExportError("has no calibration sample", where=spec.modality, remedy="give a hundred or more")
    values = [_value(value) for value in calibration]
    inputs = [prepare(modality, value, encoder.files.__getitem__) for value in values]
    processors.hold(spec, modality, encoder.files.__getitem__, values)
    reference, scale = _compressed(encoder, modality, inputs, scratch)
    graphs = {"float32": _write(scratch / "features.float32.onnx", reference)}
    tolerance = Tolerance(1.0 - TOLERANCE_STEP, 1.0 - 2 * TOLERANCE_STEP)
    sweep_result = None
    if spec.quantize != "none" and encoder.scheme != "none":
        small, sweep_result = _quantized(spec, encoder, reference, modality, inputs, scratch, progress)
        graphs[spec.quantize] = _write(scratch / f"features.{spec.quantize}.onnx", short_names(small))
        tolerance = _tolerance(modality, graphs["float32"], graphs[spec.quantize], spread(inputs, TOLERANCE_INPUTS))
    identifying_facts = {
        "preprocess": identifying(modality.preprocess),
        "files": {name: digest_file(path) for name, path in encoder.files.items() if not name.startswith("licences/")},
        "reference": digest_file(graphs["float32"]),
        "scale": digest(scale.tobytes()),
        "taps": list(modality.taps),
        "limit": modality.buckets[-1],
        "tolerance": msgspec.to_builtins(tolerance),
    }
    modality = msgspec.structs.replace(modality, features_id=identity(identifying_facts), tolerance=tolerance)
    return Backbone(modality, graphs, scale, dict(encoder.files), encoder.licences, encoder.float_bytes, sweep_result)


def _compressed(
    encoder: Encoder, modality: Modality, inputs: Sequence[Prepared], scratch: Path
) -> tuple[onnx.ModelProto, NDArray[np.float32]]:
    """The float32 graph with its compression inside, and the scale of its features."""
    if encoder.scale is not None:
        return encoder.graph, encoder.scale
    path = _write(scratch / "taps.onnx", encoder.graph)
    run = _running(modality, path)
    mean_tokens = sum(one.tokens for one in inputs) / len(inputs)
    chosen = spread(inputs, max(FEATURES_BATCH, int(TOKEN_LIMIT / mean_tokens)))
    collected: dict[str, list[NDArray[np.float32]]] = {tap: [] for tap in encoder.taps}
    for feeds, counts in batches(modality, chosen):
        for tap, rows in compress.valid_tokens(run(feeds), counts).items():
            collected[tap].append(rows)
    path.unlink()
    fitted = compress.fit([np.concatenate(collected[tap]) for tap in encoder.taps], modality.dim, encoder.taps)
    tokens = "tokens" if modality.name == "text" else modality.buckets[-1]
    return compress.append(encoder.graph, encoder.taps, fitted, tokens), fitted.scale


def _running(modality: Modality, path: Path) -> LoadedGraph:
    """The encoder's graph, loaded; ExportError where it does not run on each number of rows and tokens."""
    tried = "no input yet"
    try:
        run = load(path, threads=1)
        for tried, feeds in fidelity.extremes(modality):  # noqa: B007
            run(feeds)
    except BundleError as problem:
        fault = f"its graph does not run ({tried}): {problem.what.splitlines()[0]}"
        remedy = "choose a model of a shape that docs/shapes.md lists"
        raise ExportError(fault, where=modality.encoder, remedy=remedy) from None
    return run


def _quantized(
    spec: EncoderSpec,
    encoder: Encoder,
    reference: onnx.ModelProto,
    modality: Modality,
    inputs: Sequence[Prepared],
    scratch: Path,
    progress: Progress,
) -> tuple[onnx.ModelProto, Sweep]:
    """The graph in low precision, but for the layers that the drift stated in the recipe cannot spare."""
    seen, compared = spread(inputs, RANGE_INPUTS), spread(inputs, SWEEP_INPUTS)
    if spec.quantize == "int4" and encoder.scheme == "static":
        fault = "int4 is for matrix products, and this encoder convolves"
        raise ExportError(fault, where=spec.source, remedy='quantize = "int8"')

    def quantized(kept: Collection[str], shown: Sequence[Prepared], ranges: Path | None = None) -> onnx.ModelProto:
        if spec.quantize == "int4":
            return quantize.blockwise(reference, encoder.keep_float, kept)
        if encoder.scheme == "dynamic":
            return quantize.dynamic(reference, encoder.keep_float, kept)
        feeds = (feeds for feeds, _ in batches(modality, shown))
        return quantize.static(reference, feeds, encoder.keep_float, kept, ranges)

    reference_features = list(fidelity.features(modality, scratch / "features.float32.onnx", compared))

    def loss(kept: Collection[str]) -> float:
        trial = _write(scratch / "trial.onnx", quantized(kept, compared, scratch / "ranges.json"))
        return 1.0 - fidelity.similarity(reference_features, fidelity.features(modality, trial, compared))[0]

    result = sweep(quantize.candidates(reference, encoder.keep_float), loss, spec.drift, progress=progress)
    for name in ("trial.onnx", "ranges.json"):
        (scratch / name).unlink(missing_ok=True)
    return quantized(result.kept, seen), result


def _tolerance(modality: Modality, reference: Path, small: Path, inputs: Sequence[Prepared]) -> Tolerance:
    """The drift of quantized features on the calibration inputs, with a margin, in steps of 0.005."""

    def limit(cosine: float) -> float:
        return float(np.floor((1 - (1 - cosine) * DRIFT_MARGIN - TOLERANCE_STEP) * 200) / 200)

    mean, worst = fidelity.agreement(modality, reference, small, inputs)
    return Tolerance(limit(mean), limit(worst))


def _write(path: Path, model: onnx.ModelProto) -> Path:
    path.write_bytes(canonical_bytes(model))
    return path


def _value(value: Any) -> Any:
    return value.read_bytes() if isinstance(value, Path) else value
