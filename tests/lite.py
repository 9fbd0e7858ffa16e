"""A tiny bundle with graphs for LiteRT beside those for onnxruntime: the two texts of `tiny`, compared.

`sdk/litert/lite.homeroom` is one that was converted once, since converting takes a minute and an environment of its
own: `python tests/lite.py` writes it anew (a new format of bundles does not ask for that: old ones must be read).
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import tiny

from homeroom.contract.manifest import Training
from homeroom.contract.signing import certify
from homeroom.data.samples import Sample
from homeroom.data.validation import resolve
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature, zip_bundle

STORED = Path(__file__).with_name("sdk") / "litert" / "lite.homeroom"
SLOTS, TASKS = ("reference", "answer"), ("grade",)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    """`tiny.samples` without all but the two texts and their grade."""
    return [
        {
            **{slot: row[slot] for slot in SLOTS},
            "labels": {task: row["labels"][task] for task in TASKS},
            "subject": f"pupil-{i % 9}",
        }
        for i, row in enumerate(tiny.samples(count, seed))
    ]


def design(work: Path) -> tuple[Any, dict[str, Any]]:
    whole, backbones = tiny.design_and_backbones(work)
    small = replace(
        whole,
        modalities=(whole.modality("text"),),
        scales={"text": whole.scales["text"]},
        slots=tuple(slot for slot in whole.slots if slot.name in SLOTS),
        tasks=tuple(task for task in whole.tasks if task.name in TASKS),
        heads={task: whole.heads[task] for task in TASKS},
    )
    return small, {"text": backbones["text"]}


def build(work: Path, **options: Any) -> Bundle:
    """Export and convert it under `work`; returns it opened. options: of `steps.assemble`."""
    from homeroom.data.preprocess import prepare
    from homeroom_exporter.bundle import write
    from homeroom_exporter.export import steps
    from homeroom_exporter.interchange import litert

    small, backbones = design(work / "backbones")
    draft = msgspec.structs.replace(tiny.draft(), slots=small.slots, tasks=small.tasks)
    samples = [resolve(Sample(**row), draft) for row in rows(12, seed=7)]
    contents = steps.assemble(
        small,
        backbones,
        samples[:4],
        scratch=work,
        name="lite",
        version=1,
        batch=tiny.BATCH,
        seed=3,
        training=Training(learning_rate=1e-2, epochs=8),
        provenance={"made_by": "tests/lite.py"},
        threads=1,
        **options,
    )
    made = backbones["text"]
    values = [value for sample in samples for slot in SLOTS for value in sample.inputs[slot]]
    inputs = {"text": [prepare(made.modality, value, made.files.__getitem__) for value in values]}
    (work / "litert").mkdir()
    found = litert.convert(contents, inputs, work / "litert", threads=1, progress=print)
    contents = replace(contents, converted=found.graphs, unconverted=found.refused)
    with write.staging(work / "bundle") as folder:
        manifest = write.fill(folder, contents)
        write_signature(folder, manifest, certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    return open_bundle(work / "bundle", root=None)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        build(Path(scratch))
        zip_bundle(Path(scratch) / "bundle", Path(scratch) / "lite.homeroom")
        shutil.copyfile(Path(scratch) / "lite.homeroom", STORED)
    print(STORED, STORED.stat().st_size)
