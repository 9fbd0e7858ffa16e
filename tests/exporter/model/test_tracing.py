"""Knowledge tracing from a recipe to an answer: exported by its example recipe, trained and asked by the device."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from exporter.small import assembled
from homeroom import Device, Sample
from homeroom.cli.device import sample_of
from homeroom.contract.signing import certify
from homeroom.data.ingest import read_samples
from homeroom.data.preprocess.sequence import by_skill
from homeroom.data.tasks.metrics import auc
from homeroom.errors import InputError, RecipeError, TrainError
from homeroom.runtime.backend import load
from homeroom.runtime.bundle import Bundle
from homeroom.train.settings import Settings
from homeroom_exporter.check import check
from homeroom_exporter.export.design import draft
from homeroom_exporter.export.pipeline import export
from homeroom_exporter.model.design import Design
from homeroom_exporter.model.heads import head_segment
from homeroom_exporter.model.tasks import HEADS, KINDS
from homeroom_exporter.model.tasks.base import binary_terms
from homeroom_exporter.model.tasks.tracing import tracing
from homeroom_exporter.recipe.recipe import parse_recipe
from homeroom_exporter.trace.example_inputs import example
from homeroom_exporter.trace.reference import by_autograd

RECIPE = Path(__file__).parents[3] / "examples" / "recipes" / "knowledge_tracing.toml"
TEXT = RECIPE.read_text()
SKILLS = ("counting", "addition", "subtraction", "multiplication", "division", "fractions", "decimals", "percentages")
SMALL = TEXT.replace("[32, 64, 128]", "[16, 32]").replace("64", "32\nbatch = 8", 1).replace("128", "32", 1)


def history(rng: np.random.Generator, length: int) -> list[tuple[str, bool]]:
    """Skills that are known or not, and learned with practice (Corbett and Anderson 1994); four of them a pupil."""
    practised = rng.permutation(SKILLS)[:4]
    known = {skill: rng.random() < 0.4 for skill in practised}
    steps = []
    for _ in range(length):
        skill = str(rng.choice(practised))
        steps.append((skill, bool(rng.random() < (0.9 if known[skill] else 0.15))))
        known[skill] = known[skill] or rng.random() < 0.05
    return steps


def pupils(count: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [{"history": history(rng, int(rng.integers(6, 31))), "subject": f"pupil-{seed}-{i}"} for i in range(count)]


def samples(count: int, seed: int) -> list[Sample]:
    return [Sample(**row) for row in pupils(count, seed)]


def calibration(folder: Path) -> Path:
    path = folder / "pupils.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in pupils(20, 1)))
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, Design]:
    folder = tmp_path_factory.mktemp("tracing")
    return assembled(parse_recipe(SMALL), calibration(folder), folder)


@pytest.fixture(scope="module")
def bundle(made: tuple[Bundle, Design]) -> Bundle:
    return made[0]


@pytest.fixture(scope="module")
def trained(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with Device.open(tmp_path_factory.mktemp("taught") / "device", bundle.path, threads=1) as device:
        device.add(*samples(160, 2))
        report = device.train(settings=Settings(epochs=12, learning_rate=1e-2))
        assert report.scores["next_answer"].auc is not None
        yield device


def test_it_tells_apart_what_will_be_right_next(trained: Device) -> None:
    score = trained.score(*samples(60, 3))["next_answer"]
    assert score.n > 500
    assert score.auc is not None
    assert score.auc > 0.65
    assert score.value == score.auc


def test_the_answer_is_a_probability_for_each_skill_after_the_last_interaction(trained: Device) -> None:
    good, bad = ([("fractions", right), ("addition", True)] * 4 for right in (True, False))
    after = [trained.predict(Sample(history=steps))["next_answer"] for steps in (good, bad)]
    assert set(after[0].probabilities) == set(SKILLS)
    assert after[0].probabilities["fractions"] > after[1].probabilities["fractions"] + 0.3
    assert "fractions" in after[0].best  # type: ignore[operator]
    assert "fractions" not in after[1].best  # type: ignore[operator]
    assert after[0].sure
    short = trained.predict(Sample(history=good[:2]))["next_answer"]
    assert (short.sure, short.reason) == (False, "so far only 2 interactions")


def test_the_command_line_takes_a_history_as_json() -> None:
    found = sample_of(('history=[["addition", true], ["fractions", false]]', "note=[sic] all right"))
    assert found.inputs == {"history": [["addition", True], ["fractions", False]], "note": "[sic] all right"}


def test_of_too_long_a_history_the_last_interactions_count_and_it_is_said(trained: Device) -> None:
    steps = history(np.random.default_rng(4), 70)
    whole = trained.predict(Sample(history=steps))["next_answer"]
    assert whole.reason == "of history the last 32 of 70 interactions count"
    assert whole.probabilities == trained.predict(Sample(history=steps[-32:]))["next_answer"].probabilities
    assert trained.predict(Sample(history=steps[-31:]))["next_answer"].reason == ""


def test_rows_of_a_sheet_are_the_interactions_of_each_pupil(bundle: Bundle, tmp_path: Path) -> None:
    rows = pupils(3, 5)
    for row in rows:
        row["history"] = [(skill, right, 60.0 * i) for i, (skill, right) in enumerate(row["history"])]
    (tmp_path / "all.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with (tmp_path / "all.csv").open("w", newline="") as file:
        sheet = csv.writer(file)
        sheet.writerow(["subject", "history.skill", "history.correct", "history.time"])
        for step in range(max(len(row["history"]) for row in rows)):  # the pupils' rows come mixed
            for row in rows:
                if step < len(row["history"]):
                    skill, right, seconds = row["history"][step]
                    sheet.writerow([row["subject"], skill, int(right), seconds])
    first, second = (list(read_samples(tmp_path / name, bundle.manifest)) for name in ("all.jsonl", "all.csv"))
    assert first == second
    (tmp_path / "bare.csv").write_text("history.skill,history.correct\naddition,1\n")
    with pytest.raises(InputError, match=r"bare\.csv line 2: does not say whose interaction it is"):
        list(read_samples(tmp_path / "bare.csv", bundle.manifest))


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([{"correct": True}], r"history\[0\]: the skill is missing"),
        ([("addition", 1), ("fractoins", 0)], r"history\[1\]: the bundle has no skill 'fractoins' \(did you mean fra"),
        ([("addition", "perhaps")], "'perhaps' is neither right nor wrong"),
        ([("addition",)], "is no interaction"),
        ([{"skill": "addition", "correct": 1, "hints": 2}], "an interaction has no 'hints'"),
        ([("addition", 1, 50), ("addition", 1, 40), ("addition", 1)], "history: is not in order of time"),
        ([("addition", 1, "today")], "'today' is no time"),
        ([], "the sequence is empty"),
        ("addition", "needs a list of interactions, not str"),
        ([("addition", 1)] * 10_001, "10,001 interactions are more than 10,000"),
    ],
)
def test_a_history_that_cannot_be_read_is_refused(trained: Device, steps: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        trained.add(Sample(history=steps))


def test_a_label_beside_the_history_is_refused(trained: Device) -> None:
    with pytest.raises(InputError, match=r"labels\.next_answer: takes no label \(history itself says what was right"):
        trained.add(Sample(history=[("addition", 1)], labels={"next_answer": True}))


def test_answers_that_are_all_right_teach_nothing_and_it_is_said(bundle: Bundle, tmp_path: Path) -> None:
    with Device.open(tmp_path / "easy", bundle.path, threads=1) as device:
        device.add(*(Sample(history=[("addition", True)] * 5, subject=f"p{i}") for i in range(6)))
        with pytest.raises(TrainError, match="all answers in the sequences are right, or all wrong"):
            device.train(epochs=1)
        found = device.score(Sample(history=[("addition", True)] * 5))["next_answer"]
        assert (found.n, found.auc) == (5, None)


@pytest.mark.parametrize("role", ["grad", "predict"])
def test_a_step_of_any_length_agrees_with_torch(made: tuple[Bundle, Design], role: str) -> None:
    bundle, design = made
    theta = bundle.theta() + np.random.default_rng(0).standard_normal(bundle.layout.size).astype(np.float32) * 0.05
    for facts in (graph for graph in bundle.manifest.graphs if graph.role == role):
        feeds = example(design, role, facts.batch, facts.tokens, seed=2)
        found = load(bundle.path / facts.file, threads=1)({"theta": theta, **feeds})
        for name, value in by_autograd(design, role, theta, feeds).items():
            assert check.relative_error(found[name], value) < 1e-5


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle as of format 2: its steps compute every skill at each token, and read a target of each."""
    folder = tmp_path_factory.mktemp("before")
    kind = KINDS["tracing"]
    head = replace(kind.head, asked=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(HEADS, "tracing", head)
        patch.setitem(KINDS, "tracing", replace(kind, head=head, loss=loss_of_before, example_target=target_of_before))
        return assembled(parse_recipe(SMALL), calibration(folder), folder)[0]


def loss_of_before(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    asked = target.abs()
    return (asked * binary_terms(output, torch.relu(target))).sum((1, 2)) / asked.sum((1, 2)).clamp(min=1.0)


def target_of_before(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    asked = np.eye(shape[-1], dtype=np.float32)[rng.integers(0, shape[-1], shape[:-1])]
    return np.asarray(asked * rng.integers(-1, 2, shape[:-1]).astype(np.float32)[..., None])


def test_the_asked_skill_alone_has_the_loss_and_the_gradient_of_all(
    made: tuple[Bundle, Design], before: Bundle
) -> None:
    bundle, design = made
    assert (before.manifest.format, bundle.manifest.format) == (2, 3)
    assert before.layout.segments == bundle.layout.segments
    theta = bundle.theta() + np.random.default_rng(0).standard_normal(bundle.layout.size).astype(np.float32) * 0.05
    for facts in (graph for graph in bundle.manifest.graphs if graph.role == "grad"):
        feeds = example(design, facts.role, facts.batch, facts.tokens, seed=3)
        found = load(bundle.path / facts.file, threads=1)({"theta": theta, **feeds})
        numbers = feeds["next_answer.target"]
        feeds["next_answer.target"] = np.stack([by_skill(row, len(SKILLS)) for row in numbers])
        assert np.count_nonzero(feeds["next_answer.target"]) == np.count_nonzero(numbers) > 0
        expected = load(before.path / facts.file, threads=1)({"theta": theta, **feeds})
        for name, value in expected.items():
            assert check.relative_error(found[name], value) < 1e-5


def test_a_bundle_of_before_is_learned_from_as_it_was(bundle: Bundle, before: Bundle, tmp_path: Path) -> None:
    thetas = []
    for number, one in enumerate((bundle, before)):
        with Device.open(tmp_path / f"{number}", one.path, threads=1) as device:
            device.add(*samples(40, 2))
            report = device.train(settings=Settings(epochs=2, learning_rate=1e-2))
            thetas.append((device.store.versions.theta(report.version_id), report.scores["next_answer"]))
    (now, score), (then, score_then) = thetas
    assert np.abs(now - then).max() < 1e-4
    assert np.abs(now - bundle.theta()).max() > 1e-3
    assert score.auc == pytest.approx(score_then.auc, abs=1e-3)


@pytest.mark.extra
def test_the_example_recipe_passes_its_self_check_in_every_size_and_clipped(tmp_path: Path) -> None:
    text = TEXT.replace("[32, 64, 128]", "[32]").replace(
        "seed = 1", "seed = 1\ntiers = ['half']\nclipped = true\nbatch = 8"
    )
    certificate = certify(tiny.ROOT, "exporter", tiny.EXPORTER, "tests")
    found = export(parse_recipe(text), calibration(tmp_path), tmp_path / "out", tiny.EXPORTER, certificate, threads=1)
    assert {step.role for step in found.report.steps} == {"grad", "grad_heads", "predict", "grad_clipped"}


def test_no_answer_depends_on_a_later_one() -> None:
    rng = torch.Generator().manual_seed(1)
    task = next(task for task in parse_recipe(SMALL).tasks)
    segment = head_segment(task, HEADS["tracing"], ["0" * 64], 32)
    parameters = {p.name: torch.randn(p.shape, generator=rng) * 0.3 for p in segment.parameters}
    tokens, mask = torch.randn(2, 9, 32, generator=rng), torch.ones(2, 9)
    changed = tokens.clone()
    changed[:, 5:] = 7.0
    answers = torch.eye(16)[torch.randint(0, 16, (2, 9), generator=rng)]
    others = answers.clone()
    others[:, 5:] = answers[:, 5:].flip(2)
    first, second = (tracing(parameters, *one, mask) for one in ((answers, tokens), (others, changed)))
    assert torch.equal(first[:, :5], second[:, :5])
    assert not torch.equal(first[:, 5], second[:, 5])


def test_the_area_under_the_curve_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(3)
    truth, chances = rng.random(40) < 0.4, rng.integers(0, 8, 40) / 8
    pairs = [(a > b) + 0.5 * (a == b) for a in chances[truth] for b in chances[~truth]]
    assert auc(truth, chances) == pytest.approx(np.mean(pairs))
    assert auc(np.ones(3, bool), chances[:3]) is None


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            'skills = ["counting"',
            'skills = ["addition"',
            r"encoders\.sequence\.skills: a sequence, and only a sequence",
        ),
        ('history = "sequence"', 'history = "sequence[2]"', r"tasks\.next_answer\.reads: tracing reads one single seq"),
        ('reads = ["history"]', 'reads = ["history"]\nlabels = ["a"]', "a tracing task has no labels"),
        ('kind = "tracing"', 'kind = "tracing"\nhead = "fused"', "a tracing task cannot have the head 'fused'"),
    ],
)
def test_a_recipe_that_cannot_trace_is_refused_with_its_line(before: str, after: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        parse_recipe(TEXT.replace(before, after))


def test_calibration_samples_are_checked_against_the_skills(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"history": [["knitting", true]]}')
    with pytest.raises(InputError, match=r"a\.jsonl line 1 history\[0\]: the bundle has no skill 'knitting'"):
        list(read_samples(tmp_path / "a.jsonl", draft(parse_recipe(TEXT))))
