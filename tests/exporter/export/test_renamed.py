"""Labels that a later bundle calls otherwise: theta, sums and stored samples go on by the new names."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import grown
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from grown import FIRST, NEW, OLD, SECOND, asked, exported, rows, write

from homeroom import Answer, Device, Sample
from homeroom.cli.main import homeroom
from homeroom.contract.canonical_json import canonical
from homeroom.contract.continuation import MASKED_FORMAT, RENAMED_FORMAT
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import with_names
from homeroom.data.tasks import check_tasks
from homeroom.device import install
from homeroom.device.local_labels import add_labels
from homeroom.errors import BundleError, InputError, RecipeError
from homeroom.federation import versions
from homeroom.federation.statistics import RELEASE, ReceivedRelease, others_total
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.train.settings import Settings
from homeroom.train.solve.vectors.samples import sums_id

ALPHA, FIRST_ONE = {"a": "alpha", "big": "large"}, {"a": "first", "b": "second", "big": "large"}


def with_renamed(
    fields: dict[str, str], of_kind: tuple[str, ...], of_traits: tuple[str, ...], **said: dict[str, str]
) -> Any:
    """Fields of a recipe that renames. said: by task."""
    lines = {
        task: "\nrenamed = {" + ", ".join(f'{old} = "{new}"' for old, new in names.items()) + "}"
        for task, names in said.items()
    }
    texts = {"kinds": json.dumps(of_kind), "traits": json.dumps(of_traits)}
    return fields | {
        "kinds": texts["kinds"] + lines.get("kind", ""),
        "traits": texts["traits"] + lines.get("traits", ""),
    }


RENAMED = with_renamed(
    SECOND, ("alpha", *OLD[1:], *NEW), ("large", "red"), kind={"a": "alpha"}, traits={"big": "large"}
)
AGAIN = with_renamed(
    SECOND | {"version": "3"},
    ("first", "second", *OLD[2:], *NEW),
    ("large", "red"),
    kind={"alpha": "first", "b": "second"},
)


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Bundle, Bundle]:
    """One bundle after another: a is alpha in the second and first in the third, which calls b second."""
    folder = tmp_path_factory.mktemp("bundles")
    first = exported(folder, **FIRST)
    second = exported(folder, first, called=ALPHA, **RENAMED)
    return first, second, exported(folder, second, called=FIRST_ONE, **AGAIN)


@pytest.fixture
def device(bundles: tuple[Bundle, ...], tmp_path: Path) -> Iterator[Path]:
    """The folder of a device that learned with the first bundle."""
    with Device.open(tmp_path / "device", bundles[0].path, threads=1) as device:
        device.add(write(tmp_path / "samples.jsonl", rows(240, OLD)))
        device.train(settings=Settings(epochs=12, learning_rate=2e-2))
    return tmp_path / "device"


def check_renamed(before: list[dict[str, Answer]], after: list[dict[str, Answer]], called: dict[str, str]) -> None:
    """Every answer is as before, bit for bit, by the new names."""
    for one, other in zip(before, after, strict=True):
        for task, new in (("kind", NEW), ("traits", ("red",))):
            chances = {called.get(label, label): chance for label, chance in one[task].probabilities.items()}
            assert other[task].probabilities == {**chances, **dict.fromkeys(new, 0.0)}
        assert other["kind"].best == called.get(str(one["kind"].best), one["kind"].best)


def test_the_manifest_says_it_and_older_readers_refuse_it(bundles: tuple[Bundle, ...]) -> None:
    first, second, third = (bundle.manifest for bundle in bundles)
    assert (second.format, third.format) == (RENAMED_FORMAT, RENAMED_FORMAT)
    assert second.renamed == {"kind": {"a": "alpha"}, "traits": {"big": "large"}}
    assert third.renamed == {"kind": {"a": "first", "alpha": "first", "b": "second"}, "traits": {"big": "large"}}
    assert third.masked == second.masked == {"kind": NEW, "traits": ("red",)}
    assert third.continues.sums == (sums_id(second), sums_id(first))
    with pytest.raises(BundleError, match="whose readers would not know how its labels go on"):
        read_manifest(canonical(msgspec.structs.replace(second, format=MASKED_FORMAT)))
    shown = CliRunner().invoke(homeroom, ["bundle", "inspect", str(bundles[2].path)]).output
    assert "renamed of kind: a is first now, alpha is first now, b is second now" in shown


@pytest.mark.parametrize(
    "names", [{"nothing": {"x": "a"}}, {"kind": {"x": "y"}}, {"kind": {"b": "alpha"}}, {"kind": {}}]
)
def test_names_that_do_not_fit_their_bundle_are_refused(
    bundles: tuple[Bundle, ...], names: dict[str, dict[str, str]]
) -> None:
    manifest = bundles[1].manifest
    wrong = msgspec.structs.replace(manifest.continues, renamed=names)
    with pytest.raises(BundleError, match="were renamed, which it does not have so"):
        read_manifest(canonical(msgspec.structs.replace(manifest, continues=wrong)))


def test_a_task_whose_kind_does_not_grow_has_no_renamed_labels(bundles: tuple[Bundle, ...]) -> None:
    manifest = bundles[1].manifest
    tasks = tuple(msgspec.structs.replace(task, kind="ordinal") for task in manifest.tasks)
    continues = msgspec.structs.replace(manifest.continues, grown=(), masked={})
    with pytest.raises(BundleError, match="task kind cannot have other labels than before"):
        check_tasks(msgspec.structs.replace(manifest, tasks=tasks, continues=continues))


@pytest.mark.parametrize(("number", "called"), [(1, ALPHA), (2, FIRST_ONE)])
def test_a_device_answers_as_before_by_the_new_names_though_two_bundles_behind(
    bundles: tuple[Bundle, ...], device: Path, tmp_path: Path, number: int, called: dict[str, str]
) -> None:
    with Device.open(device, threads=1) as opened:
        before = opened.predict_many(asked(OLD))
        labels = [grown.renamed([{"labels": dict(one.labels)}], called)[0] for one in opened.store.samples()]
        was = versions.theta_of(opened.store, opened.bundle, opened.store.versions.current())
    with Device.open(device, bundles[number].path, threads=1) as opened:
        check_renamed(before, opened.predict_many(asked(OLD)), called)
        assert opened.store.summed_subjects(sums_id(bundles[0].manifest)) == 6, "what solved heads know stays"
        theta = versions.theta_of(opened.store, opened.bundle, opened.store.versions.current())
        for name, values in bundles[0].manifest.layout.split(was).items():
            assert np.array_equal(opened.bundle.manifest.layout.split(theta)[name][: values.size], values)
        found = [{"labels": one.labels} for one in opened.store.samples()]
        assert sorted(map(repr, found)) == sorted(map(repr, labels))
        samples = [Sample(**row) for row in grown.renamed(rows(40, OLD, seed=9), called)]
        assert opened.score(*samples)["kind"].accuracy > 0.9
        with pytest.raises(InputError, match="label 'a' was renamed") as told:
            opened.add(Sample(facts={"a": 1.0}, labels={"kind": "A"}))
        assert called["a"] in told.value.remedy
        with pytest.raises(InputError, match="label 'big' was renamed"):
            opened.add(Sample(facts={"a": 1.0}, labels={"traits": ["red", "big"]}))
        with pytest.raises(InputError, match=r"is what the bundle's '.+' was called before"):
            opened.change_labels(partial(add_labels, task="kind", labels=("A",), scope="personal"))
        assert opened.train(settings=Settings(epochs=2)).samples == 240
        answers = opened.predict_many(asked(OLD))
        right = [answer["kind"].best == one.labels["kind"] for answer, one in zip(answers, samples, strict=True)]
        assert np.mean(right) > 0.9


def test_what_other_schools_taught_is_read_by_the_new_names(bundles: tuple[Bundle, ...], device: Path) -> None:
    with Device.open(device, threads=1) as opened:
        total = opened.store.own_total(sums_id(bundles[0].manifest))
        release = ReceivedRelease(number=1, sums_id=sums_id(bundles[0].manifest), others=encode(total))
        RELEASE.write(opened.store, release)
        assert others_total(opened.store, bundles[0]) == total
        others = others_total(opened.store, bundles[2])
    assert others == with_names(total, bundles[2].manifest.renamed)
    assert others.rows("kind") == sorted(["first", "second", *OLD[2:]])


def test_an_install_that_is_cut_off_has_changed_no_label(
    bundles: tuple[Bundle, ...], device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = install.rename_labels

    def cut_off(store: Store, manifest: Any) -> None:
        rename(store, manifest)
        raise OSError("cut off")

    monkeypatch.setattr(install, "rename_labels", cut_off)
    with pytest.raises(OSError, match="cut off"):
        Device.open(device, bundles[1].path, threads=1)
    with Device.open(device, threads=1) as opened:
        assert opened.bundle.bundle_id == bundles[0].bundle_id
        assert {one.labels["kind"] for one in opened.store.samples()} == {*OLD}


Q = ("q", *OLD[1:])


@pytest.mark.parametrize(
    ("extends", "kinds", "said", "says"),
    [
        (0, OLD, {"a": "b"}, "'a' is still among its labels"),
        (0, OLD[1:], {"a": "b"}, "'a' becomes 'b', which shapes version 1 has already"),
        (0, Q, {"a": "q", "x": "c"}, "'x' is no label of shapes version 1"),
        (0, ("q", *OLD[2:]), {"a": "q", "b": "q"}, "'a' and 'b' become 'q'"),
        (0, ("b", "q", *OLD[2:]), {"a": "b", "b": "q"}, "'a' becomes 'b', which is renamed itself"),
        (0, Q, {"a": "r"}, "'r' is none of its labels"),
        (0, (*Q, "a"), {}, "leaves out label 'a'|new labels stand among"),
        (0, (*OLD[1:], "q"), {"a": "q"}, "new labels stand among"),
        (1, ("alpha", *OLD[1:], *NEW), {"a": "alpha"}, "'a' is 'alpha' in shapes version 2 already"),
        (1, ("alpha", *OLD[1:], *NEW, "a"), {}, "'a' was the name of a label before it was renamed"),
        (1, ("a", *OLD[1:], *NEW), {"alpha": "a"}, "'a' was the name of a label before it was renamed"),
        (None, Q, {"a": "q"}, "none is extended"),
    ],
)
def test_names_that_cannot_be_are_refused_before_anything_is_written(
    bundles: tuple[Bundle, ...], tmp_path: Path, extends: int | None, kinds: tuple[str, ...], said: Any, says: str
) -> None:
    fields = FIRST | {"version": "9"} if extends != 1 else SECOND | {"version": "9"}
    traits = ("big",) if extends != 1 else ("large", "red")
    given = with_renamed(fields, kinds, traits, **({"kind": said} if said else {}))
    with pytest.raises(RecipeError, match=says):
        exported(tmp_path, None if extends is None else bundles[extends], **given)
    assert not [*tmp_path.glob("bundle-*")]


def test_labels_of_a_kind_that_does_not_grow_are_not_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grown, "RECIPE", grown.RECIPE.replace('"classification"', '"ordinal"'))
    with pytest.raises(RecipeError, match="labels of a ordinal task cannot be renamed"):
        exported(tmp_path, **with_renamed(FIRST, Q, ("big",), kind={"a": "q"}))
