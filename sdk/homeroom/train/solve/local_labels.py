"""Labels that one device alone has: a solved head tells them from the bundle's labels that it knows.

The bundle's own answer stays as it is. The head's probability of a local label takes its share of what the bundle's
answer gives to the labels that the head was taught; of labels that it never saw it cannot tell a local one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from homeroom.contract.manifest import Manifest, Task
from homeroom.data.tasks import probabilities
from homeroom.train.solve.combine import SolvedOutputs


def with_labels(manifest: Manifest, labels: Mapping[str, tuple[str, ...]]) -> Manifest:
    """The manifest as if its tasks had further labels, by task: to read samples by, never to train theta by."""
    tasks = tuple(extended(task, labels[task.name]) if task.name in labels else task for task in manifest.tasks)
    return msgspec.structs.replace(manifest, tasks=tasks)


def extended(task: Task, labels: tuple[str, ...]) -> Task:
    """The task with further labels, the last ones."""
    return msgspec.structs.replace(task, labels=(*task.labels, *labels), width=task.width + len(labels))


@dataclass(frozen=True)
class LocalOutputs:
    """Outputs of a head that knows local labels too.

    task: with these labels, the last ones
    outputs: of n samples, as wide
    temperature: of calibration
    samples: by local label, how many taught it
    """

    task: Task
    outputs: SolvedOutputs
    temperature: float
    samples: Mapping[str, int]

    def chances(self, without: np.ndarray) -> np.ndarray:
        """float64 [n, width]: probabilities over all labels. without: [n, width before], over the bundle's."""
        width, known = without.shape[1], self.outputs.known
        values = np.where(known, self.outputs.values, -np.inf)
        told = np.isfinite(values).any(1)
        solved = np.zeros(values.shape)
        solved[told] = probabilities(self.task, values[told], self.temperature)
        among = np.where(known[:, :width], without, 0.0)
        local = solved[:, width:] * known[:, width:]
        bundle = np.where(known[:, :width], without * (1 - local.sum(1, keepdims=True)), without)
        return np.concatenate([bundle, local * among.sum(1, keepdims=True)], 1)

    def doubt(self, best: object) -> str:
        """Why an answer is not sure; empty where it is none of the local labels."""
        if best not in self.samples:
            return ""
        number = self.samples[str(best)]
        return f"{best!r} is a label of this device, learned from {number} sample{'s' * (number != 1)} and not checked"
