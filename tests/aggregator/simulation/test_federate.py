"""Virtual schools: the same bits for the same seed, and what was learned is better than where it began."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Sample
from homeroom.cli.main import main
from homeroom.contract.round import RoundConfiguration
from homeroom.data.validation import resolve
from homeroom.errors import InputError, MissingExtraError
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.evaluate import evaluate
from homeroom.train.features.dataset import Dataset
from homeroom.train.features.examples import examples
from homeroom.train.settings import Settings
from homeroom_aggregator.cli import simulate as cli
from homeroom_aggregator.merge import bounded
from homeroom_aggregator.simulation import schools as files
from homeroom_aggregator.simulation.chart import svg
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.federate import simulate

SETTINGS = Settings(epochs=1, learning_rate=5e-3, constant_rate=True)


@pytest.fixture(scope="module")
def house(tiny_bundle: tiny.Tiny) -> tuple[Bundle, Graphs, list[SchoolData], Dataset]:
    bundle = open_bundle(tiny_bundle.path, root=tiny_bundle.root)
    graphs = Graphs(bundle, {}, threads=1)

    def data(count: int, seed: int) -> Dataset:
        stored = [resolve(Sample(**row), bundle.manifest) for row in tiny.samples(count, seed)]
        return Dataset(bundle.manifest, examples(None, bundle, graphs, stored))

    schools = [SchoolData(f"school-{seed}", data(24, seed)) for seed in range(3)]
    return bundle, graphs, schools, data(60, 99)


def run(house: Any, rounds: int = 3, **more: Any) -> Any:
    bundle, graphs, schools, _ = house
    return simulate(bundle, schools, rounds, SETTINGS, seed=5, graphs=graphs, **more)


def test_the_same_seed_gives_the_same_theta_bit_for_bit(house: Any) -> None:
    first, second = run(house, lag=0.3, participation=0.9), run(house, lag=0.3, participation=0.9)
    assert first.theta.tobytes() == second.theta.tobytes()
    assert first.version == second.version


def test_together_they_learn(house: Any) -> None:
    bundle, graphs, _, held_out = house
    found = run(house, rounds=8)
    assert found.version == 8
    assert all(facts.sent_bytes > 3 * 1000 for facts in found.rounds)

    def mean(theta: np.ndarray) -> float:
        return float(np.mean([s.skill for s in evaluate(graphs, held_out, theta).values() if s.n]))

    assert mean(found.theta) > mean(bundle.theta()) + 0.05


def test_numbers_are_told_by_their_errors_and_drawn_by_their_skill(house: Any) -> None:
    bundle, graphs, trained, held_out = house
    judged = [SchoolData(school.name, school.train, held_out) for school in trained]
    found = simulate(bundle, judged, 1, SETTINGS, seed=5, graphs=graphs)
    lines: list[str] = []
    files._line(found.rounds[0], lines.append)
    errors = r"weight MAE [\d.]+ \(no unit given\), RMSE [\d.]+ \(no unit given\), R² "
    assert any(re.search(errors, line) for line in lines)
    assert any(re.search(r"category 0\.\d{3} \(n \d+\)", line) for line in lines)
    title = "mean skill (accuracy; of numbers R², at least -1) "
    assert title in svg(found, "schools")
    many = {f"school {number}": scores for number, scores in enumerate([*found.rounds[0].scores.values()] * 20)}
    files._line(replace(found.rounds[0], scores=many), lines.append)
    assert title in lines[-1]
    labels = {name: {"category": scores["category"]} for name, scores in found.rounds[0].scores.items()}
    assert "mean accuracy " in svg(replace(found, rounds=(replace(found.rounds[0], scores=labels),)), "schools")


def test_a_school_trains_once_on_a_version_and_a_buffer_that_nobody_can_fill_holds_up_nothing(house: Any) -> None:
    bundle, *_ = house
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=50, min_devices=2)
    found = run(house, rounds=2, configuration=asked, lag=0.5)
    assert found.version == 2
    assert [dict(facts.refused) for facts in found.rounds] == [{}, {}]


def test_without_schools_there_is_nothing_to_simulate(house: Any) -> None:
    bundle, graphs, _, _ = house
    with pytest.raises(InputError):
        simulate(bundle, [], 1, SETTINGS, seed=0, graphs=graphs)


def test_the_command_reads_schools_from_files(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    folders = []
    for seed in range(3):
        folder = tmp_path / f"school-{seed}"
        folder.mkdir()
        folders.append(str(tiny.write_samples(folder, tiny.samples(20, seed)) or folder / "samples.jsonl"))
    out = tmp_path / "out.json"
    arguments = [str(tiny_bundle.path), *folders, "--rounds", "2", "--epochs", "1", "--json", str(out)]
    arguments += ["--optimizer", "fedyogi", "--server-rate", "0.05"]
    done = CliRunner().invoke(cli.simulate, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert "round 2: version 2" in done.output
    assert out.stat().st_size > 100
    assert '"name": "fedyogi"' in out.read_text()


def test_the_picture_shows_the_mean_and_the_worst_school(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    paths = [tiny.write_samples(tmp_path / f"school <{n}>", tiny.samples(30, n)) for n in range(2)]
    plot = tmp_path / "out.svg"
    arguments = [str(tiny_bundle.path), *map(str, paths), "--rounds", "2", "--epochs", "1", "--plot", str(plot)]
    done = CliRunner().invoke(cli.simulate, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    picture = ElementTree.fromstring(plot.read_text())  # well-formed
    assert len(picture.findall(".//{*}polyline")) == 2
    described = picture.find("{*}desc")
    assert described is not None
    assert "2 schools after round 2" in str(described.text)


def test_without_flower_one_sentence_names_the_extra(tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom_aggregator.flower.find_spec", lambda _: None)
    arguments = [str(tiny_bundle.path), str(tiny_bundle.path), "--engine", "flower"]
    with pytest.raises(MissingExtraError, match=r"pip install .*\[flower\]"):
        CliRunner().invoke(cli.simulate, arguments, catch_exceptions=False)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--seed", "-1"], 2, "--seed"),
        (["--plot", "out.png"], 3, "name it out.svg"),
        (["--server-rate", "1e30"], 9, "it broke down: the loss of the last version is not finite"),
        (["--server-rate", "1e30", "--rounds", "2"], 9, "it broke down: the loss is no longer finite at step 0"),
    ],
)
def test_a_simulation_that_cannot_be_or_breaks_down_says_so(
    options: list[str],
    code: int,
    words: str,
    tiny_bundle: tiny.Tiny,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny.write_samples(tmp_path / "school", tiny.samples(20, 0))
    with pytest.raises(SystemExit) as ended:
        main(["research", "simulate", str(tiny_bundle.path), str(path), "--rounds", "1", "--epochs", "1", *options])
    assert ended.value.code == code
    said = capsys.readouterr()
    assert words in said.err
    assert ("round 1" in said.out) == (code == 9)


def test_the_bounded_rule_is_simulated_through_the_same_rounds(house: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    released = list[dict[str, int]]()
    fold = bounded.fold

    def note(*arguments: Any) -> Any:
        found = fold(*arguments)
        released.append(dict(found[0].by_key))
        return found

    monkeypatch.setattr(bounded, "fold", note)
    bundle = house[0]
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=3, rule="bounded", school_share=0.5)
    first, second = (run(house, rounds=2, configuration=asked) for _ in range(2))
    assert first.theta.tobytes() == second.theta.tobytes()
    assert first.theta.tobytes() != run(house, rounds=2).theta.tobytes()
    assert released[0]
    assert released[:2] == released[2:4]
