"""HTTP handlers of secure rounds, of updates, statistics and evaluations: the same requests on three paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.responses import Response

from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.server import refusals, requests
from homeroom_aggregator.server.refusals import RefusedError
from homeroom_aggregator.server.requests import SignedRequest
from homeroom_aggregator.server.service import Service


@dataclass(frozen=True)
class SecureRoutes:
    """The handlers of one kind of secure rounds. path: of its requests. rounds: of a service, where it has them."""

    path: str
    rounds: Callable[[Service], SecureRounds | None]

    def status(self, service: Service, call: SignedRequest) -> Response:
        """The secure round under way and the device's status in it."""
        return refusals.JsonResponse(self._rounds(service).status(call.who.device))

    def get(self, service: Service, call: SignedRequest) -> Response:
        """The message that the device needs for the secure round's present phase."""
        message = self._rounds(service).get(str(call.request.path_params["round"]), call.who.device)
        return Response(message, media_type="application/octet-stream")

    def put(self, service: Service, call: SignedRequest) -> Response:
        """Take the device's message of a secure round's phase."""
        secure_rounds, phase = self._rounds(service), str(call.request.path_params["phase"])
        requests.may_send(service, call)
        secure_rounds.put(str(call.request.path_params["round"]), phase, call.who.device, call.body)
        if phase == "input":
            service.meter.accepted(call.who.name, len(call.body))
        return refusals.JsonResponse({"status": "accepted"})

    def _rounds(self, service: Service) -> SecureRounds:
        rounds = self.rounds(service)
        if rounds is None:
            raise RefusedError(404, "plain_rounds", "there are no secure rounds here", "sync again")
        return rounds


UPDATES = SecureRoutes("/secure", lambda service: service.secure_rounds)
EVALUATION = SecureRoutes("/secure-evaluation", lambda service: service.secure_evaluation)
STATISTICS = SecureRoutes("/secure-statistics", lambda service: service.secure_statistics)
