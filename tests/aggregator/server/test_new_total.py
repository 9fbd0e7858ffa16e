"""`homeroom district new-total` where a device was restored and another cloned: each counts once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from aggregator.server.test_secure_statistics import District, district, teach_all
from aggregator.server.test_statistics import teach
from homeroom import Device
from homeroom.cli.main import main
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import NOTHING, merge
from homeroom.federation.enrolment import set_network

__all__ = ["district"]  # the fixture


def test_the_command_begins_a_new_total_and_a_restored_device_and_a_clone_count_once(
    district: District, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, room, bundle = teach_all(district), tmp_path / "room 0", tmp_path / "bundle"
    for number, name in ((0, "copy"), (3, "clone")):
        district.devices[number].close()
        shutil.copytree(tmp_path / f"room {number}", tmp_path / name)
        district.devices[number] = Device.open(tmp_path / f"room {number}", bundle)
    shutil.copytree(tmp_path / "keys", tmp_path / "keys of the clone")
    district.summed()
    district.devices[0].close()
    shutil.rmtree(room)
    (tmp_path / "copy").rename(room)
    assert main(["device", "accept-restored", str(room)]) == 0
    district.devices[0] = Device.open(room, bundle)
    assert "new-total" in district.visit(0)[0]
    served = ["district", "new-total", str(district.folder), "--by", "Ms Lee", "--why", "a device was restored"]
    with pytest.raises(SystemExit):
        main(served)  # it is served
    district.serving.close()
    assert main(served) == 0
    address = district.start()
    assert district.sum == NOTHING
    district.summed()
    whole = encode(merge(one for sums in taught for one in sums.values()))
    assert encode(district.sum) == whole
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys of the clone"))
    with Device.open(tmp_path / "clone", bundle) as clone:
        set_network(clone.store, address=address, lan="off")
        teach(clone, *range(300, 305))
        assert (report := clone.sync().statistics)
        assert "restored or copied" in report.held[""]
    assert encode(district.sum) == whole
