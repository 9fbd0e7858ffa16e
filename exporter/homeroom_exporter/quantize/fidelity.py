"""Fidelity of a built backbone: int8 features against float32 ones, and finite results on extreme inputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from homeroom.contract import graph_io, manifest
from homeroom.contract.manifest import Modality
from homeroom.data.preprocess import Prepared, collate
from homeroom.runtime.backend import LoadedGraph, load
from homeroom_exporter.quantize.compress import INT8_LIMIT

Input = TypeVar("Input")
FEATURES_BATCH = 16


def batches(modality: Modality, inputs: Sequence[Prepared]) -> Iterator[tuple[dict[str, NDArray[Any]], list[int]]]:
    """Feeds of a features graph and the valid tokens of each row, inputs of like length together."""
    order = sorted(range(len(inputs)), key=lambda i: (inputs[i].tokens, i))
    for start in range(0, len(order), FEATURES_BATCH):
        chosen = [inputs[i] for i in order[start : start + FEATURES_BATCH]]
        yield collate(modality, chosen), [one.tokens for one in chosen]


def spread(inputs: Sequence[Input], limit: int) -> list[Input]:
    """At most `limit` inputs, evenly taken from all."""
    return [inputs[i * len(inputs) // limit] for i in range(limit)] if len(inputs) > limit else list(inputs)


def features(
    modality: Modality, path: Path, inputs: Sequence[Prepared], threads: int = 1
) -> Iterator[NDArray[np.int8]]:
    """int8 [taps, valid tokens, dim] of each input, in the order of `batches`."""
    run = load(path, threads=threads)
    for feeds, counts in batches(modality, inputs):
        outputs = run(feeds)[graph_io.FEATURES]
        yield from (outputs[row, :, :count] for row, count in enumerate(counts))


def agreement(modality: Modality, reference: Path, other: Path, inputs: Sequence[Prepared]) -> tuple[float, float]:
    """Mean and worst cosine, over inputs, of two graphs' features."""
    return similarity(features(modality, reference, inputs), features(modality, other, inputs))


def similarity(reference: Iterable[NDArray[np.int8]], other: Iterable[NDArray[np.int8]]) -> tuple[float, float]:
    """Mean and worst cosine of pairs of features; two of zeros count 1."""
    cosines = []
    for a, b in zip(reference, other, strict=True):
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        norm = float(np.linalg.norm(x) * np.linalg.norm(y))
        cosines.append(float(x @ y) / norm if norm else float(np.array_equal(x, y)))
    return float(np.mean(cosines)), min(cosines)


def problems(modality: Modality, path: Path) -> list[str]:
    """Run a features graph on all-zero, saturated, empty (fully masked) and longest inputs, batches of 1 and 3."""
    messages, (_, declared) = list[str](), graph_io.features_io(modality)
    with tempfile.TemporaryDirectory() as folder:
        run = load(_with_rounded_value(path, Path(folder) / "probe.onnx"), threads=1)
        for name, feeds in extremes(modality):
            outputs = run(feeds)
            features = outputs.pop(graph_io.FEATURES)
            rows, length = next(iter(feeds.values())).shape[:2]
            _, taps, tokens, dim = declared.shape
            shape = rows, taps, length if tokens == -1 else tokens, dim
            if not all(np.isfinite(value).all() for value in outputs.values()):
                messages.append(f"{name} gives values that are not finite")
            if features.shape != shape or features.dtype != declared.dtype:
                messages.append(f"{name} gives {features.dtype} {features.shape}")
            elif int(features.min()) < -INT8_LIMIT:
                messages.append(f"{name} leaves the range of +-{INT8_LIMIT}")
    return messages


