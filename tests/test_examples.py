"""Every example of every command's help, typed by a reader in a folder that holds what it names."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import grown
import msgspec
import pytest
import tiny
from aggregator.institution import make_folder, staying_port
from doc_blocks import Reader
from PIL import Image
from sdk.pull.servers import Files, as_hub, serving

from exporter import models
from homeroom import Device, Sample
from homeroom.cli.commands import COMMANDS
from homeroom.cli.examples import GROUPED, examples
from homeroom.contract.canonical_json import canonical
from homeroom.contract.round import StatisticsRules
from homeroom.contract.secagg import SecureRules
from homeroom.contract.signing import certify, read_key
from homeroom.device.local_labels import add_labels
from homeroom.quickstart.drawings import THINGS
from homeroom.runtime.bundle import install, write_signature, zip_bundle
from homeroom_aggregator.admin.folder import open_log, open_rounds
from homeroom_aggregator.state import audit

STARTER, ID = "starter.homeroom", "3f2a91c0"
ELSEWHERE = {examples("quickstart")[1]}  # tests/examples/test_starter.py types it with the real starter bundle
TYPED = set[str]()  # examples, as help shows them
LESSON_RECIPE = """\
name = "lesson"
version = 1
batch = 4
golden = 3
[encoders.text]
source = "hf:MODEL"
buckets = [16]
[adapter]
family = "lora"
rank = 2
[slots]
word = "text"
[tasks.kind]
kind = "classification"
reads = ["word"]
labels = ["animals", "plants", "vehicles", "home"]
"""
ROWS = [
    f"{article} {thing.words['en']},{thing.kind},p-{17 + number % 3},letter of 3 May"
    for number, thing in enumerate(THINGS)
    for article in ("the", "a", "one")
]


@pytest.fixture
def reader(small_starter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """A reader in a new folder with the starter bundle, a lesson and a sheet of schools."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("KEYS", f"{tmp_path / 'key-ring'}"), ("PASSPHRASE", "six words that nobody will guess")):
        monkeypatch.setenv(f"HOMEROOM_{name}", value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    Path("key-ring").mkdir(mode=0o700)
    shutil.copy(small_starter, STARTER)
    for name, rows in (("lesson", ROWS), ("test", ROWS[::7]), ("hill", ROWS[::2]), ("lake", ROWS[1::2])):
        write_sheet(Path(f"{name}.csv"), rows)
    Path("form.csv").write_text("id,word,What is it?\n1,the duck,animals\n2,the moss,plants\n")
    Path("schools.csv").write_text("school,devices,consent\nHill School,1,letter\nLake,1,letter\nMill,1,letter\n")
    Image.new("RGB", (64, 64), "green").save("photo.jpg")
    one = Reader(staying_port())
    yield one
    one.stop()


def write_sheet(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(["word,label.kind,subject,consent_text", *rows]))


def types(reader: Reader, *paths: str, chosen: str = "") -> None:
    """Types the examples of these commands. chosen: what stands for an id in them."""
    for path in paths:
        for line in examples(path):
            if chosen:
                reader.words[ID] = chosen
            type_example(reader, line)
            reader.words.pop(ID, None)


def type_example(reader: Reader, line: str) -> None:
    TYPED.add(line)
    reader.type(line)


def away(*folders: str) -> None:
    for name in folders:
        shutil.rmtree(name)


def keys_and_what_they_sign(reader: Reader) -> None:
    types(reader, "trust root", "trust certify")
    Path("school.toml").write_text('version = 1\n[scopes]\n"head.*" = "institution"\n')
    Path("keys.txt").write_text("\n".join(f"{number:064x}" for number in range(6)))
    for role, key in (("institution", "school"), ("roster", "signer")):
        reader.type(f'homeroom trust certify {role} {key}.pem --root-key root.pem --name "School 12"')
    types(reader, "trust policy", "trust roster")


def a_class_alone(reader: Reader) -> None:
    types(reader, "device init", "device add", "device train", "device status", "device predict")
    types(reader, "device explain", "device score", "device history", "device profile show", "device profile pack")
    blank = io.BytesIO()
    Image.new("RGB", (64, 64)).save(blank, "PNG")
    with Device.open("classroom") as device:
        device.add(Sample(picture=blank.getvalue(), labels={"kind": "home"}, subject="p-18"))
        held = [sample.sample_id for sample in device.store.samples()]
    types(reader, "device quarantine", chosen=held[-1])
    types(reader, "device undo", "device migrate", "device accept-restored", "device subjects", "device consent")
    types(reader, "device remove", chosen=held[0])
    types(reader, "device hand-over", "device support-bundle", "doctor")
    Path("classroom").rename("other")
    reader.type(f"homeroom device init classroom/ --bundle {STARTER}")
    types(reader, "device profile import")
    away("classroom")
    Path("other").rename("classroom")
    types(reader, "device forget")


def an_agent(reader: Reader) -> None:
    """Both examples of `device run`: one ends by itself, the other is stopped."""
    write_sheet(Path("inbox/monday.csv"), ROWS[:4])
    once, forever = examples("device run")
    type_example(reader, once)
    TYPED.add(forever)
    *words, window = forever.replace("homeroom", f"{sys.executable} -m homeroom", 1).split(" --window ")
    with subprocess.Popen([*words[0].split(), "--window", window.strip("'")]) as agent:
        for _ in range(120):
            time.sleep(0.5)
            with contextlib.suppress(AssertionError):
                types(reader, "device page")
                break
        types(reader, "device agent")
        agent.send_signal(signal.SIGTERM)
        assert agent.wait(60) == 0


def labels_of_its_own(reader: Reader) -> None:
    folder = Path("grown")
    folder.mkdir()
    first = grown.exported(folder, **grown.FIRST)
    later = grown.SECOND | {"kinds": json.dumps([*grown.OLD, "dinosaurs"])}
    second = grown.exported(folder, first, **later)
    with Device.open("classroom", first.path, threads=1) as device:
        device.add(*(Sample(**row) for row in grown.rows(16, grown.OLD)))
    types(reader, "device labels add", "device labels show", "device labels remove", "device labels add")
    types(reader, "device labels rename")
    with Device.open("classroom") as device:
        device.change_labels(lambda store, bundle: add_labels(store, bundle, "kind", ["dinosaurs"], "institution"))
    Device.open("classroom", second.path, threads=1).close()
    types(reader, "device labels merge")
    away("classroom")


def bundles(reader: Reader) -> None:
    write_sheet(Path("lesson/words.csv"), ROWS)
    types(reader, "bundle recipe new")
    Path("lesson.toml").write_text(LESSON_RECIPE.replace("MODEL", str(models.bert(Path("model").absolute()))))
    types(reader, "bundle export", "bundle inspect")
    reader.type("homeroom device init classroom/ --bundle lesson-bundle/")
    types(reader, "bundle to-peft")
    away("classroom")
    with serving(Files()) as hub:
        as_hub(hub, "our-district/lesson", {"lesson.homeroom": Path(STARTER).read_bytes()}, card={})
        reader.words["@v2 lesson.homeroom"] = f"@v2 lesson.homeroom --endpoint {hub.address}"
        types(reader, "bundle pull")


def a_stick(reader: Reader) -> None:
    Path("stick").mkdir()
    shutil.copy("district-invitations/Hill-School.json", "invitation.json")
    served = next(Path("district/bundles").iterdir())
    reader.type(f"homeroom device init classroom/ --bundle {served}")
    types(reader, "district offline in", "device offline join", "device offline out", "district offline in")
    types(reader, "device offline in")
    away("classroom")


def three_schools(reader: Reader) -> None:
    """Schools that join, train and sync, until the district has a version."""
    type_example(reader, examples("district serve")[0])
    shutil.copy("district-invitations/Hill-School.json", "invitation.json")
    types(reader, "device fetch")
    types(reader, "device join")
    for school in ("classroom", "lake", "mill"):
        if school != "classroom":
            reader.type(f"homeroom device join {school} district-invitations/{school.title()}.json")
        reader.type(f"homeroom device add {school} lesson.csv")
        reader.type(f"homeroom device train {school} --minutes 1")
        reader.type(f"homeroom device sync {school}")
    reader.type("homeroom trust certify institution own.pem --root-key district-keys/root.pem --name School")
    reader.type("homeroom trust policy school.toml --key own.pem --out policy.json")
    types(reader, "device sync", "device policy", "device rotate-key", "device upgrade")
    types(reader, "district backup", "district evaluation", "district dashboard", "district members")
    reader.stop()
    types(reader, "device network")


def a_district(reader: Reader) -> None:
    """What its officer types, with the server stopped."""
    type_example(reader, examples("district serve")[1])
    reader.stop()
    types(reader, "district configure", "district invite", "district consent", "district privacy report")
    types(reader, "district audit show")
    with contextlib.closing(open_log(Path("district"))) as log:
        noted = next(iter(audit.records(log.database))).digest
    reader.words["5d41402a"] = noted
    types(reader, "district audit verify", "district rebuild")
    with contextlib.closing(open_rounds(Path("district"))) as rounds:
        rounds.roll_back(0, "Ms Lee", "so that the newest is not the first")
    types(reader, "district go-back")
    for name, rows in (("gone", ROWS[:24]), ("never", ROWS[24:48])):
        lines = [dict(zip(("word", "kind"), row.split(","), strict=False)) for row in rows]
        text = [json.dumps({"word": one["word"], "labels": {"kind": one["kind"]}}) for one in lines]
        Path(f"{name}.jsonl").write_text("\n".join(text))
    types(reader, "district unlearning test")
    with contextlib.closing(open_rounds(Path("district"))) as rounds:
        member = rounds.members.every()[-1]["device"]
    types(reader, "district withdraw", "district revoke", chosen=member)
    types(reader, "district rewind", "district unlearning report", "district unlearning verify")
    types(reader, "district unlearning list")
    reader.type('homeroom trust certify aggregator new.pem --root-key district-keys/root.pem --name "District 7"')
    types(reader, "district recover")
    Path("district").rename("district.old")
    types(reader, "district restore")
    newer_starter(Path("newer"))
    types(reader, "district upgrade-bundle")
    away("district")
    rules = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1)
    secure = {"secure": rules, "statistics": StatisticsRules(mode="secure", k=3, subjects=10)}
    make_folder(Path.cwd(), **secure)
    types(reader, "district new-total")


