"""Statistics over real HTTP: a person's yes, the others' sums on each device, and a pupil who is forgotten exactly."""

from __future__ import annotations

import contextlib
import datetime
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
from faults.devices import make_sample

from aggregator.institution import LABELS, make_folder, running
from aggregator.statistics_lesson import PLAIN, pupil_sums
from homeroom import Device
from homeroom.cli.network import statistics_lines
from homeroom.cli.status_lines import status_lines
from homeroom.contract.policy import Policy
from homeroom.contract.round import RoundConfiguration, StatisticsRules
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.messages import make_release
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.errors import InputError, NetworkError, TrustError, UpdateError
from homeroom.federation import statistics
from homeroom.federation.network.client import Client
from homeroom.federation.policy import POLICY
from homeroom.store import Store
from homeroom.train.solve.vectors.samples import sums_id
from homeroom_aggregator.admin.folder import make_invitations
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state.statistics_totals import StoredRelease


@dataclass
class District:
    """A district that is served, and devices of a school each."""

    service: Service
    devices: list[Device]

    @property
    def sum(self) -> Statistics:
        return self.service.rounds.statistics.totals.sum()

    def total(self, number: int) -> Statistics:
        """What the aggregator has of a device."""
        return self.service.rounds.statistics.totals.total(self.devices[number].status()["device_key"])


