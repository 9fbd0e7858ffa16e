"""What was signed properly and yet is wrong, or leads elsewhere: every reader of the contract says what it is."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import tiny
from conftest import Attack
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from http_message_signatures import HTTPMessageSigner
from http_message_signatures.algorithms import ED25519

from homeroom.contract import (
    codecs,
    delta,
    envelope,
    http_signatures,
    offline_message,
    sealed_box,
    secagg,
    update,
    version,
)
from homeroom.contract.address import is_address
from homeroom.contract.canonical_json import canonical, digest
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.offline_folder import OfflineFolder
from homeroom.contract.offline_folder import read as read_file
from homeroom.contract.policy import Policy, SignedPolicy, read_policy
from homeroom.contract.privacy import Privacy
from homeroom.contract.roster import make_roster, read_roster
from homeroom.contract.round import CohortRules, RoundConfiguration, read_round
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex, read_key, sign
from homeroom.contract.statistics.encoding import encode, read
from homeroom.contract.statistics.sums import Cell, Statistics
from homeroom.contract.update import SegmentEntry, make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import HomeroomError, InputError, NetworkError, TrustError, UpdateError

ROOT, STRANGER, KEY, BOX = new_key(), new_key(), new_key(), X25519PrivateKey.generate()
TRUSTED = fingerprint(public_hex(ROOT))
AGGREGATOR = certify(ROOT, "aggregator", KEY, "District 7")
FOREIGN = certify(STRANGER, "aggregator", KEY, "District 7")
EXPORTER = certify(ROOT, "exporter", KEY, "District 7")
BUNDLE = "0" * 64
LAYOUT = Layout((Segment(name="head.a", parameters=(Parameter("w", (6,)),), meaning="x"),))
THETA = np.linspace(-1, 1, 6, dtype=np.float32)
VERSION = version.make_version(KEY, AGGREGATOR, BUNDLE, 1, THETA, {"head.a": 3})
PLAIN = RoundConfiguration(bundle_id=BUNDLE)
PRIVATE = Privacy(clip_norm=0.5, noise_multiplier=2.0, epsilon=8.0, delta=1e-5)
SECURE = secagg.SecureRules(cohort=8, minimum=3)
MAKER = pytest.mark.attack("who is speaking", "a message by a key that the root certified for something else, or never")


def version_with(payload: bytes) -> bytes:
    """A version that the aggregator signed over another payload."""
    kinds = {"limit_bytes": 1 << 20, "where": "v", "error": NetworkError}
    header, *_ = envelope.unpack(VERSION, version.VERSION_MAGIC, "version", version.VersionHeader, **kinds)
    header = msgspec.structs.replace(header, payload_sha256=digest(payload))
    return envelope.pack(version.VERSION_MAGIC, "version", header, payload, KEY)


def read_of(data: bytes) -> Any:
    return version.read_version(data, LAYOUT, bundle_id=BUNDLE, root_fingerprint=TRUSTED)


@pytest.mark.parametrize(
    "payload",
    [
        safetensors.numpy.save({"other": THETA}),
        safetensors.numpy.save({"theta": THETA.astype(np.float64)}),
        safetensors.numpy.save({"theta": THETA.astype(np.float16)}),
        safetensors.numpy.save({"theta": THETA[:, None]}),
        safetensors.numpy.save({"theta": np.where(THETA > 0, THETA, np.float32(np.inf))}),
    ],
)
def test_a_signed_version_holds_one_finite_theta_of_the_bundles_length(payload: bytes) -> None:
    assert np.array_equal(read_of(version_with(safetensors.numpy.save({"theta": THETA})))[1], THETA)
    with pytest.raises(NetworkError, match="does not hold a finite theta"):
        read_of(version_with(payload))


def version_of(number: int, **fields: Any) -> bytes:
    """A version that the aggregator signed, with such fields in its header."""
    return version.make_version(KEY, AGGREGATOR, BUNDLE, number, THETA, **{"devices": {"head.a": 3}, **fields})


def test_void_versions_are_some_that_a_rewind_can_name() -> None:
    apart = ((1, 1), (3, 6), (7, 7))
    header = read_of(version_of(9, void=apart))[0]
    assert [number for number in range(10) if header.is_void(number)] == [1, 3, 4, 5, 6, 7]
    most = [(2 * i + 1, 2 * i + 1) for i in range(version.MOST_VOID)]
    assert read_of(version_of(1 << 50, void=most))[0].void == tuple(most)
    with pytest.raises(NetworkError, match="void"):
        read_of(version_of(1 << 50, void=[*most, (1 << 40, 1 << 40)]))


@pytest.mark.parametrize(
    "void",
    [
        ((0, 3),),  # the bundle's own theta
        ((-5, 3),),
        ((4, 2),),
        ((2, 9),),  # the version itself
        ((2, 1 << 52),),
        ((1, 4), (3, 6)),
        ((1, 4), (4, 6)),
        ((5, 6), (1, 2)),
        ((1, 1), (1, 1)),
    ],
)
def test_a_version_that_would_make_others_drop_what_is_sound_is_refused(void: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(NetworkError, match=r"void, which none of version 9 can do \(nothing was changed here"):
        read_of(version_of(9, void=void))


@pytest.mark.parametrize(
    "fields", [{"devices": {"head.a": -3}}, {"clip_norm": 0.0}, {"clip_norm": -1.0}, {"clip_norm": 1e300}]
)
def test_a_signed_header_holds_numbers_that_can_be(fields: dict[str, Any]) -> None:
    with pytest.raises(NetworkError, match=next(iter(fields))):
        read_of(version_of(9, **fields))


@MAKER
@pytest.mark.parametrize(
    ("certificate", "why"), [(FOREIGN, "vouched for by root"), (EXPORTER, "certified as exporter")]
)
@pytest.mark.parametrize("what", ["version", "answer", "round", "sealing key"])
def test_only_an_aggregator_of_the_trusted_root_speaks_for_one(
    what: str, certificate: Any, why: str, attack: Attack
) -> None:
    header = offline_message.AnswerHeader(
        device=public_hex(KEY), bundle_id=BUNDLE, certificate=certificate, payload_sha256=BUNDLE
    )
    trusted = {"root_fingerprint": TRUSTED, "where": "stick"}
    sealing = sealed_box.sealing_key(BOX, KEY, certificate)
    readers: dict[str, Callable[[], object]] = {
        "version": lambda: read_of(version.make_version(KEY, certificate, BUNDLE, 1, THETA, {"head.a": 3})),
        "answer": lambda: offline_message.read_answer(
            offline_message.write_answer(KEY, header, b"", sealed_box.public_hex(BOX)),
            BOX,
            device=public_hex(KEY),
            **trusted,
        ),
        "round": lambda: read_round(
            PLAIN.document,
            certificate,
            sign(KEY, "round", PLAIN.document),
            bundle_id=BUNDLE,
            root=TRUSTED,
            where="round",
        ),
        "sealing key": lambda: sealed_box.check_sealing_key(sealing, **trusted),
    }
    with pytest.raises(TrustError, match=why) as refused:
        attack.got = int(readers[what]() is not None)
    attack.noticed = refused.value.what


@MAKER
def test_a_round_and_a_sealing_key_are_what_the_aggregator_signed(attack: Attack) -> None:
    trusted = {"bundle_id": BUNDLE, "root": TRUSTED, "where": "round"}
    signature = sign(KEY, "round", PLAIN.document)
    assert read_round(PLAIN.document, AGGREGATOR, signature, **trusted) == PLAIN
    weaker = PLAIN.document | {"min_devices": 1}
    with pytest.raises(TrustError, match="signature does not hold"):
        attack.got += bool(read_round(weaker, AGGREGATOR, signature, **trusted))
    with pytest.raises(TrustError, match="another bundle"):
        read_round(PLAIN.document, AGGREGATOR, signature, **trusted | {"bundle_id": "1" * 64})
    sealing = sealed_box.sealing_key(BOX, KEY, AGGREGATOR)
    thief = msgspec.structs.replace(sealing, key=sealed_box.public_hex(X25519PrivateKey.generate()))
    with pytest.raises(TrustError, match="signature does not hold"):
        attack.got += bool(sealed_box.check_sealing_key(thief, root_fingerprint=TRUSTED, where="stick"))
    attack.noticed = "the signature does not hold"


def test_a_message_holds_the_updates_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    header = offline_message.MessageHeader(
        device=public_hex(KEY),
        sealing=sealed_box.public_hex(BOX),
        bundle_id=BUNDLE,
        after=0,
        updates=(3,),
        unlearn=(),
        payload_sha256=digest(b"four"),
    )
    magic, box = offline_message.MESSAGE_MAGIC, sealed_box.public_hex(BOX)
    data = sealed_box.seal(envelope.pack(magic, "letter", header, b"four", KEY), box, "letter")
    with pytest.raises(NetworkError, match="does not hold the updates that it names"):
        offline_message.read_message(data, BOX, where="stick")
    monkeypatch.setattr(offline_message, "OFFLINE_MESSAGE_LIMIT_BYTES", len(data) - 1)
    with pytest.raises(NetworkError, match="are more than the"):
        offline_message.read_message(data, BOX, where="stick")


def test_a_stick_is_there_has_been_at_the_aggregator_and_its_files_are_short(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        OfflineFolder(tmp_path / "none", TRUSTED)
    with pytest.raises(InputError, match="has not been at the aggregator"):
        OfflineFolder(tmp_path, TRUSTED).receiver()
    (tmp_path / "long").write_bytes(b"x" * 11)
    assert read_file(tmp_path / "long", 11) == b"x" * 11
    with pytest.raises(InputError, match="larger than 10 bytes"):
        read_file(tmp_path / "long", 10)


def test_limits_hold_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NetworkError, match="are more than the 100 allowed"):
        envelope.unpack(
            VERSION,
            version.VERSION_MAGIC,
            "version",
            version.VersionHeader,
            limit_bytes=100,
            where="v",
            error=NetworkError,
        )
    data = secagg.pack(secagg.Shares((b"x" * 80,)))
    monkeypatch.setattr(secagg, "MESSAGE_LIMIT_BYTES", len(data) - 1)
    with pytest.raises(NetworkError, match="are more than the"):
        secagg.unpack(data, secagg.Shares, where="round", error=NetworkError)


@pytest.mark.parametrize("change", ["cut", "tail", "short"])
def test_a_difference_ends_where_its_values_do(change: str) -> None:
    good = delta.make_delta(THETA * 0, VERSION)
    assert delta.apply_delta(THETA * 0, good) == VERSION
    data = {"cut": good[:-1], "tail": good + b"x", "short": good[:9]}[change]
    with pytest.raises(NetworkError, match="is not one" if change == "short" else "does not hold 6 values"):
        delta.apply_delta(THETA * 0, data)


@pytest.mark.parametrize("data", [np.zeros(6, np.int32), np.zeros((2, 8), np.uint8)])
def test_a_lossy_codec_reads_bytes_only(data: np.ndarray) -> None:
    with pytest.raises(UpdateError, match="in place of bytes"):
        codecs.decode(data, "int8", 6, 20)


def test_statistics_that_are_cut_to_their_digest_are_damaged() -> None:
    good = encode(Statistics({}))
    assert read(good) == Statistics({})
    for data in (good[:8] + hashlib.sha256(b"").digest(), update.UPDATE_MAGIC + good[8:]):
        with pytest.raises(UpdateError, match="is not a file of statistics"):
            read(data)


def test_a_sum_of_statistics_has_one_name() -> None:
    """Its two blocks the other way round would be a second one, which nothing is ever taken away from."""
    blocks = ("a" * 64, "b" * 64)
    good = encode(Statistics({Cell("grade", "count", "yes", blocks): np.array([3])}))
    assert read(good).cells
    (length,) = struct.unpack("<I", good[40:44])
    header = json.loads(good[44 : 44 + length])
    header["cells"][0][3] = [1, 0]
    body = struct.pack("<I", length) + canonical(header) + good[44 + length :]
    with pytest.raises(UpdateError, match="names other blocks than it has"):
        read(good[:8] + hashlib.sha256(body).digest() + body)


@pytest.mark.parametrize("name", ["/etc/x", "../x", "graphs/../../x", "a\\b", "c:x", "a//b", "./a"])
@pytest.mark.attack("files and bundles", "A bundle that is altered, forged, linked or hostile")
def test_a_manifest_names_files_inside_the_bundle(name: str, tiny_bundle: tiny.Tiny) -> None:
    document = json.loads((tiny_bundle.path / "manifest.json").read_bytes())
    document["files"][name] = next(iter(document["files"].values()))
    with pytest.raises(HomeroomError, match="leads outside the bundle"):
        read_manifest(json.dumps(document).encode())


@pytest.mark.parametrize("text", ["d.example", "ftp://d.example", "https://d.example:0", "https://d.example:99999"])
def test_an_address_has_a_scheme_and_a_port_that_exists(text: str) -> None:
    assert is_address("https://d.example:8443")
    assert not is_address(text)


def test_a_key_file_holds_an_ed25519_key(tmp_path: Path) -> None:
    for key in (X25519PrivateKey.generate(), generate_private_key(65537, 2048)):
        pem, pkcs8, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (tmp_path / "key.pem").write_bytes(key.private_bytes(pem, pkcs8, plain))
        with pytest.raises(TrustError, match="not an Ed25519 key"):
            read_key(tmp_path / "key.pem")


def test_a_roster_names_each_device_once_in_order() -> None:
    names = sorted(public_hex(new_key()) for _ in range(3))
    bare = make_roster(KEY, certify(ROOT, "roster", KEY, "t"), names, serial=1, minimum=3, institution="t")
    for devices in (names[::-1], [*names, names[-1]]):
        other = msgspec.structs.replace(bare, devices=tuple(devices))
        other = msgspec.structs.replace(other, signature=sign(KEY, "roster", other.statement))
        with pytest.raises(TrustError, match="twice, or out of order"):
            read_roster(msgspec.json.encode(other), root_fingerprint=TRUSTED)


def test_a_policy_of_another_format_is_refused() -> None:
    fields = msgspec.to_builtins(Policy(institution="Hill", version=1)) | {"format": 99}
    signed = SignedPolicy(
        policy=fields, certificate=certify(ROOT, "institution", KEY, "Hill"), signature=sign(KEY, "policy", fields)
    )
    with pytest.raises(InputError, match="another format"):
        read_policy(msgspec.json.encode(signed), root_fingerprint=TRUSTED)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"bands": 4, "mechanism": "distributed"}, "noise is correlated"),
        ({"bands": 4, "quantile": 0.5}, "noise is correlated"),
        ({"quantile": 0.0}, "not between 0 and 1"),
        ({"quantile": 1.0}, "not between 0 and 1"),
        ({"quantile": 0.5, "mechanism": "distributed"}, "a clip adapts where"),
        ({"quantile": 0.5, "subjects": 4}, "a clip adapts where"),
    ],
)
def test_a_promise_that_does_not_fit_together_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        msgspec.structs.replace(PRIVATE, **changes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"by_school": True, "secure": SECURE}, "schools' own segments"),
        ({"by_school": True, "privacy": PRIVATE}, "schools' own segments"),
        ({"by_school": True, "scope": "institution"}, "schools' own segments"),
        ({"cohort": CohortRules(quorum=2, deadline_s=60), "max_staleness": 1, "buffer_size": 4}, "synchronous round"),
        ({"cohort": CohortRules(quorum=5, deadline_s=60), "max_staleness": 0, "buffer_size": 4}, "synchronous round"),
        (
            {"cohort": CohortRules(quorum=2, deadline_s=60), "max_staleness": 0, "buffer_size": 4, "secure": SECURE},
            "are plain ones",
        ),
        (
            {"cohort": CohortRules(quorum=2, deadline_s=60), "max_staleness": 0, "buffer_size": 4, "privacy": PRIVATE},
            "are plain ones",
        ),
        ({"privacy": PRIVATE, "codec": "int8"}, "is lossy"),
        ({"privacy": PRIVATE, "buffer_size": 2, "min_devices": 3}, "min_devices above buffer_size"),
        ({"privacy": PRIVATE, "secure": SECURE}, "noise is distributed"),
        ({"privacy": msgspec.structs.replace(PRIVATE, mechanism="distributed")}, "noise is distributed"),
        ({"privacy": PRIVATE, "buffer_size": 1 << 30}, "would overflow"),
    ],
)
def test_a_round_that_does_not_fit_together_is_refused(changes: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        RoundConfiguration(bundle_id=BUNDLE, **changes)


@pytest.mark.parametrize(
    ("configuration", "changes", "why"),
    [
        (PLAIN, {"tier": "half"}, "tier 'half' is unknown"),
        (msgspec.structs.replace(PLAIN, secure=SECURE), {"tier": "half"}, "sums whole segments"),
        (PLAIN, {"segments": (SegmentEntry(LAYOUT["head.a"].segment_id, "head.a", 1),) * 2}, "are not those of the"),
    ],
)
def test_an_update_of_an_unknown_tier_or_with_a_segment_twice_is_refused(
    configuration: RoundConfiguration, changes: dict[str, Any], why: str
) -> None:
    data = make_update(KEY, PLAIN, LAYOUT, THETA, {"head.a": 3}, 0)
    kinds = {"limit_bytes": 1 << 20, "where": "u", "error": UpdateError}
    header, payload, _ = envelope.unpack(data, update.UPDATE_MAGIC, "update", update.UpdateHeader, **kinds)
    data = envelope.pack(update.UPDATE_MAGIC, "update", msgspec.structs.replace(header, **changes), payload, KEY)
    with pytest.raises(UpdateError, match=why) as refused:
        read_update(data, configuration, LAYOUT)
    assert refused.value.code == "malformed"


@MAKER
def test_a_request_names_its_key_in_one_spelling(attack: Attack) -> None:
    """Else one key would have many names, and what was forbidden to one would be open to the next."""

    class Resolver:
        def resolve_private_key(self, key_id: str) -> Any:
            return KEY

    request = http_signatures.Request("GET", "http://d.example/v1/round", {"host": "d.example"})
    HTTPMessageSigner(signature_algorithm=ED25519, key_resolver=Resolver()).sign(
        request,
        key_id=public_hex(KEY).upper(),
        created=http_signatures.NO_CLOCK,
        nonce="n",
        tag=http_signatures.SIGNATURE_TAG,
        covered_component_ids=http_signatures.COVERED_COMPONENTS,
        body=b"",
    )
    request.headers = {name.lower(): value for name, value in request.headers.items()}
    with pytest.raises(TrustError, match="names no key or nonce"):
        attack.got = int(http_signatures.verify_request(request, b"") is not None)
    attack.noticed = "the request is refused"
