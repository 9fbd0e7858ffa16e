"""Small files that others may write are read within a bound."""

from __future__ import annotations

from pathlib import Path

import pytest

from homeroom.errors import StoreError
from homeroom.store.master_keys import FolderKeys
from homeroom.store.open import read_device_file
from homeroom.system.files import SMALL_FILE_LIMIT_BYTES, read_small


@pytest.mark.attack("files and bundles", "A status or key file of terabytes")
def test_a_small_file_is_not_read_beyond_its_bound(tmp_path: Path) -> None:
    for name in ("device.json", "id.json"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(1 << 40)
    with pytest.raises(OSError, match="larger than"):
        read_small(tmp_path / "device.json")
    with pytest.raises(StoreError, match="larger than"):
        read_device_file(tmp_path)
    with pytest.raises(StoreError, match="larger than"):
        FolderKeys(tmp_path).read("id")
    (tmp_path / "whole").write_bytes(bytes(SMALL_FILE_LIMIT_BYTES))
    assert len(read_small(tmp_path / "whole")) == SMALL_FILE_LIMIT_BYTES
