"""Examples of stored samples as columns of numbers; each example is put together when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import StoredSample
from homeroom.data.tasks import kind_of, target
from homeroom.train.features.buffer import ContentIndex, FeatureBuffer, InputKey, LazyInputs
from homeroom.train.features.dataset import Example, LazyExamples, Subset


class Columns(LazyExamples):
    """Fifty thousand examples in some dozen bytes each; their features are in a buffer.

    tokens: int32 [contents + 1], the last of them 0, for an absent input
    rows: int32 [examples], their rows in `contents`

    Facts that only some bundles have (targets per token, words, notes, poor inputs) are kept as objects.
    """

    def __init__(
        self, manifest: Manifest, contents: ContentIndex, buffer: FeatureBuffer, tokens: np.ndarray, rows: np.ndarray
    ) -> None:
        self._contents, self._buffer, self._tokens, self._rows = contents, buffer, tokens, rows
        self._modalities = [modality for _, modality, _ in manifest.inputs]
        self._tasks = {task.name: task for task in manifest.tasks if not kind_of(task).per_token}
        self._targets = {task.name: np.zeros((len(rows), task.width), np.float32) for task in self._tasks.values()}
        self._labelled = {name: np.zeros(len(rows), bool) for name in self._tasks}
        self._name_numbers: dict[str, int] = {}  # of subjects and languages
        self._names: list[str] = []
        self._subject_language = np.zeros((len(rows), 2), np.int32)
        self._ids: np.ndarray = np.zeros(len(rows), "V16")
        self._objects: dict[int, tuple[Mapping[str, np.ndarray], dict[str, Any]]] = {}

    def put(self, position: int, sample: StoredSample, token_targets: Mapping[str, np.ndarray], **more: Any) -> None:
        """Sets an example. token_targets: float32, tokens first, by task; more: further fields of `Example`."""
        self._ids[position] = bytes.fromhex(sample.sample_id)
        self._subject_language[position] = self._number(sample.subject), self._number(sample.language or "")
        for name, task in self._tasks.items():
            if name in sample.labels:
                self._targets[name][position] = target(task, sample.labels[name])
                self._labelled[name][position] = True
        if token_targets or any(more.values()):
            self._objects[position] = token_targets, more

    def inputs(self, position: int) -> LazyInputs:
        """The features of an example's inputs."""
        return LazyInputs(self._buffer, self._contents, self._rows.item(position))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Subset(self, np.arange(len(self))[index])
        position = range(len(self))[index]  # also from the end
        longest: dict[str, int] = {}
        numbers = self._contents.numbers[self._rows.item(position)].tolist()
        for modality, number in zip(self._modalities, numbers, strict=True):
            if number >= 0:
                longest[modality] = max(longest.get(modality, 0), self._tokens.item(number))
        token_targets, more = self._objects.get(position, ({}, {}))
        targets = {name: self._targets[name][position] for name in self._tasks if self._labelled[name][position]}
        subject, language = (self._names[number] for number in self._subject_language[position].tolist())
        sample_id = self._ids[position].tobytes()
        return Example(
            inputs=self.inputs(position),
            targets=targets | dict(token_targets),
            subject=subject,
            sample_id=sample_id.hex() if any(sample_id) else "",
            language=language,
            longest=longest,
            **more,
        )

    def inputs_of(self, rows: np.ndarray) -> list[Mapping[InputKey, np.ndarray]]:
        """The inputs of the examples with these numbers, read together from the buffer."""
        numbers = self._contents.numbers[self._rows[rows]].tolist()
        arrays = self._buffer.read([number for row in numbers for number in row if number >= 0])
        keys = self._contents.inputs
        return [{key: arrays[n] for key, n in zip(keys, row, strict=True) if n >= 0} for row in numbers]

    def _number(self, name: str) -> int:
        if name not in self._name_numbers:
            self._name_numbers[name] = len(self._names)
            self._names.append(name)
        return self._name_numbers[name]
