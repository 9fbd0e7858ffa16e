"""Refusals as HTTP answers: status, code and sentence."""

from __future__ import annotations

from math import ceil
from typing import Any

import msgspec
from starlette.responses import Response

from homeroom.errors import DiskFullError, HomeroomError, SignalError, StoreError, UpdateError

HTTP_STATUS = {  # of an update's refusal, by its code; else 422
    "bad_signature": 401,
    **dict.fromkeys(("unknown_device", "not_member"), 403),
    **dict.fromkeys(("too_stale", "unknown_version", "not_selected", "once_a_version", "once_a_release"), 409),
    **dict.fromkeys(("budget_spent", "secure_only", "past_phase", "full"), 409),
    "too_long": 413,
}


INPUT_STATUS = {"not_allowed": 403, "unknown_school": 404, "unknown_device": 404}  # of an InputError; else 400


class JsonResponse(Response):
    """An answer of JSON: of plain values, and of the contracts' own structures."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """The content as JSON."""
        return msgspec.json.encode(content)


class RefusedError(SignalError):
    """Ends a request with a status, a code, a message and a remedy; changes nothing."""

    def __init__(self, status: int, code: str, message: str, remedy: str = "", wait_s: float = 0) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        self.status, self.code, self.message, self.remedy = status, code, message, remedy


def refusal_of(problem: HomeroomError | RefusedError) -> RefusedError:
    """The HTTP refusal for an error."""
    if isinstance(problem, RefusedError):
        return problem
    if isinstance(problem, UpdateError):
        return RefusedError(HTTP_STATUS.get(problem.code, 422), problem.code, problem.what, problem.remedy)
    if isinstance(problem, DiskFullError):
        return RefusedError(507, "disk_full", "the aggregator's disk is full", "try again later; nothing was changed")
    if isinstance(problem, StoreError):
        return RefusedError(503, "store", "the aggregator's store cannot be used", "try again later; tell the operator")
    status = INPUT_STATUS.get(problem.code)
    return RefusedError(status or 400, problem.code if status else "malformed", problem.what, problem.remedy)


def refusal_response(refusal: RefusedError) -> JsonResponse:
    """The answer that says a refusal."""
    body = {"code": refusal.code, "message": refusal.message, "remedy": refusal.remedy}
    headers = {"retry-after": str(ceil(refusal.wait_s))} if refusal.wait_s else None
    return JsonResponse(body, refusal.status, headers)


def answer_to(problem: HomeroomError | RefusedError) -> tuple[str, JsonResponse]:
    """The code and the answer for an error; a caller that kept the refusal itself would be garbage with its frame."""
    refusal = refusal_of(problem)
    return refusal.code, refusal_response(refusal)
