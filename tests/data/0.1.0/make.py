"""Writes what stands beside it, with the release that stands beside it: `python make.py`, of 0.1.0's own checkout.

Kept to show how the data was made; it is not run again. It needs the wheel installed with its extras `exporter` and
`aggregator`, and on PYTHONPATH the folder `tests` of the commit that added this. Keys, ids and nonces are drawn anew
each time, so all but the bundles would differ.

    lesson.homeroom, facts.homeroom   bundles: every modality; a table alone, in three tiers
    root.pem, cat.png, bird.wav       the institution's root key; what is asked about
    made.tar.xz                       plain/    a district, a backup of it, a classroom, what the classroom gave out
                                      secure/   a district in the middle of a secure round, and its four devices
                                      private/  a district after its first private release, and two devices
                                      stick/    a district without a network (topk, FedAvgM), two devices of two
                                                tiers, and the stick
    expected.json                     what the steps of `test_upgrade.py` found with the release itself
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib.metadata
import io
import json
import lzma
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import homeroom.vault
import msgspec
import numpy as np
import test_upgrade as steps
import tiered
import tiny
from aggregator.house import running
from homeroom.bundle import zip_bundle
from homeroom.contract.secure import SecureRules
from homeroom_aggregator.gate import Service

from homeroom import Device, Sample
from homeroom.contract.policy import Policy, sign_policy
from homeroom.contract.privacy import Privacy
from homeroom.contract.roster import make_roster
from homeroom.contract.signing import certify, write_key
from homeroom.contract.update import RoundConfiguration, ServerOptimizer
from homeroom_aggregator import place

HERE = Path(__file__).resolve().parent
ADDRESS = "http://127.0.0.1:8340"
CENTURY_S = 100 * 365 * 86_400
CASES = """
--version
nonsense
device status nowhere
device status classroom
device predict classroom nosuchslot=1
device predict classroom word=cat
device predict classroom picture=absent.png
device train classroom --minutes nonsense
device train untrained --minutes 1
device init untrained --bundle lesson.homeroom
device train untrained --minutes 1
device sync untrained
device sync classroom
device init other --bundle damaged.homeroom
device init other --bundle absent.homeroom
device init other --bundle lesson.homeroom --root 0000000000000000000000000000000000000000000000000000000000000000
device policy classroom used.json
device take classroom lesson.homeroom
device forget classroom nobody --yes
device carry in classroom .
device rollback classroom
inspect lesson.homeroom
inspect damaged.homeroom
members district
members nowhere
audit verify district
audit verify district --noted 00
rebuild backup
rollback district 99 --by me --why so
rollback district 1 --by me --why so
revoke district 00
backup district backup
restore backup restored
restore tampered tampered-restored
restore district again
privacy report district
serve nowhere
invite district --role nonsense
trust root root.pem
trust root root.pem
"""


def bundles() -> None:
    """Both bundle files, and the institution's root key."""
    zip_bundle(tiny.bundle().path, steps.LESSON)
    with tempfile.TemporaryDirectory() as work:
        zip_bundle(tiered.build(Path(work)).path, steps.FACTS)
    write_key(steps.ROOT_KEY, tiny.ROOT)
    rng = np.random.default_rng(11)
    (HERE / "cat.png").write_bytes(tiny.png("cat", rng))
    (HERE / "bird.wav").write_bytes(tiny.wav("bird", rng))


@contextlib.contextmanager
def district(folder: Path, bundle: Path, **asked: Any) -> Iterator[tuple[Service, str]]:
    """A new aggregator's folder while it is served, and its address."""
    configuration = RoundConfiguration(bundle_id="0" * 64, buffer_size=2, **{"min_devices": 2, **asked})
    place.make(
        folder,
        bundle,
        institution="District 7",
        key=tiny.AGGREGATOR,
        certificate=certify(tiny.ROOT, "aggregator", tiny.AGGREGATOR, "District 7"),
        configuration=configuration,
    )
    service = place.open_service(folder)
    try:
        with running(service) as address:
            yield service, address
    finally:
        service.close()


