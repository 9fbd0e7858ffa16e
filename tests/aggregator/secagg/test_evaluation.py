"""An evaluation in secure rounds: the true masked sum is the pooled count, once a version, and no impossible one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.institution import make_folder, running, write_bundle
from aggregator.secagg.district import RULES, District, Member
from aggregator.server.officer import signed_in, text
from homeroom import Device
from homeroom.contract.evaluation_counts import OTHERS, DeviceCounts, Group, GroupCounts, add_counts
from homeroom.contract.round import EvaluationRules, RoundConfiguration
from homeroom.errors import TrustError
from homeroom.federation import evaluation, secure_evaluation
from homeroom.federation.agreement import renew_round
from homeroom.federation.evaluation_shape import (
    DEVICES,
    EvaluationShape,
    encode_counts,
    read_sum,
    segment_name,
)
from homeroom.federation.secure_round import SecureRoundContext
from homeroom.privacy.secagg.encoding import SumLayout, decode
from homeroom.runtime.bundle import open_bundle
from homeroom_aggregator.admin.folder import invite_devices
from homeroom_aggregator.secagg.coordinator import SecureRounds
from homeroom_aggregator.server.service import open_service
from homeroom_aggregator.state import audit

SECURE = EvaluationRules(mode="secure")


def counts(rng: np.random.Generator, version: int = 1) -> DeviceCounts:
    """Counts of the bundle's two labels: on the one slot that it has."""
    truth = rng.integers(1, 30, 2)
    parts = [[rng.integers(0, of + 1) for of in truth] for _ in range(2)]
    now, before = ((a, truth[0] - a, truth[1] - b, b) for a, b in parts)
    group = GroupCounts("", "facts", tuple(map(int, now)), tuple(map(int, before)))
    return DeviceCounts(version=version, before=0, tasks={"grade": (group,)})


def sum_of(every: list[DeviceCounts]) -> GroupCounts:
    groups = [one.tasks["grade"][0] for one in every]
    now, before = (add_counts((getattr(group, name) for group in groups), 4) for name in ("now", "before"))
    return GroupCounts("", "facts", now, before)


@pytest.fixture
def district(tmp_path: Path) -> Iterator[District]:
    folder = make_folder(tmp_path, secure=RULES, evaluation=SECURE, min_devices=1)
    service = open_service(folder)
    with running(service) as address:
        found = District(service, address, tmp_path)
        found.members = [Member(found, number) for number in range(4)]
        (folder / "roster.json").write_bytes(msgspec.json.encode(found.roster(found.members)))
        assert service.secure_evaluation
        service.secure_evaluation.clock = found.now
        yield found
        for member in found.members:
            member.client.close()
            member.store.close()
    service.close()


def tell(member: Member, told: DeviceCounts | None) -> evaluation.EvaluationOutcome:
    """What `Device.sync` does of a secure evaluation, of a device that counts so."""
    configuration = member.client.round()
    renew_round(member.store, configuration)
    evaluation.note_joined(member.store, configuration)
    bundle, root = member.district.service.rounds.bundle, member.client.enrolment.root
    context = SecureRoundContext(member.store, bundle, member.client, member.school.key, root, configuration)

    def count(version: int) -> DeviceCounts | None:
        return told if told and told.version == version else None

    return secure_evaluation.take_part_in_evaluation(context, count)


def rounds_of(district: District) -> SecureRounds:
    assert district.service.secure_evaluation
    return district.service.secure_evaluation


def release(district: District) -> int:
    """A version, without a round of updates."""
    district.service.rounds.release_unchanged()
    return district.version


