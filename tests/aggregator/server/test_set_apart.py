"""What kills or fails its reader is set apart after one try, and named; nothing behind it waits."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from conftest import Attack

from aggregator.institution import School, make_folder
from aggregator.server.test_kill import kill
from homeroom.contract import offline_message, sealed_box
from homeroom.contract.offline_folder import OfflineFolder
from homeroom.contract.signing import fingerprint
from homeroom.contract.update_checks import read_update
from homeroom.errors import NetworkError, StoreError, UpdateError
from homeroom.federation.network.client import Client, join
from homeroom_aggregator.admin.folder import invite_devices, open_rounds, read_facts
from homeroom_aggregator.admin.offline import load_sealing_key, take_in_messages
from homeroom_aggregator.merge import replay
from homeroom_aggregator.merge.round_state import RoundState
from homeroom_aggregator.state import set_apart

DEADLY = """
import os, sys
from homeroom_aggregator.merge import admission, replay
from homeroom.cli.main import homeroom
for module in (admission, replay):
    def read(data, *more, original=module.read_update, mark=sys.argv[2].encode()):
        return os._exit(139) if mark in data else original(data, *more)
    module.read_update = read
homeroom(["district", "serve", sys.argv[1], "--port", "0"])
"""


def serve(folder: Path, mark: str) -> tuple[subprocess.Popen[str], str, list[str]]:
    """The server whose reader dies of an update with this mark; its address, and what it says; "" if it died."""
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", DEADLY, str(folder), mark], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    assert process.stdout is not None
    lines, address = [], ""
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith("listening on "):
            address = line.split()[-1]
            httpx.get(f"{address}/v1/health", timeout=60)
            break
    return process, address, lines


def at(client: Client, address: str) -> Client:
    (invitation,) = [client.enrolment]
    import msgspec

    return Client(msgspec.structs.replace(invitation, address=address), client.key)


@pytest.mark.attack("bounds", "an update that kills the process that reads it")
def test_an_update_that_kills_its_reader_is_not_read_again(tmp_path: Path, attack: Attack) -> None:
    folder = make_folder(tmp_path)
    with contextlib.closing(open_rounds(folder)) as rounds:
        configuration, layout = rounds.configuration, rounds.rules.layout
    poison, honest = School(), School()
    data = poison.update(configuration, 0.5)
    mark = read_update(data, configuration, layout).header.update_id
    process, address, _ = serve(folder, mark)
    clients = []
    for school in (poison, honest):
        (invitation,) = invite_devices(folder, address, 1)
        clients.append(Client(join(invitation, school.key), school.key))
    with contextlib.suppress(NetworkError, UpdateError):
        clients[0].update(data)
    assert process.wait(60) == 139
    process, address, _ = serve(folder, mark)
    try:
        with pytest.raises(UpdateError) as caught:
            at(clients[0], address).update(data)
        assert caught.value.code == "set_apart"
        attack.got += process.poll() is not None
        assert at(clients[1], address).update(honest.update(configuration, 0.25)) == "accepted"
    finally:
        kill(process)
    process, _, lines = serve(folder, mark)
    kill(process)
    with contextlib.closing(open_rounds(folder)) as rounds:
        ((what, why),) = set_apart.reasons(rounds.log.database)
        assert why == set_apart.ENDED
        assert rounds.facts()["set_apart"] == 1
        assert any(line.startswith(f"set apart: {what}") for line in lines)
    attack.noticed = what


@pytest.mark.attack("bounds", "a row in the log that kills the process at each start")
def test_a_row_that_kills_its_reader_is_set_apart_and_the_rest_counts(tmp_path: Path, attack: Attack) -> None:
    folder, schools = make_folder(tmp_path, buffer_size=3), [School() for _ in range(3)]
    with contextlib.closing(open_rounds(folder)) as rounds:
        ids = [rounds.update(school.update(rounds.configuration, 0.5), school.name)[0] for school in schools[:2]]
    process, address, _ = serve(folder, ids[0])
    attack.got += bool(address)
    assert process.wait(60) == 139
    process, address, _ = serve(folder, ids[0])
    assert address
    kill(process)
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 1
        assert rounds.verify() == []
        assert set_apart.reasons(rounds.log.database) == [("entry 1", set_apart.ENDED)]
        assert rounds.log.withdrawn(ids[0])


def test_a_row_that_cannot_be_read_is_set_apart(tmp_path: Path) -> None:
    folder, schools = make_folder(tmp_path, buffer_size=3), [School() for _ in range(2)]
    with contextlib.closing(open_rounds(folder)) as rounds:
        for school in schools:
            rounds.update(school.update(rounds.configuration, 0.5), school.name)
    with contextlib.closing(sqlite3.connect(folder / "log.db", isolation_level=None)) as raw:
        raw.execute("UPDATE bodies SET body = substr(body, 1, 100) WHERE number = 1")
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert rounds.state.pending == 1
        assert [what for what, _ in set_apart.reasons(rounds.log.database)] == ["entry 1"]
        assert rounds.verify() == []
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert len(set_apart.reasons(rounds.log.database)) == 1, "it is not read again"
        with pytest.raises(StoreError, match="entry 1 cannot be read"):
            replay.replay(rounds.log.entries, rounds.rules)


def put_letters(folder: Path, stick: Path, schools: list[School]) -> None:
    stick.mkdir(exist_ok=True)
    take_in_messages(folder, stick, lambda _: None)  # prepares it
    facts, sealing = read_facts(folder), load_sealing_key(folder)
    exchange = OfflineFolder(stick, fingerprint(facts.certificate.root))
    for school in schools:
        (invitation,) = invite_devices(folder, "http://d.example", 1)
        letter = offline_message.write_message(
            school.key,
            sealing,
            sealed_box.public_hex(sealing),
            bundle_id=facts.bundle_id,
            after=0,
            code=invitation.code,
        )
        exchange.message(school.name).write_bytes(letter)


@pytest.mark.attack("bounds", "a letter that fails its reader")
def test_a_letter_that_fails_its_reader_lets_the_others_through(
    tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, schools = make_folder(tmp_path), sorted((School() for _ in range(3)), key=lambda school: school.name)
    put_letters(folder, tmp_path / "stick", schools)
    original, tries = offline_message.read_message, list[str]()

    def read(data: bytes, key: object, *, where: str) -> object:
        if where.startswith(schools[0].name[:16]):
            tries.append(where)
            raise RuntimeError("a fault of the reader's")
        return original(data, key, where=where)  # type: ignore[arg-type]

    monkeypatch.setattr(offline_message, "read_message", read)
    first = take_in_messages(folder, tmp_path / "stick", lambda _: None)
    assert (first.messages, len(first.unreadable)) == (2, 1)
    again = take_in_messages(folder, tmp_path / "stick", lambda _: None)
    assert (again.messages, len(again.unreadable)) == (0, 1)
    attack.got += len(tries) - 1
    with contextlib.closing(open_rounds(folder)) as rounds:
        ((what, why),) = set_apart.reasons(rounds.log.database)
    assert what.startswith("letter ")
    assert "a fault of the reader's" in why
    attack.noticed = "two letters of three taken in"


def test_a_state_is_the_same_with_an_update_set_apart_as_without(tmp_path: Path) -> None:
    folder, schools = make_folder(tmp_path, buffer_size=9), [School() for _ in range(3)]
    with contextlib.closing(open_rounds(folder)) as rounds:
        for school in schools:
            rounds.update(school.update(rounds.configuration, 0.5), school.name)
        entries = list(rounds.log.entries())
        lost = list[int]()

        def apply(entry: object, why: str) -> None:
            lost.append(entry.number)  # type: ignore[attr-defined]

        import dataclasses

        broken = [dataclasses.replace(entries[0], body=b"nothing"), *entries[1:]]
        state: RoundState = replay.replay(lambda: broken, rounds.rules, unreadable=apply)
        without = replay.replay(lambda: entries[1:], rounds.rules)
        assert lost == [1]
        assert state.sums.numerators.keys() == without.sums.numerators.keys()
        assert all((state.sums.numerators[n] == v).all() for n, v in without.sums.numerators.items())
