"""Samples: what a user gives, checked against a bundle and made ready to be stored; imports preprocess."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec

from homeroom.data.preprocess import hashed_content
from homeroom.data.preprocess.sequence import Interaction

TEXT_LIMIT_CHARACTERS = 20_000  # characters; far more than any bucket holds
INTERACTION_LIMIT = 10_000  # interactions of one sequence
MEDIA_LIMIT_BYTES = 64 << 20
DEFAULT_SUBJECT = "classroom"  # whom a sample is about when nobody says
NAME_LIMIT_CHARACTERS = 256

Row = dict[str, float | str | None]
SpanLabel = dict[str, str | int]  # start, end (characters), label
Label = str | int | float | bool | list[str | SpanLabel]
TRUTH_WORDS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
RESERVED_FIELDS = ("labels", "subject", "consent", "source", "retain_until", "language")


class Sample:
    """One example: inputs by slot name, or by modality as the short form; any subset may be given.

    A text is a string; a picture or a sound the path of a file or its bytes; a table row a mapping; a sequence a list
    of interactions, the oldest first, each (skill, right) or (skill, right, seconds), or a mapping with `skill`,
    `correct` and `time`. A slot of several places takes a list. Labels are by task name: the class, the level, a list
    of classes, a number, the index of the right option, whether two inputs match, or a list of spans, each (start, end,
    label) in characters. A tracing task takes no label: its sequence holds what there is to learn. `subject` is the
    person the sample is about.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, Label] | None = None,
        subject: str | None = None,
        consent: str | None = None,
        source: str | None = None,
        retain_until: str | datetime.date | None = None,
        language: str | None = None,
        **inputs: Any,
    ) -> None:
        self.inputs = inputs
        self.labels = dict(labels or {})
        self.subject, self.consent, self.source, self.language = subject, consent, source, language
        self.retain_until = retain_until
        self.origin: str | None = None  # the file and row it was read from, for messages

    def __repr__(self) -> str:
        return f"Sample({', '.join(self.inputs)}; labels {self.labels}; subject {self.subject!r})"


class MediaReference(msgspec.Struct, frozen=True):
    """Stands for a picture or a sound that stays in the store; digest: SHA-256 of its `preprocess.content`."""

    sample_id: str
    slot: str
    place: int
    digest: bytes
    size: int


StoredInput = str | bytes | Row | list[Interaction] | MediaReference


class StoredSample(msgspec.Struct, frozen=True, kw_only=True):
    """A checked sample. `inputs`: by slot, a list with a value or None for each place; media as encoded files.

    `aside`: why it is kept out of training until a person has looked at it; empty where it is not. By slot, the places
    of its inputs that this is about, where the others teach all the same: `left_out`, and `weighed`, which count less.
    """

    inputs: dict[str, list[StoredInput | None]]
    labels: dict[str, Label] = {}
    subject: str = DEFAULT_SUBJECT
    consent: str | None = None
    source: str | None = None
    retain_until: str | None = None
    language: str | None = None
    aside: str = ""
    left_out: dict[str, list[int]] = {}
    weighed: dict[str, list[int]] = {}
    sample_id: str = ""

    @property
    def why(self) -> str:
        """`aside` for a person, who is told where the rest of the sample teaches."""
        said = [f"{', '.join(self.left_out)} left out"] if self.left_out else []
        said += [f"{', '.join(self.weighed)} counts less"] if self.weighed else []
        return self.aside + (f" ({', '.join(said)}, the rest teaches)" if said else "")

    @property
    def teaches(self) -> bool:
        """Whether any of it does."""
        return not self.aside or bool(self.left_out or self.weighed)


def without_media(sample: StoredSample) -> StoredSample:
    """The same sample, its pictures and sounds left where they are: thousands of them need not fit in memory."""

    def kept(slot: str, place: int, value: StoredInput | None) -> StoredInput | None:
        if not isinstance(value, bytes):
            return value
        return MediaReference(sample.sample_id, slot, place, digest_of(value), len(value))

    inputs = {slot: [kept(slot, i, value) for i, value in enumerate(row)] for slot, row in sample.inputs.items()}
    return msgspec.structs.replace(sample, inputs=inputs)


def digest_of(value: StoredInput) -> bytes:
    """SHA-256 of an input's content, by which its features are found."""
    return value.digest if isinstance(value, MediaReference) else sha256(hashed_content(value)).digest()
