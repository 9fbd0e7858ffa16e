"""A Flower `Strategy` of our own: messages in, answers out, and the aggregator's own log between.

A message is what a device would write to a removable folder (`homeroom.federation.offline`): signed updates, sealed so
that the SuperLink cannot open them. It goes through the same admission into the same log, and theta follows from the
same exact integer merge (`homeroom_aggregator.merge.segment_sums`); Flower adds the transport and the scheduling.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from homeroom.contract.offline_message import AnswerHeader, MessageHeader, read_message
from homeroom.contract.sealed_box import sealing_key
from homeroom.errors import HomeroomError, InputError, NetworkError
from homeroom.system.printable import counted
from homeroom_aggregator.admin import offline
from homeroom_aggregator.admin.configuration_file import round_in_force
from homeroom_aggregator.admin.folder import open_rounds, read_facts, read_secret
from homeroom_aggregator.flower.records import packed, unpacked

NODE_POLL_S = 0.5  # between two looks for nodes


class AggregatorStrategy(Strategy):  # type: ignore[misc]
    """One aggregator's folder; use it in a `with`, since one process at a time may have it open.

    A round asks every connected node for a message and merges its updates. A node gets the answer, with the newest
    version, when it is asked again, and after the last round: one process a round at each node.
    """

    def __init__(self, folder: Path, *, last: int, nodes: int, wait_s: float, tell: Callable[[str], None]) -> None:
        """Open the folder.

        last: the number of the last round. nodes: how many must connect before a round begins, within `wait_s`.
        tell: gets a line a round.
        """
        self.last, self.nodes, self.wait_s, self.tell = last, nodes, wait_s, tell
        configuration = round_in_force(folder, read_facts(folder))
        if configuration.secure or configuration.cohort:
            raise InputError(
                "its rounds are secure or synchronous, and neither goes by offline messages",
                where=str(folder),
                remedy="serve it over HTTP",
            )
        self.rounds, self.secret = open_rounds(folder), read_secret(folder)
        self.key = offline.load_sealing_key(folder)
        self.receiver = msgspec.json.encode(sealing_key(self.key, self.rounds.key, self.rounds.certificate))
        self.answers: dict[int, tuple[MessageHeader, AnswerHeader]] = {}  # by node, not delivered yet

    def __enter__(self) -> AggregatorStrategy:
        return self

    def __exit__(self, *_: object) -> None:
        self.rounds.close()

    @property
    def arrays(self) -> ArrayRecord:
        """Theta as Flower's own record, for its results; devices take it from their signed answers alone."""
        return ArrayRecord([self.rounds.state.theta])

    def summary(self) -> None:
        """Print the version and how many devices are enrolled."""
        self.tell(f"version {self.rounds.state.version}, {counted(self.rounds.members.count(), 'device')} enrolled")

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Ask every node for a message, with the answer to its last one."""
        common, nodes = {"receiver": self.receiver, **dict(config)}, self._present(grid)
        return [
            Message(packed(answer=self._answer(node), **common), node, "train", group_id=str(server_round))
            for node in nodes
        ]

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[ArrayRecord, MetricRecord]:
        """Take every message in; a bad one, or a node that failed, changes nothing for the others."""
        counts = Counter(accepted=0, already=0, refused=0, waits=0, failed=0)
        for reply in replies:
            node = reply.metadata.src_node_id
            try:
                header, updates, change = read_message(unpacked(reply)["letter"], self.key, where=f"node {node}")
            except HomeroomError as problem:
                counts["failed"] += 1
                self.tell(f"round {server_round}: {problem}")
                continue
            answer = offline.answer_message(self.rounds, self.secret, header, updates, change)
            self.answers[node] = header, answer
            counts.update(receipt.status for receipt in answer.receipts)
            if answer.statistics_refused:
                self.tell(f"round {server_round}: node {node}: statistics: {answer.statistics_refused}")
            for receipt in answer.receipts:
                if receipt.status == "refused":
                    self.tell(f"round {server_round}: node {node}: {receipt.message}")
        metrics = {**counts, "version": self.rounds.state.version}
        self.tell(f"round {server_round}: " + ", ".join(f"{name} {count}" for name, count in metrics.items()))
        return self.arrays, MetricRecord(metrics)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """After the last round, the answers that are due; a list, since Flower's grid goes over it twice."""
        due = list(self.answers) if server_round == self.last else []
        return [
            Message(packed(answer=self._answer(node)), node, "evaluate", group_id=str(server_round)) for node in due
        ]

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord:
        """How many devices took their last answer in; one that did not gets the same with its next message."""
        taken = 0
        for reply in replies:
            try:
                taken += bool(unpacked(reply)["taken"])
            except HomeroomError as problem:
                self.tell(f"round {server_round}: {problem}")
        return MetricRecord({"answers_taken": taken})

    def _answer(self, node: int) -> bytes:
        """The answer to a node's last message, with the newest version; empty where none is due."""
        if node not in self.answers:
            return b""
        header, answer = self.answers.pop(node)
        return offline.seal_answer(self.rounds, header, answer)

    def _present(self, grid: Grid) -> list[int]:
        started_s = time.monotonic()
        while len(nodes := sorted(grid.get_node_ids())) < self.nodes:
            if time.monotonic() - started_s > self.wait_s:
                raise NetworkError(
                    f"{len(nodes)} of {self.nodes} nodes came within {self.wait_s:g} s", remedy="start the SuperNodes"
                )
            time.sleep(NODE_POLL_S)
        return nodes
