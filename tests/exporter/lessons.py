"""Small lessons with LoRA inside a random encoder: a recipe, its calibration samples, the exported bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import tiny

from exporter.small import with_checked_io
from homeroom.data.ingest import read_samples
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom_exporter.bundle.write import GraphFile, fill
from homeroom_exporter.export.design import design_of, draft
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.export.steps import assemble, step_graphs
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.lora import build as lora
from homeroom_exporter.model.lora.plan import Checkpoint
from homeroom_exporter.recipe.recipe import Recipe, parse_recipe

RECIPE = """\
name = "lesson"
version = 1
batch = 8
width = 16
hidden = 32
golden = 3
[encoders.text]
source = "hf:{model}"
buckets = [16]
quantize = "int8"
[adapter]
family = "lora"
rank = 4
[slots]
question = "text"
answer = "text"
[tasks.animal]
kind = "classification"
reads = ["answer"]
labels = ["cat", "dog"]
[tasks.match]
kind = "classification"
head = "pair"
reads = ["question", "answer"]
labels = ["yes", "no"]
[training]
learning_rate = 1e-2
epochs = 12
"""


def recipe(model: Path, **changes: str) -> Recipe:
    """`changes`: lines of the recipe by what they are to become, such as `rank = 4` by the name `rank`."""
    lines = RECIPE.format(model=model).splitlines()
    return parse_recipe("\n".join(changes.get(line.split(" = ")[0], line) for line in lines))


def rows(count: int, seed: int, pupils: int = 6) -> list[dict[str, object]]:
    draw = np.random.default_rng(seed)
    found: list[dict[str, object]] = []
    for i in range(count):
        asked, said = (str(draw.choice(["cat", "dog"])) for _ in range(2))
        choices = (["a", "the"], ["red", "blue", "big"], ["bird", "a small bird"])
        words = [str(draw.choice(one)) for one in choices]
        labels = {"animal": said, "match": "yes" if asked == said else "no"}
        answer = f"{words[0]} {words[1]} {said} likes {words[2]}"
        found.append(
            {"question": f"is the {asked} big", "answer": answer, "labels": labels, "subject": f"p{seed}-{i % pupils}"}
        )
    return found


def write_rows(path: Path, count: int, seed: int) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows(count, seed)) + "\n")
    return path


def traced(
    folder: Path, model: Path, start: Checkpoint | None = None, **changes: str
) -> tuple[Design, list[GraphFile]]:
    """The steps alone, without samples and self-check."""
    plan = recipe(model, **changes)
    assert plan.adapter
    inside = lora.build(plan.encoders[0], plan.adapter, folder, pairs=True, seed=0, start=start)
    design = design_of(plan, {}, inside)
    return design, step_graphs(design, folder, plan.batch, single=False, inside=inside)


def assembled(folder: Path, plan: Recipe, samples: Path, start: Checkpoint | None = None) -> tuple[Bundle, Design]:
    """The recipe's whole bundle in `folder`/bundle, without the self-check."""
    assert plan.adapter
    work = folder / "work"
    work.mkdir()
    pairs = plan.encoders[0].modality == "text"
    inside = lora.build(plan.encoders[0], plan.adapter, work, pairs=pairs, seed=0, start=start)
    design = design_of(plan, {}, inside)
    contents = assemble(
        design,
        {},
        list(read_samples(samples, draft(plan)))[:6],
        scratch=folder,
        name=plan.name,
        version=1,
        batch=plan.batch,
        seed=0,
        training=plan.training,
        provenance={},
        threads=1,
        inside=inside,
    )
    out = folder / "bundle"
    out.mkdir()
    manifest = fill(out, contents)
    write_signature(out, manifest, tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    return open_bundle(out, root=None), design


def exported(folder: Path, model: Path, start: Checkpoint | None = None, **changes: str) -> Bundle:
    """The lesson's bundle in `folder`/out."""
    samples = write_rows(folder / "calibration.jsonl", 40, 1)
    certificate = tiny.certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    out = folder / "out"
    export(recipe(model, **changes), samples, out, tiny.EXPORTER, certificate, start=start, threads=1)
    return with_checked_io(open_bundle(out, root=tiny.fingerprint(tiny.public_hex(tiny.ROOT))))
