"""Whatever bytes come: every decoder of the contract reads them or answers with a typed error, soon, in little memory.

HOMEROOM_FUZZ examples of each (by default few); the extra run tries twenty times as many.
"""

from __future__ import annotations

import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from homeroom.contract import codecs, delta, envelope, http_signatures, offline_message, sealed_box, secagg, version
from homeroom.contract.invitation import read_invitation
from homeroom.contract.layout import Layout, Parameter, Segment
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.policy import Policy, read_policy, sign_policy
from homeroom.contract.roster import make_roster, read_roster
from homeroom.contract.round import RoundConfiguration, read_round
from homeroom.contract.signing import certify, fingerprint, new_key, public_hex, read_key
from homeroom.contract.update import make_update
from homeroom.contract.update_checks import read_update
from homeroom.errors import HomeroomError, NetworkError, UpdateError

EXAMPLES = int(os.environ.get("HOMEROOM_FUZZ", "40"))
MOST_S, MOST_BYTES = 2.0, 16 << 20
LAYOUT = Layout((Segment(name="head.grade", parameters=(Parameter("w", (64,)),), meaning="t/1", task="grade"),))
CONFIGURATION = RoundConfiguration(bundle_id="0" * 64, update_limit_bytes=1 << 16)
ROOT, KEY, SEALING = new_key(), new_key(), X25519PrivateKey.generate()
PRINT = fingerprint(public_hex(ROOT))
THETA = np.linspace(-1, 1, 64, dtype=np.float32)
AGGREGATOR = certify(ROOT, "aggregator", KEY, "t")
VERSION = version.make_version(KEY, AGGREGATOR, "0" * 64, 1, THETA, {"head.grade": 3})
UPDATE = make_update(KEY, CONFIGURATION, LAYOUT, THETA, {"head.grade": 3}, 0)
POLICY = sign_policy(Policy(institution="Hill", version=1, scopes={}), KEY, certify(ROOT, "institution", KEY, "Hill"))
ROSTER = msgspec.json.encode(
    make_roster(
        KEY,
        certify(ROOT, "roster", KEY, "t"),
        [public_hex(new_key()) for _ in range(5)],
        serial=1,
        minimum=3,
        institution="t",
    )
)
ANSWER = offline_message.write_answer(
    KEY,
    offline_message.AnswerHeader(
        device=public_hex(KEY), bundle_id="0" * 64, certificate=AGGREGATOR, payload_sha256="0" * 64
    ),
    VERSION,
    sealed_box.public_hex(SEALING),
)


def in_file(read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
    def run(data: bytes) -> Any:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "file"
            path.write_bytes(data)
            return read(path)

    return run


def of_codec(codec: Any) -> tuple[bytes, Callable[[bytes], Any]]:
    good = codecs.encode(THETA, codec, CONFIGURATION.scale_bits, CONFIGURATION.keep)
    return good.tobytes(), lambda data: codecs.decode(np.frombuffer(data, np.uint8), codec, 64, 20)


DECODERS: dict[str, tuple[bytes, Callable[[bytes], Any]]] = {
    "update": (UPDATE, lambda data: read_update(data, CONFIGURATION, LAYOUT)),
    "version": (VERSION, lambda d: version.read_version(d, LAYOUT, bundle_id="0" * 64, root_fingerprint=PRINT)),
    "delta": (delta.make_delta(THETA * 0, VERSION), lambda data: delta.apply_delta(THETA * 0, data)),
    "policy": (POLICY, lambda data: read_policy(data, root_fingerprint=PRINT)),
    "roster": (ROSTER, lambda data: read_roster(data, root_fingerprint=PRINT)),
    "manifest": (b'{"format":1,"name":"x","version":1,"files":{}}', read_manifest),
    "invitation": (b'{"address":"https://d.example","root":"' + b"0" * 64 + b'"}', in_file(read_invitation)),
    "key": (b"-----BEGIN PRIVATE KEY-----\n", in_file(read_key)),
    "answer": (
        ANSWER,
        lambda data: offline_message.read_answer(
            data, SEALING, device=public_hex(KEY), root_fingerprint=PRINT, where="answer"
        ),
    ),
    "letter": (ANSWER, lambda data: offline_message.read_message(data, SEALING, where="letter")),
    "sealed": (
        sealed_box.seal(b"x", sealed_box.public_hex(SEALING), "letter"),
        lambda d: sealed_box.unseal(d, SEALING, "letter", where="box"),
    ),
    "tensors": (UPDATE[700:], lambda data: envelope.tensors(data, where="t", error=NetworkError)),
    "shares": (b"\x82", lambda data: secagg.unpack(data, secagg.Shares, where="round", error=UpdateError)),
    "int8": of_codec("int8"),
    "int4": of_codec("int4"),
    "topk": of_codec("topk"),
}


@st.composite
def near(draw: st.DrawFn, original: bytes) -> bytes:
    """Bytes near the original, or far from it: overwritten, cut, with numbers of extreme size, or any at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=400))
    data = bytearray(original)
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(data)))
        put = draw(
            st.sampled_from([b"\xff\xff\xff\xff", b"\x00" * 8, b"9" * 30, b"[" * 200, b'"', b"-1", b"1e999", b"\x80"])
        )
        data[start : start + draw(st.integers(0, 16))] = draw(st.one_of(st.just(put), st.binary(max_size=8)))
    return bytes(data[: draw(st.integers(0, len(data)))] if draw(st.booleans()) else data)


def decoded(name: str, examples: int) -> None:
    original, decode = DECODERS[name]

    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(near(original))
    def one(data: bytes) -> None:
        tracemalloc.start()
        start_s = time.thread_time()
        try:
            decode(data)
        except HomeroomError:
            pass
        finally:
            _, peak_bytes = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        assert time.thread_time() - start_s < MOST_S
        assert peak_bytes < MOST_BYTES

    one()


@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_answers_with_a_typed_error_or_reads(name: str) -> None:
    decoded(name, EXAMPLES)


@pytest.mark.extra
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DECODERS)
def test_a_decoder_tried_for_longer(name: str) -> None:
    decoded(name, 20 * EXAMPLES)


@settings(max_examples=EXAMPLES)
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20))
def test_a_round_that_anybody_made(document: Any) -> None:
    with pytest.raises(HomeroomError):
        read_round({"x": document}, AGGREGATOR, "0" * 128, bundle_id="0" * 64, root=PRINT, where="round")


@settings(max_examples=EXAMPLES)
@given(
    st.dictionaries(st.sampled_from(["signature", "signature-input", "content-digest", "host"]), st.text(max_size=80))
)
def test_headers_that_anybody_made(headers: dict[str, str]) -> None:
    with pytest.raises(HomeroomError):
        http_signatures.verify_request(http_signatures.Request("GET", "http://d.example/v1/round", headers), b"")
