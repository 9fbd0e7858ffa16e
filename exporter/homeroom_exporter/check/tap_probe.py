"""Chooses the layers to read where a recipe leaves it open: those that a linear probe of labelled samples does best on.

The usual layers stay unless others are better by more than the standard error of the difference, so that no bundle
changes for the sake of noise.
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

from homeroom.contract.manifest import Slot
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

MODALITIES = ("text", "image", "audio")  # whose encoders have layers to choose from

Correct = NDArray[np.bool_]


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
    def summary(self) -> str:
        """One line for people, which also stands in the manifest's provenance."""
        scores = ", ".join(f"{tap} {score:.3f}" for tap, score in self.scores.items())
        reason = (
            f"the usual {', '.join(self.before)} {self.usual:.3f}, the best together {self.best:.3f} ± {self.error:.3f}"
        )
        probes = f"by probes of {', '.join(self.tasks)} on {self.samples} answers"
        return f"{', '.join(self.taps)}, {probes}: {scores}; {reason}"


def choose(
    recipe: Recipe,
    spec: EncoderSpec,
    samples: Sequence[StoredSample],
    scratch: Path,
    *,
    progress: Callable[[str], None] = lambda stage: None,
) -> TapChoice | None:
    """Chooses the layers of one encoder; None where the recipe names them, or too few samples have a label.

    Every layer is probed alone; then at most as many as usual are taken, each the one that adds most to those before.
    """
    if spec.taps != "auto" or spec.modality not in MODALITIES:
        return None
    if not (tables := _probe_tables(recipe, spec, samples)):
        return None
    progress(f"probing the layers of the {spec.modality} encoder")
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        before = encoders.load(spec, folder).taps
        encoder = encoders.load(msgspec.structs.replace(spec, every=True), folder)
        states = _mean_states(spec, encoder, {hashed_content(v): v for t in tables for v in t.values()}, folder)

    def correct(taps: Sequence[str]) -> Correct:
        return np.concatenate([table.correct([states[tap] for tap in taps]) for table in tables])

    alone = {tap: correct([tap]) for tap in encoder.taps}
    chosen = [_best_layer(alone)]
    best, usual = alone[chosen[0]], correct(before)
    while len(chosen) < min(len(before), len(alone)):
        extended = {tap: correct([*chosen, tap]) for tap in alone if tap not in chosen}
        if extended[added := _best_layer(extended)].mean() <= best.mean():
            break
        chosen, best = [*chosen, added], extended[added]
    error = float(np.sqrt((best != usual).sum()) / len(best))
    better = best.mean() - usual.mean() > error
    return TapChoice(
        modality=spec.modality,
        tasks=tuple(table.task for table in tables),
        samples=len(best),
        scores={tap: float(values.mean()) for tap, values in alone.items()},
        taps=tuple(sorted(chosen, key=encoder.taps.index)) if better else before,
        before=before,
        best=float(best.mean()),
        usual=float(usual.mean()),
        error=error,
    )


def _best_layer(correct: Mapping[str, Correct]) -> str:
    """The layer with the most correct predictions; of equals the deepest."""
    return max(reversed(list(correct)), key=lambda tap: float(correct[tap].mean()))


def recipe_taps(choice: TapChoice) -> tuple[int | str, ...]:
    """The chosen layers as a recipe names them."""
    return tuple(int(tap.removeprefix("layer.")) if tap.startswith("layer.") else tap for tap in choice.taps)


@dataclass(frozen=True)
class ProbeTable:
    """The labelled samples of one task; `slots`: what it reads of the modality."""

    task: str
    slots: tuple[Slot, ...]
    rows: tuple[StoredSample, ...]
    labels: NDArray[np.int64]

    def values(self) -> list[Any]:
        """Every value that the probes read."""
        return [v for sample in self.rows for slot in self.slots for _, v in golden.slot_values(slot, sample)]

    def correct(self, states: Sequence[Mapping[bytes, NDArray[np.float32]]]) -> Correct:
        """Which held-out predictions of probes that read these layers are correct, bool [rows].

        states: of each layer, the mean state float32 [width] by content of a value.
        """
        width = sum(len(next(iter(layer.values()))) for layer in states)

        def vectors(sample: StoredSample, slot: Slot) -> list[np.ndarray]:
            keys = [hashed_content(v) for _, v in golden.slot_values(slot, sample)]
            return [np.concatenate([layer[key] for layer in states]) for key in keys]

        x = np.array([linear_probe.sample_row([vectors(s, slot) for slot in self.slots], width) for s in self.rows])
        correct: Correct = linear_probe.held_out(x, self.labels) == self.labels
        return correct


def _probe_tables(recipe: Recipe, spec: EncoderSpec, samples: Sequence[StoredSample]) -> list[ProbeTable]:
    tables = []
    for task in recipe.tasks:
        slots = tuple(slot for slot in recipe.slots if slot.name in task.reads and slot.modality == spec.modality)
        rows = [s for s in samples if task.name in s.labels and any(golden.slot_values(slot, s) for slot in slots)]
        rows = fidelity.spread(rows, linear_probe.MOST_PROBE_SAMPLES)
        if not linear_probe.is_probed(task) or len(rows) < linear_probe.LEAST_PROBE_SAMPLES:
            continue
        labels = np.array([task.labels.index(str(s.labels[task.name])) for s in rows])
        if len(np.unique(labels)) > 1:
            tables.append(ProbeTable(task.name, slots, tuple(rows), labels))
    return tables


def _mean_states(
    spec: EncoderSpec, encoder: Encoder, values: Mapping[bytes, Any], folder: Path
) -> dict[str, dict[bytes, NDArray[np.float32]]]:
    """By layer and value: the mean of its tokens, float32 [width], before any compression."""
    modality = encoder.modality(spec)
    path = folder / "layers.onnx"
    path.write_bytes(canonical_bytes(encoder.graph))
    run = load(path, threads=1)
    ready = {key: prepare(modality, value, encoder.files.__getitem__) for key, value in values.items()}
    keys = sorted(ready, key=lambda key: (ready[key].tokens, key))
    states: dict[str, dict[bytes, NDArray[np.float32]]] = {tap: {} for tap in encoder.taps}
    for start in range(0, len(keys), fidelity.FEATURES_BATCH):
        part = keys[start : start + fidelity.FEATURES_BATCH]
        for feeds, counts in fidelity.batches(modality, [ready[key] for key in part]):
            for tap, outputs in run(feeds).items():
                for key, row, count in zip(part, outputs, counts, strict=True):
                    states[tap][key] = row[:count].mean(0)
    return states