def unsteady(modality: Modality, path: Path, reference: Path, inputs: Sequence[Prepared], threads: int) -> list[str]:
    """What a features graph answers otherwise than before: to the same batch again, or to an input alone.

    The batch again must give the same bits; alone and among others the features are within the modality's tolerance
    of the float32 reference's (alone).
    """
    messages, run, exact = list[str](), load(path, threads=threads), load(reference, threads=threads)
    chosen = spread(inputs, FEATURES_BATCH)
    together, again = (list(answers(modality, run, chosen, FEATURES_BATCH)) for _ in range(2))
    if not all(np.array_equal(a, b) for a, b in zip(together, again, strict=True)):
        messages.append("gives other features of the same batch the second time")
    wanted = list(answers(modality, exact, chosen, 1))
    for name, given in (("alone", list(answers(modality, run, chosen, 1))), ("among others", together)):
        mean, worst = similarity(wanted, given)
        if mean < modality.tolerance.mean or worst < modality.tolerance.worst:
            messages.append(f"gives other features of an input {name} (cosine {mean:.4f}, worst {worst:.4f})")
    return messages


def answers(modality: Modality, run: LoadedGraph, inputs: Sequence[Prepared], rows: int) -> Iterator[NDArray[np.int8]]:
    """int8 [taps, valid tokens, dim] of each input, in their order, `rows` at once."""
    for start in range(0, len(inputs), rows):
        part = inputs[start : start + rows]
        outputs = run(collate(modality, part))[graph_io.FEATURES]
        yield from (one[:, : item.tokens] for one, item in zip(outputs, part, strict=True))


def _with_rounded_value(path: Path, probe: Path) -> Path:
    """A copy of a graph that also gives what it rounds to int8: the cast would hide a NaN."""
    model = onnx.load(path)
    for source in [node.input[0] for node in model.graph.node if node.op_type == "Round"]:
        model.graph.output.append(onnx.helper.make_tensor_value_info(source, onnx.TensorProto.FLOAT, None))
    onnx.save(model, probe)
    return probe


def extremes(modality: Modality) -> Iterator[tuple[str, dict[str, NDArray[Any]]]]:
    """Named batches at the edges of what a modality's graph may be fed."""
    match modality.preprocess:
        case manifest.TextPreprocess():
            for rows, length in ((1, modality.buckets[0]), (3, modality.buckets[-1])):
                ids, mask = np.zeros((rows, length), np.int64), np.ones((rows, length), np.int64)
                yield f"empty text of {length}", {graph_io.INPUT_IDS: ids, graph_io.ATTENTION_MASK: 0 * mask}
                yield f"all-zero text of {length}", {graph_io.INPUT_IDS: ids, graph_io.ATTENTION_MASK: mask}
                single = 0 * mask
                single[:, 0] = 1
                yield f"one token of {length}", {graph_io.INPUT_IDS: ids + 1, graph_io.ATTENTION_MASK: single}
        case manifest.ImagePreprocess(size=size, mean=mean, std=std):
            low, high = ([(edge - m) / s for m, s in zip(mean, std, strict=True)] for edge in (0.0, 1.0))
            for name, values in (("zero", [0.0] * 3), ("black", low), ("white", high)):
                pixels = np.array(values, np.float32)[None, :, None, None]
                yield f"{name} picture", {graph_io.PIXELS: np.tile(pixels, (3 if name == "zero" else 1, 1, size, size))}
        case manifest.AudioPreprocess(form=form, samples=samples, gain=gain):
            shape = (graph_io.MEL_BANDS, samples // graph_io.MEL_HOP) if form == "whisper-mel" else (samples,)
            top = 2.0 if form == "whisper-mel" else gain
            for name, value in (("silent", 0.0), ("saturated", top), ("negative", -top)):
                yield f"{name} sound", {graph_io.AUDIO: np.full((3 if value else 1, *shape), value, np.float32)}
        case manifest.TablePreprocess(width=width):
            for name, value in (("zero", 0.0), ("largest", 8.0), ("smallest", -8.0)):
                yield f"{name} row", {graph_io.TABLE_ROW: np.full((3 if value else 1, width), value, np.float32)}
        case manifest.SequencePreprocess(width=width):
            for length in (modality.buckets[0], modality.buckets[-1]):
                for name, steps in (("zero", np.zeros), ("largest", np.ones)):
                    yield (
                        f"{name} sequence of {length}",
                        {graph_io.SEQUENCE_STEPS: steps((3, length, width), np.float32)},
                    )
