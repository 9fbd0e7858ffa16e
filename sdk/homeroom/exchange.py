"""The steps of one `sync`: send what waits, ask to unlearn, fetch and judge the newest global theta."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from homeroom.bundle import Bundle
from homeroom.contract.version import read_version
from homeroom.errors import UpdateError
from homeroom.lineage import facts, newest_global, theta_of
from homeroom.store import Store
from homeroom.sync import Client

CLEARLY = 2.0  # standard errors by which a global theta must be worse here before the local one stays in use

Scores = Mapping[str, Any]


def send_updates(store: Store, client: Client) -> tuple[list[str], dict[str, str], int]:
    """Send every waiting update once more under its own id; (sent, refused with the reason, bytes)."""
    sent: list[str] = []
    refused: dict[str, str] = {}
    size = 0
    for update in store.pending_updates():
        store.mark_sending(update.update_id)
        size += len(update.data)
        try:
            client.update(update.data)
        except UpdateError as problem:
            if problem.code == "unknown_device":
                raise
            store.mark_refused(update.update_id)
            refused[update.update_id] = str(problem)
        else:
            store.mark_sent(update.update_id)
            sent.append(update.update_id)
    return sent, refused, size


def ask_unlearning(store: Store, client: Client) -> list[str]:
    asked = store.pending_unlearn()
    for update_id in asked:
        client.unlearn(update_id)
        store.mark_unlearned(update_id)
    return asked


def fetch_global(store: Store, bundle: Bundle, client: Client, root: str) -> tuple[str | None, int]:
    """Store the aggregator's newest theta if it is new and verifies; (its id in the store, bytes)."""
    newest = newest_global(store, bundle)
    after = newest.base if newest else 0
    data = client.latest(after)
    if data is None:
        return None, 0
    header, theta = read_version(
        data, bundle.manifest.layout, bundle_id=bundle.bundle_id, root_fingerprint=root, after=after
    )
    if header.version == after:
        return None, len(data)
    with store.step("global theta", header.version):
        version_id = store.put_version(theta, "global", header.version, facts(bundle, devices=header.devices))
    return version_id, len(data)


def choose(
    store: Store, bundle: Bundle, version_id: str, score: Callable[[np.ndarray], Scores]
) -> tuple[str, Scores, Scores]:
    """Use the new global theta, unless it is clearly worse on the validation samples than the one in use."""
    present = store.current()
    new = next(v for v in store.versions() if v.version_id == version_id)
    theirs = score(theta_of(store, bundle, new))
    ours = score(theta_of(store, bundle, present)) if present else {}
    if present and clearly_worse(theirs, ours):
        return "local", theirs, ours
    with store.step("use global", new.base):
        store.set_current(version_id)
    return "global", theirs, ours


def clearly_worse(new: Scores, old: Scores) -> bool:
    """Whether the mean accuracy over tasks fell by more than CLEARLY standard errors of the pooled sample."""
    tasks = [task for task in old if task in new and old[task].n]
    if not tasks:
        return False
    before = float(np.mean([old[task].accuracy for task in tasks]))
    after = float(np.mean([new[task].accuracy for task in tasks]))
    count = sum(old[task].n for task in tasks)
    return before - after > CLEARLY * (max(before * (1 - before), 0.05) * 2 / count) ** 0.5
