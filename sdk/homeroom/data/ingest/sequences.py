"""Rows of a sheet that are one interaction each become one sequence a person; imports samples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from homeroom.contract.manifest import Manifest
from homeroom.data.samples import Sample
from homeroom.data.validation import find_slot
from homeroom.errors import InputError


def gather_interactions(samples: Iterable[Sample], manifest: Manifest) -> Iterator[Sample]:
    """Samples as they are, and after them those of each person's interactions, in the order of their rows.

    What else such rows say, they must say alike. InputError where one does not say whose it is.
    """
    found: dict[str, Sample] = {}
    for sample in samples:
        steps = {name: value for name, value in sample.inputs.items() if _is_interaction(name, value, manifest)}
        if not steps:
            yield sample
            continue
        where = str(sample.origin)
        if sample.subject is None:
            raise InputError("does not say whose interaction it is", where=where, remedy="add a column subject")
        if sample.subject not in found:
            found[sample.subject] = sample
            sample.origin = f"{where} and on"
            sample.inputs |= {name: [value] for name, value in steps.items()}
            continue
        whole = found[sample.subject]
        for name, value in steps.items():
            whole.inputs.setdefault(name, []).append(value)
        _require_agreement(whole.inputs, {n: v for n, v in sample.inputs.items() if n not in steps}, where)
        _require_agreement(whole.labels, sample.labels, where)
    yield from found.values()


def _is_interaction(name: str, value: Any, manifest: Manifest) -> bool:
    return isinstance(value, dict) and find_slot(name, manifest).modality == "sequence"


def _require_agreement(whole: dict[str, Any], part: dict[str, Any], where: str) -> None:
    for name, value in part.items():
        if whole.setdefault(name, value) != value:
            raise InputError(f"says {value!r} of {name}, an earlier row {whole[name]!r}", where=where)
