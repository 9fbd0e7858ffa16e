"""The request pipeline: checks who signed a head and what they may do, then reads the body within bounds.

Requests that only read are answered in the event loop, from a connection of their own that sees what is durable.
Those that write are checked and done by the one thread that owns the rounds (`write_thread`), many with one fsync.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from homeroom.contract import http_signatures
from homeroom.errors import TrustError
from homeroom_aggregator.admin.configuration import RequestLimits
from homeroom_aggregator.server import connections
from homeroom_aggregator.server.rate_limits import MemoryBudget, MemoryHolder
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state.members import Member, Members, Role

Named = TypeVar("Named")
BODY_LIMIT_BYTES = 1 << 16  # of all bodies but updates
BUSY_RETRY_S = 10.0
SIGNATURE_LIMITS_BYTES = {"signature-input": 1024, "signature": 256, "content-digest": 256}  # parsed no longer ones
STRANGER = MemoryHolder("strangers")
_SIGNED_BY = re.compile(rb'\nsignature-input:[^\r\n]{0,1024}?;keyid="([0-9a-f]{64})"', re.IGNORECASE)
_NONCE = re.compile(rb';nonce="([\w=-]{1,64})"')


@dataclass(frozen=True)
class SignedRequest:
    """A signed request. `key` signed it; `member` is whose key that is, None for a stranger that wants to join."""

    request: Request
    body: bytes
    key: str
    nonce: str
    instance: str
    member: Member | None = None

    @property
    def who(self) -> Member:
        """The member; only for routes that ask for a role."""
        assert self.member is not None  # the route asks for a role
        return self.member

    def text(self, name: str) -> str:
        """A text field of the JSON body; RefusedError without it."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, str])[name]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            raise RefusedError(422, "malformed", f"the body is not a JSON object with a text {name!r}") from None

    def texts(self, *names: str) -> dict[str, str]:
        """Text fields of the JSON body, empty where they are absent; RefusedError for any other field."""
        try:
            fields = msgspec.json.decode(self.body, type=dict[str, str])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise RefusedError(422, "malformed", "the body is not a JSON object of texts") from None
        if unknown := sorted(fields.keys() - set(names)):
            raise RefusedError(422, "malformed", f"{unknown[0][:64]!a} is no field: {', '.join(names)} are")
        return {name: fields.get(name, "") for name in names}


