"""The status of a device: counts and facts, nothing about single subjects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Never

import msgspec

from homeroom.contract.signing import public_hex
from homeroom.data.consent import FORBIDDING
from homeroom.device.install import installed_bundle, stored_tier
from homeroom.device.solved import solved_lines
from homeroom.federation.enrolment import device_key, has_joined
from homeroom.federation.policy import POLICY
from homeroom.federation.privacy_ledger import privacy_status
from homeroom.federation.secure_round import ROUND_TEXT
from homeroom.federation.statistics import TEXT
from homeroom.federation.sync import WAITING
from homeroom.federation.versions import fitted_on, newest_global, worse_tasks
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store


def count_consents(store: Store, *, asked: bool) -> tuple[int, int]:
    """Samples that consent keeps out of training, and those whose consent a person has yet to decide.

    asked: whether the policy asks for consent with each sample.
    """
    without = undecided = 0
    for sample in store.each_without_inputs():
        without += sample.consent_state != "given" if asked else sample.consent_state in FORBIDDING
        undecided += sample.consent is not None and sample.consent.is_undecided
    return without, undecided


@dataclass(frozen=True, eq=False)
class Status(dict[str, Any]):
    """The status of a device, frozen: `status.samples`, or as the dict that it also is, `status["samples"]`.

    bundle: `name`, `version` and `bundle_id`
    tier, runtime: in use
    set_aside: quarantined samples, a line each
    without_consent: samples that are never trained on
    consent_to_decide: samples with a consent in words alone
    in_use: `kind`, `base` and `version_id` of the version in use, or "bundle" for the bundle's own theta
    fitted: from how many samples the theta that answers was fitted, in words; empty where that is not known
    solved: how solved heads answer, a line a task
    worse: what the version in use is known to answer clearly worse than something else here, a line a task
    global_version: the newest that is here; 0 where there is none
    policy: `institution` and `version`
    next_version: in words, how far the aggregator's next version is
    statistics: what of them was sent, is held back and why; None where the aggregator collects none
    privacy: what private rounds have spent, and their promise
    training_unfinished: whether a training was cut short, which the next one resumes
    copied_here: this opening found the directory on another machine or disk
    clock: a sentence about a clock that has jumped
    damage: a line each, with how it was repaired
    edited: what was edited without the key
    """

    directory: str
    bundle: Mapping[str, Any]
    tier: str
    runtime: str
    samples: int
    set_aside: list[str]
    without_consent: int
    consent_to_decide: int
    subjects: int
    profiles: int
    in_use: Mapping[str, Any] | str
    fitted: str
    solved: list[str]
    worse: list[str]
    global_version: int
    versions: int
    policy: Mapping[str, Any] | None
    joined: bool
    device_key: str | None
    updates_waiting: int
    updates_sent: int
    unlearning_waiting: int
    next_version: str | None
    statistics: Mapping[str, Any] | None
    privacy: Mapping[str, Any] | None
    training_unfinished: bool
    copied_here: bool
    clock: str | None
    damage: list[str]
    edited: str | None

    def __post_init__(self) -> None:
        super().update({field.name: getattr(self, field.name) for field in fields(self)})

    def _refuse(self, *_: object, **__: object) -> Never:
        raise TypeError("a status is frozen: change a copy, dict(status)")

    __setitem__ = __delitem__ = __ior__ = update = setdefault = pop = popitem = clear = _refuse

    def __reduce__(self) -> tuple[type[Status], tuple[Any, ...]]:
        return Status, tuple(self.values())


def device_status(store: Store, bundle: Bundle) -> Status:
    """The status of one moment, as `Device.status` returns it and `homeroom device status --json` prints it."""
    with store.at_rest():
        return _status(store, bundle)


def _status(store: Store, bundle: Bundle) -> Status:
    installed = installed_bundle(store)
    waiting = WAITING.read(store)
    version, newest, key = store.versions.current(), newest_global(store, bundle), device_key(store)
    in_use = {"kind": version.kind, "base": version.base, "version_id": version.version_id} if version else "bundle"
    manifest, policy = bundle.manifest, POLICY.read(store)
    without, undecided = count_consents(store, asked=bool(policy and policy.consent))
    return Status(
        directory=str(store.directory),
        bundle={"name": manifest.name, "version": manifest.version, "bundle_id": bundle.bundle_id},
        tier=stored_tier(store, bundle),
        runtime=installed.runtime if installed else "onnx",
        samples=store.count(),
        set_aside=[f"{sample.sample_id[:12]}: {sample.quarantine_reason}" for sample in store.quarantined()],
        without_consent=without,
        consent_to_decide=undecided,
        subjects=len(store.subjects()),
        profiles=store.profiles(),
        in_use=in_use,
        fitted=fitted_on(store, version),
        solved=solved_lines(store, bundle),
        worse=[f"{task}: {sentence}" for task, sentence in worse_tasks(store, version).items()],
        global_version=newest.base if newest else 0,
        versions=len(store.versions.all()),
        policy={"institution": policy.institution, "version": policy.version} if policy else None,
        joined=has_joined(store),
        device_key=public_hex(key) if key else None,
        updates_waiting=len(store.outbox.pending()),
        updates_sent=len(store.outbox.sent()),
        unlearning_waiting=len(store.outbox.unlearning()),
        next_version=ROUND_TEXT.read(store) or ("{} of {} updates are here".format(*waiting) if waiting else None),
        statistics=msgspec.to_builtins(TEXT.read(store)),
        privacy=privacy_status(store),
        training_unfinished=store.versions.is_unfinished(),
        copied_here=store.moved,
        clock=store.clock_warning(),
        damage=store.damage(),
        edited=store.edited or None,
    )
