"""What 0.1.0 left on disks and sticks is opened by this code and goes on, with the outcome that 0.1.0 itself had.

`data/0.1.0` holds that release as a wheel, what it made, and `make.py`, which made it. There every step of this file
was also done by 0.1.0, on a copy: `expected.json` has what it found. Only what is public is used here: the command
line, `homeroom.Device`, and the form of the files; so `make.py` can run these steps, and modules may move.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import runpy
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import safetensors.numpy

from homeroom import Device

DATA = Path(__file__).with_name("data") / "0.1.0"
LESSON, FACTS, ROOT_KEY = DATA / "lesson.homeroom", DATA / "facts.homeroom", DATA / "root.pem"
WORDS = "four words and more"
ASKED = (
    ["word=the cat", 'facts={"legs": 4, "kilograms": 4.5, "home": "house"}', f"picture={DATA / 'cat.png'}"],
    ["reference=the bird sleeps", "answer=the bird not sleeps", f"speech={DATA / 'bird.wav'}", "word=the bird"],
)
NEAR = 5e-3  # of a probability: runtimes and processors differ in the last digits, wrong weights in the first
CHARGED = "SELECT version, count(*) FROM ledger JOIN entered USING (number) GROUP BY version"
Scene = Callable[[str], Path]


def run(*words: object) -> tuple[int, str, str]:
    """`python -m homeroom` with these words, in this process: its exit code, stdout and stderr."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    typed = mock.patch.object(sys, "argv", ["homeroom", *map(str, words)])
    with typed, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            runpy.run_module("homeroom", run_name="__main__")
        except SystemExit as ended:
            code = int(ended.code or 0)
    return code, out.getvalue(), err.getvalue()


def done(*words: object) -> str:
    code, out, err = run(*words)
    assert code == 0, f"{words}: exit code {code}, {err}"
    return out


