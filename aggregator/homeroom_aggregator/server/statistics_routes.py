"""HTTP handlers of statistics: a device's change, what is here of it, and the release that is served."""

from __future__ import annotations

from starlette.responses import Response

from homeroom_aggregator.server import refusals, requests
from homeroom_aggregator.server.downloads import DeferredResponse, range_response
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.requests import SignedRequest
from homeroom_aggregator.server.service import Service


def status(service: Service, call: SignedRequest) -> Response:
    """What is here of the device's statistics, and what is served."""
    return refusals.JsonResponse(service.rounds.statistics_status(call.who.name))


def release(service: Service, call: SignedRequest) -> DeferredResponse:
    """A release of all statistics."""
    number = int(call.request.path_params["number"])

    def read() -> Response:
        body = service.downloads.statistics(number)
        if body is None:
            raise RefusedError(404, "unknown_version", "this release of statistics is not served", "sync again")
        return range_response(call.request, body, f'"{number}"')

    return read


def take(service: Service, call: SignedRequest) -> Response:
    """Take a change of a device's statistics."""
    sequence, outcome = requests.take_sent(service, call, service.rounds.take_statistics)
    return refusals.JsonResponse({"sequence": sequence, "status": outcome})
