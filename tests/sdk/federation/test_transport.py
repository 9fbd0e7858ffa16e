"""How requests get out: who answered, when it is asked again, with which certificate and proxy, on which connection."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from homeroom.errors import InputError, NetworkError
from homeroom.federation.enrolment import network_settings, set_network
from homeroom.federation.network import metered, transport
from homeroom.federation.network.settings import NetworkSettings
from homeroom.federation.network.transport import Connection, read_bounded, retry_after
from homeroom.store import Store
from homeroom.system import clock

Handler = Callable[[httpx.Request], httpx.Response]


def ask(handler: Handler, settings: NetworkSettings | None = None) -> transport.Response:
    line = Connection("http://district.example", settings, transport=httpx.MockTransport(handler))
    return line.exchange(lambda: line.request("GET", "/v1/round"), read_bounded(1 << 20, "test"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the retries would have waited, in seconds; nobody really waits."""
    found: list[float] = []
    monkeypatch.setattr("tenacity.nap.time.sleep", found.append)
    return found


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(200, html="<html><h1>Welcome to CafeNet</h1></html>"),
        httpx.Response(403, html="<html>Blocked by the school's filter</html>"),
        httpx.Response(511, text="log in"),
        httpx.Response(302, headers={"location": "http://login.cafe.example/?to=district"}),
    ],
    ids=["page", "filter", "511", "redirect"],
)
def test_a_login_page_is_told_apart_from_the_aggregator_at_once(answer: httpx.Response, waits: list[float]) -> None:
    with pytest.raises(NetworkError, match="in the aggregator's place") as caught:
        ask(lambda _: answer)
    assert "log in" in caught.value.remedy
    assert not waits


def test_an_address_that_moved_is_said_with_the_new_one() -> None:
    with pytest.raises(NetworkError, match=r"https://district\.example/v1/round"):
        ask(lambda _: httpx.Response(301, headers={"location": "https://district.example/v1/round"}))


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_asked_again_after_the_time_it_named(status: int, waits: list[float]) -> None:
    answers = [httpx.Response(status, headers={"retry-after": "7"}), httpx.Response(200, text="here")]
    assert ask(lambda _: answers.pop(0)).body == b"here"
    (waited,) = waits
    assert 7 < waited <= 8  # jitter on top, so that not all come back at once


def test_without_a_time_the_waits_grow_and_an_end_comes(waits: list[float]) -> None:
    assert ask(lambda _: httpx.Response(502, html="<html>bad gateway</html>")).status == 502
    assert len(waits) == transport.ATTEMPTS - 1
    assert all(0 < waited <= 5 for waited in waits)


def test_a_server_that_asks_for_an_hour_is_not_waited_for(waits: list[float]) -> None:
    assert ask(lambda _: httpx.Response(503, headers={"retry-after": "3600"})).status == 503
    assert not waits


def test_a_date_to_come_back_at_is_read_by_the_servers_own_clock() -> None:
    headers = {"date": "Tue, 03 Jan 2040 10:00:00 GMT", "retry-after": "Tue, 03 Jan 2040 10:00:12 GMT"}
    assert retry_after(httpx.Headers(headers)) == 12
    assert retry_after(httpx.Headers({"retry-after": "soon"})) is None


def test_a_lost_connection_is_tried_again(waits: list[float]) -> None:
    tried = []

    def handler(request: httpx.Request) -> httpx.Response:
        tried.append(request)
        if len(tried) < 3:
            raise httpx.ConnectError("reset")
        return httpx.Response(200)

    assert ask(handler).status == 200
    assert len(waits) == 2


def test_an_answer_that_trickles_in_counts_as_none(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    clock = iter(range(0, 10_000, 30))
    monkeypatch.setattr("homeroom.federation.network.transport.time.monotonic", lambda: float(next(clock)))

    def slow() -> Iterator[bytes]:
        yield from [b"x"] * 100

    with pytest.raises(NetworkError, match="fewer than"):
        ask(lambda _: httpx.Response(200, content=slow()))


# TLS and clocks


def certificate(folder: Path, name: str, first: int, last: int) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 that holds from the year `first` to `last`; (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(first, 1, 1))
        .not_valid_after(datetime.datetime(last, 1, 1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / f"{name}.pem", folder / f"{name}.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    pkcs8 = serialization.PrivateFormat.PKCS8
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, serialization.NoEncryption()))
    return paths


class Hello(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def https(paths: tuple[Path, Path]) -> Iterator[str]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*paths)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield f"https://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(60)


def visit(address: str, settings: NetworkSettings | None = None) -> bytes:
    line = Connection(address, settings)
    try:
        return line.exchange(lambda: line.request("GET", "/"), read_bounded(100, "test")).body
    finally:
        line.close()


@pytest.mark.parametrize(("first", "last"), [(2001, 2005), (2090, 2095)], ids=["ahead", "behind"])
def test_a_clock_that_is_years_off_is_named_and_can_be_left_aside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int, last: int
) -> None:
    paths = certificate(tmp_path, "district", first, last)
    monkeypatch.setenv("SSL_CERT_FILE", str(paths[0]))
    with https(paths) as address:
        with pytest.raises(NetworkError, match="at this machine's time") as caught:
            visit(address)
        assert "set the clock" in caught.value.remedy
        assert visit(address, NetworkSettings(clock="ignore")) == b"ok"
        monkeypatch.setattr(clock, "now", lambda: datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))
        assert visit(address) == b"ok"  # before the release of this software: plainly wrong


