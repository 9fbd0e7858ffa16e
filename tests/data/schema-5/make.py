"""Made store.tar.xz with the code of schema version 5: samples, a version and an update."""

from __future__ import annotations

import sys
from pathlib import Path

from faults.devices import make_sample, open_store, theta

with open_store(Path(sys.argv[1])) as store:
    store.add([make_sample(number, f"p-{number % 3}") for number in range(5)])
    store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["p-0", "p-1"]))
    store.outbox.queue("u-0", b"update", 0, ["p-0"])
