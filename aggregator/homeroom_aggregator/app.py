"""The HTTP interface, version 1: plain functions over Rounds; starlette, and prometheus-client for /metrics.

Everything runs in the event loop's one thread, which is what Rounds asks for: a request is handled to its end, body
aside, before the next one begins.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from homeroom import http
from homeroom.contract.signing import sign
from homeroom.errors import DiskFullError, HomeroomError, StoreError, TrustError, UpdateError
from homeroom_aggregator import access
from homeroom_aggregator.openapi import document
from homeroom_aggregator.rounds import Rounds

BODY_LIMIT_BYTES = 1 << 16  # of every request but an update
BINARY = "application/octet-stream"


@dataclass
class Service:
    """What the functions below share. `secret` proves invitation codes."""

    rounds: Rounds
    institution: str
    secret: bytes
    token: str | None = None
    nonces: access.Nonces = field(default_factory=access.Nonces)
    refused: dict[str, int] = field(default_factory=dict)


class RefusedError(Exception):
    """Ends a request with a status, a code, a message and a remedy; changes nothing."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.remedy = status, code, message, remedy


STATUS = {"too_long": 413, "unknown_device": 403, "bad_signature": 401, "too_stale": 409, "unknown_version": 409}
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


async def signed(service: Service, request: Request, limit_bytes: int, *, stranger: bool = False) -> tuple[str, bytes]:
    """The sender (public key) and the body; RefusedError unless signed, fresh and from an enrolled device."""
    body = await read_body(request, limit_bytes)
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    if len({name for name, _ in lines}) != len(lines):
        raise RefusedError(400, "malformed", "a header is given twice")
    url = f"{request.url.scheme}://{request.headers.get('host', '')}{request.scope['raw_path'].decode('latin-1')}"
    try:
        device, nonce = http.verify_request(http.Request(request.method, url, dict(lines)), body)
    except TrustError as problem:
        raise RefusedError(401, "bad_signature", problem.what, "sign it as docs/update.md says") from None
    if not service.nonces.use(nonce):
        raise RefusedError(401, "nonce", "the nonce is unknown or was used", "sign again with the one in this answer")
    if not stranger and not service.rounds.log.device(device):
        raise RefusedError(403, "unknown_device", "this device is not enrolled", "join with a new invitation")
    return device, body


async def health(service: Service, _: Request) -> Response:
    return JSONResponse({"status": "ok", "version": service.rounds.state.version})


async def keys(service: Service, _: Request) -> Response:
    return JSONResponse(
        {
            "institution": service.institution,
            "bundle_id": service.rounds.bundle.bundle_id,
            "certificate": msgspec.to_builtins(service.rounds.certificate),
        }
    )


async def join(service: Service, request: Request) -> Response:
    device, body = await signed(service, request, BODY_LIMIT_BYTES, stranger=True)
    code = _field(body, "code")
    if not access.genuine(service.secret, code):
        raise RefusedError(403, "bad_invitation", "this invitation is not one of ours", "ask for a new one")
    try:
        service.rounds.join(device, access.spent(code))
    except TrustError as problem:
        raise RefusedError(403, "bad_invitation", problem.what, problem.remedy) from None
    return JSONResponse({"device": device, "bundle_id": service.rounds.bundle.bundle_id})


async def round_(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    configuration = service.rounds.configuration.document
    return JSONResponse(
        {
            "configuration": configuration,
            "certificate": msgspec.to_builtins(service.rounds.certificate),
            "signature": sign(service.rounds.key, "round", configuration),
        }
    )


async def updates(service: Service, request: Request) -> Response:
    device, body = await signed(service, request, service.rounds.configuration.update_limit_bytes)
    update_id, status = service.rounds.update(body, device)
    return JSONResponse({"update_id": update_id, "status": status})


async def latest(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    return _version(service, request, service.rounds.state.version)


async def version(service: Service, request: Request) -> Response:
    await signed(service, request, BODY_LIMIT_BYTES)
    return _version(service, request, int(request.path_params["number"]))


def _version(service: Service, request: Request, number: int) -> Response:
    tag = f'"{number}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})
    body = service.rounds.version(number) if number < 1 << 62 else None
    if body is None:
        raise RefusedError(404, "unknown_version", "there is no such version", "version 0 is the bundle's own theta")
    return Response(body, media_type=BINARY, headers={"etag": tag})


async def unlearn(service: Service, request: Request) -> Response:
    device, body = await signed(service, request, BODY_LIMIT_BYTES)
    update_id = _field(body, "update_id")
    if len(update_id) != 32 or set(update_id) - set("0123456789abcdef"):
        raise RefusedError(422, "malformed", "update_id is not 32 hexadecimal digits")
    service.rounds.withdraw(update_id, device)  # of another device: as for an id that was never seen, nothing is said
    return JSONResponse({"update_id": update_id, "status": "accepted"})


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
    ("GET", "/versions/{number:int}", version),
    ("POST", "/unlearn", unlearn),
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
        except ClientDisconnect:
            response = Response(status_code=400)
        response.headers[http.NONCE_HEADER] = service.nonces.new()
        response.headers["cache-control"] = "no-store"
        return response

    return answer


def make_app(service: Service) -> Starlette:
    routes = [Route(f"/v1{path}", endpoint(service, handler), methods=[method]) for method, path, handler in ROUTES]
    return Starlette(routes=routes)
