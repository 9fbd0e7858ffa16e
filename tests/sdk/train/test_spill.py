"""Features that have no room in memory: what comes back, what stands on the disk, and what a bad disk does."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.train.features.spill import Spill

Usage = namedtuple("Usage", "total used free")
ARRAY = np.arange(2 * 5 * 4, dtype=np.int8).reshape(2, 5, 4)


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), data=st.data())
def test_what_was_put_comes_back_in_any_order(
    lengths: list[int], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    spill = Spill(tmp_path_factory.getbasetemp(), len(lengths))
    arrays = {number: np.full((2, n, 3), number, np.int8) for number, n in enumerate(lengths)}
    kept = data.draw(st.sets(st.sampled_from(sorted(arrays))))
    for number in kept:
        spill.put(number, arrays[number])
    read = spill.read(data.draw(st.permutations(sorted(arrays))))
    assert read.keys() == kept
    assert all(np.array_equal(read[number], arrays[number]) for number in kept)


def test_the_file_has_no_name_and_is_sealed(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 2)
    spill.put(1, ARRAY)
    assert spill._file is not None
    spill._file.seek(0)
    written = spill._file.read()
    assert len(written) > ARRAY.nbytes
    assert ARRAY.tobytes()[:8] not in written
    assert not list(tmp_path.iterdir())


def test_damaged_bytes_are_as_good_as_none(tmp_path: Path) -> None:
    spill = Spill(tmp_path, 2)
    spill.put(0, ARRAY)
    spill.put(1, ARRAY)
    assert spill._file is not None
    spill._file.seek(7)
    spill._file.write(b"?")
    assert spill.read([0, 1]).keys() == {1}


def test_it_leaves_half_of_the_free_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(1000, 800, 200))
    spill = Spill(tmp_path, 3)
    for number in range(3):
        spill.put(number, ARRAY)
    assert spill.read(range(3)).keys() == {0}


def test_a_folder_that_cannot_be_written_to_holds_nothing(tmp_path: Path) -> None:
    spill = Spill(tmp_path / "not there", 1)
    spill.put(0, ARRAY)
    assert spill.read([0]) == {}
