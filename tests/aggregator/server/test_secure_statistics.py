"""Statistics in secure rounds over real HTTP: the very integers of a plain sum, and no device's part on the server."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from aggregator.institution import ROOT, make_folder, running
from aggregator.server.test_statistics import teach
from homeroom import Device
from homeroom.cli.network import statistics_lines
from homeroom.cli.status_lines import status_lines
from homeroom.contract.policy import Policy
from homeroom.contract.roster import make_roster
from homeroom.contract.round import StatisticsRules
from homeroom.contract.secagg import PHASES, SecureRules
from homeroom.contract.signing import certify, new_key
from homeroom.contract.statistics.encoding import encode
from homeroom.contract.statistics.pooling import pool
from homeroom.contract.statistics.sums import NOTHING, Statistics, merge
from homeroom.errors import InputError, TrustError
from homeroom.federation import secure_statistics, statistics
from homeroom.federation.enrolment import connect, set_network
from homeroom.federation.policy import POLICY
from homeroom.federation.secure_round import SecureRoundContext
from homeroom.federation.sync import DOWNLOADS_FOLDER
from homeroom_aggregator.admin.folder import (
    SECURE_STATISTICS_FILE,
    load_roster,
    make_invitations,
    open_log,
    replace_roster,
)
from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.secagg.statistics_sums import StatisticsSums, new_total
from homeroom_aggregator.server.dashboard import queries
from homeroom_aggregator.server.service import Service, open_service
from homeroom_aggregator.state.statistics_totals import SecureTotal

SECURE = StatisticsRules(mode="secure", k=3, subjects=10)
RULES = SecureRules(minimum=3, cohort=4, drop_rate=0.25, corrupt_rate=0.1, phase_s=3600)


@dataclass
class District:
    """A served district whose statistics are summed in secure rounds, and devices of a school each."""

    folder: Path
    devices: list[Device] = field(default_factory=list)
    later_s: float = 0.0
    serving: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    service: Service = field(init=False)

    def start(self) -> str:
        """Serve, where the devices find it; the address."""
        self.service = open_service(self.folder)
        self.serving.callback(self.service.close)
        address = self.serving.enter_context(running(self.service))
        assert self.service.secure_statistics
        self.service.secure_statistics.clock = self.now
        for device in self.devices:
            set_network(device.store, address=address, lan="off")
        return address

    def close(self) -> None:
        for device in self.devices:
            device.close()
        self.serving.close()

    @property
    def sum(self) -> Statistics:
        return self.service.rounds.statistics.totals.sum()

    @property
    def secure(self) -> SecureTotal:
        return self.service.rounds.statistics.totals.secure()

    @property
    def phase(self) -> str:
        assert self.service.secure_statistics
        live = self.service.secure_statistics.store.live()
        return live.phase if live else "none"

    def visit(self, *numbers: int) -> list[str]:
        """What these devices say of the round after a sync, or what is held."""
        reports = [self.devices[number].sync().statistics for number in numbers]
        return [report.held.get("", report.round) for report in reports if report]

    def turn(self, number: int) -> None:
        """This device does the part of a sync that is of statistics, which takes half as long."""
        device = self.devices[number]
        with connect(device.store) as client:
            context = SecureRoundContext(
                device.store, device.bundle, client, client.key, device._root(), client.round()
            )
            secure_statistics.exchange_secure_statistics(context, device.store.directory / DOWNLOADS_FOLDER)

    def summed(self, *numbers: int, times: int = 8) -> None:
        """These devices come, one after another, until there is one sum more."""
        before = self.secure.terms.sums
        for _ in range(times):
            for number in numbers or range(len(self.devices)):
                if self.secure.terms.sums == before:
                    self.turn(number)
        assert self.secure.terms.sums == before + 1, self.visit(*(numbers or range(len(self.devices))))
        self.visit(*(numbers or range(len(self.devices))))

    def until(self, phase: str) -> None:
        for _ in range(6):
            for number in range(len(self.devices)):
                if self.phase == phase:
                    return
                self.turn(number)
        raise AssertionError(f"phase {phase} never came")

    def restart(self) -> None:
        """The server's secure rounds are gone and come back from their database."""
        assert self.service.secure_statistics
        self.service.secure_statistics.close()
        sums = StatisticsSums(self.service.rounds, open_log(self.folder))
        self.service.secure_statistics = SecureRounds(
            self.folder / SECURE_STATISTICS_FILE, self.service.rounds, sums, lambda: load_roster(self.folder), self.now
        )

    def now(self) -> float:
        return time.time() + self.later_s


