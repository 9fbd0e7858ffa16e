"""The write thread owns the rounds: jobs that wait run together and share one fsync.

The event loop goes on answering meanwhile. A job that raises has changed nothing; where the common step cannot be made
durable, none of its jobs happened, and each is told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from homeroom.errors import StoreError
from homeroom_aggregator.merge.rounds import Rounds

LOOK_ELSEWHERE_S = 2.0  # without a job: how soon what a command changed is noticed
JOBS_A_STEP = 8  # at most; behind more, polls wait longer
JobResult = TypeVar("JobResult")


@dataclass
class _Job:
    run: Callable[[], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    result: Any = None
    problem: BaseException | None = None

    def tell(self) -> None:
        if not self.future.done():  # whoever asked may have gone
            if self.problem is None:
                self.future.set_result(self.result)
            else:
                self.future.set_exception(self.problem)


def _tell(jobs: list[_Job]) -> None:
    """One job in a turn of the event loop, so that a poll comes in between and not after all of them."""

    def turn() -> None:
        job.tell()
        if rest:
            _tell(rest)

    job, *rest = jobs
    job.loop.call_soon_threadsafe(turn)


class WriteThread:
    """Runs jobs on the rounds, one after another, in a thread of its own."""

    def __init__(self, rounds: Rounds, after: Callable[[], None]) -> None:
        """after: called in the event loop after each job."""
        self.after = after
        self._rounds, self._seen = rounds, 0  # what of other processes' changes was looked at
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def do(self, run: Callable[[], JobResult]) -> JobResult:
        """Run a job; its result or error, once it is durable."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
            self._thread.start()
        loop = asyncio.get_running_loop()
        job = _Job(run, loop, loop.create_future())
        self._jobs.put(job)
        try:
            result: JobResult = await job.future
        finally:
            self.after()
        return result

    def close(self) -> None:
        """Finish what waits, then end."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (first := self._next()) is not None:
            jobs, ended = [first], False
            while len(jobs) < JOBS_A_STEP and not ended and not self._jobs.empty():
                job = self._jobs.get()
                ended = job is None
                if job is not None:
                    jobs.append(job)
            self._together(jobs)
            _tell(jobs)
            if ended:
                return

    def _next(self) -> _Job | None:
        """The next job, None at the end; meanwhile looks whether a command has revoked a key."""
        while True:
            try:
                return self._jobs.get(timeout=LOOK_ELSEWHERE_S)
            except queue.Empty:
                with contextlib.suppress(StoreError):  # the next job is told
                    if self._rounds.log.data_version() != self._seen:
                        self._together([])

    def _together(self, jobs: list[_Job]) -> None:
        try:
            with self._rounds.change():
                if (seen := self._rounds.log.data_version()) != self._seen:  # a command may have revoked a key
                    self._rounds.withdraw_gone()
                for job in jobs:
                    try:
                        job.result = job.run()
                    except Exception as problem:
                        job.problem = problem
                        if not self._rounds.log.stepping:  # a full disk has ended the step for all
                            raise
            self._seen = seen
        except Exception as problem:
            for job in jobs:
                job.problem = problem
