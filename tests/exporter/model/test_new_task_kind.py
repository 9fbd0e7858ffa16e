"""A new kind of task in two files, one for the device and one for the exporter: no other module has to know it."""

from __future__ import annotations

import ast
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from exporter.small import assembled
from homeroom import Device, Sample
from homeroom.agent import page
from homeroom.agent.inbox import LeftEntries
from homeroom.agent.status import AgentStatus
from homeroom.cli.main import homeroom
from homeroom.data import tasks
from homeroom.errors import BundleError, InputError, RecipeError
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.train.settings import Settings
from homeroom_exporter.check.check import SelfCheck
from homeroom_exporter.export.model_card import model_card
from homeroom_exporter.model import tasks as exported
from homeroom_exporter.recipe.recipe import parse_recipe

ON_THE_DEVICE = '''
"""Count: a whole number from 0 on; the output is the logarithm of the rate."""

import numpy as np

from homeroom.data.tasks import register
from homeroom.data.tasks.answers import Answer
from homeroom.data.tasks.base import TaskKind
from homeroom.data.tasks.metrics import quantity, score_numbers
from homeroom.errors import InputError


def check(task, label, where):
    if type(label) is not int or label < 0:
        raise InputError(f"{label!r} is no count", where=where, remedy="a whole number from 0 on")
    return label


def show(task, best):
    return quantity(best, task.said_unit)


register(
    TaskKind(
        name="count",
        check=check,
        parse=lambda text: int(text) if text.isdecimal() else text,
        target=lambda task, label: np.array([label], np.float32),
        probabilities=np.exp,
        losses=lambda rates, targets: (rates - targets * np.log(rates)).mean(1),
        score=score_numbers,
        numbers=True,
        calibrated=False,
        answer=lambda task, rates, present, example: Answer(float(rates[0])),
        select=lambda task, label, answer: np.ones(1, np.float32),
        own_label=lambda task, answer: show(task, answer.best),
        show=show,
    )
)
'''
IN_THE_EXPORTER = '''
"""Count: one logarithm of a rate, learned by Poisson's loss."""

import torch

from homeroom_exporter.model.tasks import register
from homeroom_exporter.model.tasks.base import ExportedKind, one

register(
    ExportedKind(
        name="count",
        loss=lambda output, target: (torch.exp(output) - target * output).sum(-1),
        width=one,
        example_target=lambda rng, shape: rng.poisson(3.0, shape).astype("float32"),
    )
)
'''
RECIPE = """
name = "visits"
version = 1
width = 16
hidden = 16
batch = 8
[encoders.table]
source = "table"
columns = [{ name = "posts", mean = 2.0, std = 1.0 }, { name = "rain", mean = 0.5, std = 0.3 }]
[slots]
week = "table"
[tasks.visits]
kind = "count"
unit = "visits"
reads = ["week"]
"""


def rows(count: int, seed: int) -> list[dict[str, object]]:
    rng = np.random.default_rng(seed)
    found: list[dict[str, object]] = []
    for number in range(count):
        posts, rain = float(rng.integers(0, 5)), float(rng.random())
        visits = int(2 * posts + rng.integers(0, 2))
        found.append(
            {"week": {"posts": posts, "rain": rain}, "labels": {"visits": visits}, "subject": f"p{number % 20}"}
        )
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    folder = tmp_path_factory.mktemp("count")
    for name, text in (("count_kind", ON_THE_DEVICE), ("exported_count_kind", IN_THE_EXPORTER)):
        (folder / f"{name}.py").write_text(text)
        spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
    (folder / "weeks.jsonl").write_text("\n".join(map(json.dumps, rows(40, 1))))
    bundle, _ = assembled(parse_recipe(RECIPE), folder / "weeks.jsonl", folder, saliency=True)
    yield bundle
    del tasks.KINDS["count"], exported.KINDS["count"]


