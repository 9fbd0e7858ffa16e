"""Each input has a row of its own: opened when it is asked for, put back where it is damaged, copied once."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from faults.devices import make_sample, numbers, open_store
from hypothesis import given
from hypothesis import strategies as st

from homeroom.data.samples import InputReference, StoredSample, digest_of, input_length
from homeroom.errors import DamagedError
from homeroom.store import repair
from homeroom.store.data_keys import Subject
from homeroom.store.encryption import Cipher
from homeroom.store.sealed_rows import pack_sample, sample_id_of, unpack_input


@contextlib.contextmanager
def raw(home: Path, name: str = "device.db") -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(home / "device" / name)) as connection, connection:
        yield connection


def bodies(home: Path, name: str = "device.db") -> dict[tuple[int, int], bytes]:
    with raw(home, name) as connection:
        return {(row[0], row[1]): row[2] for row in connection.execute("SELECT content, place, body FROM inputs")}


def flip(home: Path, name: str = "device.db") -> None:
    """Flips a bit of the sealed body of the first sample's first input."""
    with raw(home, name) as connection:
        sql = "SELECT content, body FROM inputs JOIN samples USING (content) WHERE place = 0 ORDER BY number"
        content, body = connection.execute(sql).fetchone()
        body = bytes([body[0] ^ 1]) + body[1:]
        connection.execute("UPDATE inputs SET body = ? WHERE content = ? AND place = 0", (body, content))


def wipe(home: Path, table: str, name: str = "device.db") -> None:
    """Wipes the start of a table's first page."""
    with raw(home, name) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with (home / "device" / name).open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(bytes(64))


VALUES = (
    st.none()
    | st.text(max_size=20)
    | st.binary(max_size=20)
    | st.dictionaries(st.text(max_size=4), st.none() | st.floats(allow_nan=False) | st.text(max_size=4), max_size=3)
    | st.lists(st.tuples(st.text(max_size=3), st.booleans(), st.none() | st.floats(allow_nan=False)), max_size=3)
)


@given(inputs=st.dictionaries(st.text(max_size=4), st.lists(VALUES, max_size=3), max_size=3))
def test_an_input_comes_back_as_it_was_and_its_facts_say_what_it_is(inputs: dict[str, list[object]]) -> None:
    facts, packed = pack_sample(StoredSample(inputs=inputs))  # type: ignore[arg-type]
    assert facts.places == set(range(len(packed)))
    for slot, values in inputs.items():
        for value, reference in zip(values, facts.inputs[slot], strict=True):
            assert (reference is None) == (value is None)
            if reference is not None:
                found = unpack_input(reference, packed[reference.place])
                assert found == ([list(step) for step in value] if isinstance(value, list) else value)
                assert digest_of(reference) == digest_of(value)  # type: ignore[arg-type]
                assert (input_length(reference), reference.size_bytes) == (len(value), len(packed[reference.place]))  # type: ignore[arg-type]


def test_an_id_is_what_it_was_before_inputs_had_rows() -> None:
    """Of a key, the packed facts and the packed inputs; so what was added by an older version is known again."""
    subject, sample = Subject(1, "p-17", Cipher(bytes(32))), make_sample(3, source="lesson 3")
    names = ("labels", "consent", "source", "retain_until", "language")
    parts = ({name: getattr(sample, name) for name in names}, sample.inputs)
    packed = (msgspec.msgpack.encode(part, order="sorted") for part in parts)
    assert sample_id_of(pack_sample(sample)[0], subject) == subject.cipher.index("sample", *packed).hex()


def test_facts_are_read_without_opening_an_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(tmp_path) as store:
        ids = store.add([make_sample(number, f"p-{number}", retain_until="2999-01-01") for number in range(4)])
    places: list[str] = []
    plain_open = Cipher.open

    def opened(cipher: Cipher, sealed: bytes, *place: str | int) -> bytes:
        places.append(str(place[0]))
        return plain_open(cipher, sealed, *place)

    monkeypatch.setattr(Cipher, "open", opened)
    with open_store(tmp_path) as store:
        assert len(list(store.each_without_inputs())) == store.count() == 4
        chosen = store.select(lambda sample: sample.subject != "p-0")
        assert [sample.sample_id for sample in chosen] == ids[1:]
        store.quarantine({ids[0]: "too dark"})
        new_id = store.relabel(ids[1], {"category": "plants"})
        store.add([make_sample(9)])
        store.back_up()
        assert "inputs.body" not in places
        sample = store.sample(new_id)
        assert sample is not None
        (reference,) = sample.inputs["text"]
        assert isinstance(reference, InputReference)
        assert store.read_input(sample, reference) == make_sample(1).inputs["text"][0]
        assert places.count("inputs.body") == 1


