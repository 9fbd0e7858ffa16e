"""The HTTP interface, version 1: plain functions over Rounds; starlette, and prometheus-client for /metrics.

Everything runs in the event loop's one thread, which is what Rounds asks for: a request is handled to its end, body
aside, before the next one begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from homeroom import http
from homeroom.contract.signing import sign, verify
from homeroom.errors import DiskFullError, HomeroomError, StoreError, TrustError, UpdateError
from homeroom_aggregator import access, audit
from homeroom_aggregator.downloads import Downloads, ranged
from homeroom_aggregator.limits import Limits, Meter
from homeroom_aggregator.members import ROLES, Member, Members, Role, join_with_code
from homeroom_aggregator.openapi import document
from homeroom_aggregator.rounds import Rounds

BODY_LIMIT_BYTES = 1 << 16  # of every request but an update
AUDIT_AT_ONCE = 1000


@dataclass
class Service:
    """What the functions below share. `secret` proves invitation codes."""

    rounds: Rounds
    institution: str
    secret: bytes
    downloads: Downloads
    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    nonces: access.Nonces = field(default_factory=access.Nonces)
    meter: Meter = field(init=False)
    refused: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.meter = Meter(self.limits)

    @property
    def members(self) -> Members:
        return self.rounds.members


class RefusedError(Exception):
    """Ends a request with a status, a code, a message and a remedy; changes nothing."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "", wait_s: float = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.status, self.code, self.message, self.remedy = status, code, message, remedy


STATUS = {"too_long": 413, "unknown_device": 403, "bad_signature": 401, "too_stale": 409, "unknown_version": 409}
STATUS |= {"once_a_release": 409, "budget_spent": 409}
Handler = Callable[[Service, Request], Awaitable[Response]]


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The body, never more than the limit in memory."""
    body = bytearray()
    if int(request.headers.get("content-length") or 0) > limit_bytes:
        raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
    async for part in request.stream():
        body += part
        if len(body) > limit_bytes:
            raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
    return bytes(body)


async def verified(service: Service, request: Request, limit_bytes: int) -> tuple[str, str, bytes]:
    """The key that signed, the instance it names, and the body; RefusedError unless signed and fresh."""
    body = await read_body(request, limit_bytes)
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    if len({name for name, _ in lines}) != len(lines):
        raise RefusedError(400, "malformed", "a header is given twice")
    url = f"{request.url.scheme}://{request.headers.get('host', '')}{request.scope['raw_path'].decode('latin-1')}"
    try:
        by = http.verify_request(http.Request(request.method, url, dict(lines)), body)
    except TrustError as problem:
        raise RefusedError(401, "bad_signature", problem.what, "sign it as docs/update.md says") from None
    if not service.nonces.use(by.nonce, by.key):
        raise RefusedError(401, "nonce", "the nonce is unknown or was used", "sign again with the one in this answer")
    request.state.nonce = by.nonce
    return by.key, by.instance, body


async def signed(
    service: Service, request: Request, limit_bytes: int, roles: tuple[Role, ...] = ROLES
) -> tuple[Member, bytes]:
    """The sender and the body; RefusedError unless signed, fresh, and from a member with one of these roles."""
    key, instance, body = await verified(service, request, limit_bytes)
    member = service.members.find(key)
    if member is None:
        raise RefusedError(403, "unknown_device", "this device is not enrolled", "join with a new invitation")
    request.state.device = key
    if wait_s := service.meter.request(key):
        raise RefusedError(429, "too_many", "too many requests", "wait, then try again", wait_s)
    if member.role not in roles:
        raise RefusedError(403, "not_allowed", f"not for a member with the role {member.role}")
    service.members.seen(member, instance)
    if not member.twin and service.nonces.out_of_turn(request.state.nonce, key):
        service.members.twin(member)
    return member, body


async def health(service: Service, _: Request) -> Response:
    return JSONResponse({"status": "ok", "version": service.rounds.state.version})


async def keys(service: Service, _: Request) -> Response:
    return JSONResponse(
        {
            "institution": service.institution,
            "bundle_id": service.rounds.bundle.bundle_id,
            "certificate": msgspec.to_builtins(service.rounds.certificate),
            "bundle": service.downloads.bundle,
        }
    )


async def bundle(service: Service, request: Request) -> Response:
    if request.path_params["bundle_id"] != service.rounds.bundle.bundle_id:
        raise RefusedError(404, "unknown_bundle", "this bundle is not served here", "see /v1/keys for the one that is")
    return service.downloads.bundle_file()


async def join(service: Service, request: Request) -> Response:
    key, _, body = await verified(service, request, BODY_LIMIT_BYTES)
    code = _field(body, "code")
    try:
        join_with_code(service.members, service.secret, key, code)
    except TrustError as problem:
        raise RefusedError(403, "bad_invitation", problem.what, problem.remedy) from None
    return JSONResponse({"device": key, "bundle_id": service.rounds.bundle.bundle_id})


async def round_(service: Service, request: Request) -> Response:
    """The configuration, and the server's time for this request alone."""
    await signed(service, request, BODY_LIMIT_BYTES)
    rounds, configuration = service.rounds, service.rounds.configuration.document
    time = {"time": audit.stamp(), "nonce": request.state.nonce}
    return JSONResponse(
        {
            "configuration": configuration,
            "certificate": msgspec.to_builtins(rounds.certificate),
            "signature": sign(rounds.key, "round", configuration),
            "time": time["time"],
            "time_signature": sign(rounds.key, "time", time),
        }
    )


