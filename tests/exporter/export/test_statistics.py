"""The manifest's statistics: every bundle says what heads are solved from, and its vectors are on the grid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import solvable
import tiny

from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.statistics.section import DIMENSION_LIMIT, Section
from homeroom.contract.statistics.sums import ONE
from homeroom.data.samples import Sample, StoredSample
from homeroom.data.tasks import target
from homeroom.data.validation import resolve
from homeroom.errors import BundleError
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.examples import examples
from homeroom.train.solve.base import Blocks, Strength
from homeroom.train.solve.kinds import SOLVERS
from homeroom.train.solve.vectors.overlap import overlap_numbers
from homeroom.train.solve.vectors.projection import read_projections
from homeroom.train.solve.vectors.samples import SampleVectors, blocks_of, covered, sample_vectors
from homeroom.train.solve.vectors.surface import surface_numbers
from homeroom_exporter.export.statistics import fit_projection


@pytest.fixture(scope="module")
def bundle(solved_bundle: tiny.Tiny) -> Bundle:
    return open_bundle(solved_bundle.path, root=None)


def test_the_same_samples_give_the_same_statistics(solved_bundle: tiny.Tiny, tmp_path: Path) -> None:
    again = solvable.with_statistics(tmp_path / "again")
    assert again.manifest == solved_bundle.manifest


def vectors_of(bundle: Bundle, rows: list[dict[str, Any]]) -> tuple[SampleVectors, list[StoredSample]]:
    stored = [resolve(Sample(**row), bundle.manifest) for row in rows]
    ready = examples(None, bundle, Graphs(bundle, threads=1), stored)
    inputs = [example.inputs for example in ready]
    projections = read_projections(bundle)
    return sample_vectors(bundle.manifest, projections, stored, inputs, lambda _, value: value), stored


def section_of(bundle: Bundle) -> Section:
    section = bundle.manifest.statistics
    assert isinstance(section, Section)
    return section


def test_every_slot_of_a_solved_task_has_a_block_and_texts_that_are_read_together_one_for_both(bundle: Bundle) -> None:
    section = section_of(bundle)
    assert {block.name: block.kind for block in section.blocks} == {
        "word": "text",
        "picture": "taps",
        "pictures": "taps",
        "speech": "taps",
        "facts": "table",
        "reference.answer.pair": "pair",
        "reference.answer.overlap": "overlap",
    }
    assert {task.kind for task in covered(bundle.manifest)} == set(SOLVERS)
    assert [block.kind for block in blocks_of(section, bundle.manifest.task("grade"))[0]] == ["pair", "overlap"]
    choice = bundle.manifest.task("which_picture")
    asked, options = blocks_of(section, choice)
    assert ([block.name for block in asked], [block.name for block in options]) == (["word"], ["pictures"])


def test_calibration_samples_choose_the_dimension(bundle: Bundle) -> None:
    for block in section_of(bundle).blocks:
        samples = 240 if block.name == "pictures" else 60
        assert block.dimension <= min(DIMENSION_LIMIT, samples // 4)
    rng = np.random.default_rng(0)
    many = fit_projection(rng.normal(size=(800, 200)).astype(np.float32), [(200, None)])
    flat = fit_projection(np.ones((80, 20), np.float32), [(20, None)])
    thin = fit_projection(rng.normal(size=(80, 2)).astype(np.float32) @ np.ones((2, 20), np.float32), [(20, 1.0)])
    assert many
    assert thin
    assert (many.matrix.shape, flat, thin.matrix.shape) == ((200, 96), None, (20, 1))


def test_vectors_are_on_the_grid_and_few_are_cut(bundle: Bundle) -> None:
    vectors, _ = vectors_of(bundle, tiny.samples(60, seed=7))
    for name, values in vectors.values.items():
        norms = np.linalg.norm(values[vectors.present[name]], axis=1)
        assert values.dtype == np.int16
        assert norms.max() <= ONE
        if name in ("picture", "pictures", "speech", "facts"):  # of the few texts many are the same
            assert np.mean(norms > ONE * 0.995) < 0.1
        assert not values[~vectors.present[name]].any()


def test_heads_are_solved_from_a_bundles_own_vectors(bundle: Bundle) -> None:
    vectors, stored = vectors_of(bundle, tiny.samples(120, seed=1))
    unseen, tests = vectors_of(bundle, tiny.samples(60, seed=2))
    right = {}
    for task in covered(bundle.manifest):
        rows = [row for row, sample in enumerate(stored) if task.name in sample.labels]
        targets = np.stack([target(task, stored[row].labels[task.name]) for row in rows])
        mine, theirs = (found.of_task(task) for found in (vectors, unseen))
        solver = SOLVERS[task.kind]
        options = mine.options[0] if mine.options else ()
        blocks = Blocks(*([(b.statistics_id, b.values.shape[1]) for b in some] for some in (mine.blocks, options)))
        head = solver.head(task, solver.sums(task, mine.subset(np.array(rows)), targets), blocks, Strength())
        outputs = head.outputs(theirs)
        assert outputs.shape == (60, task.width)
        known = [row for row, sample in enumerate(tests) if task.name in sample.labels]
        if task.kind in ("classification", "choice"):
            expected = np.stack([target(task, tests[row].labels[task.name]) for row in known])
            right[task.name] = (outputs[known].argmax(1) == expected.argmax(1)).mean()
    assert right["category"] > 0.9
    assert right["grade"] > 0.6
    assert right["which_picture"] > 0.7


def test_a_bundle_of_before_has_no_statistics_and_stays_as_it_is() -> None:
    made = tiny.bundle()
    assert not isinstance(made.manifest.statistics, Section)
    assert b'"statistics"' not in (made.path / "manifest.json").read_bytes()
    assert covered(made.manifest) == []
    assert read_projections(open_bundle(made.path, root=None)) == {}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"file": "none.safetensors"}, "none.safetensors is named"),
        ({"slots": ["nowhere"]}, "does not read"),
        ({"kind": "taps"}, "does not read"),
        ({"kind": "pair"}, "does not read"),
        ({"inputs": 2}, "another number of inputs"),
        ({"twice": True}, "are the same"),
        ({"dimension": 97}, "dimension"),
        ({"statistics_id": "x"}, "statistics_id"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(bundle: Bundle, change: dict[str, Any], word: str) -> None:
    document = json.loads((bundle.path / "manifest.json").read_bytes())
    section = document["statistics"]
    if "file" in change:
        section["file"] = change["file"]
    elif "twice" in change:
        section["blocks"].append(section["blocks"][0])
    else:
        section["blocks"][0] |= change
    with pytest.raises(BundleError, match=word):
        read_manifest(json.dumps(document).encode())


def test_projections_that_do_not_fit_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    import safetensors.numpy

    file = section_of(bundle).file
    good = safetensors.numpy.load_file(bundle.file(file))
    for values in (good["word.mean"][:-1], good["word.mean"].astype(np.float64), good["word.mean"] * np.nan):
        (tmp_path / file).write_bytes(safetensors.numpy.save(good | {"word.mean": values}))
        with pytest.raises(BundleError, match=r"word\.mean"):
            read_projections(Bundle(tmp_path, bundle.manifest, bundle.bundle_id, bundle.certificate))


@pytest.mark.parametrize("text", ["", " ", "...", "a", "Ünïcödé 12,5!", "猫は魚が好きです。", "word " * 4000])
def test_surface_and_overlap_numbers_are_finite_for_any_text(text: str) -> None:
    for numbers in (surface_numbers(text), overlap_numbers(text, "the cat"), overlap_numbers("the cat", text, "xx")):
        assert np.isfinite(numbers).all()
        assert np.abs(numbers).max() <= 16


def test_overlap_sees_negation_in_the_named_language_alone() -> None:
    def denies(text: str, language: str) -> bool:
        return bool((overlap_numbers("es regnet", text, language) != overlap_numbers("es regnet", text, "xx")).any())

    assert denies("es regnet nicht", "de")
    assert not denies("es regnet nicht", "en")
    assert denies("it does not rain", "")