@pytest.fixture
def district(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    (tmp_path / "keys").mkdir()
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # a bundle without graphs
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda _: None)
    folder = make_folder(tmp_path, min_devices=3, statistics=SECURE, secure=RULES)
    with contextlib.ExitStack() as until_the_end:
        found = until_the_end.enter_context(contextlib.closing(District(folder)))
        address = found.start()
        for number in range(4):
            school = f"school {number}"
            consents = {school: "the head"}
            (invitation,) = make_invitations(folder, address, [(school, "device")], consents=consents)
            path = tmp_path / f"{number}.json"
            path.write_bytes(msgspec.json.encode(invitation))
            device = Device.open(tmp_path / f"room {number}", tmp_path / "bundle")
            found.devices.append(device)
            device.join(path)
        signer, keys = new_key(), [str(device.status()["device_key"]) for device in found.devices]
        word = certify(ROOT, "roster", signer, "tests")
        roster = make_roster(signer, word, keys, serial=1, minimum=3, institution="tests")
        replace_roster(folder, msgspec.json.encode(roster))
        yield found


def teach_all(district: District) -> list[dict[str, Statistics]]:
    return [teach(device, *range(10 * n, 10 * n + 5)) for n, device in enumerate(district.devices)]


def others(device: Device) -> Statistics:
    return statistics.others_total(device.store, device.bundle)


def test_the_secure_sum_is_the_plain_sum_and_each_device_gets_the_others_part(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    totals = district.service.rounds.statistics.totals
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))
    assert [totals.total(known.member) for known in totals.each()] == [NOTHING] * 4, "no device's part is here"
    assert totals.release().number == 1
    for number, device in enumerate(district.devices):
        rest = merge(one for n, sums in enumerate(taught) if n != number for one in sums.values())
        assert encode(others(device)) == encode(rest)
    assert district.visit(0) == ["nothing to contribute yet"]
    for number, device in enumerate(district.devices):
        taught[number] = teach(device, *range(100 + 10 * number, 103 + 10 * number))
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))
    assert totals.release().number == 2
    assert district.service.rounds.verify() == []


def test_who_is_forgotten_leaves_the_sum_with_the_next_one_as_if_never_there(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    assert district.devices[0].forget("p-3").subtracting
    assert district.devices[0].status()["statistics"]
    del taught[0]["p-3"]
    for number, device in enumerate(district.devices[1:], 1):
        taught[number] = teach(device, *range(100 + 10 * number, 103 + 10 * number))
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))
    assert not district.devices[0].status()["statistics"]["to_subtract_since"]


def test_a_server_that_starts_again_in_every_phase_makes_the_same_sum(district: District) -> None:
    taught = teach_all(district)
    for phase in PHASES:
        district.until(phase)
        district.restart()
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))


@pytest.mark.parametrize("phase", ["consent", "reveal"])
def test_a_round_that_too_few_open_in_time_ends_and_the_next_one_takes_the_same_changes(
    district: District, phase: str
) -> None:
    taught = teach_all(district)
    district.until(phase)
    offers = [secure_statistics.OFFER.read(device.store) for device in district.devices]
    agreed = [bool(offer and offer.signed) for offer in offers]
    assert any(agreed)
    district.later_s += RULES.phase_s + 1
    words = district.visit(0, 1, 2)
    assert district.phase == "keys"
    assert ["ended without a sum" in one for one in words] == agreed[:3]
    assert ["ended without a sum" in said(device) for device in district.devices[:3]] == agreed[:3]
    assert district.service.secure_statistics
    progress = district.service.secure_statistics.progress
    assert progress
    assert "too few devices" in progress.last_failure
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))
    assert not any("ended without a sum" in said(device) for device in district.devices)


