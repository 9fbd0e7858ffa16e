"""Labels that this device alone has, beside its bundle's: which there are, in the device's state.

A name may say something of a person, so a personal label that no sample has any more goes with a `forget` that took its
last one.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Literal, get_args

import msgspec

from homeroom.store.context import StoreContext
from homeroom.store.device_state import RecordStore, json_record

LocalScope = Literal["personal", "institution"]
LOCAL_SCOPES: tuple[LocalScope, ...] = get_args(LocalScope)


class LocalLabel(msgspec.Struct, frozen=True, order=True):
    """A label of a task. scope: whether a later bundle's label of the same name may ever get its samples.

    added: the day, ISO 8601.
    """

    task: str
    label: str
    scope: LocalScope
    added: str


LOCAL_LABELS = json_record("local_labels", tuple[LocalLabel, ...])


def local_labels(store: RecordStore) -> tuple[LocalLabel, ...]:
    """The labels that this device alone has, by task and name."""
    return LOCAL_LABELS.read(store) or ()


def put_local_labels(store: RecordStore, labels: tuple[LocalLabel, ...]) -> None:
    """Stores the labels in place of those before; inside a step."""
    LOCAL_LABELS.write(store, tuple(sorted(labels)) or None)


def count_local_labels(context: StoreContext) -> Counter[tuple[str, str]]:
    """How many samples have each, by task and name."""
    found = (sample.local_labels.items() for _, sample in context.each_without_inputs())
    return Counter((task, str(label)) for labels in found for task, label in labels)


@contextlib.contextmanager
def dropping_personal(context: StoreContext, dropped: list[LocalLabel]) -> Iterator[None]:
    """Inside a step: removes the personal labels whose last sample goes meanwhile, and lists them in `dropped`."""
    before = count_local_labels(context) if local_labels(context) else Counter()
    yield
    if not before:
        return
    gone, known = before.keys() - count_local_labels(context).keys(), local_labels(context)
    dropped += [one for one in known if one.scope == "personal" and (one.task, one.label) in gone]
    if dropped:
        put_local_labels(context, tuple(one for one in known if one not in dropped))
