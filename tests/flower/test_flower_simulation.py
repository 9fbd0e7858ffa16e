"""`homeroom research simulate --engine flower`: the same theta as in one process; once with ray's own processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
from click.testing import CliRunner

pytest.importorskip("flwr")
pytest.importorskip("ray")

from flower.loop import Loop
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import NetworkError
from homeroom.runtime.bundle import Bundle, install
from homeroom.runtime.graphs import Graphs
from homeroom.train.settings import Settings
from homeroom_aggregator.cli import simulate
from homeroom_aggregator.flower.simulation import Nodes, nodes_app
from homeroom_aggregator.simulation import schools as virtual
from homeroom_aggregator.simulation.engine import LocalEngine
from homeroom_aggregator.simulation.federate import federate

SCHOOLS = 6


@pytest.fixture
def bundle(tmp_path: Path, tiny_bundle: tiny.Tiny) -> Bundle:
    return install(tiny_bundle.path, tmp_path / "installed", root=tiny_bundle.root)


@pytest.fixture
def plan(tmp_path: Path, bundle: Bundle) -> virtual.SchoolsPlan:
    paths = tuple(tiny.write_samples(tmp_path / f"school-{n}", tiny.samples(20, n)) for n in range(SCHOOLS))
    return virtual.SchoolsPlan(bundle.path, (), paths, tuple(virtual.school_names(paths)), 5)


def grid(plan: virtual.SchoolsPlan, **more: Any) -> Loop:
    backwards = [{"partition-id": n, "num-partitions": SCHOOLS} for n in reversed(range(SCHOOLS))]
    return Loop(nodes_app(plan), backwards, **more)


def test_the_same_seed_gives_the_same_theta_on_both_engines(bundle: Bundle, plan: virtual.SchoolsPlan) -> None:
    """With schools that stay away, train on an old version, and send lossy updates with error feedback."""
    told = {
        "rounds": 3,
        "settings": Settings(epochs=1, learning_rate=5e-3, constant_rate=True),
        "configuration": RoundConfiguration(bundle_id=bundle.bundle_id, buffer_size=4, min_devices=2, codec="int4"),
        "seed": 5,
        "participation": 0.8,
        "lag": 0.3,
        "measure_every": 1,
    }
    graphs = Graphs(bundle, {}, threads=1)
    schools = [virtual.load_school(bundle, graphs, *both, 5) for both in zip(plan.paths, plan.names, strict=True)]
    ours = federate(bundle, plan.names, engine=LocalEngine(schools, graphs), **told)
    arrived: list[tuple[int, int]] = []
    nodes = Nodes(grid(plan), plan.names, lambda done, of: arrived.append((done, of)))
    theirs = federate(bundle, plan.names, engine=nodes, **told)
    assert theirs.version == ours.version >= 2
    assert theirs.theta.tobytes() == ours.theta.tobytes()
    assert theirs.rounds == ours.rounds  # bytes, refusals and every score
    assert len(ours.rounds[0].scores) == SCHOOLS
    assert arrived[-1][0] == arrived[-1][1]


def test_a_school_whose_file_is_no_good_is_named(plan: virtual.SchoolsPlan) -> None:
    plan.paths[3].write_text('{"nonsense": 1}\n')
    with pytest.raises(NetworkError, match="nonsense"):
        Nodes(grid(plan), plan.names)


def test_a_node_that_dies_ends_the_simulation_with_its_reason(plan: virtual.SchoolsPlan) -> None:
    with pytest.raises(NetworkError, match="switched off"):
        Nodes(grid(plan, broken={2}), plan.names)


@pytest.mark.extra
@pytest.mark.timeout(300)
def test_the_command_gives_the_same_with_processes_of_ray_and_draws_it(
    tmp_path: Path, tiny_bundle: tiny.Tiny, plan: virtual.SchoolsPlan
) -> None:
    found = {}
    for engine in ("homeroom", "flower"):
        out, plot = tmp_path / f"{engine}.json", tmp_path / f"{engine}.svg"
        arguments = [str(tiny_bundle.path), *map(str, plan.paths), "--engine", engine, "--rounds", "3", "--epochs", "1"]
        arguments += ["--participation", "0.8", "--lag", "0.3", "--json", str(out), "--plot", str(plot)]
        done = CliRunner().invoke(simulate.simulate, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        assert f"{SCHOOLS} schools after round 3" in plot.read_text()
        found[engine] = json.loads(out.read_text())
    ours, theirs = found["homeroom"], found["flower"]
    assert ours["version"] == theirs["version"] >= 2
    for one, other in zip(ours["rounds"], theirs["rounds"], strict=True):
        assert one["sent_bytes"] == other["sent_bytes"]
        assert len(one["scores"]) == SCHOOLS
        for name, scores in one["scores"].items():
            for task in (task for task, score in scores.items() if score["log_loss"] is not None):
                np.testing.assert_allclose(scores[task]["log_loss"], other["scores"][name][task]["log_loss"], atol=1e-4)
