"""The HTTP interface, version 1: a handler for each route, and the table of routes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from homeroom.contract import http_signatures
from homeroom.contract.invitation import open_code
from homeroom.contract.sealed_box import public_hex
from homeroom.contract.signing import sign, verify
from homeroom.errors import HomeroomError, TrustError
from homeroom_aggregator.server import (
    admin_routes,
    evaluation_routes,
    refusals,
    requests,
    secure_routes,
    signed_answers,
    statistics_routes,
)
from homeroom_aggregator.server.downloads import DeferredResponse, range_response
from homeroom_aggregator.server.metrics import LOGGER
from homeroom_aggregator.server.openapi import document
from homeroom_aggregator.server.rate_limits import MemoryHolder
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.requests import SignedRequest
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import audit, rewinds
from homeroom_aggregator.state.members import ROLES, Role, join_with_code, may_fetch


class _Number(Convertor[int]):
    """A number in a path that SQLite can hold; a longer one is no address."""

    regex = "[0-9]{1,18}"

    def convert(self, value: str) -> int:
        return int(value)

    def to_string(self, value: int) -> str:
        return str(value)


register_url_convertor("number", _Number())


# Open to everybody


def health(service: Service, _: Request) -> Response:
    """That the server is up, and the newest version."""
    return refusals.JsonResponse({"status": "ok", "version": service.reader.newest()})


def keys(service: Service, request: Request) -> Response:
    """The institution, its bundle, the certificate of the key that signs here, and the pin of its TLS key."""
    challenge = request.headers.get(http_signatures.CHALLENGE_HEADER, "")
    live = {"proof": sign(service.rounds.key, "challenge", {"challenge": challenge})} if len(challenge) == 64 else {}
    return refusals.JsonResponse(
        {
            **live,
            "institution": service.institution,
            "bundle_id": service.rounds.bundle.bundle_id,
            "certificate": service.rounds.certificate,
            "bundle": service.downloads.bundle,
            "fallback": service.downloads.fallback,
            "tls": service.tls_pin,
            "sealing": public_hex(service.sealing),
        }
    )


def bundle(service: Service, call: SignedRequest) -> Response:
    """The bundle as one file, for members and for who holds an invitation: a device has its bundle before it joins."""
    _may_fetch(service, call)
    return service.downloads.bundle_file()


def second_file(service: Service, call: SignedRequest) -> Response:
    """The bundle's second file, its float32 backbones, for the same callers."""
    _may_fetch(service, call)
    if (response := service.downloads.second_file()) is None:
        raise RefusedError(404, "unknown_bundle", "the second file of this bundle is not here", "ask for it as a file")
    return response


def _may_fetch(service: Service, call: SignedRequest) -> None:
    code = _code(service, call, call.request.headers.get(http_signatures.INVITATION_HEADER, ""))
    if not may_fetch(service.members, service.secret, call.key, code):
        used = "its invitation is not in force: it was used, has ended or was taken back; ask for a new one"
        remedy = used if code else "fetch it with an invitation"
        raise RefusedError(403, "unknown_device", "this device is not enrolled", remedy)
    if call.request.path_params["bundle_id"] != service.rounds.bundle.bundle_id:
        raise RefusedError(404, "unknown_bundle", "this bundle is not served here", "see /v1/keys for the one that is")


def _code(service: Service, call: SignedRequest, text: str) -> str:
    """An invitation's code as a device sends it; RefusedError if another device sealed it."""
    try:
        return open_code(text, call.key, service.sealing)
    except TrustError as problem:
        raise RefusedError(403, "bad_invitation", problem.what, problem.remedy) from None


def openapi(service: Service, request: Request) -> Response:
    """The OpenAPI document, for the operator."""
    admin_routes.check_operator(service, request)
    return refusals.JsonResponse(document())


# Signed, and only reading


def round_(service: Service, call: SignedRequest) -> Response:
    """The signed round configuration, and the server's time, signed for this request alone."""
    rounds, configuration = service.rounds, service.rounds.configuration.document
    selected = not rounds.synchronous or (
        call.who.role == "device" and rounds.synchronous.ask(call.who.name, service.reader.newest())
    )
    time = {"time": audit.timestamp(), "nonce": call.nonce}
    return refusals.JsonResponse(
        {
            "configuration": configuration,
            "certificate": rounds.certificate,
            "signature": sign(rounds.key, "round", configuration),
            "time": time["time"],
            "time_signature": sign(rounds.key, "time", time),
            "selected": selected,
            **_waiting(service),
            **_school(service, call),
        }
    )


