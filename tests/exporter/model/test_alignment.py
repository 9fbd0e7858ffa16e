"""Alignment: samples without a label teach a modality what another one knows, through the device's own training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
import torch

from homeroom import Device, Sample
from homeroom.contract.manifest import Objective, Training
from homeroom.contract.signing import certify
from homeroom.data.validation import resolve
from homeroom.errors import RecipeError
from homeroom.runtime.bundle import Bundle, open_bundle, write_signature
from homeroom.train.settings import Settings
from homeroom_exporter.bundle import write
from homeroom_exporter.bundle.write import GraphFile
from homeroom_exporter.check import check
from homeroom_exporter.export import steps
from homeroom_exporter.model.objectives import alignment
from homeroom_exporter.recipe.recipe import parse_recipe

SLOTS = ("word", "picture")


def design(work: Path) -> tuple[Any, dict[str, Any]]:
    """The tiny design's word and picture, one task that reads both, and their alignment."""
    whole, backbones = tiny.design_and_backbones(work)
    task = msgspec.structs.replace(next(t for t in whole.tasks if t.name == "category"), reads=SLOTS)
    modalities = tuple(whole.modality(name) for name in ("text", "image"))
    made = replace(
        whole,
        modalities=modalities,
        scales={m.name: whole.scales[m.name] for m in modalities},
        slots=tuple(whole.slot(name) for name in SLOTS),
        tasks=(task,),
        heads={"category": "fused"},
        objectives=(Objective(name="same_thing", kind="alignment", reads=SLOTS),),
    )
    return made, {m.name: backbones[m.name] for m in modalities}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    work = tmp_path_factory.mktemp("aligned")
    made, backbones = design(work / "backbones")
    draft = msgspec.structs.replace(tiny.draft(), slots=made.slots, tasks=made.tasks)
    contents = steps.assemble(
        made,
        backbones,
        [resolve(Sample(word=row["word"], picture=row["picture"]), draft) for row in rows(4, 7)],
        scratch=work,
        name="aligned",
        version=1,
        batch=tiny.BATCH,
        seed=3,
        training=Training(learning_rate=1e-2, epochs=12),
        provenance={},
        threads=1,
    )
    with write.staging(work / "bundle") as folder:
        manifest = write.fill(folder, contents)
        write_signature(folder, manifest, certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    return open_bundle(work / "bundle", root=None)


def rows(count: int, seed: int) -> list[dict[str, Any]]:
    found = [row for row in tiny.samples(2 * count, seed) if "picture" in row]
    return [{**row, "subject": f"pupil-{i % 7}"} for i, row in enumerate(found[:count])]


def labelled(count: int, seed: int, *slots: str) -> list[Sample]:
    return [
        Sample(
            **{slot: row[slot] for slot in slots},
            labels={"category": row["labels"]["category"]},
            subject=row["subject"],
            source=str(i),
        )
        for i, row in enumerate(rows(count, seed))
    ]


def unlabelled(count: int, seed: int) -> list[Sample]:
    return [Sample(word=r["word"], picture=r["picture"], source=str(i)) for i, r in enumerate(rows(count, seed))]


def test_the_step_with_an_objective_agrees_with_torch_and_stays_finite(bundle: Bundle, tmp_path: Path) -> None:
    made, _ = design(tmp_path)
    theta = bundle.theta() + np.random.default_rng(0).standard_normal(bundle.layout.size).astype(np.float32) * 0.05
    for facts in (graph for graph in bundle.manifest.graphs if graph.role != "features"):
        graph = GraphFile(bundle.path / facts.file, facts.role, batch=facts.batch, tokens=facts.tokens)
        found = check.check_step(made, theta, graph, threads=1)
        assert found.parity < check.PARITY[facts.role]
        assert found.unfinite == ()


def test_pairs_without_a_label_teach_pictures_what_labelled_words_mean(bundle: Bundle, tmp_path: Path) -> None:
    """Labels come with words alone; the test shows pictures alone."""
    test = labelled(40, 21, "picture")
    accuracy = {}
    for name, pairs in (("labels", 0), ("labels and pairs", 120)):
        with Device.open(tmp_path / name.replace(" ", "-"), bundle.path, threads=1) as device:
            device.add(*labelled(40, 11, "word"), gates=False)
            if pairs:
                device.add(*unlabelled(pairs, 12), gates=False)
            assert device.train(epochs=10).finished
            accuracy[name] = device.score(*test)["category"].accuracy
    assert accuracy["labels"] < 0.7  # 0.53 to 0.68 by the draw, and 1.0 with pairs
    assert accuracy["labels and pairs"] > accuracy["labels"] + 0.3


def test_a_school_without_any_label_trains_and_says_whom_it_taught(bundle: Bundle, tmp_path: Path) -> None:
    with Device.open(tmp_path / "bare", bundle.path, threads=1) as device:
        device.add(*unlabelled(24, 5), gates=False)
        report = device.train(settings=Settings(epochs=2, weight_decay=0.0))
        assert report.samples == 24
        version = device.store.versions.current()
        assert version is not None
        counts = version.facts["examples"]
        assert counts["ladder.text"] == counts["ladder.image"] > 0 == counts["head.category"]
        moved = bundle.layout.split(device.store.versions.theta(version.version_id) - bundle.theta())
        assert moved["ladder.image"].any()
        assert not moved["head.category"].any()


def test_a_row_with_one_input_teaches_nothing_and_is_nobodys_candidate() -> None:
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.randn(5, 8, generator=generator) for _ in range(2))
    presence = torch.ones(5, 2)
    presence[4, 1] = 0.0
    found = alignment([left, right], presence)
    assert found[4] == 0
    assert (found[:4] > 0).all()
    assert torch.allclose(found[:4], alignment([left[:4], right[:4]], presence[:4]))
    assert (alignment([left, left], torch.ones(5, 2)) < alignment([left, right], torch.ones(5, 2))).all()


RECIPE = """
name = "lesson"
version = 1
[encoders.text]
source = "pip:minilm"
[encoders.image]
source = "pip:efficientnet-lite0"
[slots]
word = "text"
picture = "image"
pictures = "image[4]"
[tasks.category]
kind = "classification"
reads = ["word", "picture", "pictures"]
labels = ["a", "b"]
[objectives.same]
kind = "alignment"
reads = ["word", "SLOT"]
"""


def test_a_recipe_names_what_is_aligned() -> None:
    (found,) = parse_recipe(RECIPE.replace("SLOT", "picture")).objectives
    assert (found.name, found.reads, found.weight) == ("same", ("word", "picture"), 1.0)
    with pytest.raises(RecipeError, match=r"line 18: objectives\.same\.reads: alignment reads single slots"):
        parse_recipe(RECIPE.replace("SLOT", "pictures"))
    with pytest.raises(RecipeError, match="there is no slot 'speech'"):
        parse_recipe(RECIPE.replace("SLOT", "speech"))
