"""Samples: as a user gives them, and as they are stored after their check."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Literal, get_args

import msgspec

from homeroom.data.consent import CONSENT_FIELDS, FORBIDDING, Consent, ConsentState
from homeroom.data.preprocess import hashed_content
from homeroom.data.preprocess.sequence import Interaction

TEXT_LIMIT_CHARACTERS = 20_000  # far more than any bucket holds
INTERACTION_LIMIT = 10_000  # of one sequence
DEFAULT_SUBJECT = "classroom"  # of samples that name none

Row = dict[str, float | str | None]
SpanLabel = dict[str, str | int]  # start, end (characters), label
Label = str | int | float | bool | list[str | SpanLabel]
TRUTH_WORDS = {"true": True, "yes": True, "1": True, "1.0": True, "false": False, "no": False, "0": False, "0.0": False}
RESERVED_FIELDS = ("labels", "subject", "author", "consent", *CONSENT_FIELDS, "source", "retain_until", "language")
PERSONS = ("subject", "author")  # of whom nobody is called n/a
LATER_FIELDS = ("author", *CONSENT_FIELDS)  # reserved since 0.1.0, whose bundles may have slots of these names
OTHER_RESERVED = ("label", "file", "why")  # columns of sheets that are no fields of a sample


class Sample:
    """One example: inputs by slot name, or by modality where the bundle has one slot of it; any subset may be given.

    Inputs: a text is a string; a picture or a sound the path of a file, its bytes, or an open file; a picture also a
    Pillow image, or uint8 [height, width] of grey or [height, width, 3] of RGB; a sound also (wave, rate) with float
    [n] in [-1, 1] or integers, and the rate in Hz. A table row is a mapping; a sequence a list of interactions, the
    oldest first, each (skill, correct) or (skill, correct, seconds), or a mapping with `skill`, `correct` and `time`. A
    slot with a count takes a list.

    labels: by task name: the class, the level, a list of classes, a number, the index of the right option, whether two
    inputs match, or a list of spans, each (start, end, label) in characters. A tracing task takes none.
    subject: the person the sample is about. author: who wrote or took it, where that is another, such as the teacher.
    consent: "given", "refused", "withdrawn" or "unstated", or a mapping or `Consent` with who, when and on what basis.
    source, language: short texts. retain_until: the last day, a date or
    "2027-07-31".
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, Label] | None = None,
        subject: str | None = None,
        author: str | None = None,
        consent: str | Mapping[str, str] | Consent | None = None,
        source: str | None = None,
        retain_until: str | datetime.date | None = None,
        language: str | None = None,
        **inputs: Any,
    ) -> None:
        self.inputs = inputs
        self.labels = dict(labels or {})
        self.subject, self.author, self.consent = subject, author, consent
        self.source, self.language = source, language
        self.retain_until = retain_until
        self.origin: str | None = None  # the file and row it was read from
        self.group: HeldOutGroup | None = None  # as `ingest.group_column` finds it

    def __repr__(self) -> str:
        return f"Sample({', '.join(self.inputs)}; labels {self.labels}; subject {self.subject!r})"


InputKind = Literal["text", "media", "table", "sequence"]
INPUT_KINDS: tuple[InputKind, ...] = get_args(InputKind)


class InputReference(msgspec.Struct, frozen=True, array_like=True):
    """An input that is left in the store, and all that is known of it without opening it.

    place: its number among the inputs of its sample
    digest: SHA-256 of its `preprocess.hashed_content`
    length: characters of a text, bytes of media, cells of a table row, interactions of a sequence
    """

    place: int
    kind: InputKind
    digest: bytes
    size_bytes: int
    length: int


StoredInput = str | bytes | Row | list[Interaction] | InputReference


class HeldOutGroup(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a sample is held out whole with: a slot's content, or the value of a further column.

    name: of the slot or column
    value: of the column; empty where it is a slot
    """

    name: str
    value: str = ""


class StoredSample(msgspec.Struct, frozen=True, kw_only=True):
    """A checked sample.

    inputs: by slot, a value or None for each of its inputs; media as encoded files. From the store, references.
    author: who wrote or took it, where that is another than the subject.
    labels: of the bundle's tasks; theta, updates and statistics that are sent learn from these alone.
    local_labels: by task, labels that this device alone has; of a task that has one there is none in `labels`.
    group: what it is held out whole with, as a person said when it was added.
    aside: why the sample is quarantined until a person has looked at it; empty where it is not.
    left_out, weighed: by slot, the indices of poor inputs, where the rest of the sample is trained on all the same:
    those that are ignored, and those that count less.
    """

    inputs: dict[str, list[StoredInput | None]]
    labels: dict[str, Label] = {}
    subject: str = DEFAULT_SUBJECT
    consent: Consent | None = None
    source: str | None = None
    retain_until: str | None = None
    language: str | None = None
    aside: str = ""
    left_out: dict[str, list[int]] = {}
    weighed: dict[str, list[int]] = {}
    author: str | None = None
    group: HeldOutGroup | None = None
    local_labels: dict[str, Label] = {}
    sample_id: str = ""

    @property
    def every_label(self) -> dict[str, Label]:
        """By task, the labels of the bundle and those of this device alone."""
        return {**self.labels, **self.local_labels}

    @property
    def quarantine_reason(self) -> str:
        """`aside` for a person, with what becomes of the rest of the sample."""
        effects = [f"{', '.join(self.left_out)} left out"] if self.left_out else []
        effects += [f"{', '.join(self.weighed)} counts less"] if self.weighed else []
        return self.aside + (f" ({', '.join(effects)}, the rest teaches)" if effects else "")

    @property
    def trainable(self) -> bool:
        """Whether any part of it may be trained on; nothing is where consent is refused or withdrawn."""
        if self.consent_state in FORBIDDING:
            return False
        return not self.aside or bool(self.left_out or self.weighed)

    def is_over(self, today: str) -> bool:
        """Whether its last day is before `today`, ISO 8601."""
        return self.retain_until is not None and self.retain_until < today

    @property
    def consent_state(self) -> ConsentState:
        """What is known of the consent to learning from it."""
        return self.consent.state if self.consent else "unstated"


def digest_of(value: StoredInput) -> bytes:
    """SHA-256 of an input's content, the key of its cached features."""
    return value.digest if isinstance(value, InputReference) else sha256(hashed_content(value)).digest()


def group_key(sample: StoredSample) -> str:
    """Equal for samples of one group, in any case of letters: its name, a colon, a digest; "" where it is in none."""
    if sample.group is None:
        return ""
    name, value = sample.group.name, sample.group.value.casefold() or None
    content = value if value is not None else next(iter(sample.inputs.get(name, ())), None)
    return "" if content is None else f"{name}:{digest_of(content).hex()}"


def input_kind(value: StoredInput) -> InputKind:
    """Which kind of input it is."""
    if isinstance(value, InputReference):
        return value.kind
    if isinstance(value, str | bytes):
        return "text" if isinstance(value, str) else "media"
    return "table" if isinstance(value, Mapping) else "sequence"


def input_length(value: StoredInput) -> int:
    """Its length, as `InputReference` states it."""
    return value.length if isinstance(value, InputReference) else len(value)