def told(*words: object) -> Any:
    return json.loads(done(*words, "--json"))


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The aggregator in a process of its own, until it is told to stop; its address."""
    command = [sys.executable, "-m", "homeroom", "serve", str(folder), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield next(line.split()[-1] for line in server.stdout if line.startswith("listening"))
        finally:
            server.terminate()
            assert server.wait(60) == 0


def tree() -> click.Group:
    """All commands, caught on their way, wherever their modules lie."""
    with mock.patch.object(click.Group, "main", autospec=True, return_value=0) as caught:
        run("--help")
    group = caught.call_args.args[0]
    assert isinstance(group, click.Group)
    return group


def command_of(path: str) -> click.Command | None:
    found: click.Command | None = tree()
    for name in path.split():
        assert isinstance(found, click.Group), path
        found = found.get_command(click.Context(found), name)
    return found


def options_of(command: click.Command) -> list[str]:
    options = (one for one in command.params if isinstance(one, click.Option))
    return sorted(name for one in options for name in (*one.opts, *one.secondary_opts))


def scene(name: str, unpacked: Path, place: Path, setenv: Callable[[str, str], None]) -> Path:
    """A copy of one of the folders that 0.1.0 left, with its keys where this process looks for them."""
    here = place / name
    shutil.copytree(unpacked / name, here)
    for variable, folder in (("HOMEROOM_KEYS", "keys"), ("XDG_CONFIG_HOME", "config")):
        setenv(variable, str(here / folder) if (here / folder).exists() else "")
    setenv("HOMEROOM_PASSPHRASE", WORDS)
    return here


def files(folder: Path) -> dict[str, str]:
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in found}


def rows(database: Path, sql: str) -> list[Any]:
    with contextlib.closing(sqlite3.connect(database)) as opened:
        return opened.execute(sql).fetchall()


def versions(district: Path) -> dict[str, str]:
    """SHA-256 of the theta of each version in a log, float32, little-endian."""
    found = {}
    for number, body in rows(district / "log.db", "SELECT version, body FROM versions ORDER BY version"):
        payload = body[76 + int.from_bytes(body[8:12], "little") :]  # after magic, length, header and signature
        found[str(number)] = hashlib.sha256(safetensors.numpy.load(payload)["theta"].tobytes()).hexdigest()
    return found


def predicted(directory: Path, *words: str) -> dict[str, Any]:
    """Every answer without its words."""
    answers = told("device", "predict", directory, *words)
    return {task: {name: one[name] for name in ("best", "probabilities", "sure")} for task, one in answers.items()}


def standing(directory: Path) -> dict[str, Any]:
    """Status but for what is of this machine and this day."""
    found = told("device", "status", directory)
    return {name: value for name, value in found.items() if name not in ("directory", "clock")}


def replayed(district: Path) -> dict[str, Any]:
    """What the log gives when all of it is computed again: `rebuild` fails if one bit differs."""
    facts = json.loads(done("rebuild", district))
    kinds = rows(district / "log.db", "SELECT kind, count(*) FROM log GROUP BY kind ORDER BY kind")
    return {"facts": facts, "versions": versions(district), "log": dict(kinds)}


def near(found: Any, known: Any, where: str = "") -> bool:
    """Whether all that is known was found, fractions up to NEAR; if not, it raises and says where."""
    if isinstance(known, dict):
        assert isinstance(found, dict), where
        assert found.keys() >= known.keys(), where
        return all(near(found[name], known[name], f"{where}/{name}") for name in known)
    if isinstance(known, list):
        assert len(found) == len(known), where
        return all(near(*pair, f"{where}/{i}") for i, pair in enumerate(zip(found, known, strict=True)))
    if isinstance(known, float):
        assert abs(found - known) <= NEAR * max(1, abs(known)), f"{where}: {found} in place of {known}"
        return True
    assert found == known, where
    return True


# The steps, which `make.py` does with 0.1.0 itself


def identities(place: Path) -> dict[str, Any]:
    """Of both bundles, installed anew."""
    found = {}
    for bundle in (LESSON, FACTS):
        with Device.open(place / bundle.stem, bundle) as device:
            manifest = device.bundle.manifest
            found[bundle.stem] = {
                "bundle_id": device.bundle.bundle_id,
                "features_ids": {modality.name: modality.features_id for modality in manifest.modalities},
                "segment_ids": {segment.name: segment.segment_id for segment in manifest.layout},
                "theta": hashlib.sha256(device.bundle.theta().tobytes()).hexdigest(),
            }
    return found


def classroom_as_it_stands(here: Path) -> dict[str, Any]:
    """What can be asked of a device, without changing it."""
    classroom = here / "classroom"
    return {
        "status": standing(classroom),
        "review": told("device", "review", classroom),
        "policy": told("device", "policy", classroom),
        "profile": told("device", "profile", classroom, "p-17"),
        "answers": [predicted(classroom, *asked) for asked in ASKED],
        "own answers": predicted(classroom, *ASKED[0], "--profile", "p-17"),
        "samples": rows(classroom / "device.db", "SELECT count(*), count(DISTINCT subject_id) FROM samples")[0],
        "features": rows(classroom / "cache.db", "SELECT count(*) FROM features")[0][0],
    }


def profile_taken(here: Path) -> dict[str, Any]:
    """A profile that was packed there, on a new device."""
    new = here / "new"
    done("device", "init", new, "--bundle", LESSON)
    done("device", "policy", new, here / "policy.json")
    before = predicted(new, *ASKED[0], "--profile", "p-17")
    done("device", "take", new, here / "p-17.profile")
    answers = predicted(new, *ASKED[0], "--profile", "p-17")
    return {"before": before, "answers": answers, "profile": told("device", "profile", new, "p-17")}


def plain_round_goes_on(here: Path) -> dict[str, Any]:
    """The classroom sends what waits, the half-filled buffer is full, and somebody joins with the open invitation."""
    district, classroom, new = here / "district", here / "classroom", here / "new"
    done("device", "init", new, "--bundle", LESSON)
    with served(district) as address:
        for name in ("used", "open"):
            invitation = json.loads((here / f"{name}.json").read_text())
            (here / f"{name}.json").write_text(json.dumps({**invitation, "address": address}))
        done("device", "network", classroom, "--address", address)
        report = told("device", "sync", classroom)
        spent = run("device", "join", new, here / "used.json")[0]
        done("device", "join", new, here / "open.json")
        newcomer = told("device", "sync", new)
    status = standing(classroom)
    return {
        "sent": report["sent"],
        "unlearned": report["unlearned"],
        "versions": [report["version"], newcomer["version"]],
        "join with a spent invitation": spent,
        "waiting": [status["updates_waiting"], status["updates_sent"], status["unlearning_waiting"]],
        "district": replayed(district),
    }


def secure_round_goes_on(here: Path) -> dict[str, Any]:
    """The devices come back one after another, until their sum is opened."""
    district, devices = here / "district", sorted(here.glob("device-*"))
    with served(district) as address:
        for device in devices:
            done("device", "network", device, "--address", address)
        for device in devices * 3:
            assert told("device", "sync", device)["secure"]
    standings = [standing(device) for device in devices]
    return {
        "global": [one["global_version"] for one in standings],
        "waiting": [[one["updates_waiting"], one["updates_sent"]] for one in standings],
        "district": replayed(district),
    }


def private_round_goes_on(here: Path) -> dict[str, Any]:
    """The second update comes, a version is released, and both devices have no budget left for one more."""
    district, devices, reports = here / "district", sorted(here.glob("device-*")), list[Any]()
    before = told("privacy", "report", district)
    with served(district) as address:
        for device in reversed(devices):
            done("device", "network", device, "--address", address)
            reports.append(told("device", "sync", device))
        for device in devices:
            done("device", "train", device, "--epochs", 1)
            reports.append(told("device", "sync", device))
    found = replayed(district)
    found["versions"] = sorted(found["versions"])  # their noise is drawn anew
    return {
        "before": before,
        "after": told("privacy", "report", district),
        "sent": [len(report["sent"]) for report in reports],
        "refused": [len(report["refused"]) for report in reports],
        "devices": [standing(device)["privacy"] for device in devices],
        "ledger": rows(district / "log.db", CHARGED),
        "district": found,
    }


def stick_goes_on(here: Path) -> dict[str, Any]:
    """An answer lies on it for one device, a letter from another: both are taken in, and make a version."""
    district, stick, one, two = (here / name for name in ("district", "stick", "one", "two"))
    done("carry", "in", district, stick)
    for device in (one, two):
        done("device", "carry", "in", device, stick)
    done("device", "carry", "out", one, stick)
    done("carry", "in", district, stick)
    done("device", "carry", "in", one, stick)
    standings = [standing(device) for device in (one, two)]
    return {
        "global": [status["global_version"] for status in standings],
        "waiting": [[status["updates_waiting"], status["updates_sent"]] for status in standings],
        "left": len(list(stick.rglob("*.letter")) + list(stick.rglob("*.answer"))),
        "district": replayed(district),
    }


def exit_codes(here: Path, cases: list[list[str]]) -> list[int]:
    """Of commands whose words name files beside `here`, or of the data."""
    shutil.copy(LESSON, here)
    (here / "damaged.homeroom").write_bytes(LESSON.read_bytes()[:-5000])
    shutil.copytree(here / "backup", here / "tampered")
    with (here / "tampered" / "log.db").open("ab") as file:
        file.write(b"!")
    with contextlib.chdir(here):
        return [run(*words)[0] for words in cases]


# The tests


@pytest.fixture(scope="session")
def expected() -> Any:
    return json.loads((DATA / "expected.json").read_bytes())


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(DATA / "made.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.fixture
def copied(unpacked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return lambda name: scene(name, unpacked, tmp_path, monkeypatch.setenv)


def test_bundles_install_with_the_identities_they_had(copied: Scene, tmp_path: Path, expected: Any) -> None:
    copied("plain")
    assert identities(tmp_path) == expected["identities"]
    for bundle in (LESSON, FACTS):
        assert expected["identities"][bundle.stem]["bundle_id"][:12] in done("inspect", bundle, "--golden")


def test_a_device_stands_and_answers_as_it_did(copied: Scene, expected: Any) -> None:
    here, known = copied("plain"), expected["classroom"]
    found = json.loads(json.dumps(classroom_as_it_stands(here)))
    assert near(found, known)
    status = found["status"]
    assert (status["joined"], status["copied_here"], status["damage"]) == (True, False, [])
    assert (status["updates_waiting"], status["updates_sent"], status["unlearning_waiting"]) == (1, 1, 1)
    assert status["training_unfinished"]
    assert found["profile"]["method"] != "shared"
    assert found["own answers"] != found["answers"][0]
    assert standing(here / "classroom") == status, "opened again, it is the same"


def test_a_training_that_was_cut_short_goes_on_with_the_features_it_had(copied: Scene, expected: Any) -> None:
    classroom = copied("plain") / "classroom"
    report = told("device", "train", classroom, "--minutes", 5)
    assert (report["resumed"], report["finished"]) == (True, True)
    assert report["samples"] == expected["cut short"] > 0
    assert report["update"] == "queued"
    assert not standing(classroom)["training_unfinished"]
    assert rows(classroom / "cache.db", "SELECT count(*) FROM features")[0][0] == expected["classroom"]["features"]


def test_all_that_is_held_about_a_subject_is_exported_byte_for_byte_and_can_be_forgotten(copied: Scene) -> None:
    here = copied("plain")
    done("device", "export", here / "classroom", "pupil-1", "--out", here / "again")
    found = files(here / "again")
    assert found == files(here / "export")
    assert {Path(name).suffix for name in found} == {".json", ".png", ".wav"}
    done("device", "forget", here / "classroom", "pupil-1", "--yes")
    assert run("device", "export", here / "classroom", "pupil-1")[0] == 3


def test_a_packed_profile_opens_on_another_device(copied: Scene, expected: Any) -> None:
    found = profile_taken(copied("plain"))
    assert near(json.loads(json.dumps(found)), expected["profile taken"])
    assert found["before"] != found["answers"]


@pytest.mark.parametrize("name", ["plain", "secure", "private", "stick"])
def test_a_log_gives_the_same_versions_bit_for_bit_and_its_audit_holds(name: str, copied: Scene, expected: Any) -> None:
    district, known = copied(name) / "district", expected["districts"][name]
    assert near(replayed(district), known["replayed"])
    assert [json.loads(line) for line in done("members", district).splitlines()] == known["members"]
    assert done("audit", "verify", district, "--noted", known["audit"].split()[-1]) == known["audit"]
    assert name != "plain" or len(known["replayed"]["versions"]) == 3
    assert name != "plain" or {"rollback", "withdraw", "release"} <= known["replayed"]["log"].keys()


def test_a_plain_round_that_was_half_full_becomes_the_version_it_would_have_been(copied: Scene, expected: Any) -> None:
    found = plain_round_goes_on(copied("plain"))
    assert near(found, expected["plain"])
    assert (len(found["sent"]), len(found["unlearned"]), found["waiting"]) == (1, 1, [0, 2, 0])
    assert found["versions"] == [4, 4]


def test_a_secure_round_that_was_under_way_is_summed_to_the_same_theta(copied: Scene, expected: Any) -> None:
    here = copied("secure")
    assert rows(here / "district" / "secure.db", "SELECT count(*) FROM sqlite_master")[0][0]
    found = secure_round_goes_on(here)
    assert near(found, expected["secure"])
    assert found["district"]["log"]["secure"] == 1
    assert found["waiting"] == [[0, 1]] * 4


def test_a_private_round_releases_once_more_and_its_ledger_is_charged(copied: Scene, expected: Any) -> None:
    found = private_round_goes_on(copied("private"))
    assert near(json.loads(json.dumps(found)), expected["private"])
    assert found["ledger"] == [(1, 2), (2, 2)]
    assert found["before"] != found["after"]
    assert (found["sent"], found["refused"]) == ([1, 0, 0, 0], [0, 0, 1, 1])


def test_a_stick_that_was_on_its_way_brings_the_same_version(copied: Scene, expected: Any) -> None:
    found = stick_goes_on(copied("stick"))
    assert near(found, expected["stick"])
    assert (found["global"], found["waiting"], found["left"]) == ([1, 1], [[0, 1]] * 2, 0)


def test_a_copy_on_another_machine_is_still_noticed(copied: Scene, expected: Any) -> None:
    here = copied("stick")
    here_, elsewhere = standing(here / "one"), standing(here / "elsewhere")
    assert (here_["copied_here"], here_["joined"], here_["updates_sent"]) == (False, True, 0)
    assert (elsewhere["copied_here"], elsewhere["joined"], elsewhere["updates_sent"]) == (True, False, 1)
    assert elsewhere["samples"] == here_["samples"] == expected["elsewhere"]["samples"] > 0


def test_a_backup_is_restored_with_the_theta_it_had(copied: Scene, expected: Any) -> None:
    here = copied("plain")
    done("restore", here / "backup", here / "restored")
    found, known = versions(here / "restored"), expected["districts"]["plain"]["replayed"]["versions"]
    assert {number: found[number] for number in known} == known
    (newest,) = found.keys() - known.keys()
    assert found[newest] == known["3"]
    assert json.loads(done("rebuild", here / "restored"))["version"] == int(newest) > 2000 * 10**12


def test_the_root_key_still_vouches_for_a_new_one(copied: Scene, tmp_path: Path, expected: Any) -> None:
    district, key = copied("plain") / "district", tmp_path / "new.pem"
    done("trust", "certify", "aggregator", key, "--root-key", ROOT_KEY, "--name", "District 7")
    done("recover", district, "--key", key, "--certificate", key.with_suffix(".json"))
    assert near(replayed(district), expected["districts"]["plain"]["replayed"])


def test_every_command_and_option_is_still_there(expected: Any) -> None:
    assert len(expected["commands"]) > 50
    for path, options in expected["commands"].items():
        command = command_of(path)
        assert command is not None, f"`homeroom {path}` is gone"
        assert set(options) <= set(options_of(command)), f"`homeroom {path}`"


def test_mistakes_end_in_the_same_exit_codes(copied: Scene, expected: Any) -> None:
    cases = [words for words, _ in expected["exit codes"]]
    found = exit_codes(copied("plain"), cases)
    assert [[words, code] for words, code in zip(cases, found, strict=True)] == expected["exit codes"]
    assert {0, 2, 3, 4, 6, 7, 9, 10} <= set(found)


def test_the_wheel_is_the_one_that_made_this(expected: Any) -> None:
    assert [hashlib.sha256(wheel.read_bytes()).hexdigest() for wheel in DATA.glob("*.whl")] == [expected["wheel"]]
