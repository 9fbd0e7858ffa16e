"""The agent's loop: looks for work, opens the device only where there is some, does it, and writes its status.

Between two looks the directory is closed, so that a teacher's own commands can open it. One thread does the work; the
page hands it jobs through `ask`.
"""

from __future__ import annotations

import datetime
import logging
import os
import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from homeroom.agent import bundle_updates, inbox, status
from homeroom.agent.inbox import SETTLED_S
from homeroom.agent.status import AgentStatus
from homeroom.contract.invitation import Enrolment
from homeroom.device import doctor
from homeroom.device.device import Device
from homeroom.device.resources.budget import Budget, WeeklyHours
from homeroom.errors import BundleError, Code, HomeroomError, TrainError, UpdateError
from homeroom.federation import enrolment, versions
from homeroom.federation.agreement import read_agreement
from homeroom.federation.unlearning import unlearning_lines
from homeroom.store.device_state import json_record
from homeroom.system import clock
from homeroom.system.attempt import attempt

log = logging.getLogger("homeroom.agent")
SYNC_RETRY_S = (300.0, 21_600.0)  # after a failed sync: first and longest wait
TRAINING_RETRY_S = (300.0, 21_600.0)  # after a training that could not start or was stopped: first and longest wait
CLOCK_TOLERANCE_S = 900.0  # of the clock against the aggregator's, before the status tells it

Job = tuple[Callable[[Device], Any], "Future[Any]"]


@dataclass(frozen=True)
class AgentSettings:
    """Settings of the agent.

    `window`: hours in which it may train, any if empty. `budget.minutes`: a day. `look_s`: seconds between looks.
    `sync_minutes`: between syncs. `settled_s`: as in `inbox.scan_inbox`. `root`: fingerprint of the root key to trust.
    """

    directory: Path
    inbox: Path | None = None
    window: tuple[WeeklyHours, ...] = ()
    budget: Budget = field(default_factory=Budget)
    sync_minutes: float = 60.0
    settled_s: float = SETTLED_S
    look_s: float = 20.0
    root: str | None = None


class LastTraining(msgspec.Struct, frozen=True):
    """The mark of the data that the last finished training used, and the seconds spent on a day."""

    mark: str = ""
    day: str = ""
    seconds: float = 0.0


class FailedTraining(msgspec.Struct, frozen=True):
    """The mark of the data that could not be trained on, why, and how often it was tried.

    `again`: when it is tried again (UTC, ISO 8601), unless something changes before.
    """

    mark: str = ""
    why: str = ""
    tries: int = 0
    again: str = ""


LAST_TRAINING = json_record("agent.training", LastTraining)
FAILED_TRAINING = json_record("agent.failed", FailedTraining)