def joined(device: Device, folder: Path, address: str, *words: object) -> Path:
    """Invited, and enrolled; the invitation that was used."""
    with tempfile.TemporaryDirectory() as work:
        steps.done("invite", folder, "--out", work, "--address", address, *words)
        (written,) = Path(work).iterdir()
        device.join(written)
        kept = folder.parent / "used.json"
        shutil.copy(written, kept)
    return kept


def lessons(count: int, seed: int, pictures: int = 0) -> list[Sample]:
    """Samples of every modality; the four pictures of a choice only in the first few, since they are large."""
    rows = tiny.samples(count, seed)
    for row in rows[pictures:]:
        del row["pictures"], row["labels"]["which_picture"]
    return [Sample(**row) for row in rows]


def contrary(count: int, seed: int) -> list[Sample]:
    """Of a person for whom every animal is a fish, which no shared model can know."""
    own: dict[str, Any] = {"subject": "p-17", "consent": "Ms Lee", "retain_until": "2099-12-31"}
    rows = tiny.samples(count, seed)
    return [Sample(word=row["word"], facts=row["facts"], labels={"category": "fish"}, **own) for row in rows]


def facts(count: int, seed: int) -> list[Sample]:
    return [Sample(**row) for row in tiered.rows(count, seed)]


def black() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def policy(path: Path) -> Path:
    """A school's, with a segment that stays."""
    word = certify(tiny.ROOT, "institution", tiny.EXPORTER, "Hill School")
    told = Policy(institution="Hill School", version=3, scopes={"head.weight": "personal"}, min_devices=2)
    path.write_bytes(sign_policy(told, tiny.EXPORTER, word))
    return path


def plain(here: Path) -> None:
    """Three versions, one of them a way back, one update taken back, half a buffer; and a classroom with all it has."""
    folder, scratch = here / "district", here / "scratch"
    with contextlib.ExitStack() as opened:
        service, address = opened.enter_context(district(folder, steps.LESSON))
        classroom, hill, lake = (
            opened.enter_context(Device.open(path, steps.LESSON, threads=1))
            for path in (here / "classroom", scratch / "hill", scratch / "lake")
        )
        classroom.add(*lessons(9, 0, pictures=2))
        classroom.add(Sample(picture=black(), labels={"category": "cat"}, subject="pupil-1", source="a dark room"))
        classroom.add(Sample(word="the dog", picture=black(), labels={"category": "dog"}, subject="pupil-2"))
        classroom.add(*contrary(16, 1))
        classroom.policy(policy(here / "policy.json"))
        for device, seed in ((hill, 1), (lake, 2)):
            device.add(*lessons(6, seed))
        joined(hill, folder, address, "--school", "Hill School", "--consent", "Ms Lee, letter of 3 March")
        joined(lake, folder, address, "--school", "Lake School", "--consent", "Mr Roy")
        joined(classroom, folder, address)

        def learn(device: Device) -> None:
            device.train(minutes=1, epochs=2)
            assert len(device.sync().sent) == 1

        learn(classroom)
        learn(hill)  # version 1
        assert classroom.sync().version == 1
        for device in (lake, hill):  # version 2
            device.sync()
            learn(device)
        steps.done("consent", folder, "Lake School", "--by", "Mr Roy", "--withdraw")
        service.rounds.roll_back(1, "Ms Lee", "worse")  # version 3
        withdrawn = lake.store.sent_updates()[-1]
        lake.store.queue_unlearn(getattr(withdrawn, "update_id", withdrawn))
        assert lake.sync().unlearned
        hill.sync()
        learn(hill)  # half of version 4
        assert classroom.sync().version == 3
        assert classroom.forget("pupil-4").unlearning
        assert classroom.train(minutes=1, profile="p-17").profile
        cut_short(classroom)
    shutil.rmtree(scratch)
    steps.done("invite", folder, "--out", here, "--address", ADDRESS)
    (here / "invitation.json").rename(here / "open.json")
    steps.done("backup", folder, here / "backup")
    steps.done("device", "profile", here / "classroom", "p-17", "--pack", here / "p-17.profile")
    steps.done("device", "export", here / "classroom", "pupil-1", "--out", here / "export")


