"""The documented nginx in front of the true server: its path taken off, its Host kept, or not kept."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from aggregator.institution import learn, staying_port
from aggregator.server.test_downgrade import District, district  # noqa: F401, a fixture
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.errors import NetworkError
from homeroom.federation.network import discovery
from homeroom.federation.network.tls import tls_context
from homeroom_aggregator.admin.certificate import tls_files
from homeroom_aggregator.admin.configuration import ServerSection

pytestmark = pytest.mark.skipif(shutil.which("nginx") is None, reason="nginx is not installed")
PAGE = Path(__file__).resolve().parents[3] / "docs" / "aggregator.md"


@contextlib.contextmanager
def nginx(tmp_path: Path, upstream: int, drop: str = "") -> Iterator[int]:
    """The documented server block, on a free port; a line that holds `drop` is left out."""
    (block,) = re.findall(r"```nginx\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (tmp_path / "n").mkdir()
    files = tls_files(tmp_path / "n", ServerSection(host="0.0.0.0", insecure=False))
    assert files
    port = staying_port()
    lines = [line for line in block.splitlines() if not drop or drop not in line]
    changes = {"443 ssl": f"127.0.0.1:{port} ssl", "127.0.0.1:8340": f"127.0.0.1:{upstream}"}
    changes |= {"/etc/ssl/district.pem": str(files[0]), "/etc/ssl/district.key": str(files[1])}
    text = "\n".join(lines)
    for old, new in changes.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    (tmp_path / "n" / "logs").mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "".join(f"{kind}_temp_path {tmp_path}/n/{kind};" for kind in kinds)
    whole = (
        f"daemon off; pid {tmp_path}/n/pid; error_log stderr; events {{}} http {{ access_log off; {paths}\n{text} }}"
    )
    (tmp_path / "n" / "conf").write_text(whole)
    process = subprocess.Popen(["nginx", "-p", str(tmp_path / "n"), "-c", str(tmp_path / "n" / "conf")])
    try:
        for _ in range(1000):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait(60)


def homeroom_command(*words: str) -> str:
    done = CliRunner().invoke(homeroom, words)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("kept", [True, False])
def test_devices_come_through_the_documented_nginx(
    kept: bool,
    district: District,  # noqa: F811
    tmp_path: Path,
) -> None:
    with nginx(tmp_path, district.port, "" if kept else "proxy_set_header") as port:
        address = f"https://localhost:{port}/homeroom"
        files = ["--bundle", f"{tmp_path}/bundle", "--root-key", f"{tmp_path}/root.pem", "--address", address]
        district.serve(*files, "--buffer", "1", "--min-devices", "1")
        invitation = district.invitation(address)
        assert (invitation.address, invitation.pin) == (address, "")
        pinned = msgspec.structs.replace(invitation, pin=discovery.shown_pin(address))  # in place of an authority
        (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(pinned))
        with Device.open(tmp_path / "c", tmp_path / "bundle") as device:
            if not kept:
                with pytest.raises(NetworkError):
                    device.join(tmp_path / "invitation.json")
                return
            device.join(tmp_path / "invitation.json")
            learn(device, 0.5)
            assert len(device.sync().sent) == 1
            assert device.sync().version == 1
        link = homeroom_command("district", "dashboard", str(district.folder)).splitlines()[-1]
        assert link.startswith(f"{address}/dashboard/enter?code=")
        with httpx.Client(verify=tls_context(pinned.pin)) as browser:
            code = link.partition("code=")[2]
            entered = browser.post(f"{address}/dashboard/enter", data={"code": code}, follow_redirects=True)
            assert entered.status_code == 200
            (cookie,) = browser.cookies.jar
            assert (cookie.path, cookie.secure) == ("/homeroom/dashboard", True)
            links = re.findall(r'(?:href|action)="(/[^"]*)"', entered.text)
            assert links
            assert [one for one in links if not one.startswith("/homeroom/dashboard")] == []
            pages = re.findall(r'href="(/[^"]*)"', entered.text)
            assert {browser.get(f"https://localhost:{port}{one}").status_code for one in pages} == {200}
