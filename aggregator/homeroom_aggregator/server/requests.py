"""The request pipeline: reads bodies within bounds, checks who signed and what they may do.

Requests that only read are answered in the event loop, from a connection of their own that sees what is durable.
Those that write are checked and done by the one thread that owns the rounds (`write_thread`), many with one fsync.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import msgspec
from starlette.requests import Request

from homeroom.contract import http_signatures
from homeroom.errors import TrustError
from homeroom_aggregator.server.rate_limits import MemoryBudget
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state.members import Member, Members, Role

BODY_LIMIT_BYTES = 1 << 16  # of a body from anybody; a longer one is read only after its head was found signed
BUSY_RETRY_S = 10.0


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


async def read_body(request: Request, limit_bytes: int, deadline_s: float, room: MemoryBudget | None = None) -> bytes:
    """The body as it was sent, never more than the limit in memory, and not for ever.

    room: where its bytes count until the caller gives them back.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError(415, "malformed", "a compressed body is not read", "send it as it is")
    try:
        declared = int(request.headers.get("content-length") or 0)
    except ValueError:
        raise RefusedError(400, "malformed", "content-length is no number") from None
    if not declared and "transfer-encoding" not in request.headers:
        return b""  # RFC 9112, section 6.3
    if declared > limit_bytes:
        raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
    body, whole = bytearray(), None
    try:
        async with asyncio.timeout(deadline_s):
            async for part in request.stream():
                if room and not room.take(len(part)):
                    raise RefusedError(
                        503, "busy", "too many are sending at once", "try again in a while", BUSY_RETRY_S
                    )
                body += part
                if len(body) > limit_bytes:
                    raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
        whole = bytes(body)
    except TimeoutError:
        raise RefusedError(408, "too_slow", f"the body took over {deadline_s:g} s", "send it again") from None
    finally:
        if room and whole is None:
            room.give_back(len(body))
    return whole


def check_head(service: Service, request: Request) -> None:
    """RefusedError unless an enrolled key signed for a long body, which is not read yet: no stranger fills memory."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) <= BODY_LIMIT_BYTES:
        return
    signer = _signer(request, None)
    if service.members.find(signer.key) is None:
        raise _unknown()
    if not service.nonces.unused(signer.nonce, signer.key):
        raise _used_nonce()


def authenticate(service: Service, request: Request, body: bytes) -> SignedRequest:
    """The request with the key that signed it; RefusedError unless it is signed and fresh."""
    signer = _signer(request, body)
    if not service.nonces.use(signer.nonce, signer.key):
        raise _used_nonce()
    return SignedRequest(request, body, signer.key, signer.nonce, signer.instance)


def _signer(request: Request, body: bytes | None) -> http_signatures.RequestSigner:
    lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
    if len({name for name, _ in lines}) != len(lines):
        raise RefusedError(400, "malformed", "a header is given twice")
    url = f"{request.url.scheme}://{request.headers.get('host', '')}{request.scope['raw_path'].decode('latin-1')}"
    try:
        return http_signatures.verify_request(http_signatures.Request(request.method, url, dict(lines)), body)
    except TrustError as problem:
        raise RefusedError(401, "bad_signature", problem.what, "sign it as docs/update.md says") from None


def _used_nonce() -> RefusedError:
    return RefusedError(401, "nonce", "the nonce is unknown or was used", "sign again with the one in this answer")


def _unknown() -> RefusedError:
    return RefusedError(403, "unknown_device", "this device is not enrolled", "join with a new invitation")


def authorize(service: Service, members: Members, call: SignedRequest, roles: tuple[Role, ...]) -> SignedRequest:
    """The call with its member; RefusedError unless enrolled, within its limits, and with one of these roles."""
    member = members.find(call.key)
    if member is None:
        raise _unknown()
    call.request.state.device = call.key
    if wait_s := service.meter.request(member.name):
        raise RefusedError(429, "too_many", "too many requests", "wait, then try again", wait_s)
    if member.role not in roles:
        raise RefusedError(403, "not_allowed", f"not for a member with the role {member.role}")
    return replace(call, member=member)


def shows_other_machine(service: Service, call: SignedRequest) -> bool:
    """Whether the request shows that the device moved to another machine, or that two machines share its key."""
    member = call.who
    out_of_turn = not member.twin and service.nonces.out_of_turn(call.nonce, call.key)
    return out_of_turn or bool(call.instance and call.instance != member.instance)


def note_machine(service: Service, call: SignedRequest) -> None:
    """Record the device's machine, and whether two share its key; in the writer's thread."""
    members = service.rounds.members
    members.seen(call.who, call.instance)
    if service.nonces.out_of_turn(call.nonce, call.key):
        members.mark_clone(call.who)
