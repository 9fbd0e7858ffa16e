"""A tiny bundle with tiers: only the table of `tiny`, so that its many graphs take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import tiny

from homeroom.contract.manifest import Training
from homeroom.contract.signing import certify
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature

TIERS = ("eighth", "half")
TASKS = ("size", "weight")


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """`tiny.samples` without all but the table and its two tasks."""
    return [
        {
            "facts": row["facts"],
            "labels": {task: row["labels"][task] for task in TASKS},
            "subject": f"pupil-{i % 9}",
        }
        for i, row in enumerate(tiny.samples(count, seed))
    ]


def design(work: Path, weighting: str = "fixed") -> tuple[Any, dict[str, Any]]:
    whole, backbones = tiny.design_and_backbones(work)
    tasks = tuple(msgspec.structs.replace(task, reads=("facts",)) for task in whole.tasks if task.name in TASKS)
    small = replace(
        whole,
        modalities=(whole.modality("table"),),
        scales={"table": whole.scales["table"]},
        slots=(whole.slot("facts"),),
        tasks=tasks,
        heads=dict.fromkeys(TASKS, "fused"),
        weighting=weighting,
    )
    return small, {"table": backbones["table"]}


def build(work: Path, tiers: tuple[str, ...] = TIERS, weighting: str = "fixed") -> Bundle:
    """Export it under `work`; returns it opened."""
    from homeroom_exporter.bundle import write
    from homeroom_exporter.export import steps
    from homeroom_exporter.model.tiers import make_tiers

    small, backbones = design(work / "backbones", weighting)
    contents = steps.assemble(
        small,
        backbones,
        [resolve(Sample(**row), draft(small)) for row in rows(4, seed=7)],
        scratch=work,
        name="tiered",
        version=1,
        batch=tiny.BATCH,
        seed=3,
        training=Training(learning_rate=1e-2, epochs=8),
        provenance={"made_by": "tests/tiered.py"},
        threads=1,
        tiers=make_tiers(small, tiers),
    )
    with write.staging(work / "bundle") as folder:
        manifest = write.fill(folder, contents)
        write_signature(folder, manifest, certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    return open_bundle(work / "bundle", root=None)


def draft(small: Any) -> Any:
    return msgspec.structs.replace(tiny.draft(), slots=small.slots, tasks=small.tasks)
