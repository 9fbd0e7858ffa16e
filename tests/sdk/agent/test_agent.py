"""The agent: what an evening does, what it says, what it never writes down, and how it looks after its device."""

from __future__ import annotations

import datetime
import json
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest
import tiny

from homeroom import Device, Sample, SyncReport
from homeroom.agent import bundle_updates, inbox, status
from homeroom.agent.loop import Agent, AgentSettings
from homeroom.agent.status import AgentStatus
from homeroom.cli.main import main
from homeroom.device.resources.budget import Budget, read_weekly_hours
from homeroom.errors import (
    BundleError,
    Code,
    DiskFullError,
    HomeroomError,
    InputError,
    NetworkError,
    StoreError,
    TrainError,
    TrustError,
)
from homeroom.system import clock
from homeroom.train.settings import Settings as TrainSettings

NAME = "Wolframina Secretsson"  # a pupil's name, which must not be written down in the open
NEVER = read_weekly_hours("00:00-00:01")


@pytest.fixture
def place(tmp_path: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a device and an inbox."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1).close()
    (tmp_path / "inbox").mkdir()
    return tmp_path


def made(place: Path, **changes: Any) -> Agent:
    budget = Budget(minutes=changes.pop("minutes", 1.0))
    return Agent(AgentSettings(place / "device", place / "inbox", budget=budget, settled_s=0.0, **changes))


def put(place: Path, name: str = "monday", count: int = 12, seed: int = 4) -> None:
    tiny.write_samples(place / "inbox" / name, tiny.samples(count, seed))


def said(agent: Agent) -> dict[str, str]:
    return dict(status.status_lines(agent.status))


def test_an_evening_takes_in_trains_and_leaves_nothing_unencrypted(place: Path) -> None:
    put(place)
    agent = made(place)
    assert agent.cycle()
    assert (agent.status.samples, agent.status.trained_samples, agent.status.problems) == (12, 12, {})
    assert not [path for path in (place / "inbox").rglob("*") if path.is_file()]
    assert "not joined" in said(agent)
    assert status.read_status(place / "device") == agent.status
    trained = agent.status.last_trained
    assert not agent.cycle(), "nothing to do: the directory stays closed"
    put(place, "tuesday", 6, seed=9)
    agent.cycle()
    assert (agent.status.samples, agent.status.trained_samples) == (18, 18)
    assert agent.status.last_trained is not None
    assert trained is not None
    assert agent.status.last_trained >= trained


def test_outside_its_hours_it_takes_in_and_waits_to_train(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place)
    agent = made(place, window=(NEVER,))
    monkeypatch.setattr(Agent, "in_window", lambda _: False)
    agent.cycle()
    assert (agent.status.samples, agent.status.last_trained) == (12, None)
    assert said(agent)["waiting to train"] == "its hours have not come"
    assert not agent.cycle()
    monkeypatch.setattr(Agent, "in_window", lambda _: True)
    assert agent.cycle(), "its hours came"
    assert agent.status.trained_samples == 12
    assert "waiting to train" not in said(agent)


def test_a_days_minutes_are_not_exceeded_by_starting_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place)
    endless = TrainSettings(epochs=9000, patience=9000)
    monkeypatch.setattr("homeroom.device.device.training_settings", lambda *_: endless)
    made(place, minutes=0.1).cycle()
    again = made(place, minutes=0.1)
    again.cycle()
    assert said(again)["waiting to train"] == "today's minutes are spent"

    monkeypatch.setattr("homeroom.system.clock.local_now", lambda: datetime.datetime(2031, 1, 1))
    report = []
    monkeypatch.setattr(Device, "train", lambda *_, **given: report.append(given["budget"].minutes) or 1 / 0)
    again._look_inside = True
    again.cycle()
    assert report == [0.1]
    assert again.status.problems["training"] == "an error of the program: ZeroDivisionError"


