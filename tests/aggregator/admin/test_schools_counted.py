"""What `min_devices` counts: with `k_of = "schools"`, no school alone moves theta, however many devices it has."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

from aggregator.admin.starting import start
from aggregator.institution import ROOT, START, School, make_folder, write_bundle
from homeroom.contract.signing import write_key
from homeroom.contract.version import read_version
from homeroom.errors import InputError
from homeroom_aggregator.admin.configuration_file import read_configuration
from homeroom_aggregator.admin.folder import open_rounds, read_facts
from homeroom_aggregator.merge import checkpoint
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.members import StoredInvitation

LADDER = slice(0, 4)


def enrol(rounds: Rounds, *schools: str) -> list[School]:
    devices = [School() for _ in schools]
    for device, school in zip(devices, schools, strict=True):
        rounds.members.join(device.name, StoredInvitation(device.name, school=school))
    return devices


def send(rounds: Rounds, device: School, step: float) -> str:
    data = device.update(rounds.configuration, step, rounds.state.version, ladder_table=4)
    return rounds.update(data, device.name)[0]


def theta(rounds: Rounds, version: int) -> np.ndarray:
    body, root = rounds.version(version), read_facts(rounds.log.database.path.parent).root
    assert body is not None
    return read_version(body, rounds.rules.layout, bundle_id=rounds.bundle.bundle_id, root_fingerprint=root)[1]


def test_four_devices_of_a_school_cannot_read_the_only_update_of_another_off_a_release(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=3, min_devices=3, k_of="schools")
    with closing(open_rounds(folder)) as rounds:
        *liars, alone, third = enrol(rounds, "Hill", "Hill", "Hill", "Hill", "Lake", "Mill")
        for liar in liars:
            send(rounds, liar, 0.0)
        send(rounds, alone, 0.5)
        rounds.release_now()
        assert rounds.state.version == 0, "five devices of two schools"
        rounds.put_checkpoint()
        before = checkpoint.pack(rounds.state)
    with closing(open_rounds(folder)) as rounds:
        assert checkpoint.pack(rounds.state) == before
        send(rounds, third, 0.25)
        assert rounds.state.version == 1, "the third school"
        np.testing.assert_array_equal(theta(rounds, 1)[LADDER], START[LADDER] + np.float32(0.125))
        assert rounds.verify() == []


def test_a_school_whose_devices_leave_before_the_release_counts_no_more(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=2, min_devices=2, k_of="schools")
    with closing(open_rounds(folder)) as rounds:
        hill, lake, mill = enrol(rounds, "Hill", "Lake", "Mill")
        send(rounds, hill, 0.5)
        rounds.members.revoke(hill.name, "an officer")
        rounds.withdraw_gone()
        send(rounds, lake, 0.25)
        rounds.release_now()
        assert rounds.state.version == 0, "Lake is alone"
        send(rounds, mill, 0.75)
        np.testing.assert_array_equal(theta(rounds, 1)[LADDER], START[LADDER] + np.float32(0.5))
        assert rounds.verify() == []


def test_devices_without_a_school_count_by_themselves_and_older_logs_count_devices(tmp_path: Path) -> None:
    folder = make_folder(tmp_path, buffer_size=2, min_devices=2)
    with closing(open_rounds(folder)) as rounds:
        assert rounds.configuration.k_of == "devices"
        assert "k_of" not in rounds.configuration.document, "the configuration keeps its identity"
        one, two, three, four = enrol(rounds, "Hill", "Hill", "", "")
        send(rounds, one, 0.5)
        send(rounds, two, 0.5)
        assert rounds.state.version == 1
        rounds.configure(msgspec.structs.replace(rounds.configuration, k_of="schools"))
        send(rounds, one, 0.5)
        send(rounds, two, 0.5)
        assert rounds.state.version == 1
        with pytest.raises(InputError, match="k_of cannot be lowered"):
            rounds.configure(msgspec.structs.replace(rounds.configuration, k_of="devices"))
        send(rounds, three, 0.5)
        send(rounds, four, 0.5)
        assert rounds.state.version == 2
        assert rounds.verify() == []


@pytest.mark.usefixtures("started")
@pytest.mark.parametrize(
    ("options", "counted", "merged"),
    [
        ((), "schools", ("bounded", 0.5)),
        (("--k-of", "devices", "--school-share", "0.25"), "devices", ("bounded", 0.25)),
        (("--rule", "mean"), "schools", ("mean", 1.0)),
        (("--epsilon", "8", "--clip-norm", "1", "--noise-multiplier", "2"), "devices", ("mean", 1.0)),
    ],
)
def test_a_new_district_counts_schools_bounds_updates_and_rewinds_unless_it_says_otherwise(
    options: tuple[str, ...], counted: str, merged: tuple[str, float], tmp_path: Path
) -> None:
    write_key(tmp_path / "root.pem", ROOT)
    words = ["--bundle", write_bundle(tmp_path / "bundle"), "--root-key", tmp_path / "root.pem"]
    done = start(tmp_path / "district", *words, "--institution", "District 7", *options)
    assert done.exit_code == 0, done.output
    assert read_configuration(tmp_path / "district").round.k_of == counted
    with closing(open_rounds(tmp_path / "district")) as rounds:
        assert rounds.configuration.k_of == counted
        assert (rounds.configuration.rule, rounds.configuration.school_share) == merged
        assert rounds.configuration.rewinds == ("--epsilon" not in options)
