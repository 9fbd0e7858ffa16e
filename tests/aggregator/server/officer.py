"""An officer in a browser, and the devices of a district, for the tests of the dashboard."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from aggregator import institution
from aggregator.institution import School
from homeroom.federation.network.client import Client
from homeroom_aggregator.admin.folder import open_log, read_secret
from homeroom_aggregator.server.service import Service
from homeroom_aggregator.state import login_links
from homeroom_aggregator.state.members import Role

EVIL = "<img src=x onerror=alert(1)>"
PAGES = ("", "/schools", "/segments", "/privacy", "/versions", "/audit")


def folder(service: Service) -> Path:
    return service.rounds.log.database.path.parent


def enrol(service: Service, address: str, school: str = "", role: Role = "device", consent: str = "letter") -> Client:
    return institution.enrol(service, address, school, role, consents={school: consent} if school and consent else None)


def send(client: Client, delta: float = 0.5) -> None:
    base = httpx.get(f"{client.enrolment.address}/v1/health").json()["version"]
    client.update(School(client.key).update(client.round(), delta, base))


def link(service: Service, rank: login_links.Rank = "district", **more: Any) -> str:
    with contextlib.closing(open_log(folder(service))) as log:
        return login_links.make_link(log.database, read_secret(folder(service)), login_links.LoginLink(rank), **more)


@contextlib.contextmanager
def signed_in(service: Service, address: str, rank: login_links.Rank = "district") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, follow_redirects=True) as browser:
        answer = browser.post("/dashboard/enter", data={"code": link(service, rank)})
        assert answer.status_code == 200, answer.text
        yield browser


def word(page: str) -> str:
    return re.findall(r'name="form" value="([^"]+)"', page)[0]


def confirmed(browser: httpx.Client, path: str, why: str = "because") -> dict[str, str]:
    """What the form of an action's page sends."""
    page = browser.get(f"/dashboard{path}")
    assert page.status_code == 200, text(page.text)
    return {"form": word(page.text), "seen": re.findall(r'name="seen" value="([^"]+)"', page.text)[0], "why": why}


def text(page: str) -> str:
    """What a reader sees of a page."""
    return re.sub(r"\s+", " ", re.sub(r"<style>.*?</style>|<[^>]+>", " ", page, flags=re.S))