def test_what_cannot_be_used_is_put_aside_with_the_reason(place: Path) -> None:
    (place / "inbox" / "broken.jsonl").write_text('{"nonsense": 1\n')
    (place / "inbox" / "strange.homeroom").write_bytes(b"no bundle")
    (place / "inbox" / "copying.csv.part").write_text("")
    agent = made(place)
    agent.cycle()
    aside = sorted(path.name.split("-", 2)[2] for path in (place / "inbox" / "refused").iterdir())
    assert aside == ["broken.jsonl", "broken.jsonl.why.txt", "strange.homeroom", "strange.homeroom.why.txt"]
    assert "2 entries" in said(agent)["refused"]
    assert [path.name for path in (place / "inbox").iterdir() if path.is_file()] == ["copying.csv.part"]


def test_files_still_on_their_way_wait_and_a_clock_that_was_set_back_holds_nothing_up(tmp_path: Path) -> None:
    for name in ("done.jsonl", "copying.csv.part", ".hidden.jsonl", "fresh.jsonl", "future.jsonl"):
        (tmp_path / name).write_text("")
    now = time.time()
    os.utime(tmp_path / "done.jsonl", (1, 1))
    os.utime(tmp_path / "future.jsonl", (now + 1e7, now + 1e7))
    assert [path.name for path in inbox.settled_entries(tmp_path, now, 30)] == ["done.jsonl", "future.jsonl"]
    assert inbox.settled_entries(tmp_path / "a share that is away", now, 30) == []


def test_a_directory_in_use_is_tried_again(place: Path) -> None:
    put(place)
    agent = made(place)
    with Device.open(place / "device", threads=1):
        agent.cycle()
        assert "directory" in agent.status.problems
    agent.cycle()
    assert (agent.status.samples, agent.status.problems) == (12, {})


