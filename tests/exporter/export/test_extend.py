"""A bundle that extends another: encoders, statistics and old answers stay; new labels begin unheard."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import fields as fields_of
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grown
import msgspec
import numpy as np
import pytest
import tiny
from click.testing import CliRunner
from grown import (
    CERTIFICATE,
    FIRST,
    NEW,
    OLD,
    RECIPE,
    SECOND,
    THIRD,
    accuracy,
    asked,
    check_answers,
    exported,
    rows,
    write,
)

from homeroom import Device, Sample
from homeroom.cli.main import homeroom
from homeroom.contract.canonical_json import canonical
from homeroom.contract.continuation import MASKED_LOGIT, Continuation, Growth, label_columns
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.manifest import Task
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.signing import certify, new_key
from homeroom.data.tasks import check_tasks, probabilities
from homeroom.data.validation import resolve
from homeroom.errors import BundleError, ExportError, HomeroomError, RecipeError, TrustError
from homeroom.federation import versions
from homeroom.runtime.bundle import Bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.distillation import Distillation, answers_before
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom.train.solve.combine import Mix, SolvedOutputs, answered
from homeroom.train.solve.vectors.samples import sums_id
from homeroom.train.step import Steps, gradient
from homeroom_exporter.bundle.write import BundleContents, Fitted
from homeroom_exporter.export.extend import Extended, check_old_answers, open_extended, with_earlier_statistics
from homeroom_exporter.model.lora.plan import AdapterPlan
from homeroom_exporter.recipe.recipe import parse_recipe

Make = Callable[..., Bundle]
ANOTHER_TASK = '[tasks.size]\nkind = "classification"\nreads = ["facts"]\nlabels = ["small", "large"]\n'


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Exports a recipe of these fields, of other calibration samples each time."""
    return partial(exported, tmp_path)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, Bundle]:
    """One bundle after another, each extending the one before."""
    folder = tmp_path_factory.mktemp("bundles")
    first = exported(folder, **FIRST)
    second = exported(folder, first, **SECOND)
    return first, second, exported(folder, second, **THIRD)


@pytest.fixture
def device(bundles: tuple[Bundle, ...], tmp_path: Path) -> Iterator[Path]:
    """The folder of a device that learned with the first bundle."""
    with Device.open(tmp_path / "device", bundles[0].path, threads=1) as device:
        device.add(write(tmp_path / "samples.jsonl", rows(240, OLD)))
        device.train(settings=Settings(epochs=12, learning_rate=2e-2))
    return tmp_path / "device"


def test_an_extended_bundle_keeps_encoders_statistics_and_names_what_nobody_taught(
    bundles: tuple[Bundle, ...],
) -> None:
    first, second, third = (bundle.manifest for bundle in bundles)
    assert second.modalities == first.modalities == third.modalities
    assert second.statistics == first.statistics  # though the calibration samples are others
    assert (first.format, second.format) == (2, 4)
    assert second.masked == {"kind": NEW, "traits": ("red",)}
    assert third.masked == {"kind": (*NEW, "k"), "traits": ("red",)}
    assert third.continues.sums == (sums_id(second), sums_id(first))


def test_old_answers_stay_without_training_and_a_new_label_answers_once_it_is_taught(
    bundles: tuple[Bundle, ...], device: Path, tmp_path: Path
) -> None:
    first, second, _ = bundles
    with Device.open(device, threads=1) as opened:
        before, known = opened.predict_many(asked(OLD)), accuracy(opened, OLD)
        assert known > 0.9
        was = versions.theta_of(opened.store, opened.bundle, opened.store.versions.current())
    with Device.open(device, second.path, threads=1) as opened:
        check_answers(before, opened.predict_many(asked(OLD)), NEW)
        theta = versions.theta_of(opened.store, opened.bundle, opened.store.versions.current())
        old, new = (bundle.manifest.layout.split(values) for bundle, values in ((first, was), (second, theta)))
        assert np.array_equal(new["head.kind"][: len(old["head.kind"])], old["head.kind"])
        assert not new["head.kind"][len(old["head.kind"]) :].any()
        assert np.array_equal(new["ladder.table"], old["ladder.table"])

        opened.train(settings=Settings(epochs=2))  # on old samples: nobody has taught it yet
        assert all(a["kind"].probabilities[label] == 0.0 for a in opened.predict_many(asked(NEW)) for label in NEW)
        opened.add(write(tmp_path / "more.jsonl", rows(120, ("a", *NEW), seed=3)))
        opened.train(settings=Settings(epochs=12, learning_rate=2e-2))
        assert accuracy(opened, NEW) > 0.9
        assert accuracy(opened, OLD) > known - 0.02