def declared_length(request: Request, limit_bytes: int) -> int:
    """The length that a body declares; RefusedError where it is too long, or not sent as it is."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "malformed", "a compressed body is not read", "send it as it is")
    length = request.headers.get("content-length") or "0"  # RFC 9112, section 6.3: no body without it
    if not (length.isascii() and length.isdecimal()):
        raise RefusedError(400, "malformed", "content-length is no number")
    if len(length) > 18 or int(length) > limit_bytes:
        raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
    return int(length)


async def read_body(
    request: Request,
    limit_bytes: int,
    limits: RequestLimits,
    room: MemoryBudget | None = None,
    holder: MemoryHolder = STRANGER,
) -> bytes:
    """The body as it was sent, never more than the limit in memory, and not slower than the limits allow.

    room: where its bytes count for the holder until the caller gives them back.
    """
    if not declared_length(request, limit_bytes):
        return b""
    body, whole, loop = bytearray(), None, asyncio.get_running_loop()
    start_s = loop.time()
    try:
        async with asyncio.timeout(limits.body_s) as deadline:
            async for part in request.stream():
                if room and not room.take(len(part), holder, len(body)):
                    raise RefusedError(
                        503, "busy", "too many are sending at once", "try again in a while", BUSY_RETRY_S
                    )
                body += part
                if len(body) > limit_bytes:
                    raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
                deadline.reschedule(start_s + limits.body_s + len(body) / (limits.least_kib_s * 1024))
        whole = bytes(body)
    except TimeoutError:
        why = f"the body came slower than {limits.least_kib_s} KiB a second"
        raise RefusedError(408, "too_slow", why, "send it again") from None
    finally:
        if room and whole is None:
            room.give_back(len(body), holder)
    return whole


async def drop_body(request: Request, limits: RequestLimits) -> bool:
    """Read what is left of a body and keep none of it, so that the refusal arrives; False where it is too long.

    A member's may be as long as it could be, had it not been refused; that of anybody else is short.
    """
    length = request.headers.get("content-length", "0")
    longest = getattr(request.state, "longest", BODY_LIMIT_BYTES)
    if not (length.isascii() and length.isdecimal()) or len(length) > 18 or int(length) > longest:
        return False
    with contextlib.suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(limits.body_s + int(length) / (limits.least_kib_s * 1024)):
            with contextlib.suppress(RuntimeError):  # it was read to its end, and refused then
                async for _ in request.stream():
                    pass
        return True
    return False


def hold_answer(service: Service, request: Request, response: Response, holder: MemoryHolder) -> None:
    """Count a long answer for its holder until it is sent; RefusedError where others of its answers fill its share."""
    connection, size_bytes = request.scope.get(connections.SCOPE_KEY), len(getattr(response, "body", b""))
    if size_bytes <= BODY_LIMIT_BYTES or connection is None:
        return
    if not service.sending.take(size_bytes, holder, common=True):
        why = "this device is being sent as much as it may at once"
        raise RefusedError(503, "busy", why, "wait for its other downloads", BUSY_RETRY_S)
    connection.held.append(partial(service.sending.give_back, size_bytes, holder))


def names_member(service: Service, head: bytes) -> bool:
    """Whether a head names a member's key and a nonce that it may use; whether it signed is found out in its turn."""
    key, nonce = _SIGNED_BY.search(head), _NONCE.search(head)
    if key is None or nonce is None or not service.nonces.unused(nonce[1].decode(), key[1].decode()):
        return False
    return service.members.find(key[1].decode()) is not None


def count(request: Request) -> None:
    """Count a request of a connection that is nobody's: its next ones wait, where it asks too often."""
    if connection := request.scope.get(connections.SCOPE_KEY):
        connection.count()


def authenticate(service: Service, request: Request, *, opened: bool) -> SignedRequest:
    """The request with the key that signed its head, before its body is read; the nonce is claimed.

    opened: for strangers too. Others leave no trace: their nonce is not kept.
    Raises RefusedError unless the head is signed and fresh.
    """
    signer = _signer(request)
    member = service.members.find(signer.key)
    if member is None and not opened:
        raise _unknown()
    if member is not None:
        request.state.longest = service.rounds.configuration.update_limit_bytes
    if not service.nonces.use(signer.nonce, signer.key):
        raise RefusedError(401, "nonce", "the nonce is unknown or was used", "sign again with the one in this answer")
    if member is not None and (connection := request.scope.get(connections.SCOPE_KEY)):
        limit = service.configuration.device_limits.connections
        service.connections.belongs(connection, member.name, member.school, limit)
    if member is not None:
        service.note_address(request)
    return SignedRequest(request, b"", signer.key, signer.nonce, signer.instance, member)


def with_body(call: SignedRequest, body: bytes) -> SignedRequest:
    """The call with its body; RefusedError unless its signed digest is the body's."""
    if call.request.headers.get("content-digest") != http_signatures.content_digest(body):
        raise _bad_signature("the body is not the one that was signed")
    call.request.state.authenticated = True
    return replace(call, body=body)


def as_sent(request: Request) -> http_signatures.Request:
    """A request in the form in which signatures cover it."""
    url = f"{request.url.scheme}://{request.headers.get('host', '')}{request.scope['raw_path'].decode('latin-1')}"
    return http_signatures.Request(request.method, url, dict(request.headers))