def test_no_log_status_or_support_bundle_names_a_pupil_a_file_or_a_label(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    rows = tiny.samples(12, 4)
    for row in rows:
        row["subject"] = NAME
    tiny.write_samples(place / "inbox" / NAME, rows)
    (place / "inbox" / f"{NAME}.jsonl").write_text(json.dumps({"word": "x", "labels": {"category": NAME}}) + "\n")
    (place / "inbox" / f"{NAME}.csv").write_text(f"word,{NAME}\nx,y\n")
    agent = made(place)
    agent.cycle()
    assert agent.status.samples == 12
    assert agent.status.refused_entries == 2
    out = place / "support.zip"
    main(["device", "support-bundle", str(place / "device"), "--out", str(out)])
    with zipfile.ZipFile(out) as archive:
        told = {name: archive.read(name).decode() for name in archive.namelist()}
    assert json.loads(told["status.json"])["samples"] == 12
    assert {check["name"] for check in json.loads(told["doctor.json"])} >= {"machine", "runtime"}
    assert json.loads(told["store.json"])["subjects"] == 1
    told |= {"log": caplog.text, "written": (place / "device" / "agent" / "status.json").read_text()}
    for name, text in told.items():
        assert "Wolframina" not in text, name
        assert "Secretsson" not in text, name


def failed(area: str, problem: HomeroomError) -> AgentStatus:
    return AgentStatus(problems={area: problem.what}, problem_codes={area: problem.code})


@pytest.mark.parametrize(
    ("standing", "word"),
    [
        (failed("inbox", DiskFullError("any sentence")), "disk full"),
        (failed("training", TrainError("any sentence", code=Code.LOW_DISK)), "disk full"),
        (AgentStatus(clock="1970-01-01 cannot be right"), "clock wrong"),
        (failed("sync", TrustError("any sentence", code=Code.OTHER_BUNDLE)), "bundle too old"),
        (failed("sync", NetworkError("any sentence", code=Code.BUNDLE_NOT_OFFERED)), "bundle too old"),
        (AgentStatus(doing="syncing"), "syncing"),
        (AgentStatus(updates_waiting=2), "queued"),
        (AgentStatus(joined=True, last_seen="2026-11-24T20:00:00+00:00"), "last seen 2026-11-24T20:00:00+00:00"),
        (AgentStatus(joined=True), "never seen"),
        (failed("sync", NetworkError("no space left in another bundle")), "sync trouble"),
    ],
)
def test_every_state_has_its_word(standing: AgentStatus, word: str) -> None:
    assert word in dict(status.status_lines(standing))
    assert "sync trouble" not in dict(
        status.status_lines(failed("sync", TrustError("any sentence", code=Code.OTHER_BUNDLE)))
    )


def test_only_errors_that_cannot_name_anyone_are_written_down() -> None:
    assert status.describe_error(NetworkError("no connection", where="https://x")) == "no connection"
    assert (
        status.describe_error(StoreError("cannot be written here", where=f"/home/{NAME}")) == "cannot be written here"
    )
    for problem in (InputError(f"{NAME} is no label"), BundleError(NAME), ValueError(NAME)):
        assert NAME not in status.describe_error(problem)


def test_a_refused_update_is_said_in_plain_words(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("homeroom.agent.loop.bundle_updates.follow_bundle", lambda _: False)
    monkeypatch.setattr(Device, "sync", lambda _: SyncReport(refused={"u1": "it is far too large"}))
    agent = made(place)
    with Device.open(place / "device", threads=1) as device:
        agent._attempt("sync", lambda: agent._sync(device))
    assert agent.status.problems == {"sync": "the aggregator refused an update"}
    assert agent.status.problem_codes == {"sync": Code.REFUSED}


def test_a_clearly_worse_model_is_taken_back_and_its_update_not_sent(place: Path) -> None:
    with Device.open(place / "device", threads=1) as device:
        device.add(*(Sample(**row) for row in tiny.samples(120, 0, subjects=20)))
        good = device.train(settings=TrainSettings(epochs=15, patience=20))
        assert not bundle_updates.keep_the_better(device, good), "it is better than the bundle's own theta"
        bad = device.train(settings=TrainSettings(epochs=1, learning_rate=30.0, seed=0))
        device.store.outbox.queue(bad.version_id, b"signed", 0, [], device.bundle.bundle_id)
        assert (good.worse, bad.worse) == (False, True)
        assert bundle_updates.keep_the_better(device, bad)
        present = device.store.versions.current()
        assert present is not None
        assert present.version_id == good.version_id
        assert device.store.outbox.pending() == []


def test_labels_that_cannot_be_taught_are_tried_again_later_and_later_or_when_something_changes(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, tries = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC), 0

    def refuse(*_: Any, **__: Any) -> None:
        nonlocal tries
        tries += 1
        raise TrainError("no sample has a label that its inputs can teach")

    monkeypatch.setattr(clock, "now", lambda: now)
    monkeypatch.setattr(Device, "train", refuse)
    agent = made(place)
    waits = []
    with Device.open(place / "device", threads=1) as device:
        device.add(Sample(word="x", labels={"category": "fish"}))
        for minutes in range(0, 600, 5):
            now = datetime.datetime(2026, 12, 1, tzinfo=datetime.UTC) + datetime.timedelta(minutes=minutes)
            before = tries
            agent._attempt("training", lambda: agent._train(device))
            if tries > before:
                waits.append(minutes)
                assert "can teach" in agent.status.problems["training"]
            else:
                assert "can teach" in agent.status.training_waits
        assert waits == [0, 5, 15, 35, 75, 155, 315], "twice as long each time"
        device.add(Sample(word="y", labels={"category": "fish"}))
        agent._attempt("training", lambda: agent._train(device))
        assert tries == len(waits) + 1, "something changed"


def newer(made: tiny.Tiny, folder: Path, version: int = 2) -> Path:
    """The tiny bundle as another version, zipped for the inbox."""
    from sdk.runtime.test_bad_bundle import sign_again

    shutil.copytree(made.path, folder / "made")
    sign_again(folder / "made", made, version=version)
    shutil.make_archive(str(folder / "newer"), "zip", folder / "made")
    target = folder / "inbox" / "newer.homeroom"
    (folder / "newer.zip").rename(target)
    shutil.rmtree(folder / "made")
    return target


def test_a_newer_bundle_in_the_inbox_is_tried_and_then_used(place: Path, tiny_bundle: tiny.Tiny) -> None:
    put(place)
    agent = made(place)
    agent.cycle()
    newer(tiny_bundle, place)
    agent.cycle()
    assert (agent.status.bundle, agent.status.problems) == ("tiny version 2", {})
    assert not list((place / "inbox").glob("*.homeroom"))
    with Device.open(place / "device", threads=1) as device:
        assert device.bundle.manifest.version == 2
        assert device.store.count() == 12


def test_a_bundle_that_ends_the_process_that_tries_it_is_not_used(
    place: Path, tiny_bundle: tiny.Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    from homeroom.device.resources.benchmark import BenchmarkResult

    newer(tiny_bundle, place)
    crash = BenchmarkResult({}, crashed="features text int8", how="ends the process with SIGILL")
    monkeypatch.setattr(bundle_updates, "run_benchmark", lambda *_, **__: crash)
    agent = made(place)
    agent.cycle()
    assert agent.status.bundle == "tiny version 1"
    (why,) = (place / "inbox" / "refused").glob("*.why.txt")
    assert "SIGILL" in why.read_text()


def test_the_store_is_copied_before_a_new_bundle(place: Path, tiny_bundle: tiny.Tiny) -> None:
    put(place)
    made(place).cycle()
    copy = place / "device" / "backup" / "device.db"
    copy.unlink()
    with pytest.raises(BundleError):
        bundle_updates.change_bundle(place / "device", tiny_bundle.path / "nothing.homeroom", None)
    assert not copy.exists() or copy.stat().st_size
    bundle_updates.change_bundle(place / "device", newer(tiny_bundle, place), None)
    assert copy.stat().st_size > 10_000


def test_the_agent_of_the_command_line_runs_until_it_is_told_to_stop(place: Path) -> None:
    put(place)
    command = [sys.executable, "-m", "homeroom", "device", "run", str(place / "device")]
    command += ["--inbox", str(place / "inbox"), "--settled", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        for _ in range(1200):
            standing = status.read_status(place / "device")
            if standing is not None and standing.last_trained and standing.doing == "resting":
                break
            time.sleep(0.2)
        assert (place / "device" / "agent" / "page.json").exists()
        if os.name != "nt":
            assert psutil.Process(process.pid).nice() == min(19, psutil.Process().nice() + 10), "others go first"
            assert (place / "device" / "agent" / "page.json").stat().st_mode & 0o077 == 0
        process.terminate()
        _, told = process.communicate(timeout=60)
    assert "Traceback" not in told
    standing = status.read_status(place / "device")
    assert standing is not None
    if os.name != "nt":
        assert (process.returncode, standing.doing) == (0, "stopped")
        assert not (place / "device" / "agent" / "page.json").exists()


def test_the_commands_of_the_agent(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = str(place / "device")
    for command in ("agent", "page"):
        with pytest.raises(SystemExit) as ended:
            main(["device", command, directory])
        assert ended.value.code == 3
    put(place)
    (place / "inbox" / "broken.csv").write_text("nothing\n1\n")
    run = ["device", "run", directory, "--inbox", str(place / "inbox"), "--settled", "0", "--once"]
    assert main(run) == 1, "an entry was refused"
    assert main(run) == 0
    capsys.readouterr()
    main(["device", "agent", directory, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["trained_samples"] == 12
    assert "not joined" in told["words"]
    with pytest.raises(SystemExit) as ended:
        main([*run, "--window", "sometimes"])
    assert ended.value.code == 3