def _school(service: Service, call: SignedRequest) -> dict[str, str]:
    """The school whose own segments this device may feed, signed for this request alone."""
    rounds, school = service.rounds, call.who.school
    if not rounds.merges_for(school, service.members):
        return {}
    statement = {"school": school, "nonce": call.nonce}
    return {"school": school, "school_signature": sign(rounds.key, "school", statement)}


def _waiting(service: Service) -> dict[str, list[int]]:
    """How many updates the next version has, of those it needs; nothing in secure rounds, whose phases say more."""
    rounds = service.rounds
    return {} if rounds.configuration.secure else {"waiting": [rounds.state.pending, rounds.configuration.buffer_size]}


def latest(service: Service, call: SignedRequest) -> Response | DeferredResponse:
    """The newest version's file."""
    return _version(service, call, service.reader.newest())


def version(service: Service, call: SignedRequest) -> Response | DeferredResponse:
    """One version's file."""
    return _version(service, call, _number(call, "number"))


def _version(service: Service, call: SignedRequest, number: int) -> Response | DeferredResponse:
    tag = f'"{number}"'
    if call.request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"etag": tag})

    def read() -> Response:
        body = service.downloads.version(number, call.who.school)
        if body is None:
            remedy = "version 0 is the bundle's own theta"
            raise RefusedError(404, "unknown_version", "there is no such version", remedy)
        return range_response(call.request, body, tag)

    return read


def after(service: Service, call: SignedRequest) -> DeferredResponse:
    """The downloads that bring a device with this version up to date."""
    number = _number(call, "number")
    if service.reader.newest() <= number:
        raise RefusedError(404, "unknown_version", "there is no newer version")

    def read() -> Response:
        offer = service.downloads.offer(number, call.who.school)
        if offer is None:
            raise RefusedError(404, "unknown_version", "there is no newer version")
        return refusals.JsonResponse(offer)

    return read


def delta(service: Service, call: SignedRequest) -> DeferredResponse:
    """One version's difference from an older one."""
    number, base = _number(call, "number"), _number(call, "base")

    def read() -> Response:
        body = service.downloads.delta(number, base, call.who.school)
        if body is None:
            raise RefusedError(404, "unknown_version", "there is no such difference", "fetch the whole version")
        return range_response(call.request, body, f'"{number}-{base}"')

    return read


def _number(call: SignedRequest, name: str) -> int:
    return int(call.request.path_params[name])


# Signed, and writing


def join(service: Service, call: SignedRequest) -> Response:
    """Enrol the signing key with an invitation's code."""
    code = _code(service, call, call.text("code"))
    try:
        join_with_code(service.rounds.members, service.secret, call.key, code)
    except TrustError as problem:
        raise RefusedError(403, "bad_invitation", problem.what, problem.remedy) from None
    return refusals.JsonResponse({"device": call.key, "bundle_id": service.rounds.bundle.bundle_id})


def updates(service: Service, call: SignedRequest) -> Response:
    """Let a device's update into the rounds."""
    update_id, status = requests.take_sent(service, call, service.rounds.update)
    return refusals.JsonResponse({"update_id": update_id, "status": status, **_waiting(service)})


def unlearn(service: Service, call: SignedRequest) -> Response:
    """Withdraw one of the device's own updates."""
    update_id = call.text("update_id")
    if len(update_id) != 32 or set(update_id) - set("0123456789abcdef"):
        raise RefusedError(422, "malformed", "update_id is not 32 hexadecimal digits")
    rounds, name = service.rounds, call.who.name
    if wait_s := service.meter.share("withdrawals", name, call.who.school):
        raise RefusedError(429, "too_many", "this day's withdrawals are used up", "ask again tomorrow", wait_s)
    rounds.withdraw(update_id, name)  # another device's id gets the same answer as an unknown one
    stays = "bounded" if rounds.bounded(update_id, name) else "kept" if rounds.stays(update_id, name) else ""
    mine = rounds.configuration.rewinds and rounds.log.withdrawn_by(update_id, name)
    day = rewinds.due_of(rounds.log.database, update_id, rounds.configuration.unlearning) if mine else None
    due = {"by": day.isoformat()} if day else {}
    return refusals.JsonResponse({"update_id": update_id, "status": stays or "accepted", **due})


