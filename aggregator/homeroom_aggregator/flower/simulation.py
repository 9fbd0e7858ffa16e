"""Virtual schools as nodes of Flower's simulation: `simulate`'s own rounds, with the training in ray's processes.

The server's part is `simulate.federate` as it stands; a node gets theta and the round, and answers with a signed
update. The same seed gives the same theta as in one process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

import msgspec
import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.simulation import run_simulation

from homeroom.contract.round import RoundConfiguration
from homeroom.contract.signing import new_key
from homeroom.data.tasks.metrics import Score
from homeroom.errors import NetworkError
from homeroom.runtime.bundle import open_bundle
from homeroom.runtime.graphs import Graphs
from homeroom.train.settings import Settings
from homeroom_aggregator.flower.records import RECORD, answering, packed, unpacked
from homeroom_aggregator.simulation.federate import Arrived, Scores, Simulation, Student, Task, Trained, federate
from homeroom_aggregator.simulation.schools import Plan, school

START_S, PULL_S = 120.0, 0.05  # to wait for the nodes; between two looks for replies


def simulate(plan: Plan, told: Mapping[str, Any], arrived: Arrived | None = None) -> Simulation:
    """Run `federate` with these arguments over virtual nodes, one school each, as many at a time as there are cores.

    Raises what `federate` raises, and NetworkError where a node fails.
    """
    found: list[Simulation] = []

    def main(grid: Grid, _: Context) -> None:
        bundle = open_bundle(plan.bundle, root=None)
        found.append(federate(bundle, plan.names, engine=Nodes(grid, plan.names, arrived), **told))

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else ray warns of what is to come, every time
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what matters is raised
    server = ServerApp()
    server.main()(main)
    run_simulation(
        server,
        nodes_app(plan),
        num_supernodes=len(plan.names),
        backend_config={
            "init_args": {
                "num_cpus": os.cpu_count() or 1,
                "include_dashboard": False,
                "log_to_driver": False,
                "logging_level": logging.ERROR,
            },
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        },
    )
    return found[0]


class Nodes:
    """The engine whose schools are the nodes of a grid."""

    def __init__(self, grid: Grid, names: Sequence[str], arrived: Arrived | None = None) -> None:
        self.grid, self.names, self.arrived = grid, names, arrived
        self.nodes = dict(enumerate(self._present(len(names))))  # by place; at first in any order
        met = self._ask("query", {place: packed() for place in self.nodes})
        self.nodes = {said["place"]: self.nodes[place] for place, said in met.items()}
        self.validating = [said["place"] for said in met.values() if said["validation"]]

    def train(self, tasks: Sequence[Task], released: Sequence[np.ndarray]) -> list[Trained]:
        contents = {
            task.place: packed(
                base=task.base,
                theta=released[task.base].tobytes(),
                settings=msgspec.json.encode(task.settings),
                round=msgspec.json.encode(task.configuration),
            )
            for task in tasks
        }
        said = self._ask("train", contents, self.arrived)
        return [Trained(place, s["device"], s["update"], s["untrained"]) for place, s in sorted(said.items())]

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        content = {place: packed(theta=theta.tobytes()) for place in self.validating}
        said = self._ask("evaluate", content)
        kind = dict[str, Score]
        return {self.names[place]: msgspec.json.decode(said[place]["scores"], type=kind) for place in sorted(said)}

    def _present(self, count: int) -> list[int]:
        begun = time.monotonic()
        while len(found := list(self.grid.get_node_ids())) < count:
            if time.monotonic() - begun > START_S:
                raise NetworkError(f"{len(found)} of {count} nodes came", remedy="is there memory left?")
            time.sleep(PULL_S)
        return found

    def _ask(
        self, kind: str, contents: Mapping[int, RecordDict], arrived: Arrived | None = None
    ) -> dict[int, dict[str, Any]]:
        """Send each place its content; what all of them answer."""
        places = {self.nodes[place]: place for place in contents}
        messages = [Message(content, self.nodes[place], kind) for place, content in contents.items()]
        waiting = set(self.grid.push_messages(messages))
        found: dict[int, dict[str, Any]] = {}
        while waiting:
            for reply in self.grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                found[places[reply.metadata.src_node_id]] = unpacked(reply)
                if arrived:
                    arrived(len(found), len(contents))
            time.sleep(PULL_S if waiting else 0)
        return found


def nodes_app(plan: Plan) -> ClientApp:
    """What runs on every node; which school it is, its number says."""
    app = ClientApp()
    app.query()(answering(partial(_query, plan)))
    app.train()(answering(partial(_train, plan)))
    app.evaluate()(answering(partial(_evaluate, plan)))
    return app


def _query(plan: Plan, _: Message, context: Context) -> RecordDict:
    found = _student(plan, _place(context)).school
    return packed(place=_place(context), train=len(found.train), validation=len(found.validation or ()))


def _train(plan: Plan, message: Message, context: Context) -> RecordDict:
    asked, place = unpacked(message), _place(context)
    student = _student(plan, place)
    kept: Any = context.state.config_records.get(RECORD)  # the process may be another than in the round before
    student.key = Ed25519PrivateKey.from_private_bytes(kept["key"]) if kept else new_key()
    student.residual = kept["residual"] if kept else b""
    settings = msgspec.json.decode(asked["settings"], type=Settings)
    task = Task(place, asked["base"], settings, msgspec.json.decode(asked["round"], type=RoundConfiguration))
    trained = student.train(task, np.frombuffer(asked["theta"], np.float32))
    state = {"key": student.key.private_bytes_raw(), "residual": student.residual}
    context.state.config_records[RECORD] = ConfigRecord(state)
    return packed(device=trained.device, update=trained.update, untrained=trained.problem)


def _evaluate(plan: Plan, message: Message, context: Context) -> RecordDict:
    theta = np.frombuffer(unpacked(message)["theta"], np.float32)
    return packed(scores=msgspec.json.encode(_student(plan, _place(context)).score(theta)))


def _place(context: Context) -> int:
    return int(context.node_config["partition-id"])


@lru_cache(maxsize=4)
def _graphs(plan: Plan) -> Graphs:
    return Graphs(open_bundle(plan.bundle, root=None), dict(plan.precision), threads=1)


@lru_cache(maxsize=1024)
def _student(plan: Plan, place: int) -> Student:
    """A school with its features, computed the first time that this process meets it."""
    graphs = _graphs(plan)
    return Student(school(graphs.bundle, graphs, plan.paths[place], plan.names[place], plan.seed), graphs)
