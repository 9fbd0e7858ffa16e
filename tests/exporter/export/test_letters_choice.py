"""A head reads the letters of its texts unless this device's validation samples clearly say otherwise."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
import solvable
import tiny

from homeroom import Device, Sample
from homeroom.contract.statistics.accumulate import to_grid
from homeroom.contract.statistics.section import Section
from homeroom.contract.statistics.sums import NOTHING
from homeroom.device import judging
from homeroom.device.solved import HeadsInUse, TaughtVectors, mix_facts, solved_lines
from homeroom.federation import versions
from homeroom.train.solve.combine import SolvedPart
from homeroom.train.solve.heads import reads_letters_beside
from homeroom.train.solve.vectors.samples import SampleVectors, covered

TASK, LETTERS = "which_picture", "word.letters"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    return solvable.with_statistics(tmp_path_factory.mktemp("letters") / "bundle", letters={TASK: False})


def section_of(made: tiny.Tiny) -> Section:
    assert isinstance(made.manifest.statistics, Section)
    return made.manifest.statistics


def lesson(made: tiny.Tiny, count: int, kept: int, *, misled: bool) -> tuple[TaughtVectors, Any]:
    """Pairs of which the first `kept` are for validation. misled: letters say there what no other sample taught."""
    rng, section, task = np.random.default_rng(1), section_of(made), made.manifest.task(TASK)
    widths = {block.name: block.dimension for block in section.blocks}
    shown = rng.normal(0, 1, (count, task.width, 6))
    at = rng.integers(0, task.width, count)
    latent = shown[np.arange(count), at]
    said = latent.copy()
    if misled:
        said[:kept] = rng.normal(0, 1, (kept, 6))
    seen = {"word": latent[:, None], LETTERS: said[:, None], "pictures": shown}
    values = {}
    for name, numbers in seen.items():
        mixed = numbers @ rng.normal(0, 0.1, (6, widths[name]))
        noisy = mixed + rng.normal(0, 0.3 if name == "word" else 0.01, mixed.shape) * 0.3
        values[name] = np.stack([to_grid(noisy[:, k]) for k in range(noisy.shape[1])], 1)
    there = {name: np.ones(one.shape[:2], bool) for name, one in values.items()}
    vectors = SampleVectors(section, values, there)
    ids = [f"{row:032x}" for row in range(count)]
    targets, counted = {TASK: np.eye(task.width, dtype=np.float32)[at]}, {TASK: np.ones(count, bool)}
    bundle: Any = SimpleNamespace(manifest=made.manifest)
    people = [f"p-{row % 20}" for row in range(count)]
    taught = TaughtVectors(bundle, [task], vectors, targets, counted, people, ids, NOTHING)
    return taught, SimpleNamespace(examples=[SimpleNamespace(sample_id=one) for one in ids[:kept]])


def right(part: SolvedPart, taught: TaughtVectors, kept: int) -> float:
    return float((part.outputs[TASK].values.argmax(1) == taught.targets[TASK][:kept].argmax(1)).mean())


def test_letters_that_mislead_are_left_out_where_enough_samples_say_so(made: tiny.Tiny) -> None:
    taught, validation = lesson(made, 300, 80, misled=True)
    part = taught.part(validation)
    lettered = taught._part(np.arange(300) < 80, frozenset())
    assert part.unlettered == {TASK}
    assert right(part, taught, 80) > right(lettered, taught, 80) + 0.1
    assert mix_facts(part, {})["unlettered"] == [TASK]


@pytest.mark.parametrize(("kept", "misled"), [(80, False), (49, True)])
def test_letters_are_read_where_they_help_or_few_samples_judge(made: tiny.Tiny, kept: int, misled: bool) -> None:
    taught, validation = lesson(made, 300, kept, misled=misled)
    part = taught.part(validation)
    assert part.unlettered == frozenset()
    assert "unlettered" not in mix_facts(part, {})


def test_only_a_head_that_has_something_else_to_read_may_do_without(made: tiny.Tiny) -> None:
    section = section_of(made)
    tasks = [task.name for task in covered(made.manifest) if reads_letters_beside(section, task)]
    assert tasks == [TASK]
    alone = msgspec.structs.replace(section, letters_alone=(TASK,))
    assert not reads_letters_beside(alone, made.manifest.task(TASK))


def test_a_device_answers_as_it_chose(made: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.device.solved.better_without", lambda *_: True)
    letters = next(block.statistics_id for block in section_of(made).blocks if block.kind == "letters")
    with contextlib.closing(Device.open(tmp_path / "device", made.path, made.root, threads=1)) as device:
        device.add(*(Sample(**row) for row in tiny.samples(60, 1)))
        device.train(epochs=1)
        version = device.store.versions.current()
        assert versions.unlettered(device.store, version) == (TASK,)
        heads, _ = HeadsInUse().read(device.store, device.bundle)
        assert letters not in heads[TASK].reads
        assert f"{TASK}: solved" in (line := next(x for x in solved_lines(device.store, device.bundle) if TASK in x))
        assert line.endswith("clearly better without letters")
        asked = {key: value for key, value in tiny.samples(1, 2)[0].items() if key != "labels"}
        assert device.predict(Sample(**asked))[TASK].best is not None
        known = judging._judge(device.store, device.bundle, device.graphs, version, version)
        assert known.unlettered == (TASK,)
        assert msgspec.json.decode(msgspec.json.encode(known), type=versions.JudgedVersion) == known
