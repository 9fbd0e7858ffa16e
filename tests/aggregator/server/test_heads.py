"""Heads are found without a parser, and begin and end where the parser has them begin and end."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom_aggregator.server.heads import CHUNKED, HEAD_LINES, NO_HTTP, NO_LENGTH, TOO_LONG, RequestHead, read_head

LIMIT_BYTES = 1 << 14
TOKENS = st.text("abcdefgh-", min_size=1, max_size=12)
VALUES = st.text("abc ,;=\"'/:0123456789\xe9", max_size=30).map(str.strip)


@st.composite
def requests(draw: st.DrawFn) -> tuple[bytes, int]:
    """A request's bytes, and the length of its body."""
    end, size = draw(st.sampled_from(("\r\n", "\n"))), draw(st.integers(0, 30))
    fields = [f"{name}: {value}" for name, value in draw(st.lists(st.tuples(TOKENS, VALUES), max_size=5))]
    length = draw(st.sampled_from(("content-length", "Content-Length", "CONTENT-LENGTH")))
    fields.insert(draw(st.integers(0, len(fields))), f"{length}:{draw(st.sampled_from(('', ' ', chr(9))))}{size}")
    lines = ["POST /v1/join HTTP/1.1", "host: x", *fields, "", ""]
    return end.join(lines).encode("latin-1") + b"\n" * size, size


@given(requests())
def test_a_head_and_its_body_are_those_of_the_parser(request: tuple[bytes, int]) -> None:
    data, size = request
    head = read_head(data, 0, LIMIT_BYTES)
    assert head == RequestHead(len(data) - size, size)
    for end in range(1, head.end):
        assert read_head(data[:end], end - 1, LIMIT_BYTES) is None
    parser = h11.Connection(h11.SERVER)
    parser.receive_data(data[: head.end])
    assert isinstance(parser.next_event(), h11.Request)
    if size:
        assert parser.next_event() is h11.NEED_DATA
        parser.receive_data(data[head.end :])
    events = []
    while not events or not isinstance(events[-1], h11.EndOfMessage):
        events.append(parser.next_event())
    assert sum(len(event.data) for event in events if isinstance(event, h11.Data)) == size
    assert parser.trailing_data == (b"", False)


START = b"POST /v1/join HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    ("data", "refusal"),
    [
        (b"\x16\x03\x01", NO_HTTP),
        (b" GET / HTTP/1.1", NO_HTTP),
        (b"\r\n", NO_HTTP),
        (START + b"a: " + b"y" * LIMIT_BYTES, TOO_LONG),
        (START + b"a:\r\n" * HEAD_LINES, TOO_LONG),
        (START + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED),
        (START + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n", CHUNKED),
        (START + b"content-length: 5\r\ncontent-length: 5\r\n\r\n", NO_LENGTH),
        (START + b"content-length: 5, 5\r\n\r\n", NO_LENGTH),
        (START + b"content-length: +5\r\n\r\n", NO_LENGTH),
        (START + b"content-length: \xb2\r\n\r\n", NO_LENGTH),
        (START + b"content-length:\r\n\r\n", NO_LENGTH),
    ],
)
def test_a_head_is_refused_before_a_parser_sees_it(data: bytes, refusal: bytes) -> None:
    assert read_head(data, 0, LIMIT_BYTES) == RequestHead(refusal=refusal)


def test_a_body_is_no_part_of_a_head() -> None:
    body = b"\n\ncontent-length: 7\ntransfer-encoding: chunked\n\n"
    data = START + b"content-length: %d\r\n\r\n" % len(body)
    assert read_head(data + body, 0, LIMIT_BYTES) == RequestHead(len(data), len(body))
    assert read_head(START + b"\r\n" + b"\n" * 200, 0, LIMIT_BYTES) == RequestHead(len(START) + 2, 0)
