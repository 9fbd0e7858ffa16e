"""Flower's messages with our content: values by name in one record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flwr.app import ConfigRecord, Context, Message, RecordDict

from homeroom.errors import HomeroomError, NetworkError

RECORD_NAME = "homeroom"
Handler = Callable[[Message, Context], RecordDict]


def packed(**values: Any) -> RecordDict:
    """A message's content. values: bytes, text, whole numbers."""
    return RecordDict({RECORD_NAME: ConfigRecord(values)})


def unpacked(message: Message) -> dict[str, Any]:
    """The values of a message; NetworkError where the other side failed, or said why it cannot."""
    if message.has_error():
        raise NetworkError(f"a node failed: {message.error.reason.strip()}", where=_node(message))
    record = message.content.config_records.get(RECORD_NAME)
    if record is None:
        raise NetworkError("a message that is not one of ours", where=_node(message), remedy="update homeroom")
    if problem := record.get("problem"):
        raise NetworkError(str(problem), where=_node(message))
    return dict(record)


def answering(handle: Handler) -> Callable[[Message, Context], Message]:
    """A ClientApp's function that replies with the problem where the handler raises a HomeroomError."""

    def answer(message: Message, context: Context) -> Message:
        try:
            content = handle(message, context)
        except HomeroomError as problem:
            content = packed(problem=str(problem))
        return Message(content, reply_to=message)

    return answer


def _node(message: Message) -> str:
    return f"node {message.metadata.src_node_id}"