def test_answers_of_before_are_compared_among_the_labels_that_were_known_then(bundles: tuple[Bundle, ...]) -> None:
    second = bundles[1]
    graphs, start = Graphs(second, threads=1), second.theta()
    samples = [resolve(Sample(**row), second.manifest) for row in rows(40, ("a", *NEW))]
    train = Dataset(second.manifest, examples(None, second, graphs, samples))
    kept = answers_before(graphs, train, start, Settings(distillation=1.0))
    assert kept is not None
    opened = graphs.opened(start, {"kind": np.ones(len(OLD + NEW), bool), "traits": np.ones(2, bool)})
    assert not np.array_equal(opened, start)
    steps = Steps(train, [train.plan(graphs.steps("grad"))], np.zeros_like(kept.weights), Settings(), 0, kept)

    def slope(distilled: Distillation) -> float:
        found = [gradient(graphs, one, opened, slice(None))[1] for one in replace(steps, distilled=distilled)]
        return float(np.linalg.norm(np.sum(found, 0)))

    assert slope(replace(kept, theta=opened)) > 1e-3, "new labels would count as wrong answers"
    assert slope(kept) < 1e-6


def test_maps_compose_on_a_device_that_is_two_bundles_behind(bundles: tuple[Bundle, ...], device: Path) -> None:
    with Device.open(device, threads=1) as opened:
        before = opened.predict_many(asked(OLD))
    with Device.open(device, bundles[2].path, threads=1) as opened:
        check_answers(before, opened.predict_many(asked(OLD)), (*NEW, "k"))