def newer_starter(folder: Path) -> None:
    """The starter of a higher version, by an exporter whom the district's root certified."""
    opened = install(Path(STARTER), folder, root=None)
    manifest = msgspec.structs.replace(opened.manifest, version=2)
    (opened.path / "manifest.json").write_bytes(canonical(manifest))
    root = read_key(Path("district-keys/root.pem"))
    write_signature(opened.path, manifest, certify(root, "exporter", tiny.EXPORTER, "tests"), tiny.EXPORTER)
    zip_bundle(opened.path, Path("starter-2.homeroom"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_example_of_every_help_does_what_it_shows(reader: Reader) -> None:
    keys_and_what_they_sign(reader)
    a_class_alone(reader)
    an_agent(reader)
    away("classroom")
    labels_of_its_own(reader)
    bundles(reader)
    types(reader, "district init")
    a_stick(reader)
    away("district", "district-keys", "district-invitations")
    types(reader, "district init")
    three_schools(reader)
    a_district(reader)
    types(reader, "research simulate")
    type_example(reader, examples("quickstart")[0])
    assert {line for path in COMMANDS for line in examples(path)} - TYPED == ELSEWHERE


def test_every_command_has_one_or_two_examples_and_none_is_of_another() -> None:
    assert {f"{group} {name}".strip() for group, table in GROUPED.items() for name in table} == set(COMMANDS)
    assert [path for path in COMMANDS if not 1 <= len(examples(path)) <= 2] == []
    assert [line for path in COMMANDS for line in examples(path) if len(line) > 124] == []
