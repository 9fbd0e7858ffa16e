"""The benchmark of solved heads: its arithmetic holds on one seed, and a section that nobody knows is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import cast

import msgspec
import numpy as np
import pytest

import solved
import solved_private
import solved_sums
import solved_vocabulary
from homeroom.contract.manifest import Manifest, Slot, Task
from homeroom.contract.signing import Certificate
from homeroom.contract.statistics.accumulate import to_grid
from homeroom.contract.statistics.section import Block, BlockKind, Section
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.dataset import Dataset, Example
from homeroom.train.solve.vectors.samples import SampleVectors


class SimpleManifest(msgspec.Struct, frozen=True):
    """The fields of a manifest that sums and heads read."""

    statistics: Section
    tasks: tuple[Task, ...]
    slots: tuple[Slot, ...]


def test_sums_are_exact_and_heads_keep_what_they_promise_on_one_seed() -> None:
    found, targets = solved.sums(1)
    unmet = [one["name"] for one in targets if not one["met"]]
    assert not [name for name in unmet if "4 liars" not in name]
    assert found["exactness"]["together"] > found["exactness"]["alone"] + 0.2
    assert all(share < 1.05 for share in found["robustness"]["of_clean"].values())


def test_a_private_release_answers_and_more_noise_answers_worse() -> None:
    for accuracies in solved_private.private(0).values():
        assert accuracies["without noise"] > 0.85
        assert accuracies["by pupil, epsilon 2"] > accuracies["100 devices, epsilon 2"] > 0.6


def test_cost_is_of_three_modalities() -> None:
    assert solved_sums.cost(60, 1)["dimensions"] == [15, 15, 15]


def test_means_are_over_seeds_and_truths_hold_for_all() -> None:
    found = solved_sums.mean_over([{"a": 1.0, "b": True, "c": {"d": 2}}, {"a": 2.0, "b": False, "c": {"d": 4}}])
    assert found == {"a": 1.5, "b": False, "c": {"d": 3.0}}


def test_a_section_that_nobody_knows_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "argv", ["solved.py", "--only", "nothing", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit):
        solved.main()
    assert "known: sums, private, cost" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("telling", "chosen"), [("word.letters", {"match": True}), ("word", {})])
def test_whether_letters_are_read_is_chosen_by_schools_that_a_total_is_not_of(
    telling: str, chosen: dict[str, bool]
) -> None:
    rng = np.random.default_rng(0)
    sizes: dict[str, tuple[BlockKind, int, int]] = {
        "pictures": ("taps", 3, 6),
        "word": ("text", 1, 20),
        "word.letters": ("letters", 1, 20),
    }
    blocks = tuple(
        Block(statistics_id=str(n) * 64, kind=kind, slots=(name.split(".")[0],), inputs=inputs, width=8, dimension=size)
        for n, (name, (kind, inputs, size)) in enumerate(sizes.items())
    )
    section = Section(file="s", blocks=blocks, letters=("match",))
    task = Task(name="match", kind="choice", reads=("word", "pictures"), width=3)
    slots = (Slot("word", "text"), Slot("pictures", "image", 3))
    manifest = cast(Manifest, SimpleManifest(statistics=section, tasks=(task,), slots=slots))

    def pupils() -> solved_vocabulary.Pupils:
        options, right = rng.normal(0, 0.3, (30, 3, 6)), rng.integers(0, 3, 30)
        values = {name: rng.normal(0, 0.2, (30, 1, 20)) for name in ("word", "word.letters")}
        values[telling][:, 0, :6] += 0.7 * options[np.arange(30), right]
        every = {**values, "pictures": options}
        grid = {name: to_grid(some.reshape(-1, some.shape[2])).reshape(some.shape) for name, some in every.items()}
        there = {name: np.ones(v.shape[:2], bool) for name, v in grid.items()}
        told = [
            Example(inputs={}, targets={"match": np.eye(3, dtype=np.float32)[one]}, subject=str(n % 6))
            for n, one in enumerate(right)
        ]
        return solved_vocabulary.Pupils(Dataset(manifest, told), SampleVectors(section, grid, there))

    bundle = Bundle(Path(), manifest, "", cast(Certificate, None))
    learn = {name: pupils() for name in "abc"}
    schools = solved_vocabulary.Schools(bundle, cast(Graphs, None), learn, {}, {}, {})
    letters, strengths = solved_vocabulary.choose(schools)
    assert letters == chosen
    assert strengths.keys() == {"match"}
    read = schools.reading(letters)
    assert read.section.letter_tasks == tuple(chosen)
    assert all(one.vectors.section == read.section for one in read.learn.values())
