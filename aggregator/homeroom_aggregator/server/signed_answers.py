"""Signs every answer of the aggregator for the request that it answers (`contract.http_signatures`)."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from homeroom.contract import http_signatures
from homeroom_aggregator.server import requests
from homeroom_aggregator.server.downloads import StoredFile
from homeroom_aggregator.server.service import Service


def sign_response(service: Service, request: Request, response: Response, device: str = "") -> None:
    """Signs an answer for its request, and adds the nonce for the next one.

    device: the member that asked, if it is known.
    """
    sent, nonce = requests.as_sent(request), service.nonces.new(device)
    authenticated = getattr(request.state, "authenticated", False)
    response.headers.update({http_signatures.NONCE_HEADER: nonce, "cache-control": "no-store"})

    def signature(status: int, digest: str) -> dict[str, str]:
        return http_signatures.sign_answer(service.rounds.key, sent, status, nonce, digest, authenticated=authenticated)

    if isinstance(response, StoredFile):
        response.sign = signature
    else:
        digest = response.headers.setdefault("content-digest", http_signatures.content_digest(bytes(response.body)))
        response.headers.update(signature(response.status_code, digest))
