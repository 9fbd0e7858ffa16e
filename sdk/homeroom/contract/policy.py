"""Policy of an institution: the scopes of segments, and retention, consent and terms of rounds for its devices.

A key that the root certified as `institution` signs it (`docs/policy.md`). A policy only narrows: it never lets out a
segment that the bundle keeps in. A rule that this version does not know is an error, and the policy is refused.
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
from homeroom.system.files import read_bounded

RoundKind = Literal["plain", "secure", "private"]
POLICY_FORMAT = 1
POLICY_LIMIT_BYTES = 1 << 20


class Policy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy. A device sends no update to a round outside its terms.

    version: only rises.
    scopes: by segment name, or prefix with a `*` (`head.*`); the narrowest match counts.
    consent: samples without consent are neither stored nor trained on.
    retain_days: days that a sample is kept after it was added.
    min_devices: least number of devices whose updates a release of the round combines.
    rounds: allowed kinds of rounds.
    epsilon, delta: the largest budget that a private round may spend on a device.
    merged_by: names of aggregators that merge this institution's own segments separately (`by_school`).
    """

    format: int = POLICY_FORMAT
    institution: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    version: Count
    scopes: Annotated[dict[str, Scope], msgspec.Meta(max_length=4096)] = {}
    consent: bool = False
    retain_days: Annotated[int, msgspec.Meta(ge=1, le=36_500)] | None = None
    min_devices: Annotated[int, msgspec.Meta(ge=1)] = 1
    rounds: tuple[RoundKind, ...] = ("plain", "secure", "private")
    epsilon: Annotated[float, msgspec.Meta(gt=0)] | None = None
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)] | None = None
    merged_by: Annotated[tuple[str, ...], msgspec.Meta(max_length=64)] = ()


class SignedPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy file: `policy` as it was signed, and the signer's certificate."""

    policy: dict[str, Any]
    certificate: Certificate
    signature: str


def sign_policy(policy: Policy, key: Ed25519PrivateKey, certificate: Certificate) -> bytes:
    """The signed policy file; TrustError unless the certificate is this key's and names this institution."""
    fields = msgspec.to_builtins(policy)
    if not policy.merged_by:
        del fields["merged_by"]  # devices from before this field accept the policy then
    signed = SignedPolicy(policy=fields, certificate=certificate, signature=sign(key, "policy", fields))
    if certificate.key != public_hex(key):
        raise TrustError("the certificate is for another key", where="policy")
    data: bytes = msgspec.json.format(msgspec.json.encode(signed), indent=1)
    read_policy(data, root_fingerprint=None)
    return data


def read_policy(data: bytes, *, root_fingerprint: str | None, where: str = "policy") -> Policy:
    """Reads a policy that an institution under this root signed; TrustError or InputError otherwise."""
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
    """A policy from plain fields; InputError names the field at fault."""
    try:
        return msgspec.convert(dict(fields), Policy)
    except msgspec.ValidationError as problem:
        raise InputError(f"not a policy that can be kept here: {problem}", where=where) from None


def draft(path: Path, institution: str) -> Policy:
    """Reads an unsigned policy, as its author writes it in TOML; InputError otherwise."""
    import tomllib

    try:
        fields = tomllib.loads(read_bounded(path, POLICY_LIMIT_BYTES).decode("utf-8-sig"))
    except OSError as problem:
        raise InputError(f"cannot be read: {problem.strerror}", where=str(path)) from None
    except (ValueError, RecursionError) as problem:
        raise InputError(f"not TOML: {problem}", where=str(path)) from None
    return to_policy({"institution": institution, **fields}, str(path))


def narrowed(layout: Layout, scopes: Mapping[str, Scope]) -> Layout:
    """The layout with every segment's scope narrowed to what `scopes` (see Policy) allows."""
    if not scopes:
        return layout
    segments = tuple(msgspec.structs.replace(s, scope=narrower(s.scope, _scope_of(s.name, scopes))) for s in layout)
    return msgspec.structs.replace(layout, segments=segments)


def unmatched(layout: Layout, scopes: Mapping[str, Scope]) -> list[str]:
    """Names and prefixes in `scopes` that match no segment."""
    return [name for name in scopes if not any(_matches(segment.name, name) for segment in layout)]


def _scope_of(segment: str, scopes: Mapping[str, Scope]) -> Scope:
    narrowest: Scope = "shared"
    for name, scope in scopes.items():
        if _matches(segment, name):
            narrowest = narrower(narrowest, scope)
    return narrowest


def _matches(segment: str, name: str) -> bool:
    return segment.startswith(name[:-1]) if name.endswith("*") else segment == name
