"""A grid in this process: nodes answer at once, in the place of SuperLink, SuperNodes and ray."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from homeroom_aggregator.flower.records import RECORD_NAME


class Loop:
    """One node for each configuration. `broken` nodes fail; `seen`: every byte string that passed, either way."""

    def __init__(self, app: ClientApp, configs: list[dict[str, Any]], broken: Collection[int] = ()) -> None:
        TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # every message names them
        self.app, self.broken = app, broken
        self.contexts = {
            node: Context(run_id=1, node_id=node, node_config=config, state=RecordDict(), run_config={})
            for node, config in enumerate(configs, 1)
        }
        self.replies: dict[str, Message] = {}
        self.seen: list[bytes] = []

    def get_node_ids(self) -> list[int]:
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        names = []
        for number, message in enumerate(messages):
            names.append(f"{len(self.replies)}.{number}")
            message.metadata.__dict__["_message_id"] = names[-1]
        for message in messages:  # the second time, as the grid of a deployment does
            node = message.metadata.dst_node_id
            if node in self.broken:
                reply = Message(Error(code=0, reason="the machine was switched off"), reply_to=message)
            else:
                reply = self.app(message, self.contexts[node])
                for one in (message, reply):
                    self.seen += [v for v in one.content.config_records[RECORD_NAME].values() if isinstance(v, bytes)]
            self.replies[message.metadata.message_id] = reply
        return names

    def pull_messages(self, names: Iterable[str]) -> list[Message]:
        return [self.replies.pop(name) for name in list(names) if name in self.replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        return self.pull_messages(self.push_messages(messages))
