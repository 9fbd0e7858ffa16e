"""Simulated schools as nodes of Flower's simulation: `federate`'s own rounds, with the training in ray's processes.

A node gets theta and the round, and answers with a signed update. The same seed gives the same theta as in one process.
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
import safetensors.numpy
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
from homeroom_aggregator.flower.records import RECORD_NAME, answering, packed, unpacked
from homeroom_aggregator.simulation.engine import OnTrained, Scores, SimulatedDevice, TrainedUpdate, TrainingTask
from homeroom_aggregator.simulation.federate import Simulation, federate
from homeroom_aggregator.simulation.schools import SchoolsPlan, load_school

NODES_DEADLINE_S, REPLY_POLL_S = 120.0, 0.05  # to wait for the nodes; between two looks for replies


def simulate(plan: SchoolsPlan, arguments: Mapping[str, Any], on_trained: OnTrained | None = None) -> Simulation:
    """Run `federate` with these arguments over simulated nodes, one school each, as many at a time as there are cores.

    Raises what `federate` raises, and NetworkError where a node fails.
    """
    results: list[Simulation] = []

    def main(grid: Grid, _: Context) -> None:
        bundle = open_bundle(plan.bundle, root=None)
        results.append(federate(bundle, plan.names, engine=Nodes(grid, plan.names, on_trained), **arguments))

    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else ray warns of what is to come, every time
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what matters is raised
    server = ServerApp()
    server.main()(main)
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
    init_args, resources = {"num_cpus": os.cpu_count() or 1} | quiet, {"num_cpus": 1, "num_gpus": 0.0}
    backend = {"init_args": init_args, "client_resources": resources}
    run_simulation(server, nodes_app(plan), num_supernodes=len(plan.names), backend_config=backend)
    return results[0]


class Nodes:
    """The engine whose schools are the nodes of a grid."""

    def __init__(self, grid: Grid, names: Sequence[str], on_trained: OnTrained | None = None) -> None:
        self.grid, self.names, self.on_trained = grid, names, on_trained
        self.nodes = dict(enumerate(self._present(len(names))))  # by school index; at first in any order
        replies = self._ask("query", {index: packed() for index in self.nodes})
        self.nodes = {reply["place"]: self.nodes[index] for index, reply in replies.items()}
        self.validating = [reply["place"] for reply in replies.values() if reply["validation"]]

    def train(self, tasks: Sequence[TrainingTask], thetas: Sequence[np.ndarray]) -> list[TrainedUpdate]:
        """The update of each task; thetas: float32 [P] by version."""
        contents = {
            task.index: packed(
                base=task.base,
                theta=thetas[task.base].tobytes(),
                settings=msgspec.json.encode(task.settings),
                round=msgspec.json.encode(task.configuration),
            )
            for task in tasks
        }
        replies = sorted(self._ask("train", contents, self.on_trained).items())
        return [TrainedUpdate(index, one["device"], one["update"], one["untrained"]) for index, one in replies]

    def score(self, theta: np.ndarray) -> dict[str, Scores]:
        """Scores of theta, float32 [P], by school and task."""
        replies = self._ask("evaluate", {index: packed(theta=theta.tobytes()) for index in self.validating})
        return {
            self.names[index]: msgspec.json.decode(reply["scores"], type=dict[str, Score])
            for index, reply in sorted(replies.items())
        }

    def _present(self, count: int) -> list[int]:
        started_s = time.monotonic()
        while len(nodes := list(self.grid.get_node_ids())) < count:
            if time.monotonic() - started_s > NODES_DEADLINE_S:
                raise NetworkError(f"{len(nodes)} of {count} nodes came", remedy="is there memory left?")
            time.sleep(REPLY_POLL_S)
        return nodes

    def _ask(
        self, kind: str, contents: Mapping[int, RecordDict], on_reply: OnTrained | None = None
    ) -> dict[int, dict[str, Any]]:
        """Send each school, by index, its content; all replies."""
        indexes = {self.nodes[index]: index for index in contents}
        messages = [Message(content, self.nodes[index], kind) for index, content in contents.items()]
        waiting = set(self.grid.push_messages(messages))
        replies: dict[int, dict[str, Any]] = {}
        while waiting:
            for reply in self.grid.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies[indexes[reply.metadata.src_node_id]] = unpacked(reply)
                if on_reply:
                    on_reply(len(replies), len(contents))
            time.sleep(REPLY_POLL_S if waiting else 0)
        return replies


def nodes_app(plan: SchoolsPlan) -> ClientApp:
    """The ClientApp of every node, which is the school of its partition-id."""
    app = ClientApp()
    app.query()(answering(partial(_query, plan)))
    app.train()(answering(partial(_train, plan)))
    app.evaluate()(answering(partial(_evaluate, plan)))
    return app


def _query(plan: SchoolsPlan, _: Message, context: Context) -> RecordDict:
    school = _device(plan, _index(context)).school
    return packed(place=_index(context), train=len(school.train), validation=len(school.validation or ()))


def _train(plan: SchoolsPlan, message: Message, context: Context) -> RecordDict:
    content, index, device = unpacked(message), _index(context), _resumed(plan, context)
    settings = msgspec.json.decode(content["settings"], type=Settings)
    task = TrainingTask(
        index, content["base"], settings, msgspec.json.decode(content["round"], type=RoundConfiguration)
    )
    trained = device.train(task, np.frombuffer(content["theta"], np.float32))
    state = {
        "key": device.key.private_bytes_raw(),
        "residual": device.residual,
        "kept": safetensors.numpy.save(device.kept),
        "input_weights": msgspec.json.encode(device.input_weights),
    }
    context.state.config_records[RECORD_NAME] = ConfigRecord(state)
    return packed(device=trained.device, update=trained.update, untrained=trained.problem)


def _evaluate(plan: SchoolsPlan, message: Message, context: Context) -> RecordDict:
    theta = np.frombuffer(unpacked(message)["theta"], np.float32)
    return packed(scores=msgspec.json.encode(_resumed(plan, context).score(theta)))


def _resumed(plan: SchoolsPlan, context: Context) -> SimulatedDevice:
    """The node's device as it was after its last round, which another process may have computed."""
    device, state = _device(plan, _index(context)), context.state.config_records.get(RECORD_NAME)
    fields: dict[str, Any] = dict(state or {})
    device.key = Ed25519PrivateKey.from_private_bytes(fields["key"]) if fields else new_key()
    device.residual = fields.get("residual", b"")
    device.kept = safetensors.numpy.load(fields["kept"]) if fields else {}
    device.input_weights = msgspec.json.decode(fields.get("input_weights", b"{}"))
    return device


def _index(context: Context) -> int:
    return int(context.node_config["partition-id"])


@lru_cache(maxsize=4)
def _graphs(plan: SchoolsPlan) -> Graphs:
    return Graphs(open_bundle(plan.bundle, root=None), dict(plan.precision), threads=1)


@lru_cache(maxsize=1024)
def _device(plan: SchoolsPlan, index: int) -> SimulatedDevice:
    """A school with its features, computed the first time that this process meets it."""
    graphs = _graphs(plan)
    return SimulatedDevice(load_school(graphs.bundle, graphs, plan.paths[index], plan.names[index], plan.seed), graphs)