@pytest.fixture
def district(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # a bundle without graphs
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    folder = make_folder(tmp_path, statistics=PLAIN)
    service = open_service(folder)
    with contextlib.ExitStack() as until_the_end:
        until_the_end.callback(service.close)
        address = until_the_end.enter_context(running(service))
        devices = []
        for number in range(3):
            school = f"school {number}"
            rows, consents = [(school, "device")], {school: "the head"}
            (invitation,) = make_invitations(folder, address, rows, consents=consents)  # type: ignore[arg-type]
            path = tmp_path / f"{number}.json"
            path.write_bytes(msgspec.json.encode(invitation))
            device = until_the_end.enter_context(Device.open(tmp_path / f"room {number}", tmp_path / "bundle"))
            device.join(path)
            devices.append(device)
        yield District(service, devices)


def teach(device: Device, *seeds: int, labels: tuple[str, ...] = LABELS) -> dict[str, Statistics]:
    """As after a training: pupils of these numbers, beside those that are there; all sums."""
    meaning = sums_id(device.bundle.manifest)
    known = dict(device.store.each_subjects_sums(meaning))
    device.store.add([make_sample(seed, f"p-{seed}") for seed in seeds])
    sums = known | {f"p-{seed}": pupil_sums(seed, labels=labels) for seed in seeds}
    device.store.put_sums(meaning, sums.items())
    return sums


def teach_all(district: District) -> list[dict[str, Statistics]]:
    """Five pupils a device, said yes to and sent."""
    taught = []
    for number, device in enumerate(district.devices):
        taught.append(teach(device, *range(10 * number, 10 * number + 5)))
        device.sync()
        statistics.agree(device.store, yes=True)
        report = device.sync().statistics
        assert report is not None
        assert report.sent
    return taught


def said(device: Device) -> list[str]:
    """What `homeroom device status` prints of statistics."""
    return [*status_lines({"statistics": device.status().statistics})]


def others(device: Device) -> Statistics:
    return statistics.others_total(device.store, device.bundle)


def prints(device: Device) -> set[str]:
    """The names under which a device knows whom the aggregator's total is of."""
    accepted = statistics.ACCEPTED.read(device.store)
    assert accepted is not None
    return {*accepted.prints}


def test_nothing_leaves_before_a_person_says_yes_and_no_takes_all_back(district: District) -> None:
    device = district.devices[0]
    sums = teach(device, *range(5))
    report = device.sync().statistics
    assert report is not None
    assert "nobody said yes yet" in report.why_not
    assert [*district.service.rounds.statistics.totals.each()] == []
    statistics.agree(device.store, yes=True)
    device.sync()
    assert district.sum == merge(sums.values())
    assert said(device)[:2] == ["statistics:", "  the aggregator has this device's"]
    statistics.agree(device.store, yes=False)
    assert said(device)[1] == (
        "  sent before: the next sync takes them back; where this device was revoked, they left at once"
    )
    report = device.sync().statistics
    assert report is not None
    assert statistics_lines(report)[0] == "statistics: taken back"
    assert district.sum == NOTHING
    assert said(device)[1:3] == [
        "  the aggregator has none of this device",
        "  stay here: nobody said yes yet: `homeroom device network DIR --statistics plain`",
    ]


def test_the_yes_is_to_the_rules_of_that_day(district: District) -> None:
    device = district.devices[0]
    teach(device, *range(5))
    device.sync()
    stricter = msgspec.structs.replace(PLAIN, k=4)
    statistics.YES.write(device.store, stricter)
    report = device.sync().statistics
    assert report is not None
    assert "promises less" in report.why_not
    assert district.sum == NOTHING
    statistics.YES.write(device.store, PLAIN)
    for change in ({"subjects": 9}, {"k_of": "devices"}, {"k": 2}):
        less = RoundConfiguration(bundle_id="0" * 64, statistics=msgspec.structs.replace(PLAIN, **change))
        assert "promises less" in statistics.why_not(device.store, less), change


def test_each_device_gets_the_sums_of_the_others_without_its_own(district: District) -> None:
    taught = teach_all(district)
    for number, device in enumerate(district.devices):
        report = device.sync().statistics
        assert report is not None
        assert report.release == 1
        rest = merge(one for n, sums in enumerate(taught) if n != number for one in sums.values())
        assert encode(others(device)) == encode(rest)
    teach(district.devices[0], 5, 6, 7)  # its own part is not in what the others taught
    district.devices[0].sync()
    assert encode(others(district.devices[0])) == encode(merge([*taught[1].values(), *taught[2].values()]))


def test_who_is_forgotten_is_subtracted_exactly_with_the_changes_of_others(district: District) -> None:
    taught = teach_all(district)
    device = district.devices[0]
    named, days = prints(device), [device.store.today().isoformat()]
    assert device.forget("p-3").subtracting
    assert [name.startswith("gone ") for name in prints(device) - named] == [True]  # without its name
    assert len(named & prints(device)) == 4
    report = device.sync().statistics
    assert report is not None
    assert "5 other subjects" in report.held["grade"]
    assert device.status()["statistics"]["to_subtract_since"]
    days.append(device.store.today().isoformat())  # it may be midnight
    waits = {f"  what was taken away here waits since {day} to be subtracted there" for day in days}
    assert waits & {*said(device)}
    assert not any("{" in line for line in said(device))
    assert district.total(0) == merge(taught[0].values())  # alone it would show the pupil
    sums = teach(device, *range(100, 105))
    assert "p-3" not in sums
    report = device.sync().statistics
    assert report is not None
    assert report.sent
    assert encode(district.total(0)) == encode(merge(sums.values()))
    assert not device.status()["statistics"]["to_subtract_since"]
    never = merge([*sums.values(), *taught[1].values(), *taught[2].values()])
    assert encode(district.sum) == encode(never)


def test_a_subtraction_waits_no_longer_than_the_district_says(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = teach_all(district)
    device = district.devices[0]
    device.forget("p-3")
    device.sync()
    assert district.total(0) == merge(taught[0].values())
    today = device.store.today()
    monkeypatch.setattr(Store, "today", lambda _: today + datetime.timedelta(days=30))
    device.sync()
    del taught[0]["p-3"]
    assert encode(district.total(0)) == encode(merge(taught[0].values()))


def test_a_change_of_few_subjects_waits(district: District) -> None:
    taught = teach_all(district)
    device = district.devices[0]
    teach(device, 100, 101)
    report = device.sync().statistics
    assert report is not None
    assert (report.sent, "too little of" in report.held["grade"]) == (False, True)
    assert district.total(0) == merge(taught[0].values())
    sums = teach(device, 102, 103, 104)
    device.sync()
    assert district.total(0) == merge(sums.values())


@pytest.mark.parametrize("arrives", [True, False])
def test_a_kill_while_it_is_sent_counts_nothing_twice_and_loses_nothing(
    arrives: bool, district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, chance = teach_all(district), random.Random(7)
    send, device = Client.send_statistics, district.devices[0]

    def cut(client: Client, data: bytes) -> None:
        if arrives:
            send(client, data)
        raise NetworkError("the power went")

    for step in range(3):
        sums = teach(device, *(100 + 10 * step + one for one in range(4 + chance.randrange(3))))
        with monkeypatch.context() as patch:
            patch.setattr(Client, "send_statistics", cut)
            with pytest.raises(NetworkError):
                device.sync()
        if step == 1:
            teach(device, *range(200, 204))
            sums |= dict(device.store.each_subjects_sums(sums_id(device.bundle.manifest)))
        device.sync()
        assert encode(district.total(0)) == encode(merge(sums.values()))
    assert district.service.rounds.verify() == []
    assert encode(district.sum) == encode(merge([*sums.values(), *taught[1].values(), *taught[2].values()]))


def test_a_device_that_lost_its_records_replaces_its_whole_total(district: District) -> None:
    teach_all(district)
    device = district.devices[0]
    statistics.ACCEPTED.write(device.store, None)
    sums = teach(device, 100)  # one subject more would wait, if the device knew what is there
    report = device.sync().statistics
    assert report is not None
    assert report.sent
    assert district.total(0) == merge(sums.values())


def test_a_policy_without_plain_rounds_takes_statistics_back(district: District) -> None:
    teach_all(district)
    device = district.devices[0]
    POLICY.write(device.store, Policy(institution="School 0", version=1, rounds=("secure",)))
    report = device.sync().statistics
    assert report is not None
    assert "rounds that are secure" in report.why_not
    assert district.total(0) == NOTHING
    POLICY.write(device.store, Policy(institution="School 0", version=2, min_devices=4))
    assert "asks for at least 4 devices" in statistics.why_not(device.store, district.service.rounds.configuration)


def test_a_head_that_stays_here_keeps_its_sums_here(district: District) -> None:
    device = district.devices[0]
    sums = teach(device, *range(5))
    POLICY.write(device.store, Policy(institution="School 0", version=1, scopes={"head.grade": "personal"}))
    device.sync()
    statistics.agree(device.store, yes=True)
    device.sync()
    assert district.total(0) == merge(sums.values()).of_task("size")


def test_where_statistics_are_off_nothing_is_asked_for(district: District) -> None:
    teach_all(district)
    rounds = district.service.rounds
    rounds.configure(msgspec.structs.replace(rounds.configuration, statistics=StatisticsRules()))
    device = district.devices[0]
    assert device.sync().statistics is None
    assert others(device) == NOTHING
    with pytest.raises(InputError, match="collects no statistics"):
        statistics.agree(device.store, yes=True)


def test_a_release_that_no_samples_have_is_refused(district: District) -> None:
    teach_all(district)
    device, rounds = district.devices[0], district.service.rounds
    device.sync()
    before, totals = others(device), rounds.statistics.totals
    moment = next(c for c in district.sum.cells if c.kind == "moment" and c.blocks[0] == c.blocks[1])
    lie = Statistics({**district.sum.cells, moment: district.sum.cells[moment] // 50})
    body = make_release(rounds.key, rounds.certificate, rounds.bundle.bundle_id, 2, PLAIN.k, lie)
    with rounds.change():
        totals.put_release(StoredRelease(2, totals.release().poolings, body), {})
    with pytest.raises(UpdateError, match="no samples"):
        device.sync()
    assert others(device) == before


def test_an_older_release_is_refused(district: District) -> None:
    teach_all(district)
    device = district.devices[0]
    device.sync()
    release = statistics.RELEASE.read(device.store)
    assert release is not None
    statistics.RELEASE.write(device.store, msgspec.structs.replace(release, number=2))
    with pytest.raises(TrustError, match="older than 2"):
        device.sync()
