"""Encryption: what is sealed opens only where it was sealed; master keys are kept outside the directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.errors import BrokenSealError, StoreError
from homeroom.store.encryption import Cipher, new_key
from homeroom.store.master_keys import FolderKeys, find_master_keys, new_key_ring


@given(st.binary(max_size=200), st.text(max_size=20), st.integers(0))
def test_a_value_opens_where_it_was_sealed_and_nowhere_else(plain: bytes, column: str, row: int) -> None:
    cipher = Cipher(new_key())
    sealed = cipher.seal(plain, column, row)
    assert cipher.open(sealed, column, row) == plain
    for other in ((column, row + 1), (column + "x", row), (column,)):
        with pytest.raises(BrokenSealError):
            cipher.open(sealed, *other)
    with pytest.raises(BrokenSealError):
        Cipher(new_key()).open(sealed, column, row)


@given(st.binary(max_size=60), st.integers(0), st.integers(0, 7))
def test_one_flipped_bit_anywhere_is_found(plain: bytes, at: int, bit: int) -> None:
    cipher = Cipher(new_key())
    sealed = bytearray(cipher.seal(plain, "column"))
    sealed[at % len(sealed)] ^= 1 << bit
    assert not cipher.holds(bytes(sealed), "column")


@given(st.binary(max_size=30))
def test_a_cut_value_is_found(sealed: bytes) -> None:
    assert not Cipher(new_key()).holds(sealed, "column")


def test_equal_values_do_not_look_equal_but_have_one_index() -> None:
    cipher = Cipher(new_key())
    assert cipher.seal(b"yes", "answer") != cipher.seal(b"yes", "answer")
    assert cipher.index("a", b"yes") == cipher.index("a", b"yes") != cipher.index("ay", b"es")
    assert cipher.index("a") != Cipher(new_key()).index("a")


def test_a_ring_holds_two_keys_only_while_it_turns(tmp_path: Path) -> None:
    keys, ring = FolderKeys(tmp_path), new_key_ring()
    keys.write("one", ring)
    assert keys.read("one") == ring
    assert keys.read("two") is None
    turning = ring.next(("ab",)).next(("cd",))
    assert sorted(turning.keys) == [1, 2, 3]
    assert turning.forgetting == ("ab", "cd")
    keys.write("one", turning.only(3))
    assert keys.read("one") == turning.only(3)
    assert ring.keys[1] not in (tmp_path / "one.json").read_text()
    keys.delete("one")
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_key_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text("{")
    with pytest.raises(StoreError, match="master key is damaged"):
        FolderKeys(tmp_path).read("one")


def test_an_administrators_folder_goes_before_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path))
    assert find_master_keys("keyring").location == "folder"
    monkeypatch.delenv("HOMEROOM_KEYS")
    with pytest.raises(StoreError, match="credential folder"):
        find_master_keys("folder")
    assert find_master_keys("user").location == "user"