def cut_short(device: Device) -> None:
    """A training whose minutes are over in its third epoch."""
    waited: list[int] = []

    def progress(stage: str, step: int, total: int) -> None:
        if stage == "training" and step > 0.3 * total and not waited:
            waited.append(step)
            time.sleep(6)

    report = device.train(minutes=0.1, progress=progress)
    assert (report.finished, report.update) == (False, "queued")


def secure(here: Path) -> None:
    """Everybody has signed up and shared keys, and two of four have sent what is masked."""
    rules = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1, phase_s=CENTURY_S)
    with contextlib.ExitStack() as opened:
        service, address = opened.enter_context(district(here / "district", steps.FACTS, min_devices=3, secure=rules))
        devices = [opened.enter_context(Device.open(here / f"device-{n}", steps.FACTS, threads=1)) for n in range(4)]
        for seed, device in enumerate(devices):
            device.add(*facts(9, seed))
            joined(device, here / "district", address)
            device.train(minutes=1, epochs=2)
        word = certify(tiny.ROOT, "roster", tiny.EXPORTER, "tests")
        keys = [device.status()["device_key"] for device in devices]
        roster = make_roster(tiny.EXPORTER, word, keys, serial=1, minimum=3, institution="tests")
        place.put_roster(here / "district", msgspec.json.encode(roster))
        assert service.cohorts
        for device in (*devices, *devices, *devices):
            live = service.cohorts.desk.live()
            if live and live.phase == "input" and len(service.cohorts.desk.senders("input")) == 2:
                break
            device.sync()
        live = service.cohorts.desk.live()
        assert live
        assert (live.phase, len(service.cohorts.desk.senders("input"))) == ("input", 2)


def private(here: Path) -> None:
    """One release, one update of the next; a budget of two, and a clip that follows the updates."""
    promise = Privacy(clip_norm=0.5, noise_multiplier=1.0, epsilon=9.0, delta=1e-5, quantile=0.5)
    with contextlib.ExitStack() as opened:
        service, address = opened.enter_context(district(here / "district", steps.FACTS, privacy=promise))
        devices = [opened.enter_context(Device.open(here / f"device-{n}", steps.FACTS, threads=1)) for n in range(2)]
        for seed, device in enumerate(devices):
            device.add(*facts(9, seed))
            joined(device, here / "district", address)
            device.train(minutes=1, epochs=1)
            assert len(device.sync().sent) == 1
        for device in devices:
            assert device.sync().version == 1
            device.train(minutes=1, epochs=1)
        assert len(devices[0].sync().sent) == 1
        assert (service.rounds.state.version, service.rounds.state.pending) == (1, 1)


def stick(here: Path) -> None:
    """Two devices that joined by hand, of two tiers: the answer to one lies on the stick, and a letter of the other."""
    more = {"codec": "topk", "optimizer": ServerOptimizer(name="fedavgm")}
    with district(here / "district", steps.FACTS, **more):
        pass
    (here / "stick").mkdir()
    steps.done("carry", "in", here / "district", here / "stick")
    for number, (name, tier) in enumerate((("one", "full"), ("two", "half"))):
        with Device.open(here / name, steps.FACTS, threads=1, tier=tier) as device:
            device.add(*facts(9, number))
            steps.done("invite", here / "district", "--out", here, "--address", "http://nowhere.example")
            device.join_by_hand(here / "invitation.json")
            (here / "invitation.json").unlink()
            device.carry_out(here / "stick")
            steps.done("carry", "in", here / "district", here / "stick")
            assert device.carry_in(here / "stick").joined
            device.train(minutes=1, epochs=2)
    for name in ("one", "two"):
        steps.done("device", "carry", "out", here / name, here / "stick")
        if name == "one":
            steps.done("carry", "in", here / "district", here / "stick")
    assert sorted(path.suffix for path in (here / "stick").rglob("*.*")) == [".answer", ".json", ".letter"]
    shutil.copytree(here / "one", here / "elsewhere")


