"""The agent's local page: on 127.0.0.1, with a random token and no scripts.

With the token, in a file that only the agent's user can read, a person sees the status and gives or corrects labels.
Requests with another Host are refused, so that no web page reaches it by DNS rebinding.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import TimeoutError as TooSlowError
from functools import partial
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec

from homeroom.agent import labels
from homeroom.agent.acceptance import accept
from homeroom.agent.decisions import Confirmation, consent_question, removal_question, remove_sample, set_consent
from homeroom.agent.inbox import LeftEntries, left_entries, refuse_entry, refused_entries
from homeroom.agent.label_form import is_asked, is_in_form, read_labels
from homeroom.agent.loop import Agent
from homeroom.agent.status import AGENT_FOLDER, status_lines
from homeroom.agent.taken_in import TAKEN_IN
from homeroom.data.consent import CONSENT_STATES
from homeroom.data.samples import InputReference, StoredSample
from homeroom.data.tasks import kind_of
from homeroom.data.validation import check_label
from homeroom.device.consents import undecided_consents
from homeroom.device.device import Device
from homeroom.device.local_labels import answering, reading_manifest
from homeroom.errors import HomeroomError, InputError
from homeroom.federation.enrolment import ENROLMENT
from homeroom.store.local_labels import LOCAL_SCOPES
from homeroom.store.subject_export import media_format
from homeroom.system.files import read_small, write_durable
from homeroom.system.html.render import render, style_source
from homeroom.train.solve.local_labels import with_labels

HOST, PAGE_FILE, COOKIE = "127.0.0.1", "page.json", "homeroom"
BODY_LIMIT_BYTES = 64 << 10
SAMPLES_PER_PAGE = 20
AGENT_TIMEOUT_S = 30.0  # for a request, until the agent does its work
TEMPLATE, QUESTION_TEMPLATE = (Path(__file__).with_name(name) for name in ("page.html", "question.html"))
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src {style_source()}; img-src 'self' data:; media-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
SAFE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

Fields = dict[str, list[str]]  # of a form
Outcome = str | Confirmation
LabelWork = Callable[[Device, Mapping[str, str]], Outcome]


class PageAddress(msgspec.Struct, frozen=True):
    """The page's address, in a file beside the status, for the agent's user alone."""

    port: int
    token: str

    @property
    def url(self) -> str:
        """The URL with the token."""
        return f"http://{HOST}:{self.port}/?token={self.token}"


class PageServer(ThreadingHTTPServer):
    """Serves from threads of its own until `close`; the agent's thread does all work on the device."""

    daemon_threads = True

    def __init__(self, agent: Agent, port: int = 0) -> None:
        super().__init__((HOST, port), PageHandler)
        self.agent = agent
        self.address = PageAddress(self.server_port, secrets.token_urlsafe(24))
        self.hosts = {f"{HOST}:{self.server_port}", f"localhost:{self.server_port}"}
        folder = agent.settings.directory / AGENT_FOLDER
        write_durable(folder / PAGE_FILE, msgspec.json.encode(self.address))
        self._thread = threading.Thread(target=self.serve_forever, name="homeroom page", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the server and removes the address."""
        self.shutdown()
        self.server_close()
        (self.agent.settings.directory / AGENT_FOLDER / PAGE_FILE).unlink(missing_ok=True)


def find_page(directory: Path) -> PageAddress | None:
    """The address of the page of a directory's agent; None if it does not run."""
    try:
        return msgspec.json.decode(read_small(directory / AGENT_FOLDER / PAGE_FILE), type=PageAddress)
    except (OSError, msgspec.DecodeError):
        return None


class PageHandler(BaseHTTPRequestHandler):
    """Handles one request.

    GET: /, /status.json, /media/SAMPLE/SLOT/INDEX. POST: those of POSTS.
    """

    server: PageServer
    timeout = 20.0
    server_version, sys_version = "homeroom", ""

    def log_message(self, *_: Any) -> None:
        """Requests are not logged: an address could name a sample."""

    def do_GET(self) -> None:
        """Answers a GET request."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Answers a POST request."""
        self._answer(self._post)

    def _answer(self, work: Any) -> None:
        try:
            if self.headers.get("Host") not in self.server.hosts:
                self._send(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
            else:
                work()
        except TooSlowError:
            self._send(HTTPStatus.SERVICE_UNAVAILABLE, "the device is busy: try again in a minute")
        except HomeroomError as problem:
            self._send(HTTPStatus.BAD_REQUEST, str(problem))

    def _get(self) -> None:
        parts = urlsplit(self.path)
        query = parse_qs(parts.query)
        if tokens := query.get("token"):
            if not self._is_token(tokens[0]):
                return self._send(HTTPStatus.FORBIDDEN, "the token is not the right one")
            self.send_response(HTTPStatus.SEE_OTHER)
            cookie = f"{COOKIE}={self.server.address.token}; HttpOnly; SameSite=Strict; Path=/"
            self._headers({"Location": "/", "Set-Cookie": cookie, "Content-Length": "0"})
            return None
        if not self._is_token(self._cookie()):
            return self._send(HTTPStatus.FORBIDDEN, "open the address with its token: `homeroom device page DIRECTORY`")
        if parts.path == "/status.json":
            return self._send(HTTPStatus.OK, msgspec.json.encode(self.server.agent.status), "application/json")
        if parts.path.startswith("/media/"):
            return self._media(parts.path.split("/")[2:])
        if parts.path != "/":
            return self._send(HTTPStatus.NOT_FOUND, "there is no such page")
        start = query.get("from", ["0"])[0]
        return self._page(int(start) if start.isdigit() and len(start) < 8 else 0, "")

    def _post(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > BODY_LIMIT_BYTES:
            return self._send(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "that is more than a form holds")
        body = self.rfile.read(int(length)).decode("utf-8", errors="replace")
        fields = parse_qs(body, keep_blank_values=True, max_num_fields=500)
        if not self._is_token(self._cookie()) or not self._is_token(fields.get("token", [""])[0]):
            return self._send(HTTPStatus.FORBIDDEN, "open the address with its token: `homeroom device page DIRECTORY`")
        if self.path not in POSTS:
            return self._send(HTTPStatus.NOT_FOUND, "there is no such page")
        work = POSTS[self.path]
        outcome = self.server.agent.ask(lambda device: work(self, device, fields), AGENT_TIMEOUT_S)
        return self._page(0, outcome) if isinstance(outcome, str) else self._ask_again(outcome)

    def _ask_again(self, question: Confirmation) -> None:
        """The second step of a decision."""
        html = render(QUESTION_TEMPLATE, question=question, token=self.server.address.token)
        self._send(HTTPStatus.OK, html, "text/html")

    def _left(self, device: Device) -> LeftEntries:
        inbox = self.server.agent.settings.inbox
        return left_entries(inbox, ENROLMENT.read(device.store)) if inbox else LeftEntries()

    def decide(self, device: Device, fields: Fields, yes: bool) -> str:
        """Accepts or refuses an entry that waits for a person's yes; returns what was done."""
        name, digest = first(fields, "name"), first(fields, "digest")
        inbox, waiting = self.server.agent.settings.inbox, self._left(device).waiting
        if inbox is None or (name, digest) not in [(entry.name, entry.digest) for entry in waiting]:
            raise InputError("has changed or gone", where=name, remedy="open the page again")
        if yes:
            return accept(device, inbox / name, digest)
        refuse_entry(inbox / name, InputError("a person said no on the page"))
        return "It lies in refused/ now."

    def _page(self, start: int, notice: str) -> None:
        html = self.server.agent.ask(lambda device: self._render(device, start, notice), AGENT_TIMEOUT_S)
        self._send(HTTPStatus.OK, html, "text/html")

    def _render(self, device: Device, start: int, notice: str) -> str:
        """The page with the samples from number `start` on; in the agent's thread, which alone reads the store."""
        status, (total, samples) = self.server.agent.status, list_samples(device, start)
        inbox = self.server.agent.settings.inbox
        return render(
            TEMPLATE,
            status=status,
            lines=status_lines(status),
            refused=refused_entries(inbox) if inbox else [],
            left=self._left(device),
            taken_in=TAKEN_IN.read(device.store) or [],
            notice=notice,
            manifest=reading_manifest(device.store, device.bundle.manifest),
            own_labels=labels.own_labels(device),
            taking_tasks=labels.taking_tasks(device),
            scopes=LOCAL_SCOPES,
            samples=samples,
            undecided=undecided_consents(device.store),
            states=CONSENT_STATES[:3],
            start=start,
            total=total,
            limit=SAMPLES_PER_PAGE,
            token=self.server.address.token,
            is_asked=is_asked,
            kind_of=kind_of,
        )

    def _media(self, parts: list[str]) -> None:
        media: bytes | None = None
        if len(parts) == 3:
            media = self.server.agent.ask(lambda device: read_media(device, parts), AGENT_TIMEOUT_S)
        if media is None:
            return self._send(HTTPStatus.NOT_FOUND, "there is no such file")
        return self._send(HTTPStatus.OK, media, media_format(media)[1])

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.server.address.token.encode())

    def _cookie(self) -> str:
        try:
            cookie = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return cookie.value if cookie else ""

    def _send(self, status: HTTPStatus, body: str | bytes, kind: str = "text/plain") -> None:
        data = body.encode() if isinstance(body, str) else body
        self.send_response(status)
        text = kind.startswith("text/") or kind.endswith("json")
        self._headers({"Content-Type": f"{kind}; charset=utf-8" if text else kind, "Content-Length": str(len(data))})
        self.wfile.write(data)

    def _headers(self, more: dict[str, str]) -> None:
        for name, value in (SAFE_HEADERS | more).items():
            self.send_header(name, value)
        self.end_headers()


def put_back(_: PageHandler, device: Device, fields: Fields) -> str:
    """Releases a sample from quarantine."""
    device.put_back(first(fields, "sample"))
    return "It is back: the next training learns from all of it."


def label(_: PageHandler, device: Device, fields: Fields) -> str:
    """Gives a sample the labels of a form."""
    save_labels(device, first(fields, "sample"), fields)
    return "The labels are saved; the next training learns from them."


def decide_consent(_: PageHandler, device: Device, fields: Fields) -> str | Confirmation:
    """Asks what a consent shall be, then sets it."""
    given = {name: values[0] for name, values in fields.items()}
    return set_consent(device, given, given["seen"]) if "seen" in given else consent_question(device, given)


def remove(_: PageHandler, device: Device, fields: Fields) -> str | Confirmation:
    """Asks whether a sample shall go, then removes it."""
    sample_id = first(fields, "sample")
    if "seen" in fields:
        return remove_sample(device, sample_id, first(fields, "seen"))
    return removal_question(device, sample_id)


def change_label(_: PageHandler, device: Device, fields: Fields, work: LabelWork, ask: LabelWork | None) -> Outcome:
    """Adds, renames, merges or removes a label of this device; `ask` is the first step of what takes two."""
    given = {name: values[0] for name, values in fields.items()}
    return work(device, given) if ask is None or "seen" in given else ask(device, given)


def first(fields: Fields, name: str) -> str:
    """A field's first value; empty where the form has none."""
    return fields.get(name, [""])[0]


POSTS: dict[str, Callable[[PageHandler, Device, Fields], Outcome]] = {
    "/label": label,
    "/put-back": put_back,
    "/accept": lambda page, device, fields: page.decide(device, fields, yes=True),
    "/decline": lambda page, device, fields: page.decide(device, fields, yes=False),
    "/consent": decide_consent,
    "/remove": remove,
    "/labels/add": partial(change_label, work=labels.add_label, ask=None),
    "/labels/rename": partial(change_label, work=labels.rename, ask=None),
    "/labels/remove": partial(change_label, work=labels.remove, ask=labels.removal),
    "/labels/merge": partial(change_label, work=labels.merge, ask=labels.merging),
}


def list_samples(device: Device, start: int) -> tuple[int, list[StoredSample]]:
    """The number of samples, and those from `start` on: quarantined ones, those without labels, then the newest."""
    facts = [(sample.sample_id, bool(sample.every_label)) for sample in device.store.each_without_inputs()]
    order = [sample.sample_id for sample in device.set_aside()]
    quarantined = set(order)
    for wanted in (False, True):
        order += [one for one, labelled in reversed(facts) if labelled == wanted and one not in quarantined]
    stored = [device.store.sample(sample_id) for sample_id in order[start : start + SAMPLES_PER_PAGE]]
    opened = [sample and device.store.with_inputs(sample, ("text", "table", "sequence")) for sample in stored]
    return len(order), [sample for sample in opened if sample is not None]


def save_labels(device: Device, sample_id: str, fields: dict[str, list[str]]) -> None:
    """Checks a form's labels and replaces the sample's; raises InputError where one is not the task's.

    A label of this device that the form does not offer, since its name is in question, stays where no other is given.
    """
    local = answering(device.store, device.bundle.manifest)
    manifest = with_labels(device.bundle.manifest, local)
    given = {name: check_label(manifest.task(name), value) for name, value in read_labels(manifest, fields).items()}
    sample = device.store.sample(sample_id)
    if sample is None:
        raise InputError("there is no such sample", remedy="open the page again: it may have changed")
    shown = {task.name for task in manifest.tasks if is_in_form(task)}  # spans are not marked on this page
    other = {name: label for name, label in sample.labels.items() if name not in shown}
    own = {name: label for name, label in given.items() if label in local.get(name, ())}
    kept = {n: label for n, label in sample.local_labels.items() if n not in given and label not in local.get(n, ())}
    bundled = {name: label for name, label in given.items() if name not in own}
    device.store.relabel(sample_id, other | bundled, kept | own)
    device.learn_labels()


def read_media(device: Device, parts: list[str]) -> bytes | None:
    """The bytes of an input, by sample id, slot and index; None if there are none."""
    sample_id, slot, index = parts
    sample = device.store.sample(sample_id)
    values = sample.inputs.get(slot, []) if sample else []
    reference = values[int(index)] if index.isdigit() and int(index) < len(values) else None
    if sample is None or not isinstance(reference, InputReference) or reference.kind != "media":
        return None
    value = device.store.read_input(sample, reference)
    return value if isinstance(value, bytes) else None
