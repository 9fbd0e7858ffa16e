"""Where a request's head ends and how long its body is, found without a parser; what is refused before one sees it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

HEAD_LINES = 100
FIRST_LETTER = 0x21  # a request begins with a method; below are blanks, line ends, and a record of TLS (0x16)
_END = re.compile(rb"\n\r?\n")
_BODY_FIELD = re.compile(rb"\n(content-length|transfer-encoding):[ \t]*([^\r\n]*)", re.IGNORECASE)


def refusal(status: str, code: str, message: str, remedy: str) -> bytes:
    """A whole answer, after which the connection is closed."""
    body = json.dumps({"code": code, "message": message, "remedy": remedy})
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n{body}".encode()


TOO_LONG = refusal(
    "431 Request Header Fields Too Large", "too_long", "the head is too long", "send fewer and shorter fields"
)
NO_HTTP = refusal("400 Bad Request", "malformed", "this is no HTTP request", "speak HTTP/1.1")
NO_LENGTH = refusal("400 Bad Request", "malformed", "the body's length is not one number", "send one Content-Length")
CHUNKED = refusal(
    "411 Length Required", "length_required", "a body in chunks is not read", "send it with a Content-Length"
)


@dataclass(frozen=True)
class RequestHead:
    """A whole head: where it ends, and how many bytes of body follow; or the refusal of one that is none.

    only_reads: whether its method is GET.
    """

    end: int = 0
    body_bytes: int = 0
    refusal: bytes = b""
    only_reads: bool = False


def read_head(data: bytes | bytearray, searched: int, limit_bytes: int) -> RequestHead | None:
    """The head at the beginning of `data`, which is not empty; None where its end has not come.

    searched: bytes of `data` that an earlier call has seen.
    """
    if data[0] < FIRST_LETTER:
        return RequestHead(refusal=NO_HTTP)
    found = _END.search(data, max(0, searched - 2))
    end = found.end() if found else len(data)
    if end > limit_bytes or data.count(b"\n", 0, end) > HEAD_LINES:
        return RequestHead(refusal=TOO_LONG)
    if found is None:
        return None
    fields = _BODY_FIELD.findall(data, 0, end)
    if any(name.lower() == b"transfer-encoding" for name, _ in fields):
        return RequestHead(refusal=CHUNKED)
    length = fields[0][1].rstrip() if fields else b"0"
    if len(fields) > 1 or not length.isdigit() or len(length) > 18:
        return RequestHead(refusal=NO_LENGTH)
    return RequestHead(end, int(length), only_reads=data.startswith(b"GET "))
