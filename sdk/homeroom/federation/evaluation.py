"""Federated evaluation on this device: tells how often the newest global version is right, if somebody agreed.

Counts are of theta alone on the samples kept for validation, by the newest version and by the one before it. Each
version is told of once, and nothing before a person said yes, by joining an aggregator that asks or afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from homeroom.contract.evaluation_counts import (
    LEAST_SAMPLES,
    MOST_SAMPLES,
    DeviceCounts,
    Group,
    GroupCounts,
    accuracy,
)
from homeroom.contract.round import RoundConfiguration
from homeroom.data.tasks import kind_of
from homeroom.errors import InputError, NetworkError, UpdateError
from homeroom.federation.agreement import read_agreement
from homeroom.federation.enrolment import has_joined
from homeroom.federation.policy import kept_segments, local_layout, policy_in_force, refusal_reason
from homeroom.federation.versions import newest_global, theta_of
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store, StoredVersion
from homeroom.store.device_state import json_record, text_record
from homeroom.system.printable import counted

if TYPE_CHECKING:
    from homeroom.federation.network.client import Client

TaskCounts = Mapping[str, Mapping[Group, np.ndarray]]
Count = Callable[[Sequence[np.ndarray]], Sequence[TaskCounts]]  # of thetas float32 [P], on the validation samples here


class ToldVersion(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version that was told of. place: the aggregator and the bundle."""

    place: str
    version: int


AGREED = text_record("identity.evaluation_agreed")  # the mode that a person said yes to
TOLD = json_record("identity.evaluation_told", ToldVersion)
ASKS = (
    "the aggregator asks how often each version is right and wrong on the samples kept for validation here, as counts "
    "by task, language and inputs; "
)
SEES = {
    "plain": "it sees those of this device",
    "secure": "it sees sums over a cohort alone, and of which languages and inputs this device has samples",
}
SAY_NO = "`homeroom device network DIR --evaluation keep` keeps them here"
SAY_YES = "nobody said yes yet: `homeroom device network DIR --evaluation tell`"
NOT_TRAINED = "nothing is kept for validation here: train first"


@dataclass(frozen=True)
class EvaluationOutcome:
    """What a sync did with counts. version: the one that was told of, now or before. held: why not, by task.

    why_not: why none leave. round: how the secure round stands, where they are summed in one.
    """

    version: int | None = None
    why_not: str = ""
    held: Mapping[str, str] = field(default_factory=dict)
    round: str = ""


def agree(store: Store, *, yes: bool) -> None:
    """Notes that a person says yes or no to telling counts; InputError where there is nobody who asks for them."""
    configuration = read_agreement(store).configuration
    mode = configuration.evaluation.mode if configuration else "off"
    if yes and not has_joined(store):
        raise InputError("this device has joined no aggregator", remedy="`homeroom device join` first")
    if yes and mode == "off":
        raise InputError("the aggregator asks for no evaluation", remedy="`homeroom device sync` asks it again")
    with store.step("evaluation agreed"):
        AGREED.write(store, mode if yes else None)


def note_joined(store: Store, configuration: RoundConfiguration) -> None:
    """Notes what a person said yes to by joining; part of the caller's step."""
    mode = configuration.evaluation.mode
    AGREED.write(store, None if mode == "off" else mode)


def agreed_words(store: Store) -> str:
    """Whether counts may leave this device, in a word."""
    return "tell" if AGREED.read(store) else "keep"


def why_not(store: Store, configuration: RoundConfiguration) -> str:
    """Why no counts leave this device, in words; empty where they may."""
    if reason := refusal_reason(policy_in_force(store), configuration):
        return reason
    return "" if AGREED.read(store) in (configuration.evaluation.mode, "plain") else SAY_YES


def asks_words(mode: str) -> str:
    """What an aggregator asks of whoever joins it, and sees."""
    return f"{ASKS}{SEES[mode]}"


def tell(
    store: Store, bundle: Bundle, client: Client, configuration: RoundConfiguration, count: Count
) -> EvaluationOutcome | None:
    """Tells of the newest global version, once; None where the aggregator does not ask.

    A message that fails does not fail the sync: the next one sends it again.
    """
    if configuration.evaluation.mode == "off":
        return None
    newest, place = newest_global(store, bundle), f"{client.enrolment.institution} {bundle.bundle_id}"
    if (reason := why_not(store, configuration)) or newest is None:
        return EvaluationOutcome(why_not=reason)
    told = ToldVersion(place=place, version=newest.base)
    if TOLD.read(store) == told:
        return EvaluationOutcome(newest.base)
    counts, held = own_counts(store, bundle, configuration, newest, count)
    if not counts.tasks:
        return EvaluationOutcome(why_not="" if held else NOT_TRAINED, held=held)
    try:
        client.tell_evaluation(counts)
    except (NetworkError, UpdateError) as problem:
        return EvaluationOutcome(why_not=f"the aggregator did not take them: {problem}", held=held)
    TOLD.write(store, told)
    return EvaluationOutcome(newest.base, held=held)


def own_counts(
    store: Store, bundle: Bundle, configuration: RoundConfiguration, version: StoredVersion, count: Count
) -> tuple[DeviceCounts, dict[str, str]]:
    """Counts of a global version and of the newest one before it that is here, else of the bundle's own theta.

    Also why a task's are not among them, by task: its head stays on this device, or it has too few samples.
    """
    manifest, layout = bundle.manifest, local_layout(store, bundle.manifest.layout)
    kept = set(kept_segments(layout, configuration))
    personal = {segment.task for segment in manifest.layout if segment.name in kept and segment.task}
    older = [v for v in store.versions.all() if v.kind == "global" and v.facts["bundle_id"] == bundle.bundle_id]
    earlier = max((v for v in older if v.base < version.base), key=lambda v: v.base, default=None)
    now, before = count([theta_of(store, bundle, version), theta_of(store, bundle, earlier)])
    tasks, held = dict[str, tuple[GroupCounts, ...]](), dict[str, str]()
    for task in manifest.tasks:
        if (counting := kind_of(task).counting) is None or task.name not in now:
            continue
        samples = sum(accuracy(counting.shape(task), values.tolist()).samples for values in now[task.name].values())
        if task.name in personal:
            held[task.name] = "its head stays on this device"
        elif not LEAST_SAMPLES <= samples <= MOST_SAMPLES:
            least, most = f"{LEAST_SAMPLES} to", f"{MOST_SAMPLES:,}"
            held[task.name] = f"{counted(samples, 'sample')} for validation, and counts are told of {least} {most}"
        else:
            tasks[task.name] = tuple(
                GroupCounts(*group, tuple(values.tolist()), tuple(before[task.name][group].tolist()))
                for group, values in sorted(now[task.name].items())
            )
    return DeviceCounts(version=version.base, before=earlier.base if earlier else 0, tasks=tasks), held


def counter(
    store: Store, bundle: Bundle, configuration: RoundConfiguration, count: Count
) -> Callable[[int], DeviceCounts | None]:
    """Counts of a global version by its number; None where it is not here."""

    def counted(number: int) -> DeviceCounts | None:
        every = (v for v in store.versions.all() if v.kind == "global" and v.facts["bundle_id"] == bundle.bundle_id)
        version = next((v for v in every if v.base == number), None)
        return None if version is None else own_counts(store, bundle, configuration, version, count)[0]

    return counted
