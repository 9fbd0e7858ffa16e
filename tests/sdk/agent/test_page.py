"""The agent's page: for this machine and its token alone, safe against what pupils wrote; its labels count."""

from __future__ import annotations

import html
import http.client
import io
import re
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import tiny
from PIL import Image

from homeroom import Device, Sample
from homeroom.agent import page as pages
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.page import PageServer, find_page
from homeroom.agent.taken_in import TAKEN_IN, TakenIn

EVIL = """\"'><script>alert('x')</script>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: tiny.Tiny) -> Iterator[PageServer]:
    """A page of an agent that works in a thread of its own, over a device with three samples, one without a label."""
    tmp_path, patch = tmp_path_factory.mktemp("page"), pytest.MonkeyPatch()
    patch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    patch.setattr(Agent, "in_window", lambda _: False)  # it does not train meanwhile
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        for row in tiny.samples(2, 1):
            device.add(Sample(**row))
        device.add(Sample(word=EVIL, picture=tiny.samples(1, 1)[0]["picture"]))
    agent = Agent(AgentSettings(tmp_path / "device", look_s=0.05))
    stopping = threading.Event()

    def work() -> None:
        while not stopping.is_set():
            agent.cycle()
            agent._wait()

    served = PageServer(agent)
    thread = threading.Thread(target=work)
    thread.start()
    yield served
    stopping.set()
    thread.join(60)
    served.close()
    patch.undo()


def black_picture() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def ask(
    page: PageServer, path: str = "/", body: dict[str, Any] | None = None, **headers: str
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", page.server_port, timeout=90)
    given = {"Cookie": f"homeroom={page.address.token}", **headers}
    if body is None:
        connection.request("GET", path, headers=given)
    else:
        form = {"Content-Type": "application/x-www-form-urlencoded", **given}
        connection.request("POST", path, urlencode(body, doseq=True), form)
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def first_sample(page: PageServer) -> str:
    text = ask(page)[2].decode()
    return re.findall(r'name="sample" value="([0-9a-f]+)"', text)[0]


def stored(page: PageServer, sample_id: str) -> Any:
    return page.agent.ask(lambda device: device.store.sample(sample_id))


@pytest.mark.attack("files and bundles", "a web page or another machine opens the device's page")
def test_it_listens_on_this_machine_alone(page: PageServer) -> None:
    assert page.server_address[0] == "127.0.0.1"
    found = find_page(page.agent.settings.directory)
    assert found == page.address


@pytest.mark.attack("files and bundles", "a web page or another machine opens the device's page")
@pytest.mark.parametrize("path", ["/", "/status.json", "/media/x/y/0", "/?token=wrong", "/?token="])
def test_without_the_token_nothing_is_shown(page: PageServer, path: str) -> None:
    for cookie in ("", "homeroom=", "homeroom=guess", "homeroom=\x7f;;=,"):
        status, _, body = ask(page, path, Cookie=cookie)
        assert status == 403
        assert b"Labels" not in body


@pytest.mark.attack("files and bundles", "a web page or another machine opens the device's page")
def test_a_renamed_address_is_refused(page: PageServer) -> None:
    assert ask(page, Host="evil.example")[0] == 403
    assert ask(page, Host=f"evil.example:{page.server_port}")[0] == 403
    assert ask(page, "/label", {"token": page.address.token}, Host="evil.example")[0] == 403


def test_the_address_with_the_token_opens_the_page_and_keeps_it_out_of_the_history(page: PageServer) -> None:
    status, headers, _ = ask(page, f"/?token={page.address.token}", Cookie="")
    assert (status, headers["Location"]) == (303, "/")
    assert "HttpOnly" in headers["Set-Cookie"]
    assert "SameSite=Strict" in headers["Set-Cookie"]
    status, headers, body = ask(page)
    assert status == 200
    assert b"not joined" in body
    policy = headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "script" not in policy.replace("default-src", "")
    assert b"http-equiv" not in body, "the policy of files allows no pictures of this page"
    assert ask(page, "/nothing")[0] == 404


@pytest.mark.attack("files and bundles", "a pupil's words run as code on the device's page")
def test_what_a_pupil_wrote_is_text_and_nothing_else(page: PageServer) -> None:
    body = ask(page)[2].decode()
    assert EVIL not in body
    assert "&lt;script&gt;" in body


def test_what_the_receipts_of_the_inbox_say_is_shown_as_text(page: PageServer) -> None:
    said = [TakenIn("week.csv", "2026-12-03T08:00:00+00:00", ["1 sample added", EVIL])]
    page.agent.ask(lambda device: TAKEN_IN.write(device.store, said), 60)
    body = ask(page)[2].decode()
    assert "week.csv" in body
    assert "1 sample added<br>" in body
    assert EVIL not in body


@pytest.mark.parametrize(
    "wrong", [{"task.category": "unicorn"}, {"task.weight": "heavy"}, {"sample": "f" * 32}, {"task.same": "perhaps"}]
)
def test_a_wrong_label_is_one_sentence_and_changes_nothing(page: PageServer, wrong: dict[str, str]) -> None:
    before = page.agent.ask(lambda device: device.store.samples_mark())
    status, _, body = ask(page, "/label", {"token": page.address.token, "sample": first_sample(page)} | wrong)
    assert status == 400
    assert b"Traceback" not in body
    assert page.agent.ask(lambda device: device.store.samples_mark()) == before


@pytest.mark.attack("files and bundles", "a web page or another machine opens the device's page")
def test_a_form_without_the_token_or_too_long_is_refused(page: PageServer) -> None:
    sample_id = first_sample(page)
    for token in ("", "guess"):
        assert ask(page, "/label", {"token": token, "sample": sample_id, "task.category": "dog"})[0] == 403
    assert ask(page, "/label", {"token": page.address.token, "x": "y" * pages.BODY_LIMIT_BYTES})[0] == 413
    assert stored(page, sample_id).labels == {}


def test_pictures_are_shown_and_nothing_else_of_the_store(page: PageServer) -> None:
    sample_id = first_sample(page)
    status, headers, body = ask(page, f"/media/{sample_id}/picture/0")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert body.startswith(b"\x89PNG")
    for path in ("word/0", "picture/1", "picture/-1", "../../device.db/0", "nothing/0"):
        assert ask(page, f"/media/{sample_id}/{path}")[0] in (403, 404)


def test_the_status_is_told_as_json(page: PageServer) -> None:
    status, headers, body = ask(page, "/status.json")
    assert status == 200
    assert headers["Content-Type"].startswith("application/json")
    assert b'"samples":3' in body


def test_a_label_given_on_the_page_is_learned_from(page: PageServer) -> None:
    sample_id = first_sample(page)
    assert stored(page, sample_id).labels == {}
    form = {"token": page.address.token, "sample": sample_id, "task.category": "dog", "task.traits": ["fur", "swims"]}
    form |= {"task.size": "", "task.weight": "3.5", "given.traits": "0"}
    status, _, body = ask(page, "/label", form)
    assert status == 200
    assert b"are saved" in body
    assert stored(page, sample_id) is None
    labels = page.agent.ask(lambda device: [sample.labels for sample in device.store.samples()])
    assert {"category": "dog", "traits": ["fur", "swims"], "weight": 3.5} in labels
    assert len(labels) == 3


def test_what_was_set_aside_comes_first_with_its_reason_and_can_be_put_back(page: PageServer) -> None:
    def add(device: Device) -> str:
        (black,) = device.add(
            Sample(word="the cat", picture=black_picture(), labels={"category": "cat"}, subject="<b>")
        )
        return black

    black = page.agent.ask(add)
    text = ask(page)[2].decode()
    assert first_sample(page) == black
    assert "Set aside: picture: too dark" in text
    assert "picture left out, the rest teaches" in text
    form = {"token": page.address.token, "sample": black}
    assert ask(page, "/put-back", {**form, "token": "wrong"})[0] == 403
    status, _, body = ask(page, "/put-back", form)
    assert (status, b"It is back" in body, b"Set aside" in body) == (200, True, False)
    assert page.agent.ask(lambda device: device.set_aside()) == []
    assert stored(page, black).aside == ""
    assert ask(page, "/put-back", form)[0] == 400, "it is not set aside any more"


WORDS = f"letter of 3 May\u202e\n {EVIL}"
DECISION = {"state": "refused", "by": "Ms Ray", "on": "3.5.2026", "basis": "form 7"}


def add_with_words(page: PageServer, *subjects: str, text: str = WORDS) -> list[str]:
    picture = tiny.samples(1, 1)[0]["picture"]
    samples = [
        Sample(word=f"{text[:9]} of {one}", picture=picture, subject=one, consent={"text": text}) for one in subjects
    ]
    return list(page.agent.ask(lambda device: device.add(*samples, gates=False)))


def hidden_of(text: str, action: str) -> dict[str, str]:
    """The hidden fields of the first form of a page with that action."""
    form = re.search(rf'<form method="post" action="{action}"[^>]*>(.*?)</form>', text, re.S)
    assert form is not None
    found = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', form[1])
    return {name: html.unescape(value) for name, value in found}


def consents(page: PageServer, *sample_ids: str) -> list[Any]:
    return [stored(page, one).consent for one in sample_ids]


def test_words_of_consent_are_decided_in_two_steps(page: PageServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "homeroom.agent")
    ids = add_with_words(page, "p-8", "p-9")
    before, text = consents(page, *ids), ask(page)[2].decode()
    assert EVIL not in text
    assert "Consent to be decided" in text
    first = hidden_of(text, "/consent") | DECISION
    status, _, body = ask(page, "/consent", first)
    assert (status, consents(page, *ids)) == (200, before), "the first step changes nothing"
    assert "of p-8, p-9: consent refused, by Ms Ray, on 2026-05-03, on the basis of form 7." in body.decode()
    assert "never trained on" in body.decode()
    second = hidden_of(body.decode(), "/consent")
    status, _, body = ask(page, "/consent", second)
    assert status == 200
    assert b"The consent of 2 samples is refused now." in body
    assert b"Consent to be decided" not in body
    for consent in consents(page, *ids):
        assert (consent.state, consent.by, consent.on, consent.basis) == ("refused", "Ms Ray", "2026-05-03", "form 7")
        assert consent.text == before[0].text, "the words are kept"
    assert not any(stored(page, one).trainable for one in ids)
    assert page.agent.ask(lambda device: device.store.audit())[-1]["event"] == "consent"
    assert "page: consent of 2 samples is refused" in caplog.text
    assert "p-8" not in caplog.text
    assert ask(page, "/consent", second)[0] == 400, "it is decided"


def test_what_changed_between_the_two_steps_is_looked_at_anew(page: PageServer) -> None:
    (first,) = add_with_words(page, "p-10", text="by telephone")
    question = ask(page, "/consent", hidden_of(ask(page)[2].decode(), "/consent") | DECISION | {"state": "given"})
    (second,) = add_with_words(page, "p-11", text="by telephone")
    status, _, body = ask(page, "/consent", hidden_of(question[2].decode(), "/consent"))
    assert status == 400
    assert b"nothing was done" in body
    assert [one.state for one in consents(page, first, second)] == ["unstated", "unstated"]


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        ({"state": ""}, 400),
        ({"state": "perhaps"}, 400),
        ({"by": "  "}, 400),
        ({"by": "x" * 300}, 400),
        ({"on": "03/04/2026"}, 400),
        ({"words": "f" * 64}, 400),
        ({"words": ""}, 400),
        ({"token": "guess"}, 403),
    ],
)
def test_a_consent_that_is_not_clear_is_one_sentence_and_changes_nothing(
    page: PageServer, wrong: dict[str, str], status: int
) -> None:
    (held,) = add_with_words(page, "p-12", text="on paper")
    text = ask(page)[2].decode()
    before = page.agent.ask(lambda device: device.store.audit())
    for seen in ({}, {"seen": "0" * 64}):
        found, _, body = ask(page, "/consent", hidden_of(text, "/consent") | DECISION | wrong | seen)
        assert (found, b"Traceback" in body) == (status, False)
    assert stored(page, held).consent.state == "unstated"
    assert page.agent.ask(lambda device: device.store.audit()) == before


def test_a_persons_consent_is_set_beside_one_of_their_samples(page: PageServer) -> None:
    first, second = add_with_words(page, "p-13", text="one") + add_with_words(page, "p-13", text="another")
    form = {"token": page.address.token, "sample": first} | DECISION | {"state": "withdrawn"}
    body = ask(page, "/consent", form)[2].decode()
    assert "2 samples, of p-13: consent withdrawn" in body
    assert ask(page, "/consent", hidden_of(body, "/consent"))[0] == 200
    assert [one.state for one in consents(page, first, second)] == ["withdrawn", "withdrawn"]


def test_a_sample_is_removed_in_two_steps(page: PageServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "homeroom.agent")
    (held,) = add_with_words(page, "p-14", text="to go")
    text = ask(page)[2].decode()
    assert held in text
    form = {"token": page.address.token, "sample": held}
    assert ask(page, "/remove", {**form, "token": "guess"})[0] == 403
    status, _, body = ask(page, "/remove", form)
    assert (status, b"Remove this sample?" in body, b"of p-14" in body) == (200, True, True)
    assert stored(page, held) is not None, "the first step changes nothing"
    second = hidden_of(body.decode(), "/remove")
    assert ask(page, "/remove", second | {"seen": "0" * 32})[0] == 400
    assert stored(page, held) is not None
    status, _, body = ask(page, "/remove", second)
    assert (status, b"Removed" in body) == (200, True)
    assert stored(page, held) is None
    assert page.agent.ask(lambda device: device.store.audit())[-1]["event"] == "remove"
    assert "page: 1 sample removed" in caplog.text
    assert ask(page, "/remove", second)[0] == 400, "it is gone"
