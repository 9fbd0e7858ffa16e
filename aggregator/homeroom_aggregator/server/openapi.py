"""The OpenAPI document of the HTTP interface; imports the contracts only."""

from __future__ import annotations

from typing import Any

import msgspec

import homeroom
from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.contract.roster import Roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import PHASES, Notice, RoundStatus
from homeroom.contract.signing import Certificate
from homeroom.contract.update import REFUSALS

SECURITY = (
    "HTTP message signature (RFC 9421, Ed25519, tag `homeroom`) over @method, @authority, @path and content-digest; "
    "keyid is the public key in hexadecimal, nonce the last `homeroom-nonce` that this server gave."
)


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def document() -> dict[str, Any]:
    """OpenAPI 3.1, made from the data classes that are really used."""
    _, components = msgspec.json.schema_components(
        (RoundConfiguration, Certificate, Notice, EvaluationReport, Roster, RoundStatus),
        ref_template="#/components/schemas/{name}",
    )
    text, binary = {"type": "string"}, {"type": "string", "format": "binary"}
    hexadecimal = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    error = {
        "description": "Refused; nothing was changed. Codes for updates: "
        + "; ".join(f"`{code}`: {why}" for code, why in REFUSALS.items()),
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Refusal"}}},
    }
    components["Refusal"] = _object(code=text, message=text, remedy=text)

    def operation(
        summary: str, answer: Any, *, body: Any = None, signed: bool = True, media: str = "application/json"
    ) -> dict[str, Any]:
        told = {
            "description": "OK",
            "headers": {"homeroom-nonce": {"description": "for the next signed request", "schema": text}},
            "content": {media: {"schema": answer}},
        }
        made: dict[str, Any] = {"summary": summary, "responses": {"200": told, "default": error}}
        if signed:
            made["security"] = [{"signature": []}]
        if body is not None:
            kind = "application/octet-stream" if body is binary else "application/json"
            made["requestBody"] = {"required": True, "content": {kind: {"schema": body}}}
        return made

    anything = {"type": "object"}
    octets = "application/octet-stream"
    certificate = {"$ref": "#/components/schemas/Certificate"}
    configuration = {"$ref": "#/components/schemas/RoundConfiguration"}
    number = {"name": "number", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
    parcel = _object(path=text, size={"type": "integer"}, sha256=text)
    round_id = {"name": "round", "in": "path", "required": True, "schema": {"type": "string"}}
    phase = {"name": "phase", "in": "path", "required": True, "schema": {"enum": list(PHASES)}}
    status = _object(update_id=hexadecimal, status={"enum": ["accepted", "already"]})
    return {
        "openapi": "3.1.0",
        "info": {"title": "Homeroom aggregator", "version": "1", "description": homeroom.__doc__ or ""},
        "paths": {
            "/v1/health": {
                "get": operation("Is it up?", _object(status=text, version={"type": "integer"}), signed=False)
            },
            "/v1/keys": {
                "get": operation(
                    "Whose key signs here",
                    _object(institution=text, bundle_id=text, certificate=certificate, bundle=parcel),
                    signed=False,
                )
            },
            "/v1/join": {
                "post": operation(
                    "Enrol the signing key with an invitation's code",
                    _object(device=text, bundle_id=text),
                    body=_object(code=text),
                )
            },
            "/v1/round": {
                "get": operation(
                    "What is asked for, signed for the purpose `round`",
                    _object(
                        configuration=configuration,
                        certificate=certificate,
                        signature=text,
                        time=text,
                        time_signature=text,
                        selected={"type": "boolean"},
                    )
                    | {"description": "With `by_school` also `school` and `school_signature`."},
                )
            },
            "/v1/updates": {"post": operation("Send an update (docs/update.md)", status, body=binary)},
            "/v1/versions/latest": {"get": operation("The newest theta", binary, media=octets)},
            "/v1/versions/after/{number}": {
                "get": {
                    **operation(
                        "What a device that has this version may fetch (docs/network.md)",
                        _object(version={"type": "integer"}, whole=parcel, delta={"anyOf": [parcel, {"type": "null"}]}),
                    ),
                    "parameters": [number],
                }
            },
            "/v1/versions/{number}/from/{base}": {
                "get": {
                    **operation("A version as its difference from another; Range", binary, media=octets),
                    "parameters": [number, {**number, "name": "base"}],
                }
            },
            "/v1/bundles/{bundle_id}": {
                "get": {
                    **operation("The bundle as one file, also with an invitation; Range", binary, media=octets),
                    "parameters": [{**number, "name": "bundle_id", "schema": text}],
                }
            },
            "/v1/versions/{number}": {
                "get": {**operation("One version of theta", binary, media=octets), "parameters": [number]}
            },
            "/v1/unlearn": {
                "post": operation(
                    "Leave an update out from the next version on", status, body=_object(update_id=hexadecimal)
                )
            },
            "/v1/rotate": {
                "post": operation(
                    "A new key takes the sender's place; `proof` is its signature over both for the purpose `rotate`",
                    _object(device=text),
                    body=_object(key=text, proof=text),
                )
            },
            "/v1/report": {
                "post": operation(
                    "How a version does at a device whose school lets it tell (docs/network.md)",
                    _object(status=text),
                    body={"$ref": "#/components/schemas/EvaluationReport"},
                )
            },
            "/v1/dashboard": {
                "post": operation("A code that opens the dashboard once; for district and auditor", _object(code=text))
            },
            "/v1/members": {
                "get": operation("Who is enrolled; for district, auditor, and a school about itself", anything)
            },
            "/v1/consent": {
                "post": operation(
                    "A school gives its consent or withdraws it; for school and district",
                    _object(school=text, consented={"type": "boolean"}),
                    body=_object(school=text, by=text, action={"enum": ["give", "withdraw"]}),
                )
            },
            "/v1/revoke": {
                "post": operation(
                    "A key opens nothing any more; for district, and a school's own devices",
                    _object(device=text),
                    body=_object(device=text),
                )
            },
            "/v1/audit/{after}": {
                "get": {
                    **operation("The audit log after an entry; for district and auditor", anything),
                    "parameters": [{**number, "name": "after"}],
                }
            },
            "/v1/secure": {
                "get": operation(
                    "The secure round under way, as signed, and what it wants of this device; null without a roster",
                    _object(
                        notice={"$ref": "#/components/schemas/Notice"},
                        signature=text,
                        certificate=certificate,
                        roster={"$ref": "#/components/schemas/Roster"},
                        standing={"$ref": "#/components/schemas/RoundStatus"},
                    ),
                )
            },
            "/v1/secure/{round}": {
                "get": {**operation("What the present phase reads", binary, media=octets), "parameters": [round_id]}
            },
            "/v1/secure/{round}/{phase}": {
                "post": {
                    **operation("A device's part of a phase (docs/secure.md)", _object(status=text), body=binary),
                    "parameters": [round_id, phase],
                }
            },
            "/v1/metrics": {
                "get": operation("For Prometheus; the operator only", text, signed=False, media="text/plain")
            },
            "/v1/openapi.json": {"get": operation("This document; for the operator", {"type": "object"}, signed=False)},
        },
        "components": {
            "schemas": components,
            "securitySchemes": {
                "signature": {"type": "apiKey", "in": "header", "name": "Signature", "description": SECURITY}
            },
        },
    }
