"""Examples of stored samples as columns of numbers, each put together when it is asked for; imports dataset, shelf."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import StoredSample
from homeroom.data.tasks.targets import target
from homeroom.train.features.buffer import Contents, Place, Row, Shelf
from homeroom.train.features.dataset import Example, Examples, Some


class Columns(Examples):
    """Fifty thousand examples in some dozen bytes each; their features lie on a shelf.

    rows: int32 [examples], their numbers among the samples that `contents` is of. tokens: int32 [contents + 1], the
    last of them 0. What only some bundles have (targets for each token, words, notes, poor inputs) is kept as it is.
    """

    def __init__(
        self, manifest: Manifest, contents: Contents, shelf: Shelf, tokens: np.ndarray, rows: np.ndarray
    ) -> None:
        self._contents, self._shelf, self._tokens, self._rows = contents, shelf, tokens, rows
        self._modalities = [modality for _, modality, _ in manifest.inputs]
        self._tasks = {task.name: task for task in manifest.tasks if not task.per_token}
        self._targets = {task.name: np.zeros((len(rows), task.width), np.float32) for task in self._tasks.values()}
        self._given = {name: np.zeros(len(rows), bool) for name in self._tasks}
        self._numbers: dict[str, int] = {}  # of subjects and languages
        self._names: list[str] = []
        self._said = np.zeros((len(rows), 2), np.int32)
        self._ids: np.ndarray = np.zeros(len(rows), "V16")
        self._more: dict[int, tuple[Mapping[str, np.ndarray], dict[str, Any]]] = {}

    def put(self, at: int, sample: StoredSample, each: Mapping[str, np.ndarray], **more: Any) -> None:
        """each: targets per token, by task; more: of what an `Example` may have besides."""
        self._ids[at] = bytes.fromhex(sample.sample_id)
        self._said[at] = self._number(sample.subject), self._number(sample.language or "")
        for name, task in self._tasks.items():
            if name in sample.labels:
                self._targets[name][at], self._given[name][at] = target(task, sample.labels[name]), True
        if each or any(more.values()):
            self._more[at] = each, more

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, at: Any) -> Any:
        if isinstance(at, slice):
            return Some(self, np.arange(len(self))[at])
        at = range(len(self))[at]  # also from the end
        row = self._rows.item(at)
        longest: dict[str, int] = {}
        for modality, number in zip(self._modalities, self._contents.numbers[row].tolist(), strict=True):
            if number >= 0:
                longest[modality] = max(longest.get(modality, 0), self._tokens.item(number))
        each, more = self._more.get(at, ({}, {}))
        subject, language = (self._names[number] for number in self._said[at].tolist())
        return Example(
            inputs=Row(self._shelf, self._contents, row),
            targets={name: self._targets[name][at] for name in self._tasks if self._given[name][at]} | dict(each),
            subject=subject,
            sample_id=self._ids[at].tobytes().hex() if any(self._ids[at].tobytes()) else "",
            language=language,
            longest=longest,
            **more,
        )

    def inputs_of(self, rows: np.ndarray) -> list[Mapping[Place, np.ndarray]]:
        numbers = self._contents.numbers[self._rows[rows]].tolist()
        arrays = self._shelf.some([number for row in numbers for number in row if number >= 0])
        places = self._contents.places
        return [{place: arrays[n] for place, n in zip(places, row, strict=True) if n >= 0} for row in numbers]

    def _number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self._names)
            self._names.append(name)
        return self._numbers[name]
