"""Whatever bytes come: every decoder of the aggregator answers with one of the house's errors, or reads them."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from aggregator.institution import ROOT, SEGMENTS, START, School
from homeroom.contract import http_signatures, sealed_box, secagg
from homeroom.contract.invitation import Invitation, as_text, read_invitation
from homeroom.contract.layout import Layout
from homeroom.contract.offline_message import read_message, write_message
from homeroom.contract.policy import Policy, read_policy, sign_policy
from homeroom.contract.roster import make_roster, read_roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import Advertisement, Consents, Inbox, Reveal, Shares, Survivors
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex
from homeroom.contract.update_checks import read_update
from homeroom.contract.version import make_version, read_version
from homeroom.errors import InputError, NetworkError, StoreError, TrustError, UpdateError
from homeroom_aggregator.admin import invitations
from homeroom_aggregator.merge import checkpoint
from homeroom_aggregator.merge.round_state import RoundState
from homeroom_aggregator.merge.segment_sums import SegmentSums
from homeroom_aggregator.server import auth
from homeroom_aggregator.state import one_time_codes, secure_sum

LAYOUT = Layout(SEGMENTS)
ROUND = RoundConfiguration(bundle_id="0" * 64, update_limit_bytes=1 << 16)
SCHOOL = School()
UPDATE = SCHOOL.update(ROUND, 0.5)
INVITATION = as_text(
    Invitation(address="https://d.example", root="0" * 64, code="c" * 48, institution="D", bundle_id="1" * 64)
).encode()


def state() -> RoundState:
    found = RoundState(START.copy(), 3, 1, SegmentSums(), {"head.grade": {"m": np.ones(3)}})
    found.sums.add(read_update(UPDATE, ROUND, LAYOUT), 0, ROUND)
    return found


CHECKPOINT = checkpoint.pack(state())


@st.composite
def changed(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes near the original: some overwritten, a piece cut out or put in, or the end cut off."""
    data = bytearray(original)
    for place, value in draw(st.lists(st.tuples(st.integers(0, len(data) - 1), st.integers(0, 255)), max_size=4)):
        data[place] = value
    start = draw(st.integers(0, len(data)))
    data[start : start + draw(st.integers(0, 16))] = draw(st.binary(max_size=16))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


@given(st.one_of(st.binary(max_size=600), changed(UPDATE)))
def test_an_update(data: bytes) -> None:
    if data == UPDATE:
        assert read_update(data, ROUND, LAYOUT).header.device == SCHOOL.name
    else:
        with pytest.raises(UpdateError):
            read_update(data, ROUND, LAYOUT)


@given(changed(CHECKPOINT))
def test_a_checkpoint(data: bytes) -> None:
    if data == CHECKPOINT:
        assert checkpoint.pack(checkpoint.unpack(data, LAYOUT)) == CHECKPOINT
    else:
        with pytest.raises(StoreError):
            checkpoint.unpack(data, LAYOUT)


