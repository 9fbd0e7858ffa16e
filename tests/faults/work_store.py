"""The work that is recorded: each step of a store's life once; after each, a line with the state it must keep.

Run as `python work_store.py HOME`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.devices import make_sample, numbers, open_store, theta
from homeroom.store import Store


def describe(store: Store) -> dict[str, Any]:
    """All that a store must keep, comparable."""
    present = store.versions.current()
    state = store.versions.load_state("tag")
    return {
        "samples": numbers(store),
        "subjects": store.subjects(),
        "versions": [[v.kind, v.base, float(store.versions.theta(v.version_id).sum())] for v in store.versions.all()],
        "current": present.base if present else None,
        "state": None if state is None else state.decode(),
        "waiting": [u.update_id[0] for u in store.outbox.pending()],
        "sent": [u[0] for u in store.outbox.sent()],
        "unlearn": [u[0] for u in store.outbox.unlearning()],
        "key": (store.get_secret("identity.key") or b"").decode(),
        "damage": store.damage(),
        "edited": store.edited,
    }


def work(home: Path) -> None:
    with open_store(home) as store:

        def done() -> None:
            sys.stdout.write(json.dumps(describe(store)) + "\n")
            sys.stdout.flush()

        done()
        store.add([make_sample(0, "a"), make_sample(1, "b")])
        done()
        store.put_secret("identity.key", b"key")
        done()
        store.versions.save_state(b"half way", "tag", ["a", "b"])
        done()
        with store.step("train"):
            store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["a", "b"]))
            store.versions.drop_state()
            store.outbox.queue("u" * 32, bytes(5000), 0, ["a", "b"])
        done()
        store.outbox.mark_sending("u" * 32)
        done()
        store.outbox.mark_sent("u" * 32)
        done()
        with store.step("global theta", 1):
            store.versions.set_current(store.versions.put(theta(1), "global", 1, {}))
        done()
        store.add([make_sample(number, "c") for number in range(2, 12)])
        done()
        store.versions.save_state(b"a third", "tag", ["a", "b", "c"])
        done()
        store.forget("a")
        done()
    with open_store(home) as store:
        done()
        store.add([make_sample(20, "b")])
        done()


if __name__ == "__main__":
    work(Path(sys.argv[1]))