def test_a_relabelled_sample_keeps_its_inputs_and_may_meet_another(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first, _ = store.add([make_sample(0), make_sample(1)])
        mark = store.samples_mark()
        new_id = store.relabel(first, {"category": "plants"})
        assert (new_id != first, store.samples_mark() != mark, numbers(store)) == (True, True, [1, 0])
        assert store.add([make_sample(0)]) == [new_id], "what was corrected stays so, whatever file comes again"
        assert store.relabel(new_id, {"category": "animals"}) == first
        same = msgspec.structs.replace(make_sample(2), labels={"category": "plants"})
        second, third = store.add([make_sample(2), same])
        assert store.relabel(third, {"category": "animals"}) == second
        assert (numbers(store), store.count()) == ([1, 0, 2], 3)
    assert len(bodies(tmp_path)) == 6


def test_a_damaged_input_is_put_back_when_it_is_read(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    before = bodies(tmp_path)
    flip(tmp_path)
    with open_store(tmp_path) as store:
        assert store.damage() == []
        assert numbers(store) == [0, 1]
        assert "put back from the copy" in store.damage()[-1]
    assert bodies(tmp_path) == before


def test_an_input_that_is_damaged_in_both_is_listed_and_its_sample_left_out(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    for name in ("device.db", "backup/device.db"):
        flip(tmp_path, name)
    with open_store(tmp_path) as store:
        assert numbers(store) == [1]
        assert "lost" in store.damage()[-1]
        assert len(store.select(lambda sample: True)) == 1
        assert store.count() == 1
    with open_store(tmp_path) as store:
        assert (numbers(store), store.count()) == ([1], 1)
    assert len(bodies(tmp_path)) == len(bodies(tmp_path, "backup/device.db")) == 2


def test_a_full_check_finds_what_nobody_read(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    flip(tmp_path)
    with open_store(tmp_path) as store:
        assert store.check_seals() == 1
        assert store.check_seals() == 0
        assert "put back from the copy" in store.damage()[-1]


def test_the_copy_takes_over_what_is_new_and_never_overwrites_an_input(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    first = bodies(tmp_path)
    flip(tmp_path)
    inode = (tmp_path / "device" / "backup" / "device.db").stat().st_ino
    with open_store(tmp_path) as store:  # nobody reads the damaged input
        store.add([make_sample(2)])
        store.versions.save_state(b"half way", "tag", [])
        store.put_secret("secure.round", b"one round's")
        store.back_up()
    copied = bodies(tmp_path, "backup/device.db")
    assert {key: copied[key] for key in first} == first
    assert copied.keys() == bodies(tmp_path).keys() > first.keys()
    assert (tmp_path / "device" / "backup" / "device.db").stat().st_ino == inode, "renewed in place"
    with raw(tmp_path, "backup/device.db") as copy, raw(tmp_path) as store_file:
        for (table,) in store_file.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'inputs'"):
            rows = [set(one.execute(f"SELECT * FROM {table}")) for one in (store_file, copy)]
            assert rows[1] == {row for row in rows[0] if row[0] != "secure.round"}, table
        assert copy.execute("SELECT count(*) FROM secrets WHERE name LIKE 'secure.%'").fetchone() == (0,)
    with open_store(tmp_path) as store:
        assert numbers(store) == [0, 1, 2]
        store.forget("p-17")
    assert bodies(tmp_path, "backup/device.db") == {}


def test_a_copy_that_is_damaged_is_made_anew_from_a_store_that_was_checked(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(number) for number in range(6)])
    flip(tmp_path)
    wipe(tmp_path, "audit", "backup/device.db")
    with open_store(tmp_path) as store:
        store.put_secret("bundle", b"id")
        store.back_up()
        assert "put back from the copy" in store.damage()[-1], "before the copy was replaced"
        assert numbers(store) == list(range(6))
    assert bodies(tmp_path, "backup/device.db") == bodies(tmp_path)


def test_what_sqlite_finds_damaged_in_a_large_store_is_repaired_at_the_next_opening(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(number) for number in range(6)])
    monkeypatch.setattr(repair, "CHECKED_AT_OPEN_BYTES", 0)
    wipe(tmp_path, "inputs")
    with pytest.raises(DamagedError), open_store(tmp_path) as store:
        numbers(store)
    with open_store(tmp_path) as store:
        assert numbers(store) == list(range(6))
        assert "restored from the last copy" in store.damage()[0]
    assert not (tmp_path / "device" / "damaged").exists()


def test_a_full_check_also_mends_a_copy_that_has_decayed(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(0), make_sample(1)])
    flip(tmp_path, "backup/device.db")
    with open_store(tmp_path) as store:
        assert store.check_seals() == 0
    assert bodies(tmp_path, "backup/device.db") == bodies(tmp_path)
