"""Decisions on the agent's page, in two steps: what a consent is, and samples that are removed.

The first step shows what would be done, and to how many; the second does it, if that is still so.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from homeroom.data.consent import FORBIDDING, Consent, check_consent
from homeroom.device.consents import consent_holders, undecided_consents
from homeroom.device.device import Device
from homeroom.errors import InputError
from homeroom.system.printable import counted

log = logging.getLogger("homeroom.agent")
PERSONS_SHOWN = 12
CONSENT_FORM = ("sample", "words", "state", "by", "on", "basis")
STAYS = "What was learned before stays in the model, and with who has it, until the person is forgotten."


@dataclass(frozen=True)
class Confirmation:
    """What the second step will do. action: its address. seen: what it rests on; it is refused where that changed."""

    title: str
    sentences: tuple[str, ...]
    action: str
    button: str
    seen: str
    fields: Mapping[str, str]


def consent_question(device: Device, fields: Mapping[str, str]) -> Confirmation:
    """What setting a consent would do; InputError where the form does not say by whom, or means no sample."""
    consent, (subject, text) = read_consent(fields), whose_consent(device, fields)
    held = consent_holders(device.store, subject, text)
    whose = f"samples with the words “{text}”" if text is not None else "samples"
    sentences = [
        f"{sum(held.values())} {whose}, of {named(held)}: consent {consent.state}, by {consent.by}"
        + (f", on {consent.on}" if consent.on else "")
        + (f", on the basis of {consent.basis}" if consent.basis else "")
        + "."
    ]
    if consent.state in FORBIDDING:
        sentences.append(f"They are kept and never trained on from now; updates not sent yet are dropped. {STAYS}")
    sent = {name: fields[name] for name in CONSENT_FORM if name in fields}
    return Confirmation("Set this consent?", tuple(sentences), "/consent", "Set it", seen_of(held), sent)


def set_consent(device: Device, fields: Mapping[str, str], seen: str) -> str:
    """Sets a consent as was shown; returns what was done."""
    consent, (subject, text) = read_consent(fields), whose_consent(device, fields)
    require_seen(seen, seen_of(consent_holders(device.store, subject, text)))
    report = device.set_consent(consent, subject=subject, text=text)
    log.info("page: consent of %d samples is %s", report.samples, consent.state)
    return f"The consent of {counted(report.samples, 'sample')} is {consent.state} now."


def read_consent(fields: Mapping[str, str]) -> Consent:
    """The consent of a form; InputError where it says no state, nobody, or no day."""
    said = {name: fields.get(name, "").strip() for name in ("state", "by", "on", "basis")}
    if not said["state"]:
        raise InputError("says no state of consent", where="consent", remedy="choose one")
    consent = check_consent(said)
    if consent is None or not consent.by:
        raise InputError("does not say by whom", where="consent", remedy="name who gave, refused or withdrew it")
    return consent


def whose_consent(device: Device, fields: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The person whose consent a form sets, by one of their samples, or the words that it decides, by their digest."""
    if (sample := device.store.sample(fields.get("sample", ""))) is not None:
        return sample.subject, None
    words = next((one for one in undecided_consents(device.store) if one.digest == fields.get("words")), None)
    if words is None:
        raise InputError(
            "there are no such samples", where="consent", remedy="open the page again: it may have changed"
        )
    return None, words.text


def removal_question(device: Device, sample_id: str) -> Confirmation:
    """What removing a sample would do; InputError where it is not there any more."""
    sample = device.store.sample(sample_id)
    if sample is None:
        raise InputError("there is no such sample", remedy="open the page again: it may have changed")
    sentences = (
        f"One sample of {sample.subject}, with its {', '.join(sample.inputs)}, goes for ever.",
        f"So does what was trained here with any sample of {sample.subject}, which is trained again without this one; "
        "updates that were sent are asked to be unlearned.",
        "Not taken back: releases that others hold already, answers that were given, copies outside this device.",
    )
    return Confirmation("Remove this sample?", sentences, "/remove", "Remove it", sample_id, {"sample": sample_id})


def remove_sample(device: Device, sample_id: str, seen: str) -> str:
    """Removes a sample as was shown; returns what was done."""
    require_seen(seen, sample_id)
    report = device.remove(sample_id)
    log.info("page: %d sample removed, %d updates to be unlearned", report.samples, len(report.unlearning))
    return (
        f"Removed, with {counted(report.versions, 'version')}, {counted(report.profiles, 'profile')} and "
        f"{counted(report.unsent_updates, 'unsent update')} that its person entered; "
        f"{counted(len(report.unlearning), 'sent update')} will be unlearned at the next sync."
    )


def require_seen(seen: str, now: str) -> None:
    """InputError where what the first step showed is not so any more."""
    if seen != now:
        raise InputError("has changed meanwhile: nothing was done", where="page", remedy="open it again, and look anew")


def seen_of(held: Counter[str]) -> str:
    """A digest of what a consent rests on: how many samples of each person."""
    return sha256(repr(sorted(held.items())).encode()).hexdigest()


def named(held: Counter[str]) -> str:
    """The first persons by name, and how many more."""
    more = len(held) - PERSONS_SHOWN
    return ", ".join(sorted(held)[:PERSONS_SHOWN]) + (f" and {more} more" if more > 0 else "")
