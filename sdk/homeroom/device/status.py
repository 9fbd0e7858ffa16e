"""The status of a device: counts and facts, nothing about single subjects."""

from __future__ import annotations

from typing import Any

from homeroom.contract.signing import public_hex
from homeroom.data.consent import FORBIDDING
from homeroom.device.install import installed_bundle, stored_tier
from homeroom.federation.enrolment import device_key, has_joined
from homeroom.federation.policy import POLICY
from homeroom.federation.privacy_ledger import privacy_status
from homeroom.federation.secure_round import ROUND_TEXT
from homeroom.federation.sync import WAITING
from homeroom.federation.versions import newest_global
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


def device_status(store: Store, bundle: Bundle) -> dict[str, Any]:
    """The status as `Device.status` returns it and `homeroom device status --json` prints it."""
    installed = installed_bundle(store)
    waiting = WAITING.read(store)
    version, newest, key = store.versions.current(), newest_global(store, bundle), device_key(store)
    in_use = {"kind": version.kind, "base": version.base, "version_id": version.version_id} if version else "bundle"
    manifest, policy = bundle.manifest, POLICY.read(store)
    without, undecided = count_consents(store, asked=bool(policy and policy.consent))
    return {
        "directory": str(store.directory),
        "bundle": {"name": manifest.name, "version": manifest.version, "bundle_id": bundle.bundle_id},
        "tier": stored_tier(store, bundle),
        "runtime": installed.runtime if installed else "onnx",
        "samples": store.count(),
        "set_aside": [f"{sample.sample_id[:12]}: {sample.quarantine_reason}" for sample in store.quarantined()],
        "without_consent": without,  # never trained on
        "consent_to_decide": undecided,  # in words alone
        "subjects": len(store.subjects()),
        "profiles": store.profiles(),
        "in_use": in_use,
        "global_version": newest.base if newest else 0,
        "versions": len(store.versions.all()),
        "policy": {"institution": policy.institution, "version": policy.version} if policy else None,
        "joined": has_joined(store),
        "device_key": public_hex(key) if key else None,
        "updates_waiting": len(store.outbox.pending()),
        "updates_sent": len(store.outbox.sent()),
        "unlearning_waiting": len(store.outbox.unlearning()),
        "next_version": ROUND_TEXT.read(store) or ("{} of {} updates are here".format(*waiting) if waiting else None),
        "privacy": privacy_status(store),
        "training_unfinished": store.versions.is_unfinished(),
        "copied_here": store.moved,
        "clock": store.clock_warning(),
        "damage": store.damage(),
        "edited": store.edited or None,
    }