@pytest.fixture(scope="module")
def device(made: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("counting")
    patch.setenv("HOMEROOM_KEYS", str(folder / "keys"))
    with Device.open(folder / "device", made.path, threads=1) as found:
        found.add(*(Sample(**row) for row in rows(240, 2)))  # type: ignore[arg-type]
        report = found.train(settings=Settings(epochs=40, learning_rate=2e-2))
        assert report.scores["visits"].brief.startswith("MAE ")
        yield found
    patch.undo()


def test_it_is_learned_and_scored_in_its_unit(device: Device) -> None:
    score = device.score(*(Sample(**row) for row in rows(80, 3)))["visits"]  # type: ignore[arg-type]
    assert score.r2 is not None
    assert score.r2 > 0.5
    assert score.detail == f"MAE {score.mae:.3f} visits, RMSE {score.rmse:.3f} visits, R² {score.r2:.3f}"
    few, many = (device.predict(Sample(week={"posts": posts, "rain": 0.5}))["visits"].best for posts in (0.0, 4.0))
    assert few < 3 < 7 < many  # type: ignore[operator]


def test_an_answer_is_explained_by_what_it_rests_on(device: Device) -> None:
    why = device.explain(Sample(week={"posts": 4.0, "rain": 0.5}), "visits")
    assert why.parts[0].name == "posts = 4"
    assert "visits: " in why.sentences()[0]
    assert why.sentences()[0].endswith(" visits.")
    assert any(" visits." in sentence for sentence in why.sentences() if sentence.startswith("Without posts = 4"))


def shown(device: Device) -> str:
    """The agent's page of the device's samples."""
    agent = SimpleNamespace(status=AgentStatus(), settings=SimpleNamespace(inbox=None))
    server = SimpleNamespace(agent=agent, address=page.PageAddress(1, "token"))
    handler: Any = SimpleNamespace(server=server, _left=lambda device: LeftEntries())
    return page.PageHandler._render(handler, device, 0, "")


def test_a_label_is_given_and_corrected_on_the_page(device: Device) -> None:
    (sample_id,) = device.add(Sample(week={"posts": 1.0, "rain": 0.9}))
    assert '<label>visits (visits) <input name="task.visits" value=""></label>' in shown(device)
    page.save_labels(device, sample_id, {"task.visits": ["7"]})
    labels = [s.labels for s in device.store.samples() if s.inputs["week"][0] == {"posts": 1.0, "rain": 0.9}]
    assert labels == [{"visits": 7}]
    assert '<input name="task.visits" value="7">' in shown(device)


def test_labels_that_do_not_fit_are_refused(device: Device) -> None:
    for label in (-1, 2.5, "many", True):
        with pytest.raises(InputError, match="is no count"):
            device.add(Sample(week={"posts": 1.0}, labels={"visits": label}))


def test_the_command_line_answers_and_scores_with_it(made: Bundle, tmp_path: Path) -> None:
    run, folder = CliRunner().invoke, str(tmp_path / "device")
    environment = {"HOMEROOM_KEYS": str(tmp_path / "keys")}
    (tmp_path / "weeks.csv").write_text(
        "week.posts,week.rain,label.visits,subject\n"
        + "".join(f"{r % 5},0.{r % 9},{2 * (r % 5)},p{r % 12}\n" for r in range(60))
    )
    for words in (("init", folder, "--bundle", str(made.path)), ("add", folder, str(tmp_path / "weeks.csv"))):
        done = run(homeroom, ["device", *words], env=environment)
        assert done.exit_code == 0, done.output
    trained = run(homeroom, ["device", "train", folder, "--epochs", "3"], env=environment).output
    assert "  visits: MAE " in trained
    assert "right" not in trained
    answered = run(homeroom, ["device", "predict", folder, 'week={"posts": 3}'], env=environment).output
    assert answered.startswith("visits: ")
    assert " visits" in answered.removeprefix("visits: ")
    scored = run(homeroom, ["device", "score", folder, str(tmp_path / "weeks.csv")], env=environment).output
    assert "visits: MAE " in scored
    assert scored.endswith(", 60 samples, 60 of them held here to learn from\n")


def test_whoever_does_not_know_the_kind_says_so(made: Bundle) -> None:
    assert "visits: count from week, in visits" in model_card(made.manifest, made.bundle_id, SelfCheck((), (), 0, ()))
    with pytest.MonkeyPatch().context() as patch:
        patch.delitem(tasks.KINDS, "count")
        with pytest.raises(BundleError, match="task visits is of an unknown kind 'count'"):
            open_bundle(made.path, root=None)
    with pytest.raises(RecipeError, match=r"tasks\.visits\.kind: 'counts' is no choice \(one of choice, .*count"):
        parse_recipe(RECIPE.replace('"count"', '"counts"'))
    with pytest.raises(ValueError, match="there is a task kind 'count' already"):
        tasks.register(replace(tasks.KINDS["count"], calibrated=True))
    with pytest.raises(RecipeError, match="a classification task has no unit"):
        parse_recipe(RECIPE.replace('kind = "count"', 'kind = "classification"\nlabels = ["a", "b"]'))


def test_no_other_module_names_a_kind() -> None:
    """Neither the device's nor the exporter's kinds, nor what only they may know; docstrings may speak of them."""
    house, wrong = Path(__file__).resolve().parents[3], []
    for folder in ("sdk/homeroom", "exporter/homeroom_exporter", "aggregator/homeroom_aggregator"):
        for path in sorted((house / folder).rglob("*.py")):
            if path.parent.name in ("tasks", "solve", "statistics") or path.name == "propose.py":
                continue
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.value] if isinstance(node, ast.Constant) else []
                wrong += [f"{path.relative_to(house)}:{node.lineno} {n}" for n in names if n in BUILT_IN]  # type: ignore[attr-defined]
    assert not wrong


BUILT_IN = frozenset(tasks.KINDS)
