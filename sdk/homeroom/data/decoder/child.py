"""The decoder's process: performs one request after another, and ends when its pipe does or nothing comes for a while.

Linux bounds its memory, POSIX systems its processor time; elsewhere the parent watches both (`decoder.client`).
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import IO

import msgspec
import numpy  # noqa: F401  loaded before memory is bounded, as every request needs it

from homeroom.data.decoder.generators import is_idle
from homeroom.data.decoder.limits import MEMORY_LIMIT_BYTES, bound_memory, bound_time
from homeroom.data.decoder.wire import (
    FRAME_LIMIT_BYTES,
    DecoderRequest,
    Failure,
    Reply,
    call,
    decode,
    encode,
    read_frame,
    write_frame,
)
from homeroom.errors import Code, HomeroomError, InputError

IDLE_S, OPEN_IDLE_S = 30.0, 3600.0  # the second while a sheet is being read
NOTHING = msgspec.Raw(msgspec.msgpack.encode(None))


def main() -> None:
    """Serves requests from standard input until it ends; a library's own output goes nowhere."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    bound_memory(lambda limit_s: write_frame(replies, encode(Reply(NOTHING, narrow_s=limit_s))))
    while (body := _next_frame(requests)) is not None:
        reply = perform(decode(body, DecoderRequest))
        del body
        write_frame(replies, encode(reply))
        if reply.failure and reply.failure.code == Code.DECODER:
            os._exit(0)  # memory ran out: the next file finds a heap that is whole


def perform(request: DecoderRequest) -> Reply:
    """Calls the function; every exception becomes a failure."""
    try:
        bound_time(2 * request.limit_s)  # libraries use several cores
        value = encode(call(request.module, request.function, request.arguments))
        if len(value) > FRAME_LIMIT_BYTES // 2:
            raise InputError(f"decodes to {len(value):,} bytes", code=Code.TOO_LARGE)
        return Reply(msgspec.Raw(value))
    except HomeroomError as problem:
        facts = (problem.what, problem.where, problem.remedy, problem.code)
        return Reply(NOTHING, Failure(type(problem).__name__, *facts))
    except MemoryError:
        what = f"takes more than {MEMORY_LIMIT_BYTES >> 20} MB of memory to decode"
        return Reply(NOTHING, Failure("InputError", what, "", "make it smaller", Code.DECODER))
    except Exception as problem:  # of any decoder
        what = f"cannot be decoded: {type(problem).__name__}: {str(problem)[:200]}"
        return Reply(NOTHING, Failure("InputError", what, "", "copy it again", InputError.code))


def _next_frame(requests: IO[bytes]) -> bytes | None:
    idle = threading.Timer(IDLE_S if is_idle() else OPEN_IDLE_S, os._exit, [0])
    idle.daemon = True
    idle.start()
    try:
        return read_frame(requests)
    finally:
        idle.cancel()


if __name__ == "__main__":
    main()
