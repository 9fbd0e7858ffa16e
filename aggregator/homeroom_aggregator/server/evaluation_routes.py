"""HTTP handler of federated evaluation: a device's counts of a version."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from homeroom.contract.evaluation_counts import COUNTS_LIMIT_BYTES, DeviceCounts
from homeroom_aggregator.server import requests
from homeroom_aggregator.server.refusals import JsonResponse, RefusedError
from homeroom_aggregator.server.requests import SignedRequest
from homeroom_aggregator.server.service import Service


def take(service: Service, call: SignedRequest) -> Response:
    """Take a device's counts of a version."""
    rounds = service.rounds
    if rounds.configuration.evaluation.mode != "plain":
        raise RefusedError(409, "no_evaluation", "no counts are asked for here", "sync again")
    requests.may_send(service, call)
    if len(call.body) > COUNTS_LIMIT_BYTES:
        raise RefusedError(413, "too_long", f"more than {COUNTS_LIMIT_BYTES:,} bytes")
    try:
        counts = msgspec.json.decode(call.body, type=DeviceCounts)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
        raise RefusedError(422, "malformed", f"no counts that can be read: {problem}") from None
    status = rounds.take_counts(counts, call.who.name)
    service.meter.accepted(call.who.name, len(call.body))
    return JsonResponse({"version": counts.version, "status": status})
