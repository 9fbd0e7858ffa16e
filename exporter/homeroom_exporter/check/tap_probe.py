"""Which layers to read where a recipe leaves it open: those that a linear probe of labelled samples learns most from.

The usual layers stay unless others are better by more than the standard error of the difference, so that no bundle
changes for the sake of noise. numpy, and the device's runtime.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from homeroom.contract.manifest import Modality, Slot, Tolerance
from homeroom.data.preprocess import hashed_content, prepare
from homeroom.data.samples import StoredSample
from homeroom.runtime.backend import load
from homeroom_exporter import encoders
from homeroom_exporter.bundle import golden
from homeroom_exporter.check import linear_probe
from homeroom_exporter.encoders.spec import Encoder, EncoderSpec
from homeroom_exporter.quantize import fidelity
from homeroom_exporter.quantize.graph_surgery import canonical_bytes
from homeroom_exporter.recipe.recipe import Recipe

SAMPLES = 240  # labelled ones that are probed
MODALITIES = ("text", "image", "audio")  # whose encoders have layers to choose from

Right = NDArray[np.bool_]


@dataclass(frozen=True)
class TapChoice:
    """`scores`: accuracy by layer alone, over `samples` held-out predictions of `tasks`; `error`: standard error of
    the difference between the best layers and the usual ones, whose accuracies together are `best` and `usual`.
    """

    modality: str
    tasks: tuple[str, ...]
    samples: int
    scores: Mapping[str, float]
    taps: tuple[str, ...]
    before: tuple[str, ...]
    best: float
    usual: float
    error: float

    @property
    def said(self) -> str:
        each = ", ".join(f"{tap} {score:.3f}" for tap, score in self.scores.items())
        why = (
            f"the usual {', '.join(self.before)} {self.usual:.3f}, the best together {self.best:.3f} ± {self.error:.3f}"
        )
        return f"{', '.join(self.taps)}, by probes of {', '.join(self.tasks)} on {self.samples} answers: {each}; {why}"


def choose(
    recipe: Recipe,
    spec: EncoderSpec,
    samples: Sequence[StoredSample],
    scratch: Path,
    *,
    progress: Callable[[str], None] = lambda stage: None,
) -> TapChoice | None:
    """The layers to read of one encoder; None where the recipe names them, or too few samples have a label.

    Every layer is probed alone; then at most as many as usual are taken, each the one that adds most to those before.
    """
    if spec.taps != "auto" or spec.modality not in MODALITIES:
        return None
    if not (tables := _labelled(recipe, spec, samples)):
        return None
    progress(f"probing the layers of the {spec.modality} encoder")
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        before = encoders.load(spec, folder).taps
        encoder = encoders.load(msgspec.structs.replace(spec, every=True), folder)
        states = _states(spec, encoder, {hashed_content(v): v for t in tables for v in t.values()}, folder)

    def right(taps: Sequence[str]) -> Right:
        return np.concatenate([table.right([states[tap] for tap in taps]) for table in tables])

    alone = {tap: right([tap]) for tap in encoder.taps}
    taken = [_best(alone)]
    best, usual = alone[taken[0]], right(before)
    while len(taken) < min(len(before), len(alone)):
        more = {tap: right([*taken, tap]) for tap in alone if tap not in taken}
        if more[added := _best(more)].mean() <= best.mean():
            break
        taken, best = [*taken, added], more[added]
    error = float(np.sqrt((best != usual).sum()) / len(best))
    better = best.mean() - usual.mean() > error
    return TapChoice(
        modality=spec.modality,
        tasks=tuple(table.task for table in tables),
        samples=len(best),
        scores={tap: float(values.mean()) for tap, values in alone.items()},
        taps=tuple(sorted(taken, key=encoder.taps.index)) if better else before,
        before=before,
        best=float(best.mean()),
        usual=float(usual.mean()),
        error=error,
    )


def _best(found: Mapping[str, Right]) -> str:
    """The layer with the most right; of equals the deepest."""
    return max(reversed(list(found)), key=lambda tap: float(found[tap].mean()))


def named(choice: TapChoice) -> tuple[int | str, ...]:
    """The chosen layers as a recipe names them."""
    return tuple(int(tap.removeprefix("layer.")) if tap.startswith("layer.") else tap for tap in choice.taps)


@dataclass(frozen=True)
class _Table:
    """The labelled samples of one task; `slots`: what it reads of the modality."""

    task: str
    slots: tuple[Slot, ...]
    rows: tuple[StoredSample, ...]
    labels: NDArray[np.int64]

    def values(self) -> list[Any]:
        return [v for sample in self.rows for slot in self.slots for _, v in golden.places(slot, sample)]

    def right(self, states: Sequence[Mapping[bytes, NDArray[np.float32]]]) -> Right:
        """Which held-out predictions are right, of probes that read these layers."""
        width = sum(len(next(iter(layer.values()))) for layer in states)

        def vectors(sample: StoredSample, slot: Slot) -> list[np.ndarray]:
            places = [hashed_content(v) for _, v in golden.places(slot, sample)]
            return [np.concatenate([layer[key] for layer in states]) for key in places]

        x = np.array([linear_probe.joined([vectors(s, slot) for slot in self.slots], width) for s in self.rows])
        made: Right = linear_probe.held_out(x, self.labels) == self.labels
        return made


def _labelled(recipe: Recipe, spec: EncoderSpec, samples: Sequence[StoredSample]) -> list[_Table]:
    found = []
    for task in recipe.tasks:
        slots = tuple(slot for slot in recipe.slots if slot.name in task.reads and slot.modality == spec.modality)
        rows = [s for s in samples if task.name in s.labels and any(golden.places(slot, s) for slot in slots)]
        rows = fidelity.spread(rows, SAMPLES)
        if task.kind not in linear_probe.PROBED or len(rows) < linear_probe.LEAST:
            continue
        labels = np.array([task.labels.index(str(s.labels[task.name])) for s in rows])
        if len(np.unique(labels)) > 1:
            found.append(_Table(task.name, slots, tuple(rows), labels))
    return found


def _states(
    spec: EncoderSpec, encoder: Encoder, values: Mapping[bytes, Any], folder: Path
) -> dict[str, dict[bytes, NDArray[np.float32]]]:
    """By layer and value: the mean of its tokens, float32 [width], before any compression."""
    modality = Modality(
        name=spec.modality,
        features_id="0" * 64,
        encoder=encoder.title,
        taps=encoder.taps,
        dim=spec.dim,
        buckets=encoder.buckets,
        preprocess=encoder.preprocess,
        tolerance=Tolerance(1.0, 1.0),
    )
    path = folder / "layers.onnx"
    path.write_bytes(canonical_bytes(encoder.graph))
    run = load(path, threads=1)
    ready = {key: prepare(modality, value, encoder.files.__getitem__) for key, value in values.items()}
    keys = sorted(ready, key=lambda key: (ready[key].tokens, key))
    found: dict[str, dict[bytes, NDArray[np.float32]]] = {tap: {} for tap in encoder.taps}
    for start in range(0, len(keys), fidelity.BATCH):
        part = keys[start : start + fidelity.BATCH]
        for feeds, counts in fidelity.batches(modality, [ready[key] for key in part]):
            for tap, made in run(feeds).items():
                for key, row, count in zip(part, made, counts, strict=True):
                    found[tap][key] = row[:count].mean(0)
    return found