@pytest.mark.parametrize(
    ("fields", "error", "says"),
    [
        ({"version": "1"}, RecipeError, "is version 1"),
        ({"kinds": '["a", "z"]'}, RecipeError, "leaves out label 'b'"),
        ({"more": "[training]\nepochs = 3\n", "width": "24"}, RecipeError, "in more than its labels"),
        ({"columns": '{{name = "a", std = 3.0}}'}, RecipeError, "sees its inputs otherwise"),
        ({"name": "others"}, RecipeError, "is called shapes"),
        ({"more": ANOTHER_TASK}, RecipeError, "adds task size, which shapes version 1 lacks"),
    ],
)
def test_what_does_not_follow_is_refused(
    bundles: tuple[Bundle, ...],
    make: Make,
    tmp_path: Path,
    fields: dict[str, str],
    error: type[HomeroomError],
    says: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = bundles[0]
    changes = {
        "name": ('"shapes"', '"others"'),
        "width": ("width = 16", "width = 24"),
        "columns": ('{{name = "a"}}', fields.get("columns", "")),
    }
    text = RECIPE
    for name, (was, now) in changes.items():
        text = text.replace(was, now) if name in fields else text
    monkeypatch.setattr(grown, "RECIPE", text)
    with pytest.raises(error, match=says):
        make(first, **{**SECOND, **{k: v for k, v in fields.items() if k in FIRST}})
    assert not [*tmp_path.glob("bundle-*")]


def test_a_bundle_of_another_root_is_not_extended(bundles: tuple[Bundle, ...], make: Make) -> None:
    first, other = bundles[0], new_key()
    with pytest.raises(TrustError, match="of another root"):
        make(first, key=other, certificate=certify(new_key(), "exporter", other, "others"), **SECOND)


def test_an_old_answer_that_differs_is_an_error(bundles: tuple[Bundle, ...], make: Make) -> None:
    first, second, _ = bundles
    samples = [resolve(one, first.manifest) for one in asked(OLD)]
    outputs = len(samples) * (len(OLD) + 1)
    assert check_old_answers(Extended(first), second, samples, 1) == outputs
    with pytest.raises(ExportError, match="answers otherwise than in shapes version 1"):
        check_old_answers(Extended(first), make(**SECOND), samples, 1)


def test_without_the_second_file_of_the_earlier_bundle_nothing_is_extended(tmp_path: Path) -> None:
    alone = shutil.copytree(tiny.bundle().path, tmp_path / "alone", ignore=shutil.ignore_patterns("*.float32.onnx"))
    recipe = msgspec.structs.replace(parse_recipe(RECIPE.format(**SECOND)), name="tiny")
    with pytest.raises(BundleError, match="needs the float32 backbones of alone"):
        open_extended(alone, tmp_path, recipe, CERTIFICATE)


def test_an_encoder_with_lora_inside_is_not_extended(bundles: tuple[Bundle, ...], tmp_path: Path) -> None:
    recipe = msgspec.structs.replace(
        parse_recipe(RECIPE.format(**SECOND)), adapter=AdapterPlan(family="lora", modality="table")
    )
    with pytest.raises(RecipeError, match="has LoRA inside, and cannot be extended"):
        open_extended(bundles[0].path, tmp_path, recipe, CERTIFICATE)


@pytest.mark.parametrize(
    ("growth", "masked", "says"),
    [
        (Growth(segment="head.none", earlier="1" * 64), {}, "head.none goes on"),
        (Growth(segment="ladder.table", earlier="1" * 64), {}, "ladder.table goes on"),
        (None, {"kind": ("blue",)}, "masks a label"),
        (None, {"nothing": ("a",)}, "masks a label"),
    ],
)
def test_a_map_that_does_not_fit_its_bundle_is_refused(
    bundles: tuple[Bundle, ...], growth: Growth | None, masked: dict[str, tuple[str, ...]], says: str
) -> None:
    manifest = bundles[1].manifest
    grown = (growth,) if growth else ()
    wrong = Continuation(bundle_id="2" * 64, version=1, grown=grown, masked=masked)
    with pytest.raises(BundleError, match=says):
        read_manifest(canonical(msgspec.structs.replace(manifest, continues=wrong)))


def test_a_task_whose_kind_does_not_grow_is_refused() -> None:
    for name, labels in (("weight", ()), ("which_picture", ("0",))):
        masked = {name: labels} if labels else {}
        growths = () if labels else (Growth(segment=f"head.{name}", earlier="1" * 64),)
        wrong = Continuation(bundle_id="2" * 64, version=1, grown=growths, masked=masked)
        with pytest.raises(BundleError, match=f"task {name} cannot have more labels"):
            check_tasks(msgspec.structs.replace(tiny.draft(), continues=wrong))


def test_a_bias_without_its_weight_has_no_columns() -> None:
    segment = Segment(
        name="head.kind", parameters=(Parameter(name="bias", shape=(2,)),), meaning="m", reads=(), task="kind"
    )
    assert label_columns(Layout((segment,)), "head.kind") == []


def test_options_that_would_change_what_is_kept_are_errors(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE.format(**FIRST))
    told = CliRunner().invoke(
        homeroom,
        [
            "bundle",
            "export",
            str(recipe),
            str(tmp_path / "out"),
            "--calibration",
            str(recipe),
            "--extends",
            str(recipe),
            "--teach",
        ],
    )
    assert told.exit_code == 2
    assert "--teach would change what --extends keeps" in told.output


@pytest.mark.parametrize("kind", ["classification", "multilabel"])
def test_a_masked_label_changes_no_bit_of_the_others(kind: str) -> None:
    rng, few = np.random.default_rng(0), Task(name="t", kind=kind, reads=("facts",), labels=tuple("abcdefg"), width=7)
    more = msgspec.structs.replace(few, labels=(*few.labels, "new"), width=8)
    trained, solved = rng.normal(0, 3, (500, 7)).astype(np.float32), rng.normal(0, 3, (500, 7))
    masked = np.full((500, 1), MASKED_LOGIT, np.float32)
    known = np.ones((500, 7), bool)
    wider = np.hstack([trained, masked])
    both = SolvedOutputs(np.hstack([solved, masked]), np.hstack([known, masked > 0]), kind == "classification")
    mix = Mix(solved=5 / 6, trained_temperature=8.0, solved_temperature=0.5, temperature=8.0)
    pairs = [
        (probabilities(few, trained, 8.0), probabilities(more, wider, 8.0)),
        (
            probabilities(few, answered(mix, trained, SolvedOutputs(solved, known, both.exclusive))),
            probabilities(more, answered(mix, wider, both)),
        ),
    ]
    for before, after in pairs:
        assert np.ascontiguousarray(after[:, :7]).tobytes() == before.tobytes()
        assert not after[:, 7].any()


def test_letters_that_would_have_no_effect_are_refused(bundles: tuple[Bundle, ...]) -> None:
    section = bundles[0].manifest.statistics
    assert section is not msgspec.UNSET
    nothing: Any = dict.fromkeys(field.name for field in fields_of(BundleContents))
    fitted = Fitted(msgspec.structs.replace(section, letters=("kind",)), b"")
    contents = BundleContents(**nothing | {"statistics": fitted})
    with pytest.raises(RecipeError, match="other `letters` than in shapes version 1"):
        with_earlier_statistics(contents, Extended(bundles[0]))
