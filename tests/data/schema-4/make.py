"""Made store.tar.xz with the code of schema version 4: samples whose consent is a text, a version and an update."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from faults.devices import make_sample, open_store, theta

with open_store(Path(sys.argv[1])) as store:
    samples = [
        make_sample(0, "p-0"),
        make_sample(1, "p-0", consent="given"),
        make_sample(2, "p-1", consent="refused by the mother", retain_until="2999-01-01", source="lesson 3"),
        make_sample(3, "p-2", consent="letter of 3 May"),
        make_sample(4, "p-1", consent="letter of 3 May"),
        msgspec.structs.replace(make_sample(90), aside="too dark"),
        msgspec.structs.replace(make_sample(91), aside="blurred", weighed={"picture": [0]}),
    ]
    store.add(samples, lambda sample: str(sample.inputs["text"][0]).encode())
    store.versions.set_current(store.versions.put(theta(0), "local", 0, {}, ["p-0", "p-1"]))
    store.outbox.queue("u-0", b"update", 0, ["p-0"])
