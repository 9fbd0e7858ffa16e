"""Flower's own SecAgg+ on the same task, for `secure_aggregation.py`: runs where flwr is installed, and only there.

Its client mod and its server workflow are called as they are; only the network between them is a function call. Prints
one JSON line: seconds of a whole round (every client and the server), and CPU seconds of one client's masking.
"""

from __future__ import annotations

import copy
import json
import logging
import statistics
import sys
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import Code, FitIns, FitRes, Status, ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.symmetric_encryption import generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.secure_aggregation.secaggplus_utils import pseudo_rand_gen
from flwr.compat.common import recorddict_compat as compat
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation import SecAggPlusWorkflow
from flwr.supercore.primitives.asymmetric import generate_key_pairs
from flwr.supercore.task_identity import TaskIdentity

MODULUS = 1 << 32


class Proxy:
    def __init__(self, node_id: int) -> None:
        self.node_id, self.cid = node_id, str(node_id)


class Strategy:
    """Chooses everybody, and keeps what was aggregated."""

    def __init__(self, devices: int, start: Any) -> None:
        self.devices, self.start, self.found = devices, start, None

    def configure_fit(self, *_: Any) -> list[tuple[Proxy, FitIns]]:
        return [(Proxy(node + 1), FitIns(self.start, {})) for node in range(self.devices)]

    def aggregate_fit(self, _: int, results: Any, __: Any) -> tuple[None, dict[str, Any]]:
        self.found = results[0][1].parameters
        return None, {}


class Clients:
    def num_available(self) -> int:
        return 0


class Wire:
    """The grid: hands each message to the client's mod; `gone` do not answer from the masked vectors on."""

    def __init__(self, vectors: list[np.ndarray], gone: set[int]) -> None:
        self.vectors, self.gone = vectors, gone
        self.contexts = {
            node + 1: Context(run_id=1, node_id=node + 1, node_config={}, state=RecordDict(), run_config={})
            for node in range(len(vectors))
        }

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        told = list(messages)
        if told and told[0].content.config_records[RECORD_KEY_CONFIGS][Key.STAGE] == Stage.SETUP:
            told = [copy.deepcopy(message) for message in told]  # one content for all, which the mod takes apart
        for message in told:
            node = message.metadata.dst_node_id
            stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
            if node in self.gone and stage in (Stage.COLLECT_MASKED_VECTORS, Stage.UNMASK):
                continue

            def train(told: Message, _: Context, node: int = node) -> Message:
                parameters = ndarrays_to_parameters([self.vectors[node - 1]])
                result = FitRes(Status(Code.OK, ""), parameters, 100, {})
                return Message(compat.fitres_to_recorddict(result, keep_input=True), reply_to=told)

            replies.append(secaggplus_mod(message, self.contexts[node], train))
        return replies


def whole_round(devices: int, values: int, neighbours: int, threshold: int, dropped: int) -> float:
    rng = np.random.default_rng(1)
    vectors = [rng.normal(0, 0.01, values).astype(np.float32) for _ in range(devices)]
    start = ndarrays_to_parameters([np.zeros(values, np.float32)])
    strategy = Strategy(devices, start)
    state = RecordDict()
    state.config_records[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    state.array_records[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(start, keep_input=True)
    context = LegacyContext(
        Context(run_id=1, node_id=0, node_config={}, state=state, run_config={}),
        strategy=strategy,  # type: ignore[arg-type]
        client_manager=Clients(),  # type: ignore[arg-type]
    )
    gone = set(range(1, dropped + 1))
    workflow = SecAggPlusWorkflow(num_shares=neighbours + 1, reconstruction_threshold=threshold)
    begin = time.perf_counter()
    workflow(Wire(vectors, gone), context)  # type: ignore[arg-type]
    seconds = time.perf_counter() - begin
    assert strategy.found is not None, "the round did not end in a sum"
    return seconds


def masking(values: int, neighbours: int, times: int) -> float:
    """One client's masks as its mod makes them: its own, and for each neighbour key agreement and one stream."""
    own, _ = generate_key_pairs()
    others = [generate_key_pairs()[1] for _ in range(neighbours)]
    vector, shape = [np.zeros(values, np.int64)], [(values,)]

    def mask() -> float:
        begin = time.process_time()
        masked = parameters_addition(vector, pseudo_rand_gen(bytes(range(32)), MODULUS, shape))
        for place, other in enumerate(others):
            stream = pseudo_rand_gen(generate_shared_key(own, other), MODULUS, shape)
            masked = (parameters_addition if place % 2 else parameters_subtraction)(masked, stream)
        parameters_mod(masked, MODULUS)
        return time.process_time() - begin

    return statistics.median(mask() for _ in range(times))


def main() -> None:
    logging.getLogger("flwr").setLevel(logging.ERROR)
    TaskIdentity.task_id = TaskIdentity.run_id = 1
    TaskIdentity.node_id = 0
    asked = json.loads(sys.argv[1])
    times = asked.pop("times")
    seconds = whole_round(**asked)
    found = {
        "seconds": seconds,
        "mask_seconds": masking(asked["values"], asked["neighbours"], times),
        "neighbours": asked["neighbours"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
