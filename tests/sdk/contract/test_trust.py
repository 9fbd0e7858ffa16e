"""Certificates, versions of theta and invitations: only the trusted root's word counts."""

import msgspec
import numpy as np
import pytest

from homeroom.contract.invitation import read_invitation
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.signing import (
    certify,
    check_certificate,
    fingerprint,
    new_key,
    public_hex,
    read_key,
    sign,
    verify,
    write_key,
)
from homeroom.contract.version import make_version, read_version
from homeroom.errors import HomeroomError, InputError, TrustError

ROOT, AGGREGATOR, STRANGER = new_key(), new_key(), new_key()
TRUSTED = fingerprint(public_hex(ROOT))
LAYOUT = Layout((Segment(name="a", parameters=(Parameter("w", (6,)),), meaning="x"),))
THETA = np.linspace(0, 1, 6, dtype=np.float32)
BUNDLE = "0" * 64


def version(key=AGGREGATOR, root=ROOT, role="aggregator", number=4, theta=THETA) -> bytes:
    return make_version(key, certify(root, role, AGGREGATOR, "district"), BUNDLE, number, theta, {"a": 3})


def read(data: bytes, **changes):
    return read_version(data, LAYOUT, **({"bundle_id": BUNDLE, "root_fingerprint": TRUSTED} | changes))


def test_a_version_of_the_trusted_aggregator_is_read() -> None:
    header, theta = read(version())
    assert header.version == 4
    assert np.array_equal(theta, THETA)


@pytest.mark.parametrize(
    "data",
    [
        version(root=STRANGER),
        version(key=STRANGER),
        version(role="exporter"),
        version(theta=THETA[:3]),
        version(theta=np.full(6, np.nan, np.float32)),
        version()[:-1],
        b"",
    ],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(HomeroomError):
        read(data)


def test_an_old_version_cannot_be_replayed() -> None:
    with pytest.raises(TrustError, match="older"):
        read(version(number=4), after=5)


def test_a_version_of_another_bundle_is_refused() -> None:
    with pytest.raises(TrustError):
        read(version(), bundle_id="1" * 64)


def test_a_signature_for_one_purpose_is_not_one_for_another() -> None:
    signature = sign(ROOT, "bundle", {"a": 1})
    verify(public_hex(ROOT), "bundle", {"a": 1}, signature, where="x")
    with pytest.raises(TrustError):
        verify(public_hex(ROOT), "update", {"a": 1}, signature, where="x")


def test_a_certificate_altered_in_any_field_is_refused() -> None:
    good = certify(ROOT, "exporter", AGGREGATOR, "vendor")
    check_certificate(good, role="exporter", root_fingerprint=TRUSTED, where="x")
    for change in ({"key": public_hex(STRANGER)}, {"name": "other"}, {"root": public_hex(STRANGER)}):
        with pytest.raises(TrustError):
            check_certificate(msgspec.structs.replace(good, **change), role="exporter", root_fingerprint=None, where="")


def test_a_key_survives_its_file_and_is_never_overwritten(tmp_path) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    assert public_hex(read_key(tmp_path / "root.pem")) == public_hex(ROOT)
    with pytest.raises(FileExistsError):
        write_key(tmp_path / "root.pem", STRANGER)
    with pytest.raises(TrustError):
        read_key(tmp_path / "none.pem")


@pytest.mark.parametrize("text", ["", "{}", '{"address":"ftp://x"}', "[" * 100_000])
def test_a_broken_invitation_is_one_clear_error(tmp_path, text: str) -> None:
    (tmp_path / "invitation.json").write_text(text)
    with pytest.raises(InputError):
        read_invitation(tmp_path / "invitation.json")
