"""What one institution allows: which segments may leave a device, and how long and on what terms samples are kept.

A key that the root certified as `institution` signs it (`docs/policy.md`). It only takes away: no policy lets out what
the bundle keeps in. A rule that this version cannot keep is refused with the whole policy, never read over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from homeroom.contract.canonical_json import decode
from homeroom.contract.layout import Layout, Scope, narrower
from homeroom.contract.manifest import Count
from homeroom.contract.signing import Certificate, check_certificate, public_hex, sign, verify
from homeroom.errors import InputError, TrustError

RoundKind = Literal["plain", "secure", "private"]
POLICY_FORMAT = 1
POLICY_LIMIT_BYTES = 1 << 20


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`scopes`: by a segment's name, or the beginning of names with a `*` (`head.*`); the narrowest that fits counts.

    consent: no sample without it is stored or trained on. retain_days: none is kept longer after it was added.
    min_devices: a round that would release what fewer devices fed gets no update from here. rounds: nor does one of
    another kind. epsilon, delta: nor does a private round that promises each device less than this. merged_by: names of
    aggregators that merge this institution's own segments for it, apart from everybody else's (`by_school`).
    """

    format: int = POLICY_FORMAT
    institution: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    version: Count  # only rises
    scopes: Annotated[dict[str, Scope], msgspec.Meta(max_length=4096)] = {}
    consent: bool = False
    retain_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] | None = None
    min_devices: Annotated[int, msgspec.Meta(ge=1)] = 1
    rounds: tuple[RoundKind, ...] = ("plain", "secure", "private")
    epsilon: Annotated[float, msgspec.Meta(gt=0)] | None = None
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    merged_by: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


class SignedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """The file: `policy` exactly as it was signed, and the root's word for who signed it."""

    policy: dict[str, Any]
    certificate: Certificate
    signature: str


def sign_policy(policy: Policy, key: Ed25519PrivateKey, certificate: Certificate) -> bytes:
    """The policy as a file; TrustError unless the certificate is this key's and names this institution."""
    plain = msgspec.to_builtins(policy)
    if not policy.merged_by:
        del plain["merged_by"]  # so that devices from before it take the policy
    signed = SignedPolicy(policy=plain, certificate=certificate, signature=sign(key, "policy", plain))
    if certificate.key != public_hex(key):
        raise TrustError("the certificate is for another key", where="policy")
    data: bytes = msgspec.json.format(msgspec.json.encode(signed), indent=1)
    read_policy(data, root_fingerprint=None)
    return data


def read_policy(data: bytes, *, root_fingerprint: str | None, where: str = "policy") -> Policy:
    """The policy that an institution under this root signed; TrustError or InputError says what does not hold."""
    signed = decode(data, SignedPolicy, limit_bytes=POLICY_LIMIT_BYTES, where=where, error=InputError)
    check_certificate(signed.certificate, role="institution", root_fingerprint=root_fingerprint, where=where)
    verify(signed.certificate.key, "policy", signed.policy, signed.signature, where=where)
    if signed.policy.get("format", POLICY_FORMAT) != POLICY_FORMAT:
        raise InputError("a policy of another format", where=where, remedy="update homeroom")
    policy = to_policy(signed.policy, where)
    if policy.institution != signed.certificate.name:
        raise TrustError(
            f"speaks for {policy.institution!r}, but {signed.certificate.name!r} signed it",
            where=where,
            remedy="each institution signs its own policy",
        )
    return policy


def to_policy(fields: Mapping[str, Any], where: str) -> Policy:
    """A policy from plain fields; InputError names the one at fault."""
    try:
        return msgspec.convert(dict(fields), Policy)
    except msgspec.ValidationError as problem:
        raise InputError(f"not a policy that can be kept here: {problem}", where=where) from None


def draft(path: Path, institution: str) -> Policy:
    """A policy as its author writes it, TOML, before it is signed."""
    import tomllib

    try:
        fields = tomllib.loads(path.read_text("utf-8"))
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as problem:
        raise InputError(f"not TOML: {problem}", where=str(path)) from None
    return to_policy({"institution": institution, **fields}, str(path))


def narrowed(layout: Layout, scopes: Mapping[str, Scope]) -> Layout:
    """The layout with every segment's scope at most as wide as `scopes` (see Policy) says."""
    if not scopes:
        return layout
    segments = tuple(msgspec.structs.replace(s, scope=narrower(s.scope, _said(s.name, scopes))) for s in layout)
    return msgspec.structs.replace(layout, segments=segments)


def unmatched(layout: Layout, scopes: Mapping[str, Scope]) -> list[str]:
    """Names and beginnings that fit no segment."""
    return [name for name in scopes if not any(_fits(segment.name, name) for segment in layout)]


def _said(segment: str, scopes: Mapping[str, Scope]) -> Scope:
    found: Scope = "shared"
    for name, scope in scopes.items():
        if _fits(segment, name):
            found = narrower(found, scope)
    return found


def _fits(segment: str, name: str) -> bool:
    return segment.startswith(name[:-1]) if name.endswith("*") else segment == name