def test_a_sum_that_the_server_could_still_lose_confuses_no_device(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught, merged = teach_all(district), StatisticsSums.merged
    with monkeypatch.context() as patch:
        patch.setattr(StatisticsSums, "merged", lambda sums, name: "not" if merged(sums, name) == "not" else "here")
        district.summed()
        assert district.phase == "reveal", "the round is not ended yet"
    assert district.visit(0) == ["nothing to contribute yet"]
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))


def test_a_copy_from_before_its_change_was_masked_is_never_counted_twice(district: District) -> None:
    taught = teach_all(district)
    district.until("shares")
    device = district.devices[0]
    before = secure_statistics.OFFER.read(device.store)
    district.summed()
    secure_statistics.OFFER.write(device.store, before)  # as in a copy of before
    secure_statistics.SUMMED.write(device.store, None)
    taught[0] = teach(device, 100, 101, 102)
    assert "new-total" in district.visit(0)[0]
    new_total(district.service.rounds, "Ms Lee", "a device was restored")
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))


def said(device: Device) -> str:
    """What `homeroom device status` prints of statistics."""
    return "\n".join(status_lines({"statistics": device.status().statistics}))


@pytest.mark.parametrize("phase", ["input", "reveal"])
def test_a_device_that_drops_out_before_it_is_agreed_on_sends_its_change_with_a_later_sum(
    district: District, phase: str
) -> None:
    taught = teach_all(district)
    district.until(phase)
    district.visit(0, 1, 2)
    while not district.secure.terms.sums:
        before = district.phase
        district.visit(0, 1, 2)
        district.later_s += RULES.phase_s + 1 if district.phase == before else 0
    there = [one for n, sums in enumerate(taught) if phase == "reveal" or n != 3 for one in sums.values()]
    assert encode(district.sum) == encode(merge(there))
    for number, device in enumerate(district.devices):
        taught[number] = teach(device, *range(100 + 10 * number, 105 + 10 * number))
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))


def test_a_row_that_few_teach_is_in_the_sum_without_a_name(district: District) -> None:
    for number, device in enumerate(district.devices):
        teach(device, *range(10 * number, 10 * number + 5), labels=("a", "b", "c") if number else ("a", "b", "d"))
    district.summed()
    assert "d" not in district.sum.rows("grade")
    assert "of grade: d is in the sum's row without a name" in said(district.devices[0])
    assert "grade: d is" not in said(district.devices[1])
    report = district.devices[0].sync().statistics
    assert report
    assert any("district new-total" in line for line in statistics_lines(report))
    page = queries.statistics_text(district.service.rounds)
    assert "Rows without a name hold samples of grade of 4 devices: once more schools teach a class" in page
    whole = merge(one for device in district.devices for _, one in device.store.each_subjects_sums(meaning(device)))
    assert encode(district.sum) == encode(pool(whole, district.secure.terms.poolings))


def meaning(device: Device) -> str:
    return secure_statistics.sums_id(device.bundle.manifest)


def test_a_row_that_few_change_waits_for_others(district: District) -> None:
    teach_all(district)
    district.summed()
    before = encode(district.sum)
    teach(district.devices[0], 100, 101, 102)
    district.visit(0, 1, 2, 3)
    district.later_s += RULES.phase_s + 1
    district.visit(0, 1, 2, 3)
    assert encode(district.sum) == before
    assert district.secure.terms.sums == 1


def test_a_device_that_lost_track_waits_for_a_new_total_and_is_told_so(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    device = district.devices[0]
    secure_statistics.SUMMED.write(device.store, None)  # as in a copy of before
    taught[0] = teach(device, 100, 101, 102)
    (words,) = district.visit(0)
    assert "new-total" in words
    assert device.status()["statistics"]["held"][""] == words
    assert new_total(district.service.rounds, "Ms Lee", "a device was restored") == 2
    assert district.sum == NOTHING
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))


