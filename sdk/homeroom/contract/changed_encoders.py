"""Encoders that a newer bundle has in place of others: what reads their features does not merge with that of before."""

from __future__ import annotations

from homeroom.contract.manifest import Manifest


def changed_encoders(before: Manifest, after: Manifest) -> dict[str, tuple[str, str]]:
    """The encoders, before and after, of the modalities in both whose features differ."""
    known = {one.name: one for one in before.modalities}
    pairs = ((known[one.name], one) for one in after.modalities if one.name in known)
    return {new.name: (old.encoder, new.encoder) for old, new in pairs if old.features_id != new.features_id}
