"""Admin routes: members, consent, revocation, the audit log, evaluation reports and metrics."""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from homeroom.contract.evaluation_report import EvaluationReport
from homeroom.contract.names import check_name
from homeroom_aggregator.admin import officers, withdrawal
from homeroom_aggregator.server import auth
from homeroom_aggregator.server.refusals import JsonResponse, RefusedError
from homeroom_aggregator.server.requests import SignedRequest
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import audit, last_seen, login_links
from homeroom_aggregator.state.members import Member

AUDIT_AT_ONCE = 1000


def members(service: Service, call: SignedRequest) -> Response:
    """Who is enrolled; to a school, its own members."""
    school = call.who.school if call.who.role == "school" else None
    return JsonResponse({"members": service.members.every(school)})


def consent(service: Service, call: SignedRequest) -> Response:
    """Record a school's consent or its withdrawal, after which its updates are refused."""
    school, given_by, action = (call.text(name) for name in ("school", "by", "action"))
    if action not in ("give", "withdraw"):
        raise RefusedError(422, "malformed", "needs school, by, and action give or withdraw")
    members = service.rounds.members
    officers.change_consent(members, _officer(call.who), school, given_by, give=action == "give")
    service.rounds.withdraw_gone()
    return JsonResponse({"school": school, "consented": members.consented(school)})


def revoke(service: Service, call: SignedRequest) -> Response:
    """Revoke a key of a member of lower rank; a school may revoke its own devices' keys only."""
    key = call.text("device")
    officers.revoke(service.rounds.members, _officer(call.who), key)
    service.rounds.withdraw_gone()
    return JsonResponse({"device": key})


def withdraw(service: Service, call: SignedRequest) -> Response:
    """Take the updates of a device or a school out, or those that learned from a task or modality; one step for all."""
    asked = call.texts("device", "school", "task", "modality", "why")
    why = check_name(asked["why"], "the reason")
    if bool(asked["device"]) == bool(asked["school"]):
        raise RefusedError(422, "malformed", "needs either a device or a school")
    if wait_s := service.meter.share("withdrawals", call.who.name, call.who.school):
        raise RefusedError(429, "too_many", "this day's withdrawals are used up", "ask again tomorrow", wait_s)
    rounds, part = service.rounds, withdrawal.Part(asked["task"], asked["modality"])
    found = withdrawal.find(rounds, _officer(call.who), asked["device"], asked["school"], part)
    if found.count > withdrawal.MOST_AT_ONCE:
        says, remedy = f"more than {withdrawal.MOST_AT_ONCE:,} updates at once", "withdraw them device by device"
        raise RefusedError(413, "too_many", says, remedy)
    withdrawal.withdraw(rounds, found, call.who.device, why, part)
    planned = rounds.to_unlearn()
    due = {"by": planned.due.isoformat()} if planned else {}
    return JsonResponse({"updates": found.count, "others": found.others, "kept": found.kept, **due})


def _officer(member: Member) -> officers.Officer:
    return officers.Officer(member.device, member.role, member.school)


def audited(service: Service, call: SignedRequest) -> Response:
    """Entries of the audit log, a thousand at a time; `digest` chains them (`audit`)."""
    after = int(call.request.path_params["after"]) % (1 << 62)
    records = audit.records(service.reader.database, after, AUDIT_AT_ONCE)
    return JsonResponse({"records": list(records)})


def dashboard(service: Service, call: SignedRequest) -> Response:
    """A login code that opens the dashboard once, for the member that asks."""
    who = call.who
    rank: login_links.Rank = "district" if who.role == "district" else "auditor"
    link = login_links.LoginLink(rank, who.device, f"{who.role} {who.device[:8]}")
    return JsonResponse({"code": login_links.make_link(service.rounds.log.database, service.secret, link)})


def report(service: Service, call: SignedRequest) -> Response:
    """Keep a device's evaluation report."""
    try:
        evaluation = msgspec.json.decode(call.body, type=EvaluationReport)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise RefusedError(422, "malformed", f"no report that can be read: {problem}") from None
    if evaluation.version > service.rounds.state.version:
        raise RefusedError(409, "unknown_version", f"version {evaluation.version} was never released here")
    last_seen.put_report(service.rounds.log.database, call.who.device, evaluation)
    return JsonResponse({"status": "accepted"})


def check_operator(service: Service, request: Request) -> None:
    """RefusedError unless the request comes from this machine, or with the operator's token."""
    client = request.client.host if request.client else None
    if not auth.is_operator(service.token, request.headers.get("authorization"), client):
        remedy = "ask from the same machine, or with the operator's token"
        raise RefusedError(403, "operator_only", "for the operator", remedy)


def metrics(service: Service, request: Request) -> Response:
    """The metrics, for the operator."""
    check_operator(service, request)
    facts = service.rounds.facts() | (service.secure_rounds.facts() if service.secure_rounds else {})
    facts["connections_evicted"] = service.connections.evicted
    return Response(service.metrics.text(facts), media_type="text/plain; version=0.0.4")
