"""The institution's policy on this device: which segments, samples and rounds it allows.

Without one the bundle's own scopes hold, and samples and rounds are not restricted.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from homeroom.contract.layout import Layout
from homeroom.contract.policy import POLICY_LIMIT_BYTES, Policy, narrowed, read_policy, unmatched
from homeroom.contract.round import RoundConfiguration
from homeroom.data.consent import FORBIDDING
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError, TrustError
from homeroom.federation.agreement import read_agreement
from homeroom.federation.enrolment import known_aggregator
from homeroom.runtime.bundle import Bundle
from homeroom.store import Store
from homeroom.store.device_state import json_record
from homeroom.system.files import read_bounded
from homeroom.system.printable import counted

POLICY = json_record("policy", Policy)


def install_policy(store: Store, bundle: Bundle, path: Path, root: str) -> Policy:
    """Puts an institution's signed policy in force; updates made before it are not sent any more.

    Raises TrustError if it is not signed under the trusted root, is another institution's than the one in force, or
    older; InputError if it names a segment that the bundle lacks, since a misspelt segment would be shared.

    store: of this device.
    bundle: in use.
    path: of the signed document.
    root: fingerprint of the trusted root key.
    """
    try:
        data = read_bounded(path, POLICY_LIMIT_BYTES)
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    policy, present = read_policy(data, root_fingerprint=root, where=str(path)), policy_in_force(store)
    if present is not None and policy.institution != present.institution:
        why = f"is {policy.institution!r}'s, but this device keeps {present.institution!r}'s"
        raise TrustError(why, where=str(path), remedy="a device that changes hands begins in a new directory")
    if present is not None and policy.version < present.version:
        raise TrustError(f"version {policy.version} is older than {present.version}, in force", where=str(path))
    if unknown := unmatched(bundle.manifest.layout, policy.scopes):
        known = [segment.name for segment in bundle.manifest.layout]
        raise InputError(f"names no segment of the bundle: {unknown}", where=str(path), remedy=f"known: {known}")
    with store.step("policy", policy.version):
        POLICY.write(store, policy)
        for update in store.outbox.pending():
            store.outbox.call_off(update.update_id)
    return policy


def policy_in_force(store: Store) -> Policy | None:
    """The institution's policy that this device keeps, if it has one.

    Raises EditedError where it was removed: without it nothing is added or trained until the store is accepted.
    """
    policy = POLICY.read(store)
    store.keep(POLICY.name, policy is not None)
    return policy


def scoped_layout(
    layout: Layout, policy: Policy | None, configuration: RoundConfiguration | None, aggregator: str | None, school: str
) -> Layout:
    """The layout with the scopes that hold on a device.

    Segments of scope `institution` leave for the institution's own aggregator only: one that the root certified in the
    institution's name, or one that the policy names and that merges this institution apart.

    policy: of the institution, if there is one.
    configuration: of the round, if one is known.
    aggregator: the name in its certificate, if one is known.
    school: that the aggregator takes this device for; "" where it does not say.
    """
    allowed = narrowed(layout, policy.scopes if policy else {})
    if policy is not None:
        own = aggregator == policy.institution
        if configuration is not None and configuration.by_school:
            own = bool(school) and (own or (aggregator in policy.merged_by and school == policy.institution))
        if own:
            return allowed
    return narrowed(allowed, {s.name: "personal" for s in allowed if s.scope == "institution"})


def local_layout(store: Store, layout: Layout) -> Layout:
    """The layout with the scopes that hold on this device, as `scoped_layout`."""
    aggregator, configuration = known_aggregator(store), read_agreement(store).configuration
    name = aggregator.certificate.name if aggregator.certificate else None
    return scoped_layout(layout, policy_in_force(store), configuration, name, aggregator.school)


def kept_segments(local: Layout, configuration: RoundConfiguration | None) -> list[str]:
    """Names of the segments that no global theta brings. local: a `scoped_layout`."""
    scoped = narrowed(local, configuration.scopes if configuration else {})
    return [s.name for s in scoped if not (configuration.merges(s) if configuration else s.scope == "shared")]


def local_segments(store: Store, layout: Layout) -> list[str]:
    """Names of the segments that no global theta brings: this device's own values are used."""
    return kept_segments(local_layout(store, layout), read_agreement(store).configuration)


def refusal_reason(policy: Policy | None, configuration: RoundConfiguration) -> str | None:
    """Why the policy lets no update go into a round; None if it does."""
    if policy is None:
        return None
    if configuration.min_devices < policy.min_devices:
        asked = f"the policy asks for at least {counted(policy.min_devices, 'device')} in a release"
        return f"{asked}, the aggregator releases from {configuration.min_devices}"
    promise = configuration.privacy
    kind = "private" if promise else "secure" if configuration.secure else "plain"
    if kind not in policy.rounds:
        return f"the policy allows rounds that are {' or '.join(policy.rounds)}, the aggregator's are {kind}"
    for name, limit in (("epsilon", policy.epsilon), ("delta", policy.delta)):
        if promise and limit is not None and getattr(promise, name) > limit:
            return f"the policy allows {name} up to {limit:g}, the aggregator promises {getattr(promise, name):g}"
    return None


def admit_samples(
    policy: Policy | None,
    samples: Iterable[StoredSample],
    today: datetime.date,
    refuse: Callable[[InputError], None],
) -> Iterator[StoredSample]:
    """Yields samples as they may be stored: with the consent the policy asks for, kept no longer than it allows.

    Those whose consent was refused or withdrawn pass: of what is held they must be known (`refuse_unconsented`).
    refuse: is told of each sample without that consent, which is left out.
    """
    last = None
    if policy and policy.retain_days is not None:
        last = (today + datetime.timedelta(policy.retain_days)).isoformat()
    for sample in samples:
        if policy and policy.consent and sample.consent_state == "unstated":
            refuse(without_consent(policy, sample))
            continue
        yield msgspec.structs.replace(sample, retain_until=min(sample.retain_until or last, last)) if last else sample


def refuse_unconsented(
    policy: Policy | None, refuse: Callable[[InputError], None]
) -> Callable[[StoredSample], None] | None:
    """What `Store.add` does with a new sample whose consent was refused or withdrawn; None without such a policy."""
    if policy is None or not policy.consent:
        return None
    return lambda sample: refuse(without_consent(policy, sample))


def without_consent(policy: Policy, sample: StoredSample) -> InputError:
    """Why a sample may not be stored."""
    what = f"the policy of {policy.institution} asks for consent with each sample"
    remedy = "write given in `consent` where it was, and who, when and on what basis beside it"
    if sample.consent_state in FORBIDDING:
        remedy = "leave it out; no such sample is held that this could be said of"
    what = f"{what}, and here it is {sample.consent_state}"
    return InputError(what, where=f"a sample of {sample.subject}", remedy=remedy)


def may_teach(policy: Policy | None, sample: StoredSample, unlabelled: bool = False) -> bool:
    """Whether a stored sample may be trained on: not quarantined, consent not refused, and given if the policy asks.

    unlabelled: whether samples without a label may be.
    """
    if not sample.trainable or not (sample.labels or unlabelled):
        return False
    return policy is None or not policy.consent or sample.consent_state == "given"
