"""What is looked at before a sample may teach or be answered, and what a teacher sees of it; imports quality, store."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from homeroom.contract.manifest import Manifest
from homeroom.quality import poor_inputs
from homeroom.quality.near import fingerprint
from homeroom.samples import StoredSample
from homeroom.store import Store
from homeroom.store.samples import comparable


def add_examined(store: Store, manifest: Manifest, samples: Sequence[StoredSample]) -> list[str]:
    """Store samples, the poor ones and the near copies set aside; return their ids."""
    examined = [
        msgspec.structs.replace(sample, aside="; ".join(poor_inputs(sample, manifest).values())) for sample in samples
    ]
    return store.add(examined, [fingerprint(s, manifest) if comparable(s) else b"" for s in samples])


def without_poor(sample: StoredSample, manifest: Manifest) -> tuple[StoredSample, str]:
    """A sample without its poor inputs, and which they are; as it is where nothing else would be left."""
    poor = poor_inputs(sample, manifest)
    kept = {
        slot: [None if (slot, place) in poor else value for place, value in enumerate(places)]
        for slot, places in sample.inputs.items()
    }
    if not poor or not any(value is not None for places in kept.values() for value in places):
        return sample, ""
    return msgspec.structs.replace(sample, inputs=kept), f"left out {'; '.join(poor.values())}"
