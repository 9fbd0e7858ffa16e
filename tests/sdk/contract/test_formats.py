"""What earlier releases wrote is read by this one, with the identities it had then (`python test_formats.py` adds one).

`formats/N` holds what format N looked like. These files are never rewritten: if one no longer fits, the code is wrong,
or the format must rise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import canonical, digest
from homeroom.contract.invitation import Invitation, read_invitation
from homeroom.contract.layout import Layout
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.round import ROUND_FORMAT, RoundConfiguration
from homeroom.contract.signing import certify, check_certificate, fingerprint, public_hex, sign, verify
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import make_version, read_version
from homeroom.runtime.bundle import BundleSignature

FORMATS = Path(__file__).with_name("formats")
KEYS = {
    name: Ed25519PrivateKey.from_private_bytes(f"golden {name} key".encode().ljust(32, b"."))
    for name in ("root", "exporter", "aggregator", "device")
}


def values(layout: Layout, scale: float) -> np.ndarray:
    """float32 [P], all different, exactly in the grid of 2^-20."""
    return (np.arange(layout.size, dtype=np.float32) - layout.size // 2) * np.float32(scale * 2.0**-20)


def facts(folder: Path) -> dict[str, Any]:
    """Everything that must stay as it was, read with the code as it is."""
    raw = (folder / "manifest.json").read_bytes()
    manifest = read_manifest(raw)
    signature = msgspec.json.decode((folder / "signature.json").read_bytes(), type=BundleSignature)
    root = fingerprint(public_hex(KEYS["root"]))
    check_certificate(signature.certificate, role="exporter", root_fingerprint=root, where="signature")
    verify(signature.certificate.key, "bundle", signature.statement, signature.signature, where="signature")
    assert signature.bundle_id == digest(raw)
    signed = json.loads((folder / "round.json").read_bytes())
    verify(public_hex(KEYS["aggregator"]), "round", signed["configuration"], signed["signature"], where="round")
    asked = msgspec.convert(signed["configuration"], RoundConfiguration)
    layout = manifest.layout
    update = read_update((folder / "update").read_bytes(), asked, layout)
    for name, sent in update.values.items():
        assert np.array_equal(sent * np.float32(2.0**-20), layout.split(values(layout, 3.0))[name])
    header, theta = read_version(
        (folder / "version").read_bytes(), layout, bundle_id=signature.bundle_id, root_fingerprint=root
    )
    assert np.array_equal(theta, values(layout, 1.0))
    return {
        "bundle_id": signature.bundle_id,
        "features_ids": {m.name: m.features_id for m in manifest.modalities},
        "segment_ids": {s.name: s.segment_id for s in layout},
        "parameters": layout.size,
        "tasks": [task.name for task in manifest.tasks],
        "update": [update.header.update_id, update.header.base_version, len(update.values)],
        "version": [header.version, header.devices],
        "invitation": read_invitation(folder / "invitation.json").code,
    }


@pytest.mark.parametrize("folder", sorted(FORMATS.glob("*")), ids=lambda folder: f"format {folder.name}")
def test_what_an_earlier_release_wrote_is_read_as_it_was_meant(folder: Path) -> None:
    assert facts(folder) == json.loads((folder / "facts.json").read_text())


def test_a_round_configuration_of_an_earlier_release_keeps_its_identity() -> None:
    signed = json.loads((FORMATS / "1" / "round.json").read_bytes())["configuration"]
    asked = msgspec.convert(signed, RoundConfiguration)
    assert asked.document == signed, "a field that is added later is left out while it has its default"
    assert asked.configuration_id == "b4e71bf1725b6568a3cb4612afc9af4d5d133c36376e32bf9beaf00b9f04f6c3"


def test_a_field_that_is_not_known_here_is_part_of_the_identity_and_read_over(tmp_path: Path) -> None:
    raw = (FORMATS / "1" / "manifest.json").read_bytes()
    newer = canonical({**json.loads(raw), "colour": "green"})
    assert read_manifest(newer) == read_manifest(raw)
    assert digest(newer) != digest(raw)


def write(folder: Path) -> None:
    """The present format, from the tiny bundle's manifest."""
    import tiny

    folder.mkdir(parents=True)
    raw = (tiny.bundle().path / "manifest.json").read_bytes()
    manifest, bundle_id = read_manifest(raw), digest(raw)
    bare = BundleSignature(
        bundle_id=bundle_id,
        name=manifest.name,
        version=manifest.version,
        certificate=certify(KEYS["root"], "exporter", KEYS["exporter"], "golden"),
        signature="",
    )
    asked = RoundConfiguration(bundle_id=bundle_id)
    layout, configuration = manifest.layout, msgspec.to_builtins(asked)
    counts = {segment.name: 1 + place for place, segment in enumerate(layout)}
    invitation = Invitation(
        address="https://district.example",
        root=fingerprint(public_hex(KEYS["root"])),
        code="golden-golden-golden",
        institution="golden",
        bundle_id=bundle_id,
    )
    certificate = certify(KEYS["root"], "aggregator", KEYS["aggregator"], "golden")
    signature = msgspec.structs.replace(bare, signature=sign(KEYS["exporter"], "bundle", bare.statement))
    (folder / "manifest.json").write_bytes(raw)
    (folder / "signature.json").write_bytes(msgspec.json.encode(signature))
    signed = {"configuration": configuration, "signature": sign(KEYS["aggregator"], "round", configuration)}
    (folder / "round.json").write_bytes(msgspec.json.encode(signed))
    update = make_update(KEYS["device"], asked, layout, values(layout, 3.0), counts, 2, update_id="a" * 32)
    (folder / "update").write_bytes(update)
    theta, devices = values(layout, 1.0), dict.fromkeys(counts, 3)
    version = make_version(KEYS["aggregator"], certificate, bundle_id, 4, theta, devices)
    (folder / "version").write_bytes(version)
    (folder / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    (folder / "facts.json").write_text(json.dumps(facts(folder), indent=1) + "\n")


if __name__ == "__main__":
    write(FORMATS / str(ROUND_FORMAT))
