"""The form of a signature that is written out decides like the library that knows all forms."""

from __future__ import annotations

import base64

from hypothesis import given, settings
from hypothesis import strategies as st

from homeroom.contract import http_signatures
from homeroom.contract.signing import new_key, public_hex
from homeroom.errors import TrustError

KEY, NONCE = new_key(), "bm9uY2U_-="


def signed(method: str, url: str, instance: str) -> http_signatures.Request:
    request = http_signatures.Request(method, url, {})
    http_signatures.sign_request(request, b"body", KEY, NONCE, instance)
    return http_signatures.Request(method, url, {name.lower(): value for name, value in request.headers.items()})


@given(
    method=st.sampled_from(["GET", "POST", "PUT"]),
    host=st.sampled_from(["127.0.0.1:8340", "aggregator.example", "[::1]:8340", "d.example:80", "D.example"]),
    path=st.sampled_from(["/v1/updates", "/v1/versions/latest", "/", "", "/v1/a%20b", "/v1/../x", "/v1/x?y=1"]),
    instance=st.sampled_from(["", "f" * 64, "two words", "é"]),
    change=st.sampled_from(["nothing", "method", "url", "signature-input", "signature", "content-digest", "label"]),
    where=st.integers(0, 400),
    letter=st.sampled_from('aA0"; =%:/\n'),
)
@settings(max_examples=400, deadline=None)
def test_both_ways_name_the_same_signer(
    method: str, host: str, path: str, instance: str, change: str, where: int, letter: str
) -> None:
    try:
        request = signed(method, f"http://{host}{path}", instance)
    except Exception:  # what the library signs not at all
        return
    if change == "label":
        request.headers |= {n: request.headers[n].replace("pyhms=", "x=") for n in ("signature", "signature-input")}
    elif change in ("method", "url"):
        setattr(request, change, altered(getattr(request, change), where, letter))
    elif change != "nothing":
        request.headers[change] = altered(request.headers[change], where, letter)
    written_out = http_signatures._as_signed_here(request)
    try:
        by_library: http_signatures.RequestSigner | None = http_signatures.verify_request(request, b"body")
    except TrustError:
        by_library = None
    if written_out:
        assert written_out == by_library
        assert written_out.key == public_hex(KEY)
    if change == "nothing" and host == "127.0.0.1:8340" and path.startswith("/v1/v") and instance in ("", "f" * 64):
        assert written_out == http_signatures.RequestSigner(public_hex(KEY), NONCE, instance)


def test_a_signature_of_another_label_or_of_a_default_port_is_left_to_the_library() -> None:
    request = signed("GET", "http://d.example/v1/round", "")
    assert http_signatures._as_signed_here(request)
    request.headers["signature"] = request.headers["signature"].replace("pyhms=", "other=")
    assert http_signatures._as_signed_here(request) is None
    for scheme, port in (("http", 80), ("https", 443)):
        request = signed("GET", f"{scheme}://d.example:{port}/v1/round", "")
        parameters = request.headers["signature-input"].removeprefix("pyhms=")
        digest = request.headers["content-digest"]
        base = f'"@method": GET\n"@authority": d.example:{port}\n"@path": /v1/round\n"content-digest": {digest}\n'
        base += f'"@signature-params": {parameters}'
        request.headers["signature"] = f"pyhms=:{base64.b64encode(KEY.sign(base.encode())).decode()}:"
        assert http_signatures._as_signed_here(request) is None, "RFC 9421 leaves a default port out"


def altered(text: str, where: int, letter: str) -> str:
    where %= len(text)
    return text[:where] + letter + text[where + 1 :]
