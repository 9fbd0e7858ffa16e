"""Labels of this device on the agent's page: added, given to samples, renamed, removed in two steps."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import tiny
from local_lesson import LABEL, called_so, dinosaurs, lesson

from homeroom import Device, Sample
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.page import PageServer
from homeroom.store.local_labels import LocalLabel, local_labels
from sdk.agent.test_page import ask


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, solved_bundle: tiny.Tiny) -> Iterator[PageServer]:
    """A page over a device with six samples, of which the newest five have no label."""
    tmp_path, patch = tmp_path_factory.mktemp("page"), pytest.MonkeyPatch()
    patch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    patch.setattr(Agent, "in_window", lambda _: False)  # it does not train meanwhile
    with Device.open(tmp_path / "device", solved_bundle.path, solved_bundle.root, threads=1) as device:
        device.add(*lesson(1))
        for number, sample in enumerate(dinosaurs(5, 3)):
            device.add(Sample(**sample.inputs, subject=f"p-{number}"))
    agent, stopping = Agent(AgentSettings(tmp_path / "device", look_s=0.05)), threading.Event()

    def work() -> None:
        while not stopping.is_set():
            agent.cycle()
            agent._wait()

    served, thread = PageServer(agent), threading.Thread(target=work)
    thread.start()
    yield served
    stopping.set()
    thread.join(60)
    served.close()
    patch.undo()


def post(page: PageServer, path: str, **fields: str) -> tuple[int, str]:
    status, _, body = ask(page, path, {"token": page.address.token, **fields})
    return status, html.unescape(body.decode())


def of_device(page: PageServer, wanted: Any) -> Any:
    return page.agent.ask(wanted, 30)


def test_a_label_is_added_given_renamed_and_removed(page: PageServer) -> None:
    assert "Labels of this device" in ask(page)[2].decode()
    for wrong, told in (
        ({"task": "category", "label": "Fish", "scope": "personal"}, "'fish' is a label of the bundle already"),
        ({"task": "size", "label": "huge", "scope": "personal"}, "takes no labels of a device"),
        ({"task": "category", "label": "x", "scope": "world"}, "says no task, or no scope"),
        ({"label": "x", "scope": "personal"}, "says no task, or no scope"),
        ({"task": "nothing", "label": "x", "scope": "personal"}, "has no task 'nothing'"),
    ):
        status, text = post(page, "/labels/add", **wrong)
        assert (status, told in text) == (400, True), text
    assert of_device(page, lambda device: local_labels(device.store)) == ()
    status, text = post(page, "/labels/add", task="category", label=LABEL, scope="personal")
    assert status == 200
    assert f"{LABEL} is a label of category on this device, personal" in text
    assert "no training of theta, no update and no statistics that leave learn from it" in text
    assert re.search(rf'<option value="{LABEL}">', text), "forms of samples offer it"
    unlabelled = of_device(page, lambda d: [s.sample_id for s in d.store.each_without_inputs() if not s.every_label])
    assert len(unlabelled) == 5
    for sample_id in unlabelled:
        assert post(page, "/label", sample=sample_id, **{"task.category": LABEL})[0] == 200
    text = ask(page)[2].decode()
    assert f"category: {LABEL}, personal, 5 samples, 5 of them learned" in text
    assert f'<option value="{LABEL}" selected>' in text
    held = of_device(page, lambda device: list(device.store.each_without_inputs()))
    assert [sample.local_labels for sample in held if sample.local_labels] == [{"category": LABEL}] * 5
    assert not [sample for sample in held if LABEL in sample.labels.values()]
    first = next(sample for sample in held if sample.local_labels)
    post(page, "/label", sample=first.sample_id, **{"task.category": "fish"})
    held = of_device(page, lambda device: list(device.store.each_without_inputs()))
    assert sum(bool(sample.local_labels) for sample in held) == 4
    assert (
        f"{LABEL} is newts now, with 4 samples"
        in post(page, "/labels/rename", task="category", label=LABEL, name="newts")[1]
    )
    assert "there is no such label" in post(page, "/labels/remove", task="category", label=LABEL)[1]
    status, text = post(page, "/labels/remove", task="category", label="newts")
    assert "4 samples had it: kept, without a label of category" in text
    (seen,) = re.findall(r'name="seen" value="([^"]+)"', text)
    assert len(of_device(page, lambda device: local_labels(device.store))) == 1, "the first step only shows"
    assert post(page, "/labels/remove", task="category", label="newts", seen="personal/9")[0] == 400
    assert "newts is removed" in post(page, "/labels/remove", task="category", label="newts", seen=seen)[1]
    assert of_device(page, lambda device: local_labels(device.store)) == ()
    assert of_device(page, lambda device: device.store.count()) == 6
    assert of_device(page, lambda device: called_so(device, dinosaurs(3, 9))) == 0


def test_a_name_that_the_bundle_has_too_is_asked_about(page: PageServer) -> None:
    """As after an upgrade: a label of this device whose name the bundle now has."""
    from homeroom.store.local_labels import put_local_labels

    def asked(device: Device) -> str:
        with device.store.step("labels"):
            put_local_labels(device.store, (LocalLabel("category", "Fish", "institution", "2026-12-03"),))
        (sample,) = device.store.samples("p-1")
        return device.store.relabel(sample.sample_id, {}, {"category": "Fish"})

    sample_id = of_device(page, asked)
    text = ask(page)[2].decode()
    assert "The bundle has a label of this name now. Nothing was merged" in text
    post(page, "/label", sample=sample_id, **{"task.size": "small"})
    held = of_device(page, lambda device: device.store.samples("p-1"))
    assert [(one.labels, one.local_labels) for one in held] == [({"size": "small"}, {"category": "Fish"})]
    text = post(page, "/labels/merge", task="category", label="Fish")[1]
    assert "1 sample of this device's Fish become" in text
    (seen,) = re.findall(r'name="seen" value="([^"]+)"', text)
    assert (
        "Merged, with 1 sample: labelled fish now"
        in post(page, "/labels/merge", task="category", label="Fish", seen=seen)[1]
    )
    held = of_device(page, lambda device: device.store.samples("p-1"))
    assert [(one.labels, one.local_labels) for one in held] == [({"size": "small", "category": "fish"}, {})]
