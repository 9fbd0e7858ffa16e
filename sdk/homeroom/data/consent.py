"""Consent to learning from a sample: a word of a vocabulary, with who, when and on what basis; free text beside it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from homeroom.data.cells import parse_day
from homeroom.data.names import check_text_field
from homeroom.errors import InputError

ConsentState = Literal["given", "refused", "withdrawn", "unstated"]
CONSENT_STATES: tuple[ConsentState, ...] = get_args(ConsentState)
FORBIDDING: tuple[ConsentState, ...] = ("refused", "withdrawn")
CONSENT_FIELDS = ("consent_by", "consent_on", "consent_basis", "consent_text")  # columns beside `consent`
CLOSE = 0.7  # of difflib: a misspelt word, not another sentence


class Consent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is known of the consent to learning from a sample. Only `given` counts as consent.

    by: who gave, refused or withdrew it. on: the day, ISO 8601. basis: such as "form 7".
    text: words beside it, such as those of a release without the vocabulary.
    """

    state: ConsentState = "unstated"
    by: str = ""
    on: str = ""
    basis: str = ""
    text: str = ""

    @property
    def is_undecided(self) -> bool:
        """Whether a person has yet to say what the words mean."""
        return self.state == "unstated" and bool(self.text) and not self.by


def check_consent(value: Any, where: str = "consent") -> Consent | None:
    """Returns the consent that a sample states; None where it states none.

    value: a word of the vocabulary, a mapping of `state`, `by`, `on`, `basis` and `text`, or a Consent.

    Raises InputError where the word is none of the vocabulary, or where it says who, when or why, but not what.
    """
    if isinstance(value, Consent):
        value = msgspec.structs.asdict(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    fields = value if isinstance(value, Mapping) else {"state": value}
    if unknown := sorted(map(str, fields.keys() - set(Consent.__struct_fields__))):
        raise InputError(f"consent has no {unknown[0]!r}", where=where, remedy="state, by, on, basis and text")
    texts = {
        name: check_text_field(f"{where}_{name}", fields.get(name)) or "" for name in ("by", "on", "basis", "text")
    }
    if texts["on"]:
        texts["on"] = parse_day(texts["on"], f"{where}_on").isoformat()
    consent = Consent(_check_state(fields.get("state"), where), **texts)
    if consent.state == "unstated" and not consent.text and (consent.by or consent.on or consent.basis):
        remedy = "write given, refused or withdrawn in `consent`"
        raise InputError("says who, when or on what basis, but not what", where=where, remedy=remedy)
    return None if consent == Consent() else consent


def consent_in_words(text: str) -> Consent:
    """The consent that a release without the vocabulary held in words: unstated, unless they are a `no` of it."""
    word = text.strip().casefold()
    state = next((state for state in FORBIDDING if word == state), "unstated")
    return Consent(state, text=text)  # type: ignore[arg-type]


def check_day(consent: Consent, today: str) -> None:
    """InputError where a consent is dated after today, ISO 8601: it would undo every word until then."""
    if consent.on > today:
        what = f"{consent.on} is a day to come: today is {today}"
        raise InputError(what, where="consent_on", remedy="write the day on which it was said")


def newer_consent(held: Consent | str | None, new: Consent | str | None) -> Consent | None:
    """What holds after a newer word. A text is of a store from before the vocabulary, and says nothing.

    Consent that was refused or withdrawn stays so, unless the newer word is dated after it. An older word changes
    nothing, and who, when and why stay where the newer one does not say it.
    """
    if not isinstance(held, Consent) or not isinstance(new, Consent):
        return new if isinstance(new, Consent) else held if isinstance(held, Consent) else None
    is_older = bool(new.on) and new.on < held.on
    is_undone = held.state in FORBIDDING and new.state not in FORBIDDING and not (held.on and held.on < new.on)
    if is_undone or (held.state != "unstated" and (is_older or new.state == "unstated")):
        return held
    if new.state != held.state:
        return msgspec.structs.replace(new, text=new.text or held.text)
    day = new.on if held.state in FORBIDDING else new.on or held.on  # a "no" without a day: no older yes undoes it
    said = {name: getattr(new, name) or getattr(held, name) for name in ("by", "basis", "text")}
    return msgspec.structs.replace(new, on=day, **said)


def gather_consent(fields: dict[str, Any]) -> dict[str, Any]:
    """The reserved fields of a row, `consent_by` and the like gathered with `consent` into one mapping."""
    parts = {name.removeprefix("consent_"): fields.pop(name) for name in CONSENT_FIELDS if name in fields}
    if parts:
        state = fields.get("consent")
        if isinstance(state, Mapping):
            raise InputError("is an object, with its parts beside it too", where="consent", remedy="say each part once")
        fields["consent"] = {"state": state, **parts}
    return fields


def _check_state(value: Any, where: str) -> ConsentState:
    if value is None:
        return "unstated"
    word = value.strip().casefold() if isinstance(value, str) else ""
    if not word and isinstance(value, str):
        return "unstated"
    for state in CONSENT_STATES:
        if word == state:
            return state
    first = word.split(maxsplit=1)[:1]
    close: list[str] = [state for state in CONSENT_STATES if first == [state]]  # so "not given" is near nothing
    close = close or (difflib.get_close_matches(word, CONSENT_STATES, 1, CLOSE) if first == [word] else [])
    meant = f"did you mean {close[0]}? " if close else ""
    raise InputError(
        f"{value!r} is no state of consent",
        where=where,
        remedy=f"{meant}write given, refused, withdrawn or unstated; other words go into {where}_text",
    )
