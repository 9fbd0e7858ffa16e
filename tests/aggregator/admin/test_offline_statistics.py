"""Statistics by hand: the change on the stick, the others' sums back, and what is told where it cannot be."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from aggregator.admin.test_offline import deliver
from aggregator.institution import make_folder
from aggregator.server.test_secure_statistics import RULES, SECURE
from aggregator.server.test_statistics import others, teach
from aggregator.statistics_lesson import PLAIN
from homeroom import Device
from homeroom.cli.main import main
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.sums import Statistics, merge
from homeroom.federation import statistics
from homeroom_aggregator.admin.folder import make_invitations, open_rounds
from homeroom_aggregator.admin.offline import take_in_messages

Made = tuple[Path, Path, list[Device]]


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # a bundle without graphs


@contextlib.contextmanager
def joined(tmp_path: Path, **rounds: object) -> Iterator[Made]:
    """An aggregator's folder, a stick, and three devices of a school each that joined by hand."""
    folder, stick = make_folder(tmp_path, **rounds), tmp_path / "stick"
    stick.mkdir()
    deliver(folder, stick)
    with contextlib.ExitStack() as until_the_end:
        devices = []
        for number in range(3):
            rows, consents = [(f"school {number}", "device")], {f"school {number}": "the head"}
            (invitation,) = make_invitations(folder, "http://nowhere.example", rows, consents=consents)  # type: ignore[arg-type]
            path = tmp_path / f"{number}.json"
            path.write_bytes(msgspec.json.encode(invitation))
            device = until_the_end.enter_context(Device.open(tmp_path / f"room {number}", tmp_path / "bundle"))
            device.join_by_hand(path)
            devices.append(device)
        travel(folder, stick, devices)
        yield folder, stick, devices


def travel(folder: Path, stick: Path, devices: list[Device]) -> list[tuple[bool, bool]]:
    """The stick goes there and back; of each device, whether a change went out, and whether it has arrived."""
    out = [device.carry_out(stick).statistics for device in devices]
    deliver(folder, stick)
    back = [device.carry_in(stick).statistics for device in devices]
    return [(bool(sent and sent.sent), bool(told and told.sent)) for sent, told in zip(out, back, strict=True)]


def sum_of(folder: Path) -> Statistics:
    with contextlib.closing(open_rounds(folder)) as rounds:
        assert rounds.verify() == []
        return rounds.statistics.totals.sum()


def said_yes(devices: list[Device]) -> list[dict[str, Statistics]]:
    taught = [teach(device, *range(10 * number, 10 * number + 5)) for number, device in enumerate(devices)]
    for device in devices:
        statistics.agree(device.store, yes=True)
    return taught


def test_changes_go_by_hand_and_the_sums_of_the_others_come_back(tmp_path: Path) -> None:
    with joined(tmp_path, statistics=PLAIN) as (folder, stick, devices):
        taught = said_yes(devices)
        assert travel(folder, stick, devices) == [(True, True)] * 3
        assert encode(sum_of(folder)) == encode(merge(one for sums in taught for one in sums.values()))
        for number, device in enumerate(devices):
            rest = merge(one for n, sums in enumerate(taught) if n != number for one in sums.values())
            assert encode(others(device)) == encode(rest)
        assert travel(folder, stick, devices) == [(False, False)] * 3, "nothing is new"
        devices[0].forget("p-3")
        taught[0] = teach(devices[0], *range(100, 105))
        travel(folder, stick, devices)
        assert encode(sum_of(folder)) == encode(merge(one for sums in taught for one in sums.values()))


def test_a_message_written_or_delivered_again_counts_once_and_a_lost_stick_loses_nothing(tmp_path: Path) -> None:
    with joined(tmp_path, statistics=PLAIN) as (folder, stick, devices):
        (device, *_), taught = devices, said_yes(devices)
        device.carry_out(stick).path.unlink()  # the stick is lost
        teach(device, *range(200, 203))  # which goes with the next change
        kept = (message := device.carry_out(stick)).path.read_bytes()
        deliver(folder, stick)
        message.path.write_bytes(kept)
        deliver(folder, stick)
        assert device.carry_out(stick).statistics is not None  # the school did not know yet
        deliver(folder, stick)
        told = device.carry_in(stick).statistics
        assert told
        assert (told.sent, told.held) == (True, {})
        assert encode(sum_of(folder)) == encode(merge(taught[0].values()))
        taught[0] = teach(device, *range(300, 305))
        travel(folder, stick, [device])
        assert encode(sum_of(folder)) == encode(merge(taught[0].values()))


def test_a_device_whose_total_the_aggregator_lost_sends_all_of_it_anew(tmp_path: Path) -> None:
    with joined(tmp_path, statistics=PLAIN) as (folder, stick, devices):
        (device, *_), taught = devices, said_yes(devices)
        travel(folder, stick, [device])
        statistics.ACCEPTED.write(device.store, None)  # as in an older copy
        statistics.BY_HAND.write(device.store, statistics.StatisticsStatus())
        taught[0] = teach(device, 100)
        assert travel(folder, stick, [device]) == [(True, False)]
        assert travel(folder, stick, [device]) == [(True, True)]
        assert encode(sum_of(folder)) == encode(merge(taught[0].values()))


def test_nothing_goes_without_a_yes_and_no_takes_all_back_by_hand_too(tmp_path: Path) -> None:
    with joined(tmp_path, statistics=PLAIN) as (folder, stick, (device, *_)):
        sums = teach(device, *range(5))
        report = device.carry_out(stick).statistics
        assert report
        assert (report.sent, "nobody said yes" in report.why_not) == (False, True)
        statistics.agree(device.store, yes=True)
        travel(folder, stick, [device])
        assert sum_of(folder) == merge(sums.values())
        statistics.agree(device.store, yes=False)
        travel(folder, stick, [device])
        assert sum_of(folder) == merge([])


def test_secure_statistics_do_not_go_by_hand_and_say_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with joined(tmp_path, statistics=SECURE, secure=RULES, min_devices=3) as (folder, stick, (device, *_)):
        teach(device, *range(5))
        room = str(device.store.directory)
        device.close()
        assert main(["device", "offline", "out", room, str(stick)]) == 0
        deliver(folder, stick)
        assert main(["device", "offline", "in", room, str(stick)]) == 0
        assert capsys.readouterr().out.count("connect this device once, and `homeroom device sync`") == 2
        assert main(["device", "status", room]) == 0
        assert "connect this device once" in capsys.readouterr().out
        assert sum_of(folder) == merge([])


def test_a_school_that_took_its_consent_back_is_told_so(tmp_path: Path) -> None:
    with joined(tmp_path, statistics=PLAIN) as (folder, stick, devices):
        said_yes(devices)
        with contextlib.closing(open_rounds(folder)) as rounds:
            rounds.members.withdraw_consent("school 0", "the head")
        devices[0].carry_out(stick)
        lines: list[str] = []
        take_in_messages(folder, stick, lines.append)
        assert "a change of statistics, which is refused: school 0 has not consented" in lines[0]
        told = devices[0].carry_in(stick).statistics
        assert told
        assert "has not consented" in told.held[""]
