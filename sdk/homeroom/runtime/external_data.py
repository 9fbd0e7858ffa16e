"""External data of ONNX graphs stays inside the bundle, whatever the runtime checks itself.

The graph is read as protobuf (https://protobuf.dev/programming-guides/encoding/), without the onnx package: only the
messages on the way to a tensor are entered, and values are skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath

from homeroom.errors import BundleError

# Field numbers of onnx.proto that lead to tensors: message -> field -> message.
TENSOR_PATHS: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto",
        6: "GraphProto",
        10: "TensorProto",
        11: "GraphProto",
        22: "SparseTensorProto",
        23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
    "TensorProto": {13: "StringStringEntryProto"},  # external_data
}
ENTRY, KEY_FIELD, VALUE_FIELD = "StringStringEntryProto", 1, 2
DEPTH_LIMIT = 100  # as of protobuf itself
FIELD_LIMIT = 10_000_000
PATH_LIMIT_BYTES = 4096


def check_external_data(graph: Path, name: str, files: Collection[str]) -> None:
    """Raises BundleError where a tensor of a graph is in a file that the bundle does not list, or it is no ONNX graph.

    graph: the file of the bundle's `name`, which paths of external data start from; files: those that are signed.
    """
    for path in external_locations(graph, name):
        if (PurePosixPath(name).parent / path).as_posix() not in files:  # all of them lie inside
            what = f"keeps a tensor in {path!r}, which is no file of the bundle"
            raise BundleError(what, where=name, remedy="do not use it")


def external_locations(graph: Path, name: str) -> list[str]:
    """The paths of a graph's external data, as they are named; BundleError where it is no ONNX graph."""
    with graph.open("rb") as file:
        if not file.seek(0, 2):
            return []  # the runtime refuses an empty one
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return list(_locations(data, name)) if data.find(b"location") >= 0 else []  # the key of a path, in UTF-8


def bytes_with_external_data(graph: Path, name: str) -> int:
    """The size of a graph's file and of those that it keeps tensors in; BundleError where it is no ONNX graph."""
    return sum((graph.parent / path).stat().st_size for path in {graph.name, *external_locations(graph, name)})


def _locations(data: mmap.mmap, name: str) -> Iterator[str]:
    """The paths that tensors name, wherever they stand in the graph."""
    pending, fields = [("ModelProto", 0, len(data), 0)], 0
    while pending:
        message, start, end, depth = pending.pop()
        keys, values = list[bytes](), list[bytes]()
        for number, first, last in _fields(data, start, end, name):
            fields += 1
            if depth > DEPTH_LIMIT or fields > FIELD_LIMIT:
                raise BundleError("is nested deeper, or has more parts, than any graph", where=name)
            if message == ENTRY and number in (KEY_FIELD, VALUE_FIELD):
                (keys if number == KEY_FIELD else values).append(data[first : min(last, first + PATH_LIMIT_BYTES)])
            elif number in TENSOR_PATHS.get(message, {}):
                pending.append((TENSOR_PATHS[message][number], first, last, depth + 1))
        if b"location" in keys:
            yield from (value.decode("utf-8", "replace") for value in values)


def _fields(data: mmap.mmap, start: int, end: int, name: str) -> Iterator[tuple[int, int, int]]:
    """Number, start and end of the fields of a message that hold bytes; the others are skipped."""
    while start < end:
        tag, start = _varint(data, start, name)
        kind = tag & 7
        if kind == 0:
            _, start = _varint(data, start, name)
        elif kind == 2:
            length, start = _varint(data, start, name)
            if length > end - start:
                raise BundleError("is not a graph: cut short", where=name)
            yield tag >> 3, start, start + length
            start += length
        elif kind in (1, 5):
            start += 8 if kind == 1 else 4
        else:
            raise BundleError("is not a graph: of an unknown wire type", where=name)
    if start > end:
        raise BundleError("is not a graph: cut short", where=name)


def _varint(data: mmap.mmap, at: int, name: str) -> tuple[int, int]:
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * shift)
        if byte < 128:
            return value, at + shift + 1
    raise BundleError("is not a graph: a number without end", where=name)
