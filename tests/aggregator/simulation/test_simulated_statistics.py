"""Simulated statistics: the integers of a true exchange of the same samples, and what they give beside theta."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import tiny
from click.testing import CliRunner

from homeroom import Device
from homeroom.contract.policy import Policy
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.messages import StatisticsStatus, read_release
from homeroom.device.solved import teach
from homeroom.errors import InputError
from homeroom.federation import statistics
from homeroom.runtime.bundle import Bundle, open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.features.examples import examples
from homeroom_aggregator.cli.simulate import simulate
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.simulation import schools as files
from homeroom_aggregator.simulation.engine import SchoolData
from homeroom_aggregator.simulation.statistics import StatisticsFacts, exchange

RULES = StatisticsRules(mode="plain", k=3, subjects=10)


def rounds(bundle: Bundle, rules: StatisticsRules = RULES) -> Rounds:
    key, root = new_key(), new_key()
    terms = RoundConfiguration(bundle_id=bundle.bundle_id, statistics=rules)
    return Rounds(Path(":memory:"), bundle, terms, key, certify(root, "aggregator", key, "district"))


def write(folder: Path, name: str, seed: int, count: int = 40) -> Path:
    """A school's file of samples; of media nothing, which tables and texts do not need."""
    rows = [{k: v for k, v in row.items() if not k.startswith(("pict", "spee"))} for row in tiny.samples(count, seed)]
    for row in rows:
        kept = {"grade", "category", "size", "weight"}
        row["labels"] = {task: label for task, label in row["labels"].items() if task in kept}
    path = folder / f"{name}.jsonl"
    path.write_bytes(b"\n".join(map(msgspec.json.encode, rows)))
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("schools")
    return [write(folder, f"school-{seed}", seed) for seed in range(3)]


@pytest.fixture(scope="module")
def house(solved_bundle: tiny.Tiny, paths: list[Path]) -> tuple[Bundle, list[SchoolData]]:
    bundle = open_bundle(solved_bundle.path, root=solved_bundle.root)
    graphs = Graphs(bundle, {}, threads=1)
    return bundle, [files.load_school(bundle, graphs, path, path.stem, 0, statistics=True) for path in paths]


def exchanged(house: tuple[Bundle, list[SchoolData]], **more: Any) -> StatisticsFacts:
    aggregator = rounds(house[0], **more)
    try:
        return exchange(aggregator, house[1])
    finally:
        aggregator.close()


def test_the_total_is_that_of_a_true_exchange_of_the_same_samples(
    house: tuple[Bundle, list[SchoolData]],
    paths: list[Path],
    solved_bundle: tiny.Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    bundle, aggregator = house[0], rounds(house[0])
    for path in paths:
        with Device.open(tmp_path / path.stem, solved_bundle.path, solved_bundle.root, threads=1) as device:
            device.add(path)
            stored = list(device.store.samples())
            teach(device.store, bundle, stored, examples(device.store, bundle, Graphs(bundle, threads=1), stored))
            key, status = new_key(), StatisticsStatus()
            statistics.prepare_change(device.store, bundle, key, aggregator.configuration, status, allowed=True)
            aggregator.take_statistics(statistics.PENDING_MESSAGE.read(device.store) or b"", public_hex(key))
    root = fingerprint(aggregator.certificate.root)
    body = aggregator.statistics.totals.release().body
    _, total = read_release(body, bundle_id=bundle.bundle_id, root_fingerprint=root)
    aggregator.close()
    assert total.cells
    assert encode(exchanged(house).total) == encode(total)


def test_heads_of_all_are_told_beside_those_of_a_school_alone(house: tuple[Bundle, list[SchoolData]]) -> None:
    facts = exchanged(house)
    assert facts.release_bytes > 0
    for one in facts.schools.values():
        assert one.sent_bytes > 1000
        assert one.scores.keys() == {"alone", "others", "together"}
        assert one.scores["together"]["category"].n == one.scores["alone"]["category"].n > 0
    told: list[str] = []
    files._statistics_lines(facts, told.append)
    assert told[0].startswith("statistics: 0.")
    assert any(re.match(r"  school-1, solved together: .*category [01]\.\d{3} \(n \d+\)", line) for line in told)


def test_a_school_whose_policy_keeps_statistics_sends_none_and_nothing_is_released(
    house: tuple[Bundle, list[SchoolData]],
) -> None:
    bundle, (first, *rest) = house
    policy = Policy(institution=first.name, version=1, rounds=("secure",))
    kept = SchoolData(first.name, first.train, first.validation, policy=policy, taught=first.taught)
    facts = exchanged((bundle, [kept, *rest]))
    assert facts.release_bytes == facts.schools[first.name].sent_bytes == 0
    assert "secure" in facts.schools[first.name].held[""]
    assert facts.schools[first.name].scores.keys() == {"alone"}
    told: list[str] = []
    files._statistics_lines(facts, told.append)
    assert "no release: it needs 3 schools" in told[0]
    assert f"  {first.name} sends nothing: the policy allows rounds that are secure" in told[1]


def test_the_command_exchanges_once_and_prints_it_beside_theta(
    solved_bundle: tiny.Tiny, paths: list[Path], tmp_path: Path
) -> None:
    out, schools = tmp_path / "simulated.json", [str(path) for path in paths]
    command = [str(solved_bundle.path), *schools, "--rounds", "1", "--epochs", "1"]
    found = CliRunner().invoke(simulate, [*command, "--statistics", "plain", "--json", str(out)])
    assert not found.exception, found.output
    assert "school-0, solved alone: " in found.output
    assert "school-0, solved together: " in found.output
    assert "round 1: version 1" in found.output
    document = json.loads(out.read_bytes())
    assert document["statistics"]["schools"]["school-2"]["scores"]["together"]["category"]["n"] > 0
    assert document["configuration"]["statistics"]["mode"] == "plain"


PRIVATE = ["--epsilon", "8", "--clip-norm", "1", "--noise-multiplier", "1"]


def test_where_there_is_no_exchange_of_statistics_it_is_refused(
    solved_bundle: tiny.Tiny, tiny_bundle: tiny.Tiny, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("homeroom_aggregator.flower.check_installed", lambda: None)
    monkeypatch.setitem(sys.modules, "homeroom_aggregator.flower.simulation", SimpleNamespace(simulate=print))
    for bundle, more, word in (
        (solved_bundle, ["--engine", "flower"], "in this process alone"),
        (solved_bundle, PRIVATE, "plain statistics would show"),
        (tiny_bundle, [], "the bundle has no statistics"),
    ):
        command = [str(bundle.path), *map(str, paths), "--statistics", "plain", *more]
        with pytest.raises(InputError, match=word):
            CliRunner().invoke(simulate, command, catch_exceptions=False)
