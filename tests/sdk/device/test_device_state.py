"""The records of the device's state: bytes as ever, one owner each, all on the page; an unreadable one is said."""

from __future__ import annotations

import ast
import datetime
import importlib
import json
import re
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from homeroom.agent.loop import LAST_TRAINING, LastTraining
from homeroom.contract.invitation import Enrolment
from homeroom.contract.round import RoundConfiguration
from homeroom.device.install import BUNDLE, TIER, InstalledBundle
from homeroom.device.plan import COSTS
from homeroom.errors import Code, StoreError
from homeroom.federation import agreement, enrolment, offline, privacy_ledger, secure_round, secure_update
from homeroom.federation.network.settings import NetworkSettings
from homeroom.store import Store
from homeroom.store.context import CLOCK
from homeroom.store.device_state import IDENTITY, TAKEN_IN_RECORD, StateRecord, deletion, json_record
from homeroom.store.retention_clock import RetentionClock
from homeroom.store.versions import HISTORY, TRAINING, UnfinishedTraining

ROOT = Path(__file__).resolve().parents[3]
SDK = ROOT / "sdk"
STATEMENT = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|FROM|INTO)\b.*\bsecrets\b")
SQL_OF_RECORDS = {  # modules of the store that name the table in SQL, beside `device_state`
    "context.py": "puts and gets the sealed bytes",
    "carried_digests.py": "stores the digests inside a migration, before there is a context",
    "sealed_rows.py": "opens every row to find damage",
    "outbox.py": "drops the residuals of updates that were sent",
    "erasure.py": "drops what stems from a forgotten subject's updates",
}
KEY = bytes(range(32))


class Sealed:
    """A store of records in memory."""

    directory = Path("classroom")

    def __init__(self) -> None:
        self.bodies: dict[str, bytes] = {}

    def get_secret(self, name: str) -> bytes | None:
        return self.bodies.get(name)

    def put_secret(self, name: str, body: bytes | None) -> None:
        if body is None:
            self.bodies.pop(name, None)
        else:
            self.bodies[name] = body


@cache
def records() -> dict[str, tuple[str, StateRecord[Any]]]:
    """Every record of the SDK by its stored name, with the one module that holds it."""
    found: dict[str, tuple[str, StateRecord[Any]]] = {}
    for path in sorted(SDK.rglob("*.py")):
        text = path.read_text()
        if "device_state import" not in text:
            continue
        name = ".".join(path.relative_to(SDK).with_suffix("").parts)
        for record in vars(importlib.import_module(name)).values():
            if isinstance(record, StateRecord):
                assert record.name not in found, f"{record.name} has two owners: {name}, {found[record.name][0]}"
                found[record.name] = (name, record)
    return found


LATER_FIELD = b'"pin":""'  # came after 0.1.0, which passes it over


