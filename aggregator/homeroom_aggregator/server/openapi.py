"""The OpenAPI document of the HTTP interface: one row an operation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import msgspec

import homeroom
from homeroom.contract.evaluation_counts import DeviceCounts
from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.contract.roster import Roster
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import PHASES, Notice, RoundStatus
from homeroom.contract.signing import Certificate
from homeroom.contract.statistics.messages import StatisticsStatus
from homeroom.contract.statistics.secure import StatisticsTerms
from homeroom.contract.update import REFUSALS
from homeroom_aggregator.state.members import ROLES, Role

Schema = dict[str, Any]

SECURITY = (
    "HTTP message signature (RFC 9421, Ed25519, tag `homeroom`) over @method, @authority, @path and content-digest; "
    "keyid is the public key in hexadecimal, nonce the last `homeroom-nonce` that this server gave."
)
SIGNED_ANSWER = (
    "signed by the aggregator's key (RFC 9421, section 2.4, tag `homeroom-answer`): @status, homeroom-nonce, "
    "content-digest unless it is a file, and of the request @method, @authority, @path and homeroom-challenge; "
    "content-digest and signature too, if the request's signature held"
)
JSON = "application/json"
TEXT, INTEGER, BOOLEAN, ANY_OBJECT = ({"type": name} for name in ("string", "integer", "boolean", "object"))
BINARY = {"type": "string", "format": "binary"}
UPDATE_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}


def _object(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _component(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


VERSION_NUMBER = {"type": "integer", "minimum": 0}
PARAMETERS = {
    **dict.fromkeys(("number", "base", "after"), VERSION_NUMBER),
    **dict.fromkeys(("bundle_id", "round"), TEXT),
    "phase": {"enum": list(PHASES)},
}
PARCEL = _object(path=TEXT, size=INTEGER, sha256=TEXT)
KEYS = _object(institution=TEXT, bundle_id=TEXT, certificate=_component("Certificate"), bundle=PARCEL, sealing=TEXT)
KEYS["properties"] |= {"fallback": {"anyOf": [PARCEL, {"type": "null"}]}, "tls": TEXT, "proof": TEXT}
_UNLEARN_STATUS = {"enum": ["accepted", "bounded", "kept"]}
UNLEARNED = _object(update_id=UPDATE_ID, status=_UNLEARN_STATUS) | {
    "properties": {"update_id": UPDATE_ID, "status": _UNLEARN_STATUS, "by": TEXT}
}
UPDATE_STATUS = _object(update_id=UPDATE_ID, status={"enum": ["accepted", "already"]}) | {
    "description": "`waiting`: how many updates the next version has, and how many it needs."
}
STATISTICS_TAKEN = _object(sequence=INTEGER, status={"enum": ["accepted", "already"]})
ROUND = _object(
    configuration=_component("RoundConfiguration"),
    certificate=_component("Certificate"),
    signature=TEXT,
    time=TEXT,
    time_signature=TEXT,
    selected=BOOLEAN,
) | {
    "description": "With `by_school` also `school` and `school_signature`; in plain rounds `waiting`, as of an update."
}
SECURE_ROUND = _object(
    notice=_component("Notice"),
    signature=TEXT,
    certificate=_component("Certificate"),
    roster=_component("Roster"),
    standing=_component("RoundStatus"),
)
SECURE_EVALUATION = {"allOf": [SECURE_ROUND, _object(counted_version=INTEGER)]}
SECURE_STATISTICS = {"allOf": [SECURE_ROUND, _object(terms=_component("StatisticsTerms"))]}


@dataclass(frozen=True)
class HttpOperation:
    """One method of one path below /v1; the parameters in the path are `PARAMETERS`.

    roles: of the members who may ask it; none: any key at all. An operation that is not signed is open to everybody.
    """

    method: str
    path: str
    summary: str
    answer: Schema
    body: Schema | None = None
    signed: bool = True
    roles: tuple[Role, ...] = ROLES


DEVICE: tuple[Role, ...] = ("device",)
ANY_KEY: tuple[Role, ...] = ()
READERS: tuple[Role, ...] = ("district", "auditor")
OFFICERS: tuple[Role, ...] = ("school", "district")


OPERATIONS = (
    HttpOperation("get", "/health", "Is it up?", _object(status=TEXT, version=INTEGER), signed=False),
    HttpOperation(
        "get",
        "/keys",
        "Whose key signs here",
        KEYS,
        signed=False,
    ),
    HttpOperation(
        "post",
        "/join",
        "Enrol the signing key with an invitation's code, sealed to `sealing` of /v1/keys",
        _object(device=TEXT, bundle_id=TEXT),
        _object(code=TEXT),
        roles=ANY_KEY,
    ),
    HttpOperation("get", "/round", "What is asked for, signed for the purpose `round`", ROUND),
    HttpOperation("post", "/updates", "Send an update (docs/update.md)", UPDATE_STATUS, BINARY, roles=DEVICE),
    HttpOperation(
        "post",
        "/statistics",
        "Send a change of statistics (docs/statistics.md)",
        STATISTICS_TAKEN,
        BINARY,
        roles=DEVICE,
    ),
    HttpOperation(
        "get",
        "/statistics",
        "What is here of the device's statistics, and what is served",
        _component("StatisticsStatus"),
        roles=DEVICE,
    ),
    HttpOperation(
        "get", "/statistics/{number}", "The release of statistics that is served; Range", BINARY, roles=DEVICE
    ),
    HttpOperation("get", "/versions/latest", "The newest theta", BINARY),
    HttpOperation(
        "get",
        "/versions/after/{number}",
        "What a device that has this version may fetch (docs/network.md)",
        _object(version=INTEGER, whole=PARCEL, delta={"anyOf": [PARCEL, {"type": "null"}]}),
    ),
    HttpOperation("get", "/versions/{number}/from/{base}", "A version as its difference from another; Range", BINARY),
    HttpOperation(
        "get", "/bundles/{bundle_id}", "The bundle as one file, also with an invitation; Range", BINARY, roles=ANY_KEY
    ),
    HttpOperation(
        "get", "/bundles/{bundle_id}/fallback", "Its second file, float32 backbones; Range", BINARY, roles=ANY_KEY
    ),
    HttpOperation("get", "/versions/{number}", "One version of theta", BINARY),
    HttpOperation(
        "post",
        "/unlearn",
        "Unlearn an update; `by`: the day of the rewind that it waits for",
        UNLEARNED,
        _object(update_id=UPDATE_ID),
        roles=DEVICE,
    ),
    HttpOperation(
        "post",
        "/rotate",
        "A new key takes the sender's place; `proof` is its signature over both for the purpose `rotate`",
        _object(device=TEXT),
        _object(key=TEXT, proof=TEXT),
        roles=ANY_KEY,
    ),
    HttpOperation(
        "post",
        "/report",
        "How a version does at a device whose school lets it tell (docs/network.md)",
        _object(status=TEXT),
        _component("EvaluationReport"),
        roles=DEVICE,
    ),
    HttpOperation(
        "post",
        "/evaluation",
        "How often a version is right and wrong at a device, as counts (docs/evaluation.md)",
        _object(version=INTEGER, status={"enum": ["accepted", "already"]}),
        _component("DeviceCounts"),
        roles=DEVICE,
    ),
    HttpOperation(
        "post",
        "/dashboard",
        "A code that opens the dashboard once; for district and auditor",
        _object(code=TEXT),
        roles=READERS,
    ),
    HttpOperation(
        "get",
        "/members",
        "Who is enrolled; for district, auditor, and a school about itself",
        ANY_OBJECT,
        roles=("school", *READERS),
    ),
    HttpOperation(
        "post",
        "/consent",
        "A school gives its consent or withdraws it; for school and district",
        _object(school=TEXT, consented=BOOLEAN),
        _object(school=TEXT, by=TEXT, action={"enum": ["give", "withdraw"]}),
        roles=OFFICERS,
    ),
    HttpOperation(
        "post",
        "/revoke",
        "A key opens nothing any more; for district, and a school's own devices",
        _object(device=TEXT),
        _object(device=TEXT),
        roles=OFFICERS,
    ),
    HttpOperation(
        "post",
        "/withdraw",
        "Unlearn a device's or school's updates, or those of a task or modality; for district, and a school's own",
        _object(updates=INTEGER, others=INTEGER, kept=INTEGER),
        _object(device=TEXT, school=TEXT, task=TEXT, modality=TEXT, why=TEXT),
        roles=OFFICERS,
    ),
    HttpOperation(
        "get", "/audit/{after}", "The audit log after an entry; for district and auditor", ANY_OBJECT, roles=READERS
    ),
    HttpOperation(
        "get",
        "/secure",
        "The secure round under way, as signed, and what it wants of this device; null without a roster",
        SECURE_ROUND,
        roles=DEVICE,
    ),
    HttpOperation("get", "/secure/{round}", "What the present phase reads", BINARY, roles=DEVICE),
    HttpOperation(
        "post",
        "/secure/{round}/{phase}",
        "A device's part of a phase (docs/secure.md)",
        _object(status=TEXT),
        BINARY,
        roles=DEVICE,
    ),
    HttpOperation(
        "get", "/secure-statistics", "As /secure, of statistics and with their terms", SECURE_STATISTICS, roles=DEVICE
    ),
    HttpOperation("get", "/secure-statistics/{round}", "What the present phase reads", BINARY, roles=DEVICE),
    HttpOperation(
        "post",
        "/secure-statistics/{round}/{phase}",
        "As of /secure (docs/statistics.md)",
        _object(status=TEXT),
        BINARY,
        roles=DEVICE,
    ),
    HttpOperation(
        "get",
        "/secure-evaluation",
        "As /secure, of an evaluation and with its version",
        SECURE_EVALUATION,
        roles=DEVICE,
    ),
    HttpOperation("get", "/secure-evaluation/{round}", "What the present phase reads", BINARY, roles=DEVICE),
    HttpOperation(
        "post",
        "/secure-evaluation/{round}/{phase}",
        "As of /secure (docs/evaluation.md)",
        _object(status=TEXT),
        BINARY,
        roles=DEVICE,
    ),
    HttpOperation("get", "/metrics", "For Prometheus; the operator only", TEXT, signed=False),
    HttpOperation("get", "/openapi.json", "This document; for the operator", ANY_OBJECT, signed=False),
)


def document() -> dict[str, Any]:
    """OpenAPI 3.1, with the schemas of the data classes that are really used."""
    contracts = (RoundConfiguration, Certificate, Notice, EvaluationReport, Roster, RoundStatus)
    everything = (*contracts, DeviceCounts, StatisticsStatus, StatisticsTerms)
    _, components = msgspec.json.schema_components(everything, ref_template="#/components/schemas/{name}")
    components["Refusal"] = _object(code=TEXT, message=TEXT, remedy=TEXT)
    signature = {"type": "apiKey", "in": "header", "name": "Signature", "description": SECURITY}
    paths: dict[str, Schema] = {}
    for operation in OPERATIONS:
        paths.setdefault(f"/v1{operation.path}", {})[operation.method] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Homeroom aggregator", "version": "1", "description": homeroom.__doc__ or ""},
        "paths": paths,
        "components": {"schemas": components, "securitySchemes": {"signature": signature}},
    }


def _described(operation: HttpOperation) -> dict[str, Any]:
    codes = "; ".join(f"`{code}`: {why}" for code, why in REFUSALS.items())
    refused = {
        "description": f"Refused; nothing was changed. Codes for updates: {codes}",
        "content": {JSON: {"schema": _component("Refusal")}},
    }
    answered = {
        "description": "OK",
        "headers": {
            "homeroom-nonce": {"description": "for the next signed request", "schema": TEXT},
            "signature": {"description": SIGNED_ANSWER, "schema": TEXT},
        },
        "content": {_media(operation.answer): {"schema": operation.answer}},
    }
    described: dict[str, Any] = {"summary": operation.summary, "responses": {"200": answered, "default": refused}}
    if operation.signed:
        described |= {"security": [{"signature": []}], "x-roles": list(operation.roles)}
    if operation.body is not None:
        described["requestBody"] = {"required": True, "content": {_media(operation.body): {"schema": operation.body}}}
    if names := re.findall(r"{(\w+)}", operation.path):
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": PARAMETERS[name]} for name in names
        ]
    return described


def _media(schema: Schema) -> str:
    if schema is BINARY:
        return "application/octet-stream"
    return "text/plain" if schema is TEXT else JSON