def test_the_masked_sum_is_the_pooled_count_once_a_version(district: District) -> None:
    rng = np.random.default_rng(3)
    assert "no version to tell of" in tell(district.members[0], counts(rng)).round
    assert release(district) == 1
    every = [counts(rng) for _ in district.members]
    for _ in range(5):
        for member, own in zip(district.members, every, strict=True):
            tell(member, own)
    ((version, tasks),) = district.service.rounds.evaluation.stored.sums().items()
    assert version == 1
    shown = tasks["grade"]
    assert shown.groups == (sum_of(every),)
    assert (shown.devices, sum(shown.now), sum(shown.before), shown.fed) == (4, 4, 4, (4,))
    assert shown.members == ()
    assert list(district.service.rounds.evaluation.stored.of_version(1)) == []
    for member, own in zip(district.members, every, strict=True):
        assert tell(member, own).version == 1
    assert district.service.rounds.evaluation.stored.sums()[1]["grade"] == shown
    assert release(district) == 2
    later = [counts(rng, 2) for _ in district.members]
    for _ in range(6):
        for member, own in zip(district.members, later, strict=True):
            tell(member, own)
    assert district.service.rounds.evaluation.stored.sums()[2]["grade"].groups == (sum_of(later),)


def test_a_version_that_comes_meanwhile_does_not_spoil_a_round_whose_cohort_is_closed(district: District) -> None:
    rng = np.random.default_rng(4)
    release(district)
    every = [counts(rng) for _ in district.members]
    for member, own in zip(district.members, every, strict=True):
        tell(member, own)
    for member, own in zip(district.members, every, strict=True):
        tell(member, own)
    live = rounds_of(district).store.live()
    assert live
    assert live.phase != "keys"
    assert release(district) == 2
    for _ in range(4):
        for member, own in zip(district.members, every, strict=True):
            tell(member, own)
    assert district.service.rounds.evaluation.stored.sums()[1]["grade"].groups == (sum_of(every),)


def test_a_drop_out_is_left_out_and_the_others_are_summed(district: District) -> None:
    rng = np.random.default_rng(5)
    release(district)
    every = [counts(rng) for _ in district.members]
    for member, own in zip(district.members, every, strict=True):
        tell(member, own)
    for later in range(1, 4):
        for member, own in 2 * list(zip(district.members, every, strict=True))[:3]:
            tell(member, own)
        district.later_s = 4000.0 * later
    shown = district.service.rounds.evaluation.stored.sums()[1]["grade"]
    assert shown.groups == (sum_of(every[:3]),)
    assert shown.devices == 3


def test_a_sum_that_no_samples_have_is_refused_and_said(district: District) -> None:
    rng = np.random.default_rng(6)
    release(district)
    every = [counts(rng) for _ in district.members]
    (group,) = every[0].tasks["grade"]
    liar = msgspec.structs.replace(group, before=tuple(3 * value for value in group.before))
    every[0] = msgspec.structs.replace(every[0], tasks={"grade": (liar,)})
    for _ in range(5):
        for member, own in zip(district.members, every, strict=True):
            tell(member, own)
    assert district.service.rounds.evaluation.stored.sums() == {}
    said = {record.event: record.about for record in audit.records(district.service.rounds.log.database, 0, 1000)}
    refused = said["evaluation refused"]
    roster = district.secure_rounds.roster()
    assert roster
    assert (refused["roster"], refused["devices"], refused["keys"]) == (
        roster.serial,
        4,
        sorted(member.school.name for member in district.members),
    )
    with signed_in(district.service, district.address) as browser:
        page = text(browser.get("/dashboard").text)
        assert "of version 1 is not shown: no samples have such counts" in page
        assert f"(1 sum refused, of roster {roster.serial})" in page
        assert f"refused (4 devices of roster {roster.serial})" in text(browser.get("/dashboard/audit").text)
    release(district)
    honest = [counts(rng, 2) for _ in district.members]
    for _ in range(6):
        for member, own in zip(district.members, honest, strict=True):
            tell(member, own)
    assert district.service.rounds.evaluation.stored.sums()[2]["grade"].groups == (sum_of(honest),)
    with signed_in(district.service, district.address) as browser:
        assert "no samples have such counts" not in text(browser.get("/dashboard").text)