@pytest.mark.parametrize(
    ("record", "value", "body"),
    [
        (enrolment.KEY, Ed25519PrivateKey.from_private_bytes(KEY), KEY),
        (enrolment.NEXT_KEY, Ed25519PrivateKey.from_private_bytes(KEY), KEY),
        (offline.SEALING_KEY, X25519PrivateKey.from_private_bytes(KEY), KEY),
        (
            enrolment.ENROLMENT,
            Enrolment(address="https://a", root="0" * 64, institution="Hill", bundle_id="1" * 64),
            b'{"address":"https://a","root":"%s","institution":"Hill","bundle_id":"%s",%s}'
            % (b"0" * 64, b"1" * 64, LATER_FIELD),
        ),
        (enrolment.SCHOOL, "Höhe", "Höhe".encode()),
        (
            enrolment.NETWORK,
            NetworkSettings(scores="tell"),
            b'{"address":"","proxy":"","metered":"auto","clock":"auto","lan":"auto","scores":"tell",%s}' % LATER_FIELD,
        ),
        (agreement.SECURE_ROUNDS, b"1", b"1"),
        (
            privacy_ledger.LEDGER,
            [privacy_ledger.LedgerEntry("u1", 1.5)],
            b'[{"update_id":"u1","noise_multiplier":1.5}]',
        ),
        (secure_round.ROSTER_SERIAL, 12, b"12"),
        (secure_update.UPDATE_ID, "ab", b"ab"),
        (secure_update.LEFT_ROUND, "cd", b"cd"),
        (
            BUNDLE,
            InstalledBundle(bundle_id="b", name="tiny", version=2, root="r", precision={"text": "int8"}),
            b'{"bundle_id":"b","name":"tiny","version":2,"root":"r","precision":{"text":"int8"},"runtime":"onnx"}',
        ),
        (TIER, "small", b"small"),
        (LAST_TRAINING, LastTraining("m", "2026-12-01", 2.5), b'{"mark":"m","day":"2026-12-01","seconds":2.5}'),
        (CLOCK, RetentionClock(datetime.date(2026, 12, 1)), b'{"newest":"2026-12-01","doubted":null}'),
        (HISTORY, ["a", "b"], b'["a","b"]'),
        (TRAINING, UnfinishedTraining("tag", b"\x00\x01"), b"\x92\xa3tag\xc4\x02\x00\x01"),
    ],
    ids=lambda value: value.name if isinstance(value, StateRecord) else "",
)
def test_a_record_is_written_in_the_bytes_of_0_1_0(record: StateRecord[Any], value: Any, body: bytes) -> None:
    store = Sealed()
    record.write(store, value)
    assert store.bodies == {record.name: body}
    back = record.read(store)
    assert (back.private_bytes_raw() if record.name.endswith(("key", "next", "sealing")) else back) == (
        KEY if body == KEY else value
    )
    record.write(store, None)
    assert (record.read(store), record.exists(store), store.bodies) == (None, False, {})


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stores that 0.1.0 left."""
    place = tmp_path_factory.mktemp("0.1.0")
    with tarfile.open(ROOT / "tests" / "data" / "0.1.0" / "made.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place


@pytest.mark.parametrize(
    ("folder", "keys"),
    [("plain/classroom", "keys"), ("private/device-0", "keys"), ("secure/device-0", "keys"), ("stick/one", "config")],
)
def test_every_record_of_0_1_0_is_read_and_written_as_it_was(
    folder: str, keys: str, release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = (release / folder).parent / keys
    monkeypatch.setenv("HOMEROOM_KEYS" if keys == "keys" else "XDG_CONFIG_HOME", str(here))
    written = Sealed()
    with Store.open(release / folder) as store:
        names = [row[0] for row in store._context.database.rows("SELECT name FROM secrets")]
        assert len(names) > 5
        for name in names:
            key = max((known for known in records() if name == known or known.endswith(".")), key=matching(name))
            record = records()[key][1]
            update_id, before = name.removeprefix(record.name), store.get_secret(name)
            assert before is not None
            record.write(written, record.read(store, update_id), update_id)
            after = written.bodies[name]
            if before[:1] in (b"{", b"["):  # fields that later versions added are at their defaults
                old, new = json.loads(before), json.loads(after)
                assert old == ({field: new[field] for field in old} if isinstance(old, dict) else new), name
            else:
                assert after == before, name


def matching(name: str) -> Any:
    return lambda known: (name == known, name.startswith(known))


def test_a_record_that_cannot_be_read_is_said_and_stays() -> None:
    for body in (b'{"address": 1}', b"\xff", b""):
        store = Sealed()
        store.bodies[enrolment.ENROLMENT.name] = body
        with pytest.raises(StoreError, match=r"identity\.enrolment.*newer homeroom") as caught:
            enrolment.ENROLMENT.read(store)
        assert (caught.value.code, caught.value.where) == (Code.UNREADABLE_RECORD, "classroom")
        assert store.bodies == {enrolment.ENROLMENT.name: body}
        assert enrolment.ENROLMENT.exists(store)
    store.bodies[enrolment.KEY.name] = b"too short"
    with pytest.raises(StoreError, match=r"identity\.key"):
        enrolment.KEY.read(store)


def test_costs_that_cannot_be_read_are_measured_again_and_other_records_are_not() -> None:
    store = Sealed()
    store.bodies[COSTS.name] = b'{"of": "another version"}'
    assert COSTS.read(store) is None
    made_again = sorted(record.name for _, record in records().values() if record.made_again)
    assert made_again == [COSTS.name, "digests", "judged", TAKEN_IN_RECORD]


def test_fields_of_a_newer_version_are_passed_over() -> None:
    store, record = Sealed(), json_record("agent.training", LastTraining)
    store.bodies[record.name] = b'{"mark":"m","later":[1]}'
    assert record.read(store) == LastTraining("m")


def test_a_promise_that_ended_is_none_in_both_forms() -> None:
    store = Sealed()
    assert agreement.PROMISE.read(store) is None
    store.bodies[agreement.PROMISE.name] = b"null"  # as 0.1.0 wrote it
    assert agreement.PROMISE.read(store) is None


def test_an_agreement_is_read_from_its_three_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    with Store.open(tmp_path / "device") as store:
        assert agreement.read_agreement(store) == agreement.Agreement()
        configuration = RoundConfiguration(bundle_id="0" * 64)
        agreement.store_round(store, configuration)
        assert agreement.read_agreement(store) == agreement.Agreement(configuration)
        assert store.get_secret("identity.round") == msgspec.json.encode(configuration)
        store._context.database.write(deletion(IDENTITY))
        assert agreement.read_agreement(store) == agreement.Agreement()


def test_only_records_reach_into_the_table() -> None:
    wrong = []
    for path in sorted(SDK.rglob("*.py")):
        where = path.relative_to(SDK / "homeroom")
        if where.parts[0] == "store" and where.name in (*SQL_OF_RECORDS, "device_state.py", "store.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in ("get_secret", "put_secret"):
                wrong.append(f"{where}:{node.lineno}: {node.attr}")
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.search(node.value):
                wrong.append(f"{where}:{node.lineno}: {node.value}")
    assert not wrong


def test_the_page_lists_every_record_once() -> None:
    page = (ROOT / "docs" / "device.md").read_text()
    section = re.search(r"^### Records.*?\n(.*?)(?=^##)", page, re.S | re.M)
    assert section, "docs/device.md has no section on records"
    listed = re.findall(r"^\| `([\w.]+?)(?:<update id>)?` \| .*? \| `([\w.]+)` \|", section[1], re.M)
    assert sorted(listed) == sorted((name, owner.removeprefix("homeroom.")) for name, (owner, _) in records().items())
