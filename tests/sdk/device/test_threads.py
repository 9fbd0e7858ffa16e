"""A device in an app: threads ask, teach and train at once; a training is cancelled; a device is closed."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny

from homeroom import Device, Sample
from homeroom.data.decoder import client
from homeroom.data.ingest import read
from homeroom.errors import Code, StoreError, TrainError
from homeroom.train.settings import Settings

ENDLESS = Settings(epochs=100_000, patience=100_000)


@pytest.fixture
def device(tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as opened:
        opened.add(*(Sample(**row) for row in tiny.samples(30, 0)))
        yield opened


def test_threads_ask_while_others_train_and_add(device: Device) -> None:
    asked = [Sample(**row) for row in tiny.samples(10, 1)]
    expected = [device.predict(sample) for sample in asked]
    started, cancel = threading.Event(), threading.Event()
    with ThreadPoolExecutor(10) as threads:
        training = threads.submit(device.train, settings=ENDLESS, cancel=cancel, progress=lambda *_: started.set())
        assert started.wait(60)
        adding = threads.submit(device.add, *(Sample(**row) for row in tiny.samples(5, 2)))
        answers = list(threads.map(device.predict, asked * 3))
        assert not training.done()
        assert not adding.done(), "changes wait for one another"
        cancel.set()
        report = training.result(60)
        assert len(adding.result(60)) == 5
    assert answers == expected * 3
    assert (report.stopped, report.finished) == ("it was cancelled", False)
    assert report.epochs > 0
    version = device.store.versions.current()
    assert version is not None
    assert version.version_id == report.version_id, "what was learned is in use"
    assert device.train(settings=Settings(epochs=1)).samples == 35


def test_many_threads_change_and_nothing_is_lost(device: Device) -> None:
    rows = tiny.samples(16, 3)
    with ThreadPoolExecutor(8) as threads:
        added = list(threads.map(lambda row: device.add(Sample(**row)), rows))
        counts = list(threads.map(lambda _: device.status()["samples"], range(8)))
    assert len({name for names in added for name in names}) == device.status()["samples"] - 30
    assert set(counts) == {device.status()["samples"]}
    assert not device.store.damage()


def test_a_training_that_is_cancelled_at_once_says_so_and_changes_nothing(device: Device) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(TrainError, match="it was cancelled"):
        device.train(cancel=cancel)
    assert device.store.versions.current() is None


def test_a_closed_device_says_that_it_is_closed(device: Device) -> None:
    device.close()
    for use in (device.status, device.train, lambda: device.predict(Sample(word="cat"))):
        with pytest.raises(StoreError, match="is closed") as refused:
            use()
        assert refused.value.code == Code.CLOSED
    device.close()


def test_a_sheet_that_one_thread_reads_goes_on_while_another_begins_to_train(device: Device, tmp_path: Path) -> None:
    sheet = tmp_path / "lesson.csv"
    sheet.write_text("word,labels.category\n" + "".join(f"cat {number},cat\n" for number in range(2000)))
    samples = iter(read([sheet], device.bundle.manifest))
    next(samples)
    client.end()
    assert sum(1 for _ in samples) == 1999
    client.end()
    assert client.resident_bytes() == 0


def test_a_device_that_many_threads_change_closes_before_those_who_wait(device: Device) -> None:
    added, told = threading.Event(), list[StoreError]()

    def add_for_ever(number: int) -> None:
        for row in itertools.cycle(tiny.samples(20, number)):
            try:
                device.add(Sample(**row))
            except StoreError as problem:
                told.append(problem)
                return
            added.set()

    busy = [threading.Thread(target=add_for_ever, args=(number,)) for number in range(8)]
    for thread in busy:
        thread.start()
    assert added.wait(60)
    device.close()
    for thread in busy:
        thread.join(60)
    assert [problem.code for problem in told] == [Code.CLOSED] * 8


def test_who_closes_a_device_ends_its_training_and_keeps_what_it_learned(device: Device) -> None:
    started = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        training = threads.submit(
            device.train, settings=ENDLESS, progress=lambda stage, *_: stage == "training" and started.set()
        )
        assert started.wait(60)
        device.close()
        report = training.result(60)
    assert report.stopped == "it was cancelled"
    with Device.open(device.directory) as again:
        version = again.store.versions.current()
        assert version is not None
        assert version.version_id == report.version_id