def without_machine(directory: Path) -> None:
    """As before a system told which machine this is: the first to open it then is where it has been all the time."""
    for path in (directory / "device.db", directory / "backup" / "device.db"):
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            assert database.execute("DELETE FROM secrets WHERE name IN ('machine', 'disk')").rowcount > 0


def settled(folder: Path) -> None:
    """Every database in one file."""
    for path in folder.rglob("*.db"):
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in [*folder.rglob("*.db-wal"), *folder.rglob("*.db-shm")]:
        assert path.suffix == ".db-shm" or path.stat().st_size == 0
        path.unlink()


def packed(folder: Path) -> None:
    """All of it in one file, in which what lies there twice takes no room."""

    def plain_facts(entry: tarfile.TarInfo) -> tarfile.TarInfo:
        entry.uid = entry.gid = entry.mtime = 0
        entry.uname = entry.gname = ""
        return entry

    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 64 << 20}]
    with lzma.open(HERE / "made.tar.xz", "wb", filters=filters) as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path in sorted(folder.rglob("*")):
            tar.add(path, path.relative_to(folder), recursive=False, filter=plain_facts)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    for name in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), name)
        assert command is not None
        yield " ".join((*path, name)), steps.options_of(command)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def expected(made: Path) -> dict[str, Any]:
    """What the release itself finds, on copies."""

    def copied(name: str) -> Path:
        return steps.scene(name, made, Path(tempfile.mkdtemp()), os.environ.__setitem__)

    def about(name: str) -> dict[str, Any]:
        folder = copied(name) / "district"
        found = steps.done("members", folder).splitlines()
        return {
            "replayed": steps.replayed(folder),
            "members": [json.loads(line) for line in found],
            "audit": steps.done("audit", "verify", folder),
        }

    cases = [line.split() for line in CASES.strip().splitlines()]
    with Device.open(copied("plain") / "classroom") as device:
        report = device.train(minutes=5)
        assert (report.resumed, report.finished) == (True, True)
    (wheel,) = HERE.glob("*.whl")
    return {
        "version": importlib.metadata.version("homeroom"),
        "wheel": hashlib.sha256(wheel.read_bytes()).hexdigest(),
        "made": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "identities": steps.identities(copied("plain")),
        "classroom": steps.classroom_as_it_stands(copied("plain")),
        "cut short": report.samples,
        "profile taken": steps.profile_taken(copied("plain")),
        "districts": {name: about(name) for name in ("plain", "secure", "private", "stick")},
        "plain": steps.plain_round_goes_on(copied("plain")),
        "secure": steps.secure_round_goes_on(copied("secure")),
        "private": steps.private_round_goes_on(copied("private")),
        "stick": steps.stick_goes_on(copied("stick")),
        "elsewhere": {"samples": steps.standing(copied("stick") / "one")["samples"]},
        "commands": dict(sorted(commands(steps.tree()))),
        "exit codes": [list(pair) for pair in zip(cases, steps.exit_codes(copied("plain"), cases), strict=True)],
    }


def main() -> None:
    homeroom.vault.machine_identity = lambda: "the machine that 0.1.0 ran on"
    homeroom.vault.disk_identity = lambda _: ""
    for path in [*HERE.glob("*.homeroom"), *HERE.glob("*.pem")]:
        path.unlink()
    bundles()
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "made"
        for make, keys in ((plain, "keys"), (secure, "keys"), (private, "keys"), (stick, "config")):
            here = made / make.__name__
            (here / keys).mkdir(parents=True)
            os.environ["HOMEROOM_KEYS"] = str(here / keys) if keys == "keys" else ""
            os.environ["XDG_CONFIG_HOME"] = str(here / keys) if keys == "config" else ""
            os.environ["HOMEROOM_PASSPHRASE"] = steps.WORDS
            make(here)
        settled(made)
        for facts_file in made.rglob("device.json"):
            if facts_file.parent.name != "elsewhere":
                without_machine(facts_file.parent)
        packed(made)
        found = json.dumps(expected(made), indent=1, sort_keys=True, ensure_ascii=False)
    (HERE / "expected.json").write_text(found + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