def test_a_certificate_of_somebody_else_is_refused_whatever_the_clock_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waits: list[float]
) -> None:
    ours, theirs = certificate(tmp_path, "district", 2001, 2095), certificate(tmp_path, "cafe", 2001, 2095)
    monkeypatch.setenv("SSL_CERT_FILE", str(ours[0]))
    with https(theirs) as address:
        for settings in (NetworkSettings(), NetworkSettings(clock="ignore")):
            with pytest.raises(NetworkError, match="another TLS certificate"):
                visit(address, settings)
    assert not waits


# Settings


def test_settings_are_remembered_and_impossible_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Store.open(tmp_path / "device") as store:
        set_network(store, proxy="http://proxy.school:3128")
        set_network(store, metered="allow")
        assert network_settings(store) == NetworkSettings(proxy="http://proxy.school:3128", metered="allow")
        for wrong in ({"metered": "often"}, {"proxy": "proxy.school"}, {"address": "district"}):
            ((name, value),) = wrong.items()
            with pytest.raises(InputError, match=f"^'{value}' is no {name}"):
                set_network(store, **wrong)
        assert network_settings(store).metered == "allow"


def test_a_proxy_is_used_where_one_is_named() -> None:
    seen = []

    class Proxy(Hello):
        def do_GET(self) -> None:
            seen.append(self.path)
            super().do_GET()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        line = NetworkSettings(proxy=f"http://127.0.0.1:{server.server_address[1]}")
        assert visit("http://district.example", line) == b"ok"
    finally:
        server.shutdown()
        server.server_close()
    assert seen == ["http://district.example/"]


# Mobile data

WIFI = (
    "GENERAL.DEVICE:wlan0\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:{}\nIP4.GATEWAY:192.168.1.1\nIP6.GATEWAY:--\n"
)
BRIDGE = "GENERAL.DEVICE:br0\nGENERAL.STATE:100 (connected)\nGENERAL.METERED:no\nIP4.GATEWAY:\nIP6.GATEWAY:\n"


def pretend(folder: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """An `nmcli` that says this, alone on the path."""
    tool = folder / "nmcli"
    tool.write_text(f"#!{sys.executable}\nprint({said!r})\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.skipif(sys.platform != "linux", reason="NetworkManager")
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (WIFI.format("yes"), True),
        (WIFI.format("yes (guessed)") + "\n" + BRIDGE, True),
        (WIFI.format("no (guessed)"), False),
        (WIFI.format("yes") + "\n" + WIFI.format("no"), False),
        (WIFI.format("unknown"), None),
        ("", None),
    ],
)
def test_mobile_data_is_noticed_where_network_manager_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: bool | None
) -> None:
    pretend(tmp_path, monkeypatch, said)
    assert metered.is_metered() is told
    (tmp_path / "nmcli").unlink()
    assert metered.is_metered() is None


@pytest.mark.parametrize(
    ("setting", "told", "goes"),
    [
        ("auto", True, False),
        ("auto", None, True),
        ("allow", True, True),
        ("refuse", None, False),
        ("refuse", False, True),
    ],
)
def test_the_switch_decides_what_happens_on_mobile_data(
    monkeypatch: pytest.MonkeyPatch, setting: str, told: bool | None, goes: bool
) -> None:
    monkeypatch.setattr(metered, "is_metered", lambda: told)
    settings = NetworkSettings(metered=setting)  # type: ignore[arg-type]
    if goes:
        metered.check_metered(settings)
    else:
        with pytest.raises(NetworkError, match="metered"):
            metered.check_metered(settings)


def test_the_command_line_knows_the_switches() -> None:
    from homeroom.cli.main import homeroom

    told = CliRunner().invoke(homeroom, ["device", "network", "--help"]).output
    assert all(option in told for option in ("--address", "--proxy", "--metered", "--clock"))