@given(st.one_of(st.binary(max_size=300), changed(INVITATION)))
def test_an_invitation(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(InputError):
        path = Path(scratch) / "invitation"
        path.write_bytes(data)
        read_invitation(path)


@given(st.one_of(st.binary(max_size=200), changed(b"school,devices,role,consent\nHill,2,device,letter\n")))
def test_a_sheet_of_schools(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch, contextlib.suppress(InputError):
        path = Path(scratch) / "schools.csv"
        path.write_bytes(data)
        for wanted in invitations.read_sheet(path):
            assert 1 <= wanted.count <= invitations.INVITATIONS_LIMIT
            assert all(p.parent == Path(scratch) for _, p in invitations.plan_files([wanted], Path(scratch)))


@given(st.one_of(st.text(max_size=80), changed(auth.Nonces().new("a").encode()).map(lambda b: b.decode("latin-1"))))
def test_a_nonce_and_a_code_of_another_server(text: str) -> None:
    assert not auth.Nonces().use(text, "a")
    assert not one_time_codes.is_genuine(b"s" * 32, one_time_codes.INVITATION, text)


def signed() -> dict[str, str]:
    request = http_signatures.Request("POST", "http://d.example/v1/updates", {"host": "d.example"})
    http_signatures.sign_request(request, b"body", SCHOOL.key, "n" * 48, "machine")
    return {name.lower(): value for name, value in dict(request.headers).items()}


SIGNED = signed()


@given(
    st.sampled_from(["signature", "signature-input", "content-digest", "homeroom-instance"]),
    st.one_of(st.text(st.characters(max_codepoint=255), max_size=120), st.none()),
    st.data(),
)
def test_a_signed_request(name: str, value: str | None, data: st.DataObject) -> None:
    headers = dict(SIGNED)
    if value is None:
        value = data.draw(changed(headers[name].encode("latin-1"))).decode("latin-1")
    headers[name] = value
    try:
        by = http_signatures.verify_request(
            http_signatures.Request("POST", "http://d.example/v1/updates", headers), b"body"
        )
    except TrustError:
        return
    assert (by.key, by.nonce, by.instance) == (SCHOOL.name, "n" * 48, "machine")


# What comes the other way, and by hand: devices and the aggregator read these before they trust anybody

ROOT_PRINT = fingerprint(public_hex(ROOT))
SPEAKER = new_key()
VERSION = make_version(SPEAKER, certify(ROOT, "aggregator", SPEAKER, "t"), "0" * 64, 3, START, {"head.grade": 3})
POLICY = sign_policy(
    Policy(institution="Hill", version=1, scopes={"own": "personal"}),
    SPEAKER,
    certify(ROOT, "institution", SPEAKER, "Hill"),
)
ROSTER = msgspec.json.encode(
    make_roster(
        SPEAKER,
        certify(ROOT, "roster", SPEAKER, "t"),
        [School().name for _ in range(4)],
        serial=1,
        minimum=3,
        institution="t",
    )
)
SEALING = X25519PrivateKey.generate()
LETTER = write_message(
    SCHOOL.key, SEALING, sealed_box.public_hex(SEALING), bundle_id="0" * 64, after=1, code="c" * 20, updates=(UPDATE,)
)
SUM = secure_sum.pack(
    secure_sum.SecureSum(
        secure_sum.SumHeader(
            round_id="r", roster_id="r", cohort_id="c", updates={}, weights={"own": 3}, fed={"own": []}, signatures={}
        ),
        {"own": np.arange(3)},
    )
)


@given(changed(VERSION))
def test_a_version(data: bytes) -> None:
    with contextlib.suppress(TrustError, NetworkError):
        header, theta = read_version(data, LAYOUT, bundle_id="0" * 64, root_fingerprint=ROOT_PRINT)
        assert (header.version, theta.tobytes()) == (3, START.tobytes())


@given(changed(POLICY))
def test_a_policy(data: bytes) -> None:
    with contextlib.suppress(TrustError, InputError):
        assert read_policy(data, root_fingerprint=ROOT_PRINT).scopes == {"own": "personal"}


@given(changed(ROSTER), st.one_of(st.none(), st.integers(0, 1 << 70)))
def test_a_roster(data: bytes, serial: int | None) -> None:
    if serial is not None:
        data = ROSTER.replace(b'"serial":1', b'"serial":%d' % serial)
    with contextlib.suppress(TrustError):
        assert read_roster(data, root_fingerprint=ROOT_PRINT).serial == 1


@given(changed(LETTER))
def test_a_letter(data: bytes) -> None:
    with contextlib.suppress(TrustError, NetworkError):
        assert read_message(data, SEALING, where="stick")[1] == [UPDATE]


@given(st.binary(max_size=200), changed(LETTER[40:400]))
def test_what_somebody_sealed_who_may_be_anybody(data: bytes, more: bytes) -> None:
    for plain in (data, b"HRLETTR1" + data, more):
        with pytest.raises((TrustError, NetworkError)):
            read_message(sealed_box.seal(plain, sealed_box.public_hex(SEALING), "letter"), SEALING, where="stick")


@given(changed(SUM))
def test_a_cohorts_sum(data: bytes) -> None:
    if data == SUM:
        assert secure_sum.pack(secure_sum.unpack(data, LAYOUT)) == SUM
    else:
        with pytest.raises(StoreError):
            secure_sum.unpack(data, LAYOUT)


@given(
    st.sampled_from([Advertisement, secagg.SecureCohort, Shares, Inbox, Survivors, Consents, Reveal]),
    st.one_of(st.binary(max_size=200), st.recursive(st.one_of(st.binary(max_size=40), st.integers()), st.lists)),
)
def test_a_message_of_a_secure_round(kind: type, told: object) -> None:
    data = told if isinstance(told, bytes) else msgspec.msgpack.encode(_small(told))
    with contextlib.suppress(UpdateError):
        found = secagg.unpack(data, kind, where="round", error=UpdateError)
        assert secagg.unpack(secagg.pack(found), kind, where="round", error=UpdateError) == found


def _small(told: object) -> object:
    """Integers that MessagePack can hold."""
    if isinstance(told, list):
        return [_small(one) for one in told]
    return told % (1 << 63) if isinstance(told, int) else told
