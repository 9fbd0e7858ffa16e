"""The decoder's protocol: frames over pipes, each 8 bytes of length and a body in MessagePack.

An array is its dtype, shape and raw bytes. Both sides read a frame against a type, so that nothing else comes in.
"""

from __future__ import annotations

from importlib import import_module
from typing import IO, Any, get_type_hints

import msgspec
import numpy as np

from homeroom.errors import SignalError

FRAME_LIMIT_BYTES = 160 << 20
ARRAY_TYPES = frozenset({"|b1", "|i1", "|u1", "<i8", "<f4", "<f8"})
LENGTH_BYTES = 8


class WireError(SignalError):
    """A frame that is not what it should be."""


class DecoderRequest(msgspec.Struct, frozen=True, array_like=True):
    """A call of a module's function. `limit_s`: of processor time on one core."""

    module: str
    function: str
    arguments: list[msgspec.Raw]
    limit_s: float


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """A HomeroomError, `kind` the name of its class."""

    kind: str
    what: str
    where: str
    remedy: str
    code: str


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What the function returned, or why it failed; or, before that, that it has `narrow_s` of processor time left."""

    value: msgspec.Raw
    failure: Failure | None = None
    narrow_s: float = 0.0


class _Array(msgspec.Struct, frozen=True, array_like=True):
    dtype: str
    shape: tuple[int, ...]
    data: bytes


def encode(value: Any) -> bytes:
    """Encodes structs, plain values and arrays."""
    return msgspec.msgpack.encode(value, enc_hook=_from_array)


def decode(body: bytes | msgspec.Raw, kind: Any) -> Any:
    """Decodes a value of a type; WireError if it is another."""
    try:
        return msgspec.msgpack.decode(body, type=kind, dec_hook=_to_array)
    except (msgspec.MsgspecError, ValueError, RecursionError) as problem:  # UnicodeDecodeError is a ValueError
        raise WireError(str(problem)) from None


def call(module: str, function: str, arguments: list[msgspec.Raw]) -> Any:
    """Calls a module's function with encoded arguments, of the types that it is annotated with."""
    called = getattr(import_module(module), function)
    kinds = get_type_hints(called).values()  # of the arguments in their order, then of the result
    return called(*(decode(raw, kind) for raw, kind in zip(arguments, kinds, strict=False)))


def write_frame(pipe: IO[bytes], body: bytes) -> None:
    """Writes one frame."""
    pipe.write(len(body).to_bytes(LENGTH_BYTES, "big"))
    pipe.write(body)
    pipe.flush()


def read_frame(pipe: IO[bytes]) -> bytes | None:
    """Reads one frame; None where the pipe ends first, WireError where the frame is longer than allowed."""
    head = pipe.read(LENGTH_BYTES)
    length = int.from_bytes(head, "big")
    if length > FRAME_LIMIT_BYTES:
        raise WireError(f"a frame of {length:,} bytes")
    body = pipe.read(length)
    return body if len(head) == LENGTH_BYTES and len(body) == length else None


def _from_array(value: Any) -> Any:
    array = np.ascontiguousarray(value)
    return _Array(array.dtype.str, np.shape(value), array.tobytes())


def _to_array(kind: type, value: Any) -> Any:
    packed = msgspec.convert(value, _Array)
    if packed.dtype not in ARRAY_TYPES or min(packed.shape, default=0) < 0:
        raise ValueError(f"an array of {packed.dtype} {packed.shape}")
    return np.frombuffer(bytearray(packed.data), packed.dtype).reshape(packed.shape)