def test_a_new_total_is_released_once_k_schools_changed_for_certain(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    totals = district.service.rounds.statistics.totals
    new_total(district.service.rounds, "Ms Lee", "a liar")
    assert not totals.release().body, "it is not served any more"
    district.summed()
    assert totals.release().number == 1, "what differs from the one before could be of one school"
    for number, device in enumerate(district.devices):
        taught[number] = teach(device, *range(100 + 10 * number, 103 + 10 * number))
    district.summed()
    assert totals.release().number == 2
    rest = merge(one for sums in taught[1:] for one in sums.values())
    assert encode(others(district.devices[0])) == encode(rest)


def test_no_new_total_without_a_name_or_where_nothing_is_summed_so(district: District) -> None:
    with pytest.raises(InputError):
        new_total(district.service.rounds, "", "")
    rounds = district.service.rounds
    rounds.configure(msgspec.structs.replace(rounds.configuration, statistics=StatisticsRules()))
    with pytest.raises(InputError, match="not summed in secure rounds"):
        new_total(rounds, "Ms Lee", "why not")


def test_sums_that_no_samples_have_are_not_released_until_a_new_total(district: District) -> None:
    teach_all(district)
    liar = teach(district.devices[3], 999)
    lie = Statistics({cell: -9 * values for cell, values in merge(liar.values()).cells.items()})
    district.devices[3].store.put_sums(meaning(district.devices[3]), [(name, lie) for name in liar])
    district.summed()
    totals = district.service.rounds.statistics.totals
    assert totals.release().number == 0
    report = district.devices[0].sync().statistics
    assert report
    assert "no samples have" in report.waits
    district.devices[3].store.put_sums(meaning(district.devices[3]), liar.items())
    new_total(district.service.rounds, "Ms Lee", "a liar")
    district.summed()
    assert totals.release().number == 1


def test_no_takes_all_back_with_the_next_sum_and_a_policy_may_say_so(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    statistics.agree(district.devices[0].store, yes=False)
    POLICY.write(district.devices[1].store, Policy(institution="School 1", version=1, rounds=("plain",)))
    for number in (2, 3):
        taught[number] = teach(district.devices[number], *range(100 + 10 * number, 103 + 10 * number))
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught[2:] for one in sums.values()))
    with pytest.raises(InputError, match="secure statistics, not plain"):
        statistics.agree(district.devices[0].store, yes=True)
    statistics.agree(district.devices[0].store, yes=True, mode="secure")


@pytest.mark.attack("members", "other terms of statistics than those that the round's notice names")
def test_terms_that_the_notice_does_not_name_are_refused(district: District, monkeypatch: pytest.MonkeyPatch) -> None:
    teach_all(district)
    district.visit(0)
    other = {"total": 1, "sums": 0, "shared": {"size": ((), ())}}
    monkeypatch.setattr(StatisticsSums, "terms", lambda *_: {"terms": other})
    with pytest.raises(TrustError, match="other terms of statistics"):
        district.devices[1].sync()


def test_a_school_that_does_not_consent_is_told_so_and_gets_the_rest(district: District) -> None:
    teach_all(district)
    district.service.rounds.members.withdraw_consent("school 0", "the head")
    report = district.devices[0].sync().statistics
    assert report
    assert "refused" in report.held[""]


def test_where_statistics_are_off_again_nothing_of_the_sum_stays_on_the_device(district: District) -> None:
    teach_all(district)
    district.summed()
    rounds = district.service.rounds
    rounds.configure(msgspec.structs.replace(rounds.configuration, statistics=StatisticsRules()))
    assert district.sum == NOTHING
    assert district.devices[0].sync().statistics is None
    assert secure_statistics.SUMMED.read(district.devices[0].store) is None


def test_a_restored_aggregator_begins_a_new_total_above_all_that_devices_know(district: District) -> None:
    taught = teach_all(district)
    district.summed()
    district.service.rounds.continue_at(1000)
    assert district.sum == NOTHING
    assert district.secure.terms.total > 1000
    district.summed()
    assert encode(district.sum) == encode(merge(one for sums in taught for one in sums.values()))