def rotate(service: Service, call: SignedRequest) -> Response:
    """Replace the sender's key by a new one; signed by the old key, and the new one has signed both."""
    new, proof = call.text("key"), call.text("proof")
    try:
        verify(new, "rotate", {"old": call.key, "new": new}, proof, where="rotate")
        service.rounds.members.rotate(call.key, new)
    except TrustError as problem:
        raise RefusedError(403, "bad_rotation", problem.what, problem.remedy) from None
    return refusals.JsonResponse({"device": new})


OpenHandler = Callable[[Service, Request], Response]
SignedHandler = Callable[[Service, SignedRequest], "Response | DeferredResponse"]


@dataclass(frozen=True)
class ApiRoute:
    """A route: `opened` for everybody, or `signed` by a member with one of `roles` (none: by any key at all).

    writes: runs in the writer's thread, since it changes the rounds or has to see them whole.
    """

    method: str
    path: str
    opened: OpenHandler | None = None
    signed: SignedHandler | None = None
    writes: bool = False
    roles: tuple[Role, ...] = ROLES
    long: bool = False  # the body may be as long as an update


API_ROUTES = (
    ApiRoute("GET", "/health", health),
    ApiRoute("GET", "/keys", keys),
    ApiRoute("GET", "/openapi.json", openapi),
    ApiRoute("GET", "/metrics", admin_routes.metrics, writes=True),
    ApiRoute("GET", "/bundles/{bundle_id}", signed=bundle, roles=()),
    ApiRoute("GET", "/bundles/{bundle_id}/fallback", signed=second_file, roles=()),
    ApiRoute("GET", "/round", signed=round_),
    ApiRoute("GET", "/versions/latest", signed=latest),
    ApiRoute("GET", "/versions/after/{number:number}", signed=after),
    ApiRoute("GET", "/versions/{number:number}", signed=version),
    ApiRoute("GET", "/versions/{number:number}/from/{base:number}", signed=delta),
    ApiRoute("POST", "/join", signed=join, writes=True, roles=()),
    ApiRoute("POST", "/rotate", signed=rotate, writes=True, roles=()),
    ApiRoute("POST", "/updates", signed=updates, writes=True, roles=("device",), long=True),
    ApiRoute("GET", "/statistics", signed=statistics_routes.status, writes=True, roles=("device",)),
    ApiRoute("GET", "/statistics/{number:number}", signed=statistics_routes.release, roles=("device",)),
    ApiRoute("POST", "/statistics", signed=statistics_routes.take, writes=True, roles=("device",), long=True),
    ApiRoute("POST", "/unlearn", signed=unlearn, writes=True, roles=("device",)),
    *(
        route
        for kind in (secure_routes.UPDATES, secure_routes.STATISTICS, secure_routes.EVALUATION)
        for route in (
            ApiRoute("GET", kind.path, signed=kind.status, writes=True, roles=("device",)),
            ApiRoute("GET", f"{kind.path}/{{round}}", signed=kind.get, writes=True, roles=("device",)),
            ApiRoute(
                "POST", f"{kind.path}/{{round}}/{{phase}}", signed=kind.put, writes=True, roles=("device",), long=True
            ),
        )
    ),
    ApiRoute("POST", "/evaluation", signed=evaluation_routes.take, writes=True, roles=("device",), long=True),
    ApiRoute("POST", "/report", signed=admin_routes.report, writes=True, roles=("device",)),
    ApiRoute("POST", "/dashboard", signed=admin_routes.dashboard, writes=True, roles=("district", "auditor")),
    ApiRoute("GET", "/members", signed=admin_routes.members, roles=("school", "district", "auditor")),
    ApiRoute("POST", "/consent", signed=admin_routes.consent, writes=True, roles=("school", "district")),
    ApiRoute("POST", "/revoke", signed=admin_routes.revoke, writes=True, roles=("school", "district")),
    ApiRoute("POST", "/withdraw", signed=admin_routes.withdraw, writes=True, roles=("school", "district")),
    ApiRoute("GET", "/audit/{after:number}", signed=admin_routes.audited, roles=("district", "auditor")),
)


