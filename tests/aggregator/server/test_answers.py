"""Answers that somebody forges between device and aggregator, over true HTTP: nothing on the device changes by them."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner
from conftest import Attack
from faults import proxy

from aggregator.institution import learn, running
from aggregator.server.forging import Answer, Asked, Forge, Forger, json_answer
from homeroom import Device
from homeroom.cli.main import homeroom
from homeroom.contract import http_signatures
from homeroom.contract.invitation import enrolment_of
from homeroom.contract.signing import certify, new_key
from homeroom.errors import AnswerError, NetworkError, TrustError
from homeroom.federation import enrolment
from homeroom.federation.enrolment import set_network
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.server.service import Service

FORGED = "forged or stale answers: receipts, refusals, versions, rounds, keys"


@pytest.fixture(autouse=True)
def quickly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # bundles without graphs


@pytest.fixture
def rules() -> dict[str, Any]:
    return {"buffer_size": 1, "min_devices": 1}


@contextlib.contextmanager
def classroom(tmp_path: Path, address: str) -> Iterator[Device]:
    """A device that has joined, with version 1, an update that waits, and one that is to be unlearned."""
    (invitation,) = invite_devices(tmp_path / "district", address, 1)
    (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    with Device.open(tmp_path / "classroom", tmp_path / "bundle") as device:
        device.join(tmp_path / "invitation.json")
        learn(device, 0.5, ("p-1",))
        assert device.sync().version == 1
        device.forget("p-1")
        learn(device, 0.25, ("p-2",))
        yield device


def state(device: Device) -> dict[str, Any]:
    """All that answers may change: queues, keys, terms, versions."""
    store = device.store
    secrets = ("identity.key", "identity.round", "identity.enrolment", "identity.aggregator", "identity.promise")
    versions = [(version.version_id, version.base) for version in store.versions.all()]
    return {
        "waiting": [(update.update_id, update.data) for update in store.outbox.pending()],
        "unlearn": store.outbox.unlearning(),
        "versions": versions,
        "current": (current := store.versions.current()) and current.version_id,
        **{name: store.get_secret(name) for name in secrets},
    }


def changed(before: dict[str, Any], device: Device) -> int:
    """How many of these things are another now; the update of the newest training may have been queued meanwhile."""
    after = state(device)
    after["waiting"] = after["waiting"][: len(before["waiting"])] if len(after["waiting"]) == 1 else after["waiting"]
    return sum(after[name] != value for name, value in before.items())


def instead(method: str, path: str, answer: Answer) -> Forge:
    """Answers requests of one kind without passing them on."""
    return lambda asked, *_: answer if (asked.method, asked.path) == (method, path) else None


def altered(path: str, change: Callable[[Answer], Answer]) -> Forge:
    """Passes requests on, and changes the aggregator's own answers to those of one path."""

    def forge(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
        return change(pass_on(request)) if asked.path.startswith(path) else None

    return forge


def with_body(**fields: Any) -> Callable[[Answer], Answer]:
    return lambda answer: Answer(answer.status, answer.headers, json.dumps(fields).encode())


def with_digest(**fields: Any) -> Callable[[Answer], Answer]:
    """Another body and its digest, under the old signature."""

    def change(answer: Answer) -> Answer:
        body = json.dumps(fields).encode()
        return Answer(200, {**answer.headers, "content-digest": http_signatures.content_digest(body)}, body)

    return change


def signed_by_another(asked: Asked, answer: Answer, certificate: Any = None) -> Answer:
    """The answer with everything right, but for the key."""
    key, root = new_key(), new_key()
    if asked.path == "/v1/keys" and answer.status == 200:
        fields = json.loads(answer.body)
        own = msgspec.to_builtins(certify(root, "aggregator", key, "x"))
        answer = Answer(200, answer.headers, json.dumps({**fields, "certificate": certificate or own}).encode())
    url = f"http://{asked.headers['host']}{asked.path}"
    request = http_signatures.Request(asked.method, url, asked.headers)
    digest, authenticated = http_signatures.content_digest(answer.body), "signature" in asked.headers
    headers = {"content-type": "application/json", "homeroom-nonce": "A" * 48, "content-digest": digest}
    headers |= http_signatures.sign_answer(key, request, answer.status, "A" * 48, digest, authenticated=authenticated)
    return Answer(answer.status, headers, answer.body)


def of_another_key(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
    """A machine with a key of its own, which signs as it should, and takes whatever comes."""
    if asked.path == "/v1/keys":
        return signed_by_another(asked, pass_on(request))
    return signed_by_another(asked, json_answer(200, status="accepted", update_id="0" * 32))


def of_the_aggregators_certificate(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
    """The same, which shows the aggregator's certificate; that is public."""
    answer = pass_on(request)
    certificate = json.loads(answer.body)["certificate"] if asked.path == "/v1/keys" else None
    return signed_by_another(asked, answer, certificate)


def honest_then_forged(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
    """Lets the keys through, and signs receipts with a key of its own."""
    if asked.path == "/v1/keys":
        return None
    return signed_by_another(asked, json_answer(200, status="accepted", update_id="0" * 32))


@dataclass
class Replay:
    """Answers a path with what the aggregator said to it first, signature and all."""

    path: str
    first: list[Answer] = field(default_factory=list)

    def __call__(self, asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
        if asked.path != self.path:
            return None
        if not self.first:
            self.first.append(pass_on(request))
        return self.first[0]


REFUSED = {"message": "no", "remedy": ""}
FORGERIES: dict[str, Forge] = {
    "accepted": instead("POST", "/v1/updates", json_answer(200, update_id="0" * 32, status="accepted")),
    "already": instead("POST", "/v1/updates", json_answer(200, update_id="0" * 32, status="already")),
    "422": instead("POST", "/v1/updates", json_answer(422, code="malformed", **REFUSED)),
    "404": instead("POST", "/v1/updates", json_answer(404, code="unknown_version", **REFUSED)),
    "410": instead("POST", "/v1/updates", json_answer(410, code="other_bundle", **REFUSED)),
    "409": instead("POST", "/v1/updates", json_answer(409, code="too_stale", **REFUSED)),
    "a status alone": altered("/v1/updates", lambda answer: Answer(422, answer.headers, answer.body)),
    "a body alone": altered("/v1/unlearn", with_body(update_id="0" * 32, status="bounded")),
    "a body and its digest": altered("/v1/unlearn", with_digest(update_id="0" * 32, status="bounded")),
    "no signature": altered("/v1/unlearn", lambda answer: json_answer(200, **json.loads(answer.body))),
    "withdrawn": instead("POST", "/v1/unlearn", json_answer(200, update_id="0" * 32, status="accepted")),
    "bounded": instead("POST", "/v1/unlearn", json_answer(200, update_id="0" * 32, status="bounded")),
    "an offer": altered("/v1/versions/after", with_digest(version=9, whole=None)),
    "no newer version": altered("/v1/versions/after", lambda _: json_answer(404, code="unknown_version", **REFUSED)),
    "not modified": altered("/v1/versions/after", lambda answer: Answer(304, answer.headers, b"")),
    "a round": altered("/v1/round", with_digest(configuration={})),
    "a key of its own": of_another_key,
    "the aggregator's certificate": of_the_aggregators_certificate,
    "receipts by a key of its own": honest_then_forged,
}
LATE = ("an offer", "no newer version", "not modified")  # after what waited was sent


@pytest.mark.attack("who is speaking", FORGED)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_answer_changes_nothing(service: Service, tmp_path: Path, attack: Attack, forgery: str) -> None:
    with running(service) as address, classroom(tmp_path, address) as device:
        set_network(device.store, lan="off")
        before = state(device)
        forger = Forger(address, FORGERIES[forgery])
        with proxy.running(forger) as through:
            set_network(device.store, address=through)
            with pytest.raises(AnswerError) as caught:
                device.sync()
        assert forger.forged
        assert caught.value.exit_code == 14
        attack.noticed = f"{forgery}: {caught.value.code}"
        if forgery in LATE:
            attack.got = len(state(device)["versions"]) - len(before["versions"])
            return
        if before["waiting"] == []:
            before["waiting"] = state(device)["waiting"]  # made at the beginning of a sync
            assert len(before["waiting"]) <= 1
        if forgery in ("accepted", "already", "422", "404", "410", "409", "a status alone"):
            before["unlearn"] = []  # that was delivered before
        attack.got = changed(before, device)
        set_network(device.store, address=address)
        device.sync()
        assert (device.status()["updates_waiting"], device.store.outbox.unlearning()) == (0, [])
        assert service.rounds.log.count("update") == 2


@pytest.mark.attack("who is speaking", "the aggregator's own earlier answers, played again")
@pytest.mark.parametrize("path", ["/v1/keys", "/v1/round", "/v1/unlearn", "/v1/updates"])
def test_an_answer_that_is_played_again_changes_nothing(
    service: Service, tmp_path: Path, attack: Attack, path: str
) -> None:
    with running(service) as address, classroom(tmp_path, address) as device:
        set_network(device.store, lan="off")
        forger = Forger(address, Replay(path))
        with proxy.running(forger) as through:
            set_network(device.store, address=through)
            device.sync()
            device.forget("p-2")
            learn(device, 0.125, ("p-3",))
            before = state(device)
            with pytest.raises(AnswerError) as caught:
                device.sync()
            attack.noticed = caught.value.code
        assert forger.forged
        before["waiting"] = state(device)["waiting"]
        before["unlearn"] = [] if path == "/v1/updates" else before["unlearn"]
        attack.got = changed(before, device)
        set_network(device.store, address=address)
        device.sync()
        assert (device.status()["updates_waiting"], device.store.outbox.unlearning()) == (0, [])


def flipped(request: bytes) -> bytes:
    return request[:-1] + bytes([request[-1] ^ 1])


def longer(request: bytes) -> bytes:
    return re.sub(rb"(?i)content-length: ", b"content-length: 9999999", request, count=1)


def unsigned(request: bytes) -> bytes:
    return re.sub(rb"(?i)\nsignature: ", b"\nx-signature: ", request, count=1)


def by_a_stranger(request: bytes) -> bytes:
    return request.replace(b'keyid="', b'keyid="0', 1)


@pytest.mark.attack("who is speaking", "a request altered on its way, so that the aggregator itself refuses it")
@pytest.mark.parametrize("change", [flipped, longer, unsigned, by_a_stranger])
def test_a_request_that_was_altered_on_its_way_loses_no_update(
    service: Service, tmp_path: Path, attack: Attack, change: Callable[[bytes], bytes]
) -> None:
    def forge(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
        return pass_on(change(request)) if asked.path == "/v1/updates" else None

    with running(service) as address, classroom(tmp_path, address) as device:
        forger = Forger(address, forge)
        with proxy.running(forger) as through:
            set_network(device.store, address=through, lan="off")
            with pytest.raises(NetworkError) as caught:
                device.sync()
            attack.noticed = caught.value.what
        assert forger.forged
        attack.got = 1 - len(device.store.outbox.pending())
        set_network(device.store, address=address)
        assert len(device.sync().sent) == 1


@dataclass
class Impostor:
    """A server in the aggregator's place that keeps what it hears."""

    answer: Forge
    heard: list[bytes] = field(default_factory=list)

    def __call__(self, asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
        self.heard.append(request)
        return self.answer(asked, pass_on, request) or json_answer(200, status="accepted")


def without_a_key(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
    """Shows the keys that anybody can read, and plays the round again."""
    if asked.method == "GET":
        answer = pass_on(request)
        kept = {name: value for name, value in answer.headers.items() if not name.startswith("signature")}
        return Answer(answer.status, kept, answer.body)
    return json_answer(200, device="0" * 64, bundle_id="0" * 64, status="accepted")


IMPOSTORS = [without_a_key, of_another_key, of_the_aggregators_certificate]


@pytest.mark.attack("who is speaking", "a server without a key under the root, for the code and the update")
@pytest.mark.parametrize("impostor", IMPOSTORS)
def test_a_server_without_a_key_gets_neither_code_nor_update(
    service: Service, tmp_path: Path, attack: Attack, impostor: Forge
) -> None:
    with running(service) as address, classroom(tmp_path, address) as device:
        (invitation,) = invite_devices(tmp_path / "district", address, 1)
        heard = Impostor(impostor)
        with proxy.running(Forger(address, heard)) as through:
            lured = msgspec.structs.replace(invitation, address=through)
            (tmp_path / "lured.json").write_bytes(msgspec.json.encode(lured))
            with Device.open(tmp_path / "new", tmp_path / "bundle") as new, pytest.raises(AnswerError) as caught:
                new.join(tmp_path / "lured.json")
            set_network(device.store, address=through, lan="off")
            with pytest.raises(AnswerError):
                device.sync()
        attack.noticed = f"{caught.value.code}, exit code {caught.value.exit_code}"
        everything = b"".join(heard.heard)
        assert everything
        attack.got = everything.count(invitation.code.encode()) + everything.count(b"HRUPDAT1")
        with Device.open(tmp_path / "new") as new:  # the code still enrols the device that it was meant for
            (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(invitation))
            new.join(tmp_path / "invitation.json")


@pytest.mark.attack("who is speaking", "a listener on plain http, for the one-time code")
def test_a_listener_cannot_spend_the_code(service: Service, tmp_path: Path, attack: Attack) -> None:
    heard = list[bytes]()

    def listen(asked: Asked, pass_on: Callable[[bytes], Answer], request: bytes) -> Answer | None:
        heard.append(request)
        if asked.path != "/v1/join":
            return None
        return json_answer(503, code="busy", **REFUSED)  # the code is still unspent

    with running(service) as address:
        (invitation,) = invite_devices(tmp_path / "district", address, 1)
        with proxy.running(Forger(address, listen)) as through:
            lured = msgspec.structs.replace(invitation, address=through)
            (tmp_path / "invitation.json").write_bytes(msgspec.json.encode(lured))
            words = ["device", "fetch", str(tmp_path / "new"), str(tmp_path / "invitation.json")]
            assert CliRunner().invoke(homeroom, words).exit_code == 0
            with pytest.raises(NetworkError):
                join(lured, new_key())
        everything = b"".join(heard)
        attack.got = everything.count(invitation.code.encode())
        sealed = {text.decode() for text in re.findall(rb"sealed:[0-9a-f]+", everything)}
        assert len(sealed) == 2
        thief = Client(enrolment_of(invitation), new_key())
        for text in sealed:
            with pytest.raises(TrustError, match="another device"):
                thief.send("POST", "/v1/join", msgspec.json.encode({"code": text}))
        attack.got += service.members.count()
        attack.noticed = "the sealed code opens for the device's own key only"
        join(invitation, new_key())


def test_an_answer_without_a_signed_digest_is_none_but_for_a_file(service: Service, tmp_path: Path) -> None:
    emptied = altered("/v1/bundles", lambda answer: Answer(answer.status, answer.headers, b""))
    with (
        running(service) as address,
        classroom(tmp_path, address) as device,
        proxy.running(Forger(address, emptied)) as p,
    ):
        set_network(device.store, address=p, lan="off")
        with enrolment.connect(device.store) as client, pytest.raises(AnswerError, match="body"):
            client.ask("GET", str(service.downloads.bundle["path"]))


def test_a_server_that_does_not_answer_to_an_address_is_told_so(service: Service, tmp_path: Path) -> None:
    refused = json_answer(421, code="other_authority", message="run this", remedy="now")
    with running(service) as address, classroom(tmp_path, address) as device:
        with proxy.running(Forger(address, lambda asked, pass_on, request: signed_by_another(asked, refused))) as p:
            set_network(device.store, address=p, lan="off")
            with pytest.raises(NetworkError, match="does not answer to this address") as caught:
                device.sync()
        assert "run this" not in str(caught.value)


@pytest.mark.attack("who is speaking", "a forged receipt for a new key, which locks the device out")
def test_a_key_is_replaced_only_once_the_aggregator_said_so(service: Service, tmp_path: Path, attack: Attack) -> None:
    with running(service) as address, classroom(tmp_path, address) as device:
        before = device.store.get_secret("identity.key")
        with proxy.running(
            Forger(address, instead("POST", "/v1/rotate", json_answer(200, device="0" * 64)))
        ) as through:
            set_network(device.store, address=through, lan="off")
            with pytest.raises(AnswerError):
                device.rotate_key()
        attack.got = int(device.store.get_secret("identity.key") != before)
        set_network(device.store, address=address)
        device.sync()
        assert device.store.get_secret("identity.key") != before


def test_a_busy_server_or_proxy_may_answer_unsigned_and_is_asked_again(service: Service, tmp_path: Path) -> None:
    with running(service) as address, classroom(tmp_path, address) as device:
        with proxy.running(Forger(address, instead("POST", "/v1/updates", Answer(503, {}, b"")))) as through:
            set_network(device.store, address=through, lan="off")
            with pytest.raises(NetworkError, match="503") as caught:
                device.sync()
        assert not isinstance(caught.value, AnswerError)
        set_network(device.store, address=address)
        assert len(device.sync().sent) == 1


def test_every_answer_is_signed_whatever_it_says(service: Service) -> None:
    with running(service) as address:
        for method, path, status in (
            ("GET", "/v1/health", 200),
            ("GET", "/v1/keys", 200),
            ("GET", "/v1/round", 401),
            ("GET", "/v1/nowhere", 404),
            ("DELETE", "/v1/round", 405),
            ("POST", "/v1/updates", 401),
            ("GET", "/v1/versions/1", 401),
        ):
            challenge = {http_signatures.CHALLENGE_HEADER: "ab" * 32}
            answer = httpx.request(method, address + path, headers=challenge)
            signer = http_signatures.verify_answer(answer)
            signer.check_body(answer, answer.content)
            assert (answer.status_code, signer.authenticated) == (status, False)
            assert signer.key == service.rounds.certificate.key
