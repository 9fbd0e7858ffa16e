"""What `-v` adds to every command: the log, where an error arose, and what the command took."""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from homeroom.cli.options import BRIEF, VERBOSE, Command, asked, say
from homeroom.errors import HomeroomError, InputError

LOG_FORMAT = "%(asctime)s %(name)s %(levelname)s %(message)s"


def told_in_full(run: Command | None) -> Command:
    """The function of a command, which also says what `-v` promises. InputError where it is given with `-q`."""
    assert run is not None

    @wraps(run)
    def told(*values: Any, **named: Any) -> Any:
        if not asked(VERBOSE):
            return run(*values, **named)
        if asked(BRIEF):
            raise InputError("-v says nothing with -q", where="options", remedy="leave one of them out")
        with _logged(), _measured(), _located():
            return run(*values, **named)

    return told


@contextmanager
def _logged() -> Iterator[None]:
    """Show on stderr what Homeroom logs, but for loggers that have a place of their own, such as the agent's."""
    logger, handler = logging.getLogger("homeroom"), logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    handler.addFilter(lambda record: not logging.getLogger(record.name).handlers)
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@contextmanager
def _measured() -> Iterator[None]:
    began, cpu = time.perf_counter(), time.process_time()
    try:
        yield
    finally:
        seconds, busy = time.perf_counter() - began, time.process_time() - cpu
        say(f"took {seconds:.1f} s, {busy:.1f} s of processor time", err=True)


@contextmanager
def _located() -> Iterator[None]:
    """Print where an error arose; `main` then prints the error itself. A traceback has no value of anybody."""
    try:
        yield
    except (HomeroomError, OSError) as problem:
        for frame in traceback.extract_tb(problem.__traceback__):
            say(f"  {frame.filename}:{frame.lineno} {frame.name}", err=True)
        raise