def test_nothing_is_masked_for_another_version_than_the_one_that_is_signed(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(district)
    rng = np.random.default_rng(7)
    monkeypatch.setattr(type(rounds_of(district).sums), "terms", lambda self, rules: {"counted_version": 2})
    with pytest.raises(TrustError, match="another version"):
        tell(district.members[0], counts(rng, 2))


def test_who_said_no_takes_no_part(district: District) -> None:
    release(district)
    member = district.members[0]
    configuration = member.client.round()
    renew_round(member.store, configuration)
    bundle, root = district.service.rounds.bundle, member.client.enrolment.root
    context = SecureRoundContext(member.store, bundle, member.client, member.school.key, root, configuration)
    outcome = secure_evaluation.take_part_in_evaluation(context, lambda version: pytest.fail("nobody asked"))
    assert "nobody said yes" in outcome.why_not


def test_a_device_that_syncs_takes_part(district: District, tiny_device: Device) -> None:
    (invitation,) = invite_devices(district.folder, district.address, 1)
    (district.tmp / "invitation.json").write_bytes(msgspec.json.encode(invitation))
    tiny_device.join(district.tmp / "invitation.json")
    assert evaluation.agreed_words(tiny_device.store) == "tell"
    outcome = tiny_device.sync().evaluation
    assert outcome is not None
    assert outcome.round == "this device is not on the institution's roster"


@pytest.fixture
def tiny_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    monkeypatch.setattr("homeroom.inference.golden.choose_precision", lambda *_, **__: {})  # a bundle without graphs
    (tmp_path / "keys").mkdir()
    with Device.open(tmp_path / "device", tmp_path / "bundle") as device:
        yield device


@pytest.fixture(scope="module")
def shape(tmp_path_factory: pytest.TempPathFactory) -> EvaluationShape:
    bundle = open_bundle(write_bundle(tmp_path_factory.mktemp("bundle") / "b", statistics=True), root=None)
    asked = RoundConfiguration(bundle_id=bundle.bundle_id, secure=RULES, evaluation=SECURE)
    return EvaluationShape(bundle.manifest, asked, 1)


@given(st.data())
def test_sums_of_any_devices_are_the_pooled_counts_and_no_figure_is_of_fewer_than_asked(
    shape: EvaluationShape, data: st.DataObject
) -> None:
    """Over two tasks, one of numbers, and every set of inputs."""
    least, rng = data.draw(st.integers(1, 4)), np.random.default_rng(data.draw(st.integers(0, 1000)))
    devices = []
    for _ in range(data.draw(st.integers(1, 7))):
        tasks = {}
        for task, groups in shape.groups.items():
            own = data.draw(st.sets(st.sampled_from(groups)))
            size = shape.shapes[task].size
            if own:
                tasks[task] = tuple(
                    GroupCounts(*group, *(tuple(rng.integers(1, 1 << 20, size).tolist()) for _ in range(2)))
                    for group in sorted(own)
                )
        devices.append(tasks)
    fed = {name: set[int]() for name in shape.announced}
    for slot, tasks in enumerate(devices):
        for task, some in tasks.items():
            for one in some:
                fed[segment_name(task, one.group)].add(slot)
    chosen = shape.chosen(fed, least)
    assert all(len(slots) >= least for slots in chosen.values())
    layout = SumLayout(tuple(chosen), tuple(map(shape.size, chosen)), shape.width(len(devices)))
    names = {task: shape.names(task, fed, least) for task in shape.shapes}
    encoded = [encode_counts(shape, layout, tasks, names) for tasks in devices]
    total = sum(one.astype(np.int64) for one in encoded) if encoded else np.zeros(layout.count, np.int64)
    values, weights = decode(layout, np.asarray(total))
    assert weights == {name: len(slots) for name, slots in chosen.items()}
    found = read_sum(shape, values)
    for task, (bins, groups) in found.items():
        pooled: dict[Group, list[GroupCounts]] = {}
        for tasks in devices:
            for one in tasks.get(task, ()):
                pooled.setdefault(names[task][one.group], []).append(one)
        size = shape.shapes[task].size
        for group, parts in pooled.items():
            assert groups[group].now == add_counts((part.now for part in parts), size)
            assert groups[group].before == add_counts((part.before for part in parts), size)
        assert groups.keys() == pooled.keys()
        assert set(groups) <= {*shape.groups[task], OTHERS}
        assert sum(bins) == 2 * weights[segment_name(task, DEVICES)]
