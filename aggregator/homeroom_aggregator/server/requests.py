"""What every request goes through: bounded reading, who signed it, may they, how a refusal is said; imports writer.

Requests that only read are answered in the event loop, from a connection of their own that sees what is durable.
Those that write are checked and done by the one thread that owns the rounds (`writer`), many with one fsync.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from homeroom.contract import http_signatures
from homeroom.errors import DiskFullError, HomeroomError, StoreError, TrustError, UpdateError
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.secagg.coordinator import Cohorts
from homeroom_aggregator.server import auth
from homeroom_aggregator.server.downloads import Downloads
from homeroom_aggregator.server.metrics import Metrics
from homeroom_aggregator.server.rate_limits import Limits, Meter, Room
from homeroom_aggregator.server.write_thread import Writer
from homeroom_aggregator.state.last_seen import Contacts
from homeroom_aggregator.state.log import Log
from homeroom_aggregator.state.members import Member, Members, Role

BODY_S = 120.0  # for a whole body: a sender that trickles is cut off
BODIES_BYTES = 512 << 20  # of all bodies in memory at once; who comes then is told to come back
BODY_LIMIT_BYTES = 1 << 16  # of a body from anybody; a longer one is read only after its head was found signed
BUSY_S = 10.0
STATUS = {"too_long": 413, "unknown_device": 403, "bad_signature": 401, "too_stale": 409, "unknown_version": 409}
STATUS |= {"not_selected": 409, "once_a_version": 409, "once_a_release": 409, "budget_spent": 409}
STATUS |= {"secure_only": 409, "past_phase": 409, "not_member": 403}


class Json(Response):
    """An answer of JSON: of plain values, and of the contracts' own structures."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return msgspec.json.encode(content)


@dataclass
class Service:
    """What all handlers share. `rounds` belongs to the writer's thread, `reader` to the event loop's.

    secret: proves invitation codes. token: the operator's, if one is set. cohorts: where rounds are secure.
    """

    rounds: Rounds
    institution: str
    secret: bytes
    downloads: Downloads
    reader: Log
    token: str | None = None
    limits: Limits = field(default_factory=Limits)
    nonces: auth.Nonces = field(default_factory=auth.Nonces)
    metrics: Metrics = field(default_factory=Metrics)
    room: Room = field(default_factory=lambda: Room(BODIES_BYTES))
    cohorts: Cohorts | None = None

    def __post_init__(self) -> None:
        self.meter = Meter(self.limits)
        self.writer = Writer(self.rounds)
        self.contacts = Contacts(self.rounds.log.database)
        self.members = Members(self.reader.database)

    def close(self) -> None:
        """Finish what is under way, and leave a checkpoint, so that the next start has nothing to compute."""
        self.writer.close()
        self.downloads.close()
        self.reader.close()
        self.contacts.write(self.rounds.log.database)
        self.rounds.settle()
        self.rounds.close()
        if self.cohorts:
            self.cohorts.close()


class RefusedError(Exception):
    """Ends a request with a status, a code, a message and a remedy; changes nothing."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "", wait_s: float = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.status, self.code, self.message, self.remedy = status, code, message, remedy


@dataclass(frozen=True)
class Call:
    """One signed request. `key` signed it; `member` is who that is, None for a stranger that wants to join."""

    request: Request
    body: bytes
    key: str
    nonce: str
    instance: str
    member: Member | None = None

    @property
    def who(self) -> Member:
        assert self.member is not None  # the route asks for a role
        return self.member

    def text(self, name: str) -> str:
        """A field of the JSON body."""
        try:
            return msgspec.json.decode(self.body, type=dict[str, str])[name]
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError):
            raise RefusedError(422, "malformed", f"the body is not a JSON object with a text {name!r}") from None


async def read_body(request: Request, limit_bytes: int, room: Room | None = None) -> bytes:
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
    body, found = bytearray(), None
    try:
        async with asyncio.timeout(BODY_S):
            async for part in request.stream():
                if room and not room.take(len(part)):
                    raise RefusedError(503, "busy", "too many are sending at once", "try again in a while", BUSY_S)
                body += part
                if len(body) > limit_bytes:
                    raise RefusedError(413, "too_long", f"more than {limit_bytes:,} bytes")
        found = bytes(body)
    except TimeoutError:
        raise RefusedError(408, "too_slow", f"the body took over {BODY_S:g} s", "send it again") from None
    finally:
        if room and found is None:
            room.give_back(len(body))
    return found


def check_head(service: Service, request: Request) -> None:
    """Before a long body is read: RefusedError unless an enrolled key signed for it. So no stranger fills memory."""
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) <= BODY_LIMIT_BYTES:
        return
    by = _signer(request, None)
    if service.members.find(by.key) is None:
        raise _unknown()
    if not service.nonces.unused(by.nonce, by.key):
        raise _used_nonce()


def verified(service: Service, request: Request, body: bytes) -> Call:
    """Who signed; RefusedError unless it is signed and fresh."""
    by = _signer(request, body)
    if not service.nonces.use(by.nonce, by.key):
        raise _used_nonce()
    return Call(request, body, by.key, by.nonce, by.instance)


def _signer(request: Request, body: bytes | None) -> http_signatures.Signer:
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


def admitted(service: Service, members: Members, call: Call, roles: tuple[Role, ...]) -> Call:
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


def remarkable(service: Service, call: Call) -> bool:
    """Whether the call shows something about its device's machine that has to be written down."""
    member = call.who
    out_of_turn = not member.twin and service.nonces.out_of_turn(call.nonce, call.key)
    return out_of_turn or bool(call.instance and call.instance != member.instance)


def remark(service: Service, call: Call) -> None:
    """Write it down; in the writer's thread."""
    members = service.rounds.members
    members.seen(call.who, call.instance)
    if service.nonces.out_of_turn(call.nonce, call.key):
        members.twin(call.who)


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


def body_of(said: RefusedError) -> dict[str, Any]:
    return {"code": said.code, "message": said.message, "remedy": said.remedy}