async def dispatch(service: Service, route: ApiRoute, call: SignedRequest) -> Response:
    """A signed route's answer: made in the event loop where it only reads, else in the writer's thread."""
    handler, rounds = route.signed, service.rounds
    assert handler is not None
    if rounds.synchronous and rounds.synchronous.verdict(rounds.state.version, rounds.state.pending) != "wait":
        await service.writer.do(rounds.end_overdue_round)
    if route.writes:

        def written() -> Response:
            if service.last_seen.write(rounds.log.database):
                service.fit_buffer()
            authorized = requests.authorize(rounds.members, call, route.roles) if route.roles else call
            if route.roles and requests.shows_other_machine(service, authorized):
                requests.note_machine(service, authorized)
            response = handler(service, authorized)
            assert isinstance(response, Response)  # downloads write nothing
            return response

        return await service.writer.do(written)
    if route.roles and requests.shows_other_machine(service, call):
        await service.writer.do(lambda: requests.note_machine(service, call))
    response = handler(service, call)
    return response if isinstance(response, Response) else await service.downloads.in_thread(response)


async def _answer_signed(service: Service, route: ApiRoute, request: Request) -> tuple[Response, int, float]:
    """A signed request's answer, the size of its body, and when that was whole; the head is checked before."""
    limit = service.rounds.configuration.update_limit_bytes if route.long else requests.BODY_LIMIT_BYTES
    requests.declared_length(request, limit)
    call = requests.authenticate(service, request, opened=not route.roles)
    if route.roles:
        requests.limited(service, call, route.roles)
    holder = MemoryHolder(call.who.name, call.who.school) if call.member else requests.STRANGER
    with requests.place(service, call):
        limits = service.configuration.request_limits
        request.state.authenticated = False  # until the body turns out to be the one that was signed
        body = await requests.read_body(request, limit, limits, service.room, holder)
        request.state.received, start_s = True, time.monotonic()
        try:
            response = await dispatch(service, route, requests.with_body(call, body))
            requests.hold_answer(service, request, response, holder)
            return response, len(body), start_s
        finally:
            service.room.give_back(len(body), holder)


async def _answer_opened(service: Service, opened: OpenHandler, request: Request, writes: bool) -> Response:
    """An answer for everybody; no body is read."""
    if not requests.declared_length(request, requests.BODY_LIMIT_BYTES):
        request.state.received = True
    return await service.writer.do(lambda: opened(service, request)) if writes else opened(service, request)


def endpoint(service: Service, route: ApiRoute) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of a route: turns refusals into answers, counts each, and gives out the next nonce."""

    async def answer(request: Request) -> Response:
        code, size_bytes, start_s = "", 0, time.monotonic()
        request.state.received = False
        requests.count(request)
        try:
            if service.addresses and route.path != "/health":
                service.addresses.check(request)
            if route.opened:
                response = await _answer_opened(service, route.opened, request, route.writes)
            else:
                response, size_bytes, start_s = await _answer_signed(service, route, request)
        except (HomeroomError, RefusedError) as problem:
            code, response = refusals.answer_to(problem)
        except ClientDisconnect:
            code, response = "gone", Response(status_code=400)
        except Exception as problem:  # a fault of ours: whoever asked hears that it is, the operator what it was
            LOGGER.exception("%s %s failed", route.method, route.path, exc_info=problem)
            remedy = "try again later; tell the operator"
            code, response = refusals.answer_to(RefusedError(500, "internal", "the aggregator failed", remedy))
        if not request.state.received and not await requests.drop_body(request, service.configuration.request_limits):
            response.headers["connection"] = "close"  # what is left of the body is not waited for
        if device := getattr(request.state, "device", ""):
            service.last_seen.note(device)
        signed_answers.sign_response(service, request, response, device)
        seconds = time.monotonic() - start_s
        service.metrics.answered(route.method, route.path, response.status_code, seconds, size_bytes, device, code)
        return response

    return answer


def make_app(service: Service) -> Starlette:
    """The application that serves the HTTP interface."""

    async def unknown_route(request: Request, problem: Exception) -> Response:
        """Refuses, counts and logs a request that no route answers."""
        requests.count(request)
        status = getattr(problem, "status_code", 404)
        code, message = (
            ("no_method", "this is not done here") if status == 405 else ("no_route", "there is nothing here")
        )
        service.metrics.answered(request.method, "none", status, 0.0, 0, "", code)
        refusal = RefusedError(status, code, message, "see docs/update.md for what is served")
        response = refusals.refusal_response(refusal)
        response.headers.update(getattr(problem, "headers", None) or {})
        signed_answers.sign_response(service, request, response)
        return response

    routes = [Route(f"/v1{route.path}", endpoint(service, route), methods=[route.method]) for route in API_ROUTES]
    return Starlette(routes=routes, exception_handlers={404: unknown_route, 405: unknown_route})