def _signer(request: Request) -> http_signatures.RequestSigner:
    if len(request.headers.keys()) != len(set(request.headers.keys())):
        raise RefusedError(400, "malformed", "a header is given twice")
    for name, limit_bytes in SIGNATURE_LIMITS_BYTES.items():
        if len(request.headers.get(name, "")) > limit_bytes:
            raise _bad_signature(f"its {name} is longer than {limit_bytes} bytes")
    try:
        signer = http_signatures.verify_request(as_sent(request), None)
    except TrustError as problem:
        raise _bad_signature(problem.what) from None
    request.state.authenticated = True
    return signer


def _bad_signature(why: str) -> RefusedError:
    return RefusedError(401, "bad_signature", why, "sign it as docs/update.md says")


def _unknown() -> RefusedError:
    return RefusedError(403, "unknown_device", "this device is not enrolled", "join with a new invitation")


def limited(service: Service, call: SignedRequest, roles: tuple[Role, ...]) -> None:
    """RefusedError unless the member is within its limits, and has one of these roles."""
    call.request.state.device = call.key
    if wait_s := service.meter.request(call.who.name):
        raise RefusedError(429, "too_many", "too many requests", "wait, then try again", wait_s)
    _check_role(call, roles)


def authorize(members: Members, call: SignedRequest, roles: tuple[Role, ...]) -> SignedRequest:
    """The call with its member as the writer sees it; RefusedError unless still enrolled, with one of these roles."""
    if (member := members.find(call.key)) is None:
        raise _unknown()
    call = replace(call, member=member)
    _check_role(call, roles)
    return call


def _check_role(call: SignedRequest, roles: tuple[Role, ...]) -> None:
    if call.who.role not in roles:
        raise RefusedError(403, "not_allowed", f"not for a member with the role {call.who.role}")


@contextlib.contextmanager
def place(service: Service, call: SignedRequest) -> Iterator[None]:
    """One of the requests of a member that are answered at once; RefusedError where there are too many."""
    name, limit = call.member.name if call.member else "", service.configuration.device_limits.at_once
    if name and limit and service.at_once[name] >= limit:
        why = f"{limit} requests of this device are being answered"
        raise RefusedError(429, "too_many", why, "wait for their answers", 1.0)
    service.at_once[name] += 1
    try:
        yield
    finally:
        service.at_once[name] -= 1
        if not service.at_once[name]:
            del service.at_once[name]


def shows_other_machine(service: Service, call: SignedRequest) -> bool:
    """Whether the request shows that the device moved to another machine, or that two machines share its key."""
    member = call.who
    out_of_turn = not member.twin and service.nonces.out_of_turn(call.nonce, call.key)
    return out_of_turn or bool(call.instance and call.instance != member.instance)


def note_machine(service: Service, call: SignedRequest) -> None:
    """Record the device's machine, and whether two share its key, as its day's share allows; in the writer's thread."""
    members, who = service.rounds.members, call.who
    if service.meter.share("audit_entries", who.name, who.school):
        return
    members.seen(who, call.instance)
    if service.nonces.out_of_turn(call.nonce, call.key):
        members.mark_clone(who)


def may_send(service: Service, call: SignedRequest) -> None:
    """RefusedError unless the device's school has consented, and its day has room for so many bytes."""
    member = call.who
    if not service.rounds.members.consented(member.school):
        remedy = "`homeroom district consent` records it; the update waits on the device"
        raise RefusedError(403, "no_consent", f"{member.school} has not consented", remedy)
    if wait_s := service.meter.room(member.name, len(call.body)):
        raise RefusedError(429, "too_many", "this device has sent its day's updates", "try again tomorrow", wait_s)


def take_sent(
    service: Service, call: SignedRequest, take: Callable[[bytes, str, str], tuple[Named, str]]
) -> tuple[Named, str]:
    """Let a device's message in, if it may send, and count its bytes if it is new.

    take: by the message, the key that signed the request, and the member; what names it, and `accepted` or `already`.
    """
    may_send(service, call)
    named, status = take(call.body, call.who.device, call.who.name)
    if status == "accepted":
        service.meter.accepted(call.who.name, len(call.body))
    return named, status
