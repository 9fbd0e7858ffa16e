"""Consents on this device: those in words alone, listed once for a person to decide, and what was decided."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from homeroom.data.consent import Consent, check_day
from homeroom.data.names import normal_name
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom.store import ConsentReport, Store


@dataclass
class UndecidedConsent:
    """Words beside samples whose consent is unstated. subjects: how many samples of each person have them."""

    text: str
    subjects: dict[str, int] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """SHA-256 of the words, for a form, which may not keep every character."""
        return sha256(self.text.encode()).hexdigest()


def undecided_consents(store: Store) -> list[UndecidedConsent]:
    """The words that a person has yet to decide on, each once, in the order of the alphabet."""
    found: dict[str, UndecidedConsent] = {}
    for sample in store.each_without_inputs():
        if sample.consent is not None and sample.consent.is_undecided:
            subjects = found.setdefault(sample.consent.text, UndecidedConsent(sample.consent.text)).subjects
            subjects[sample.subject] = subjects.get(sample.subject, 0) + 1
    return [found[text] for text in sorted(found, key=str.casefold)]


def set_consent(store: Store, consent: Consent, subject: str | None, text: str | None) -> ConsentReport:
    """Sets the consent of a subject's samples, or of those undecided ones with this text; of both, those of both.

    A consent without a day is of today.

    Raises InputError where it does not say who decided, or no sample is meant.
    """
    if not consent.by:
        raise InputError("does not say by whom", where="consent", remedy="name who gave, refused or withdrew it: --by")
    if subject is None and text is None:
        raise InputError("says neither whose consent nor which words", remedy="give --subject or --text")
    today = store.today().isoformat()
    check_day(consent, today)
    consent = msgspec.structs.replace(consent, on=consent.on or today)
    consent_holders(store, subject, text)
    return store.set_consent(consent, _chosen(store, subject, text))


def consent_holders(store: Store, subject: str | None, text: str | None) -> Counter[str]:
    """How many samples of each person `set_consent` would change; InputError where there are none."""
    chosen = _chosen(store, subject, text)
    held = Counter(sample.subject for sample in store.each_without_inputs() if chosen(sample))
    if not held:
        what = f"no sample of {normal_name(subject)}" if subject else "no sample"
        what += f" has the undecided words {text!r}" if text is not None else " is held"
        raise InputError(what, remedy="`homeroom device consent DIR` lists the words to decide on")
    return held


def _chosen(store: Store, subject: str | None, text: str | None) -> Callable[[StoredSample], bool]:
    """Whether a sample is of the subject, and has the undecided words."""
    known = None if subject is None else store.known(subject)

    def chosen(sample: StoredSample) -> bool:
        if known is not None and sample.subject != known:
            return False
        undecided = sample.consent is not None and sample.consent.is_undecided
        return text is None or (undecided and sample.consent is not None and sample.consent.text == text)

    return chosen