async def updates(service: Service, request: Request) -> Response:
    member, body = await signed(service, request, service.rounds.configuration.update_limit_bytes, ("device",))
    if not service.members.consented(member.school):
        remedy = "`homeroom consent` records it; the update waits on the device"
        raise RefusedError(403, "no_consent", f"{member.school} has not consented", remedy)
    if wait_s := service.meter.room(member.device, len(body)):
        raise RefusedError(429, "too_many", "this device has sent its day's updates", "try again tomorrow", wait_s)
    update_id, status = service.rounds.update(body, member.device, member.name)
    if status == "accepted":
        service.meter.accepted(member.device, len(body))
    return JSONResponse({"update_id": update_id, "status": status})


async def latest(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    return _version(service, request, service.rounds.state.version)


async def version(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    return _version(service, request, _number(request, "number"))


def _version(service: Service, request: Request, number: int) -> Response:
    tag = f'"{number}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    body = service.rounds.version(number)
    if body is None:
        raise RefusedError(404, "unknown_version", "there is no such version", "version 0 is the bundle's own theta")
    return ranged(request, body, tag)


async def after(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    offer = service.downloads.offer(_number(request, "number"))
    if offer is None:
        raise RefusedError(404, "unknown_version", "there is no newer version")
    return JSONResponse(offer)


async def delta(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    number, base = _number(request, "number"), _number(request, "base")
    body = service.downloads.delta(number, base)
    if body is None:
        raise RefusedError(404, "unknown_version", "there is no such difference", "fetch the whole version")
    return ranged(request, body, f'"{number}-{base}"')


def _number(request: Request, name: str) -> int:
    return min(int(request.path_params[name]), 1 << 62)  # what SQLite can hold


async def unlearn(service: Service, request: Request) -> Response:
    member, body = await signed(service, request, BODY_LIMIT_BYTES, ("device",))
    update_id = _field(body, "update_id")
    if len(update_id) != 32 or set(update_id) - set("0123456789abcdef"):
        raise RefusedError(422, "malformed", "update_id is not 32 hexadecimal digits")
    service.rounds.withdraw(update_id, member.name)  # of another device: as for an unknown id, nothing is said
    status = "bounded" if service.rounds.bounded(update_id, member.name) else "accepted"
    return JSONResponse({"update_id": update_id, "status": status})


async def rotate(service: Service, request: Request) -> Response:
    """The sender's new key takes its place; signed by the old one, and the new one has signed both."""
    key, _, body = await verified(service, request, BODY_LIMIT_BYTES)
    new, proof = _field(body, "key"), _field(body, "proof")
    try:
        verify(new, "rotate", {"old": key, "new": new}, proof, where="rotate")
        service.members.rotate(key, new)
    except TrustError as problem:
        raise RefusedError(403, "bad_rotation", problem.what, problem.remedy) from None
    return JSONResponse({"device": new})


async def members(service: Service, request: Request) -> Response:
    member, _ = await signed(service, request, BODY_LIMIT_BYTES, ("school", "district", "auditor"))
    return JSONResponse({"members": service.members.every(member.school if member.role == "school" else None)})


async def consent(service: Service, request: Request) -> Response:
    """A school's own word; what it withdraws is refused from its next update on."""
    member, body = await signed(service, request, BODY_LIMIT_BYTES, ("school", "district"))
    school, given_by, action = (_field(body, name) for name in ("school", "by", "action"))
    if member.role == "school" and school != member.school:
        raise RefusedError(403, "not_allowed", "a school speaks for itself only")
    if not school or len(school) > 200 or len(given_by) > 200 or action not in ("give", "withdraw"):
        raise RefusedError(422, "malformed", "needs school, by (200 characters each), and action give or withdraw")
    act = service.members.consent if action == "give" else service.members.withdraw_consent
    act(school, given_by)
    return JSONResponse({"school": school, "consented": service.members.consented(school)})


async def revoke(service: Service, request: Request) -> Response:
    member, body = await signed(service, request, BODY_LIMIT_BYTES, ("school", "district"))
    found = service.members.find(key := _field(body, "device"))
    if found is None or (member.role == "school" and (found.school, found.role) != (member.school, "device")):
        raise RefusedError(404, "unknown_device", "no such device is enrolled here for you to revoke")
    service.members.revoke(key, member.device)
    return JSONResponse({"device": key})


async def audited(service: Service, request: Request) -> Response:
    """The audit log, a thousand entries at a time; `digest` chains them (`audit`)."""
    await signed(service, request, BODY_LIMIT_BYTES, ("district", "auditor"))
    found = audit.records(service.rounds.log.database, int(request.path_params["after"]) % (1 << 62), AUDIT_AT_ONCE)
    return JSONResponse({"records": [msgspec.to_builtins(entry) for entry in found]})


async def metrics(service: Service, request: Request) -> Response:
    client = request.client.host if request.client else None
    if not access.operator(service.token, request.headers.get("authorization"), client):
        raise RefusedError(
            403, "operator_only", "for the operator", "ask from the same machine, or with the operator's token"
        )
    registry = CollectorRegistry()
    for name, value in service.rounds.facts().items():
        Gauge(f"homeroom_{name}", f"See docs/aggregator.md: {name}", registry=registry).set(value)
    refused = Gauge("homeroom_refused", "Requests refused since the start", ["code"], registry=registry)
    for code, count in service.refused.items():
        refused.labels(code).set(count)
    return Response(generate_latest(registry), media_type="text/plain; version=0.0.4")


async def openapi(_: Service, __: Request) -> Response:
    return JSONResponse(document())


def _field(body: bytes, name: str) -> str:
    try:
        return msgspec.json.decode(body, type=dict[str, str])[name]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
        raise RefusedError(422, "malformed", f"the body is not a JSON object with a text {name!r}") from None


ROUTES: tuple[tuple[str, str, Handler], ...] = (
    ("GET", "/health", health),
    ("GET", "/keys", keys),
    ("POST", "/join", join),
    ("GET", "/round", round_),
    ("POST", "/updates", updates),
    ("GET", "/versions/latest", latest),
    ("GET", "/versions/after/{number:int}", after),
    ("GET", "/versions/{number:int}", version),
    ("GET", "/versions/{number:int}/from/{base:int}", delta),
    ("GET", "/bundles/{bundle_id}", bundle),
    ("POST", "/unlearn", unlearn),
    ("POST", "/rotate", rotate),
    ("GET", "/members", members),
    ("POST", "/consent", consent),
    ("POST", "/revoke", revoke),
    ("GET", "/audit/{after:int}", audited),
    ("GET", "/metrics", metrics),
    ("GET", "/openapi.json", openapi),
)


def refusal(problem: HomeroomError | RefusedError) -> RefusedError:
    """How an error of the house is said over HTTP."""
    if isinstance(problem, RefusedError):
        return problem
    if isinstance(problem, UpdateError):
        return RefusedError(STATUS.get(problem.code, 422), problem.code, problem.what, problem.remedy)
    if isinstance(problem, DiskFullError):
        return RefusedError(507, "disk_full", "the aggregator's disk is full", "try again later; nothing was changed")
    if isinstance(problem, StoreError):
        return RefusedError(503, "store", "the aggregator's store cannot be used", "try again later; tell the operator")
    return RefusedError(400, "malformed", problem.what, problem.remedy)


def endpoint(service: Service, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A handler whose refusals become answers; every answer brings the next nonce."""

    async def answer(request: Request) -> Response:
        try:
            response = await handler(service, request)
        except (HomeroomError, RefusedError) as problem:
            said = refusal(problem)
            service.refused[said.code] = service.refused.get(said.code, 0) + 1
            body: dict[str, Any] = {"code": said.code, "message": said.message, "remedy": said.remedy}
            response = JSONResponse(body, status_code=said.status)
            if said.wait_s:
                response.headers["retry-after"] = str(ceil(said.wait_s))
        except ClientDisconnect:
            response = Response(status_code=400)
        response.headers[http.NONCE_HEADER] = service.nonces.new(getattr(request.state, "device", ""))
        response.headers["cache-control"] = "no-store"
        return response

    return answer


def make_app(service: Service) -> Starlette:
    routes = [Route(f"/v1{path}", endpoint(service, handler), methods=[method]) for method, path, handler in ROUTES]
    return Starlette(routes=routes)