class Agent:
    """Keeps the agent's state between two looks; each look opens and closes the device's directory."""

    def __init__(self, settings: AgentSettings) -> None:
        self.settings = settings
        before = status.read_status(settings.directory)
        self.status = msgspec.structs.replace(
            before or AgentStatus(), doing="starting", problems={}, problem_codes={}, training_waits=""
        )
        self._jobs: queue.Queue[Job] = queue.Queue()
        self._next_sync_s = 0.0
        self._failures = 0
        self._hours = ("", False)  # the day and whether training was allowed, at the last look
        self._again_s: float | None = None  # when to try training again
        self._counted: tuple[str, int] = ("", 0)
        self._clock_off_s = 0.0
        self._joined: Enrolment | None = None  # as the directory said when it was last open
        self._look_inside = True  # whether the directory must be opened to know what there is to do

    def ask(self, work: Callable[[Device], Any], timeout_s: float = 60.0) -> Any:
        """From another thread: has the agent do `work` with the open device, and returns its result."""
        future: Future[Any] = Future()
        self._jobs.put((work, future))
        return future.result(timeout_s)

    def run(self) -> None:
        """Looks again and again, until a KeyboardInterrupt."""
        while True:
            self.cycle()
            self._wait()

    def cycle(self) -> bool:
        """Looks once and does the work there is; returns whether the directory was opened."""
        entries = inbox.InboxEntries()
        if (folder := self.settings.inbox) is not None:
            inbox.refuse_cut_short(self.settings.directory, folder)
            entries = inbox.scan_inbox(folder, self.settings.settled_s)
        came = self._hours_came()
        due = bool(entries) or came or self._looks_inside() or self._sync_due() or not self._jobs.empty()
        if due:
            self._attempt("bundle", lambda: self._change_bundles(entries.bundles))
            self._attempt("directory", lambda: self._work(entries))
        self.say(doing=status.RESTING, **self._left())
        return due

    def _left(self) -> dict[str, int]:
        """How many entries of the inbox are not read, wait for a person's yes, or lie there refused."""
        if self.settings.inbox is None:
            return {}
        left = inbox.left_entries(self.settings.inbox, self._joined)
        refused = len(inbox.refused_entries(self.settings.inbox))
        return {"unread_entries": len(left.unread), "waiting_entries": len(left.waiting), "refused_entries": refused}

    def _looks_inside(self) -> bool:
        """Whether the directory must be opened to know what there is to do; after an edit, until that is accepted."""
        return self._look_inside or bool(self.status.edited)

    def _hours_came(self) -> bool:
        """Whether training became allowed since the last look: a new day, its hours, or the end of a wait."""
        if self._again_s is not None and time.monotonic() >= self._again_s:
            self._again_s = None
            return True
        before, self._hours = self._hours, (clock.local_now().date().isoformat(), self.in_window())
        return self._hours[1] and self._hours != before

    def in_window(self) -> bool:
        """Whether training is allowed at this hour."""
        now = clock.local_now()
        return not self.settings.window or any(span.holds(now) for span in self.settings.window)

    def say(self, **changes: Any) -> None:
        """Changes the status, and writes it where that is possible."""
        self.status = msgspec.structs.replace(self.status, at=clock.timestamp(), **changes)
        try:
            status.write_status(self.settings.directory, self.status)
        except HomeroomError as problem:
            log.warning("the status cannot be written: %s", status.describe_error(problem))

    def _work(self, entries: inbox.InboxEntries) -> None:
        with Device.open(self.settings.directory, root=self.settings.root) as device:
            self._look_inside = False
            self._do_jobs(device)
            if entries.samples:
                self._attempt("inbox", lambda: self._take_in(device, entries))
            self._count(device)  # for the page, which shows it while the training goes on
            self._attempt("training", lambda: self._train(device))
            if self._sync_due(device):
                self._attempt("sync", lambda: self._sync(device))
            self._do_jobs(device)
            self._count(device)

    def _attempt(self, area: str, work: Callable[[], None]) -> None:
        """Does the work of an area; an error goes into the status in words that name nobody, and the agent goes on."""
        try:
            work()
        except Exception as problem:
            text = status.describe_error(problem)
            log.warning("%s: %s", area, text)
            code = problem.code if isinstance(problem, HomeroomError) else "program"
            problems, codes = {**self.status.problems, area: text}, {**self.status.problem_codes, area: code}
            self.say(problems=problems, problem_codes=codes)
            if area == "directory":
                self._look_inside = True
                self._fail_jobs(problem)
        else:
            problems, codes = dict(self.status.problems), dict(self.status.problem_codes)
            problems.pop(area, None), codes.pop(area, None)
            self.status = msgspec.structs.replace(self.status, problems=problems, problem_codes=codes)

    def _change_bundles(self, bundles: tuple[Path, ...]) -> None:
        for source in bundles:
            self.say(doing="trying a new bundle")
            try:
                with attempt(inbox.mark_of(self.settings.directory), source.name):
                    name = bundle_updates.change_bundle(self.settings.directory, source, self.settings.root)
            except Exception as problem:
                why = problem if isinstance(problem, HomeroomError) else BundleError(f"its reader failed: {problem!r}")
                inbox.refuse_entry(source, why)
                raise
            inbox.remove_entry(source)
            log.info("bundle in use: %s", name)
            self._look_inside = True

    def _take_in(self, device: Device, entries: inbox.InboxEntries) -> None:
        self.say(doing="taking in")
        added, refused = inbox.import_entries(device, entries.samples)
        log.info("inbox: %d samples added, %d entries refused", added, refused)

    def _train(self, device: Device) -> None:
        known = LAST_TRAINING.read(device.store) or LastTraining()
        mark = self._mark(device)
        unfinished = device.store.versions.is_unfinished()
        waits = ""
        if mark == known.mark and not unfinished:
            return self.say(training_waits="")
        today = clock.local_now().date().isoformat()
        left = self.settings.budget.minutes - (known.seconds / 60 if known.day == today else 0.0)
        failed = FAILED_TRAINING.read(device.store) or FailedTraining()
        if mark == failed.mark and clock.timestamp() < failed.again:
            wait_s = (datetime.datetime.fromisoformat(failed.again) - clock.now()).total_seconds()
            self._again_s = time.monotonic() + max(0.0, wait_s)
            waits = failed.why
        elif not self.in_window():
            waits = "its hours have not come"
        elif left <= 0.05:
            waits = "today's minutes are spent"
        if waits:
            return self.say(training_waits=waits)
        self.say(doing="training", training_waits="")
        began = time.monotonic()
        spent = known.seconds if known.day == today else 0.0
        try:
            budget = replace(self.settings.budget, minutes=left)
            report = device.train(budget=budget, progress=lambda *_: self._do_jobs(device))
        except TrainError as problem:
            if problem.code == Code.NO_LABELS:
                return LAST_TRAINING.write(device.store, LastTraining(mark, today, spent))
            self._note_failure(device, failed.tries if mark == failed.mark else 0, mark, problem)
            raise
        finally:
            spent += time.monotonic() - began
        LAST_TRAINING.write(device.store, LastTraining(mark if report.finished else known.mark, today, spent))
        log.info("trained %d epochs on %d samples in %.0f s", report.epochs, report.samples, report.seconds)
        back = bundle_updates.keep_the_better(device, report)
        if back:
            log.warning("what was learned is clearly worse than before and is not used")
        self._next_sync_s = 0.0
        if not report.finished:
            self._again_s = time.monotonic() + TRAINING_RETRY_S[0]
        return self.say(
            last_trained=clock.timestamp(),
            trained_samples=report.samples,
            rolled_back=self.status.rolled_back + back,
            training_waits="" if report.finished else report.stopped,
        )

    def _note_failure(self, device: Device, tries: int, mark: str, problem: TrainError) -> None:
        """Remembers why the present data cannot be trained on, and waits longer each time until they change."""
        if problem.code in (Code.NOT_NOW, Code.LOW_DISK):
            self._again_s = time.monotonic() + TRAINING_RETRY_S[0]
            return
        first, longest = TRAINING_RETRY_S
        wait_s = min(longest, first * 2.0**tries)
        again = (clock.now() + datetime.timedelta(seconds=wait_s)).isoformat(timespec="seconds")
        FAILED_TRAINING.write(device.store, FailedTraining(mark, problem.what, tries + 1, again))
        self._again_s = time.monotonic() + wait_s

    def _sync_due(self, device: Device | None = None) -> bool:
        joined = self.status.joined if device is None else enrolment.has_joined(device.store)
        return joined and time.monotonic() >= self._next_sync_s

    def _sync(self, device: Device) -> None:
        self.say(doing="syncing")
        first, longest = SYNC_RETRY_S
        wait_s = min(longest, first * 2**self._failures) * random.uniform(0.8, 1.2)
        self._failures += 1
        self._next_sync_s = time.monotonic() + wait_s
        if bundle_updates.follow_bundle(device):
            log.info("a newer bundle of the aggregator is in use")
        report = device.sync()
        self._failures, self._clock_off_s = 0, report.clock_off_s or 0.0
        self._next_sync_s = time.monotonic() + 60 * self.settings.sync_minutes * random.uniform(0.8, 1.2)
        log.info("synced: %d sent, %d refused, %s theta in use", len(report.sent), len(report.refused), report.in_use)
        for line in unlearning_lines(report.unlearning):
            log.info("%s", line)
        self.say(last_seen=clock.timestamp())
        if report.refused:
            raise UpdateError("the aggregator refused an update", code=Code.REFUSED)
        if report.held:
            raise UpdateError(report.held, code="no_consent")

    def _count(self, device: Device) -> None:
        facts = device.status()
        self._joined = enrolment.ENROLMENT.read(device.store)
        clock_check = doctor.check_clock(clock.now())
        mark = device.store.samples_mark()
        if self._counted[0] != mark:
            self._counted = (mark, sum(not sample.every_label for sample in device.store.each_without_inputs()))
        self.say(
            bundle=f"{facts['bundle']['name']} version {facts['bundle']['version']}",
            samples=facts["samples"],
            unlabelled=self._counted[1],
            consent_to_decide=facts["consent_to_decide"],
            updates_waiting=facts["updates_waiting"],
            joined=facts["joined"],
            global_version=facts["global_version"],
            next_version=facts["next_version"],
            fitted=facts["fitted"],
            solved=facts["solved"],
            worse=facts["worse"],
            damage=len(facts["damage"]),
            edited=facts["edited"] or "",
            clock=facts["clock"] or (clock_check.says if clock_check.state == "wrong" else self._clock_off()),
        )

    def _clock_off(self) -> str | None:
        off = self._clock_off_s
        if abs(off) < CLOCK_TOLERANCE_S:
            return None
        return f"it is {abs(off) / 60:.0f} minutes {'ahead of' if off > 0 else 'behind'} the aggregator's"

    def _mark(self, device: Device) -> str:
        """A mark that changes whenever there is something new to train on."""
        base, terms = versions.answered_base(device.store, device.bundle), read_agreement(device.store)
        by_subject = terms.privacy is not None and terms.privacy.unit == "subject"
        waits = " unagreed" if by_subject and terms.configuration is None else ""  # its update is made in a training
        return f"{device.bundle.bundle_id} {base} {device.store.samples_mark()}{waits}"

    def _do_jobs(self, device: Device) -> None:
        while not self._jobs.empty():
            work, future = self._jobs.get_nowait()
            try:
                future.set_result(work(device))
            except Exception as problem:
                future.set_exception(problem)
            self._look_inside = True

    def _fail_jobs(self, problem: Exception) -> None:
        while not self._jobs.empty():
            self._jobs.get_nowait()[1].set_exception(problem)

    def _wait(self) -> None:
        """Waits until the next look, or until the page hands over a job."""
        try:
            job = self._jobs.get(timeout=self.settings.look_s)
        except queue.Empty:
            return
        self._jobs.put(job)


def lower_priority() -> None:
    """Lowers this process's priority, where the system can."""
    if hasattr(os, "nice"):
        os.nice(10)
