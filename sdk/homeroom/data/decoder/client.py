"""Runs functions in the decoder, one process for this one, started when first needed and again after it ended.

The process is `python -m homeroom.data.decoder.child` with the interpreter and search path of this one, so that it
works in notebooks, apps and services alike. A frozen program has no `python -m`: it names a command of its own in
`HOMEROOM_DECODER`, which calls `homeroom.data.decoder.child.main()`.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar, get_args, get_type_hints

import msgspec

from homeroom.data.decoder.generators import begin, take
from homeroom.data.decoder.wire import DecoderRequest, Reply, WireError, decode, encode, read_frame, write_frame
from homeroom.errors import BundleError, Code, DiskFullError, HomeroomError, InputError, MissingExtraError, StoreError

CHILD = "homeroom.data.decoder.child"
COMMAND_VARIABLE = "HOMEROOM_DECODER"
TIME_LIMIT_S = 60.0  # of one file, or of some rows of a sheet
STREAM_LIMIT_S = 300.0  # of all rows of a sheet, without the time in which nobody asks for more
RESIDENT_LIMIT_BYTES = 512 << 20  # where the system does not bound it: then this process looks
LOOK_INTERVAL_S = 0.05
LEAVE_OUT = "leave the file out, or copy it again"
TOO_MUCH_TIME = "takes too much of the processor's time to decode"
ERRORS = {kind.__name__: kind for kind in (InputError, BundleError, StoreError, DiskFullError, MissingExtraError)}
T = TypeVar("T")

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_read: set[int] = set()  # generators that are being read
_left: list[int] = []  # generators that were not read to their end


def run(
    function: Callable[..., T],
    *arguments: object,
    where: str = "",
    limit_s: float = TIME_LIMIT_S,
    error: type[HomeroomError] = InputError,
) -> T:
    """Calls a module's function in the decoder; arguments and result are of the types that it is annotated with.

    arguments: a Path arrives as an absolute str, since the decoder keeps the folder that it was started in
    where: the file, for the error
    limit_s: after which the decoder is ended
    error: raised where the decoder ends; its own errors are raised as they are
    """
    return _timed(function, arguments, where, limit_s, error)[0]


def _encoded(argument: object) -> msgspec.Raw:
    return msgspec.Raw(encode(str(argument.absolute()) if isinstance(argument, Path) else argument))


def _timed(
    function: Callable[..., T],
    arguments: tuple[object, ...],
    where: str,
    limit_s: float,
    error: type[HomeroomError] = InputError,
) -> tuple[T, float]:
    """As `run`; also the seconds that it took, without those in which another thread had the decoder."""
    raw = [_encoded(argument) for argument in arguments]
    request = encode(DecoderRequest(function.__module__, function.__qualname__, raw, limit_s))
    with _lock:
        began_s = time.monotonic()
        reply = _exchange(request, limit_s) or _exchange(request, limit_s)  # it may just have ended, being idle
        took_s = time.monotonic() - began_s
    if isinstance(reply, str):
        raise error(reply, code=Code.DECODER, where=where, remedy=LEAVE_OUT)
    if reply is None:
        raise error("the decoder does not start", code=Code.DECODER, where=where, remedy=f"see `python -m {CHILD}`")
    if (failure := reply.failure) is not None:
        kind = ERRORS.get(failure.kind, error)
        raise kind(failure.what, code=failure.code, where=failure.where or where, remedy=failure.remedy)
    try:
        value: T = decode(reply.value, get_type_hints(function)["return"])
    except WireError as problem:
        raise error(f"the decoder gives something else: {problem}", code=Code.DECODER, where=where) from None
    return value, took_s


def stream(
    function: Callable[..., Iterator[T]], *arguments: object, where: str, limit_s: float = STREAM_LIMIT_S
) -> Iterator[T]:
    """Yields what a module's generator function yields in the decoder; arguments and errors as of `run`.

    limit_s: of the decoder for the whole file, after which no more is asked for, however many requests its rows take
    """
    kind = get_args(get_type_hints(function)["return"])[0]
    raw = [_encoded(argument) for argument in arguments]
    left = [_left.pop() for _ in range(len(_left))]
    number = run(begin, function.__module__, function.__qualname__, raw, left, where=where)
    ended, left_s = False, limit_s
    _read.add(number)
    try:
        while not ended:
            if left_s <= 0:
                raise InputError(_too_long(limit_s), code=Code.DECODER, where=where, remedy=LEAVE_OUT)
            (items, ended), took_s = _timed(take, (number,), where, TIME_LIMIT_S)
            left_s -= took_s
            yield from (decode(item, kind) for item in items)
    finally:
        _read.discard(number)
        if not ended:
            _left.append(number)  # told with the next one: here, another request may be on its way


def resident_bytes() -> int:
    """Bytes of memory that the decoder holds now; 0 where it does not run."""
    process = _process
    return 0 if process is None or process.poll() is not None else _resident(process.pid)


def end() -> None:
    """Ends the decoder, so that it takes no memory, unless a thread reads from it; the next file starts it again."""
    with _lock:
        if not _read:
            _kill()


def command() -> list[str]:
    """The command that runs the decoder; HomeroomError in a frozen program that names none."""
    if stated := os.environ.get(COMMAND_VARIABLE):
        return shlex.split(stated)
    if getattr(sys, "frozen", False) or not sys.executable:
        raise HomeroomError(
            "this program brings no Python to decode files with",
            remedy=f"set {COMMAND_VARIABLE} to a command that calls {CHILD}.main()",
        )
    return [sys.executable, "-P", "-m", CHILD]


def _exchange(request: bytes, limit_s: float) -> Reply | str | None:
    """The reply, or in words how the decoder ended; None where it had ended by itself, being idle."""
    process, killed_for = _started(), list[str]()
    assert process.stdin is not None
    assert process.stdout is not None
    answered = threading.Event()
    watch = threading.Thread(target=_watch, args=(process, answered, limit_s, killed_for), daemon=True)
    watch.start()
    try:
        write_frame(process.stdin, request)
        if (reply := _read_reply(process)) is not None and reply.narrow_s:
            narrow = threading.Thread(
                target=_watch_time, args=(process, answered, reply.narrow_s, killed_for), daemon=True
            )
            narrow.start()
            reply = _read_reply(process)
        if reply is not None and not reply.narrow_s:  # told once
            return reply
    except (OSError, WireError):
        pass
    except BaseException:
        _kill()  # a reply would be taken for that of the next request
        raise
    finally:
        answered.set()
        watch.join()
    _kill(wait_s=1.0)
    return killed_for[0] if killed_for else _describe(process.returncode)


def _read_reply(process: subprocess.Popen[bytes]) -> Reply | None:
    assert process.stdout is not None
    body = read_frame(process.stdout)
    reply: Reply | None = None if body is None else decode(body, Reply)
    return reply


def _started() -> subprocess.Popen[bytes]:
    global _process
    if _process is None or _process.poll() is not None:
        _kill()
        paths = os.pathsep.join(path for path in sys.path if path)
        _process = subprocess.Popen(
            command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": paths, "MALLOC_ARENA_MAX": "1"},  # an arena a thread is address space
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    return _process


def _kill(wait_s: float = 0.0) -> None:
    """Ends the process, after waiting for it to end by itself."""
    global _process
    process, _process = _process, None
    if process is None:
        return
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        with contextlib.suppress(OSError):
            pipe.close()


def _watch(process: subprocess.Popen[bytes], answered: threading.Event, limit_s: float, killed_for: list[str]) -> None:
    """Kills a process that takes too long, and one that takes too much memory where the system has no bound."""
    end_s = time.monotonic() + limit_s
    while not answered.wait(limit_s if sys.platform == "linux" else LOOK_INTERVAL_S):
        if time.monotonic() >= end_s:
            killed_for.append(_too_long(limit_s))
        elif _resident(process.pid) > RESIDENT_LIMIT_BYTES:
            killed_for.append(f"takes more than {RESIDENT_LIMIT_BYTES >> 20} MB of memory to decode")
        if killed_for:
            process.kill()
            return


def _watch_time(
    process: subprocess.Popen[bytes], answered: threading.Event, limit_s: float, killed_for: list[str]
) -> None:
    """Kills a process after so much more processor time, where the system has no bound."""
    end_s = _processor_s(process.pid) + limit_s
    while not answered.wait(LOOK_INTERVAL_S):
        if _processor_s(process.pid) > end_s:
            killed_for.append(TOO_MUCH_TIME)
            process.kill()
            return


def _processor_s(pid: int) -> float:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _too_long(limit_s: float) -> str:
    return f"takes more than {limit_s:.0f} s to decode"


def _resident(pid: int) -> int:
    import psutil

    try:
        held: int = psutil.Process(pid).memory_info().rss
    except psutil.Error:
        return 0
    return held


def _describe(code: int) -> str | None:
    """How the decoder ended, in words; None where it ended by itself."""
    if code == 0:
        return None
    if -code == getattr(signal, "SIGXCPU", None):
        return TOO_MUCH_TIME
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"code {code}"
    return f"ends the decoder ({name}): it is damaged, or takes too much memory"


def _forget() -> None:
    """In a forked process: the decoder is the parent's."""
    global _process, _lock
    _process, _lock = None, threading.Lock()
    _read.clear()


atexit.register(_kill)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
