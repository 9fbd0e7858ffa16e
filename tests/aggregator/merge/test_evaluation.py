"""Evaluation on the server: sums from k on, changes of k at once, once a device, erased with its device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from aggregator.institution import School, make_folder
from homeroom.contract.evaluation_counts import OTHERS, DeviceCounts, GroupCounts
from homeroom.contract.round import EvaluationRules
from homeroom.errors import UpdateError
from homeroom_aggregator.admin.evaluation_figures import evaluation_figures, evaluation_lines
from homeroom_aggregator.admin.folder import open_rounds
from homeroom_aggregator.merge.rounds import Rounds
from homeroom_aggregator.state.evaluations import KEPT_VERSIONS


@pytest.fixture
def rounds(tmp_path: Path) -> Iterator[Rounds]:
    opened = open_rounds(make_folder(tmp_path))
    schools = [School() for _ in range(2)]
    for school in schools:
        opened.update(school.update(opened.configuration), school.name)
    assert opened.state.version == 1
    yield opened
    opened.close()


def told(right: int, of: int = 30, inputs: str = "facts", **more: int) -> DeviceCounts:
    wrong = of - right
    size = more.pop("size", 2)
    now, before = [0] * size**2, [0] * size**2
    now[0], now[1], before[0] = right, wrong, of
    group = GroupCounts("", inputs, tuple(now), tuple(before))
    return DeviceCounts(version=more.get("version", 1), before=more.get("before", 0), tasks={"grade": (group,)})


def take(rounds: Rounds, counts: DeviceCounts, member: str, k: int = 3, k_of: str = "devices") -> str:
    with rounds.change():
        return rounds.evaluation.take(counts, member, k, k_of)


def figures(rounds: Rounds) -> list[tuple[int, float, int]]:
    found = evaluation_figures(rounds.log.database, rounds.bundle.manifest)
    return [(one.devices, one.now, one.version) for one in found]


def test_a_sum_is_shown_from_k_on_and_changes_by_k_at_once(rounds: Rounds) -> None:
    for number in range(8):
        counts = told(10 + number)
        assert take(rounds, counts, f"m{number}") == "accepted"
        assert take(rounds, counts, f"m{number}") == "already"
        shown = {2: 3, 3: 3, 4: 3, 5: 6, 6: 6, 7: 6}.get(number)
        assert figures(rounds) == ([] if shown is None else [(shown, sum(range(10, 10 + shown)) / (30 * shown), 1)])
    (line, mean, worst) = evaluation_lines(evaluation_figures(rounds.log.database, rounds.bundle.manifest))
    assert line == "grade: version 1 beside 0, 6 devices, 180 samples"
    assert mean == "  mean accuracy: 100.0 % before, 41.7 % now"
    assert worst == "  worst tenth of devices: 90 to 100 % before, 30 to 40 % now"


def test_other_counts_of_the_same_version_are_refused(rounds: Rounds) -> None:
    take(rounds, told(10), "a")
    with pytest.raises(UpdateError, match="told before"):
        take(rounds, told(30), "a")
    assert rounds.evaluation.stored.find(1, "a") == told(10)


def test_one_school_alone_shows_nothing(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds.members, "school", lambda name: "North" if name < "n" else name)
    for number in range(5):
        take(rounds, told(10), f"m{number}", k_of="schools")
    take(rounds, told(10), "x", k_of="schools")
    assert figures(rounds) == []
    take(rounds, told(10), "y", k_of="schools")
    assert figures(rounds) == [(7, 1 / 3, 1)]


def test_groups_that_too_few_have_are_added_up(rounds: Rounds) -> None:
    rare = told(0, 40, "rare").tasks["grade"]
    for number in range(4):
        counts = told(20)
        if number == 3:
            counts = msgspec.structs.replace(counts, tasks={"grade": (*counts.tasks["grade"], *rare)})
        take(rounds, counts, f"m{number}", k=4)
    (found,) = evaluation_figures(rounds.log.database, rounds.bundle.manifest)
    assert [(group.language, group.inputs) for group in found.groups] == [OTHERS]
    assert (found.samples, found.now) == (160, 0.5)


@pytest.mark.parametrize("fault", ["future", "order", "task", "language", "twice", "empty", "shape"])
def test_counts_of_what_is_not_here_are_refused(rounds: Rounds, fault: str) -> None:
    counts = told(10)
    (group,) = counts.tasks["grade"]
    strange = {
        "future": msgspec.structs.replace(counts, version=2),
        "order": msgspec.structs.replace(counts, before=1),
        "task": msgspec.structs.replace(counts, tasks={"other": (group,)}),
        "language": msgspec.structs.replace(counts, tasks={"grade": (msgspec.structs.replace(group, language="xx"),)}),
        "twice": msgspec.structs.replace(counts, tasks={"grade": (group, group)}),
        "empty": msgspec.structs.replace(counts, tasks={"grade": ()}),
        "shape": told(10, size=3),
    }
    with pytest.raises(UpdateError):
        take(rounds, strange[fault], "a")
    assert rounds.evaluation.stored.find(counts.version, "a") is None


def test_what_a_device_told_goes_with_it_and_when_it_is_not_asked_for(
    rounds: Rounds, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = EvaluationRules(mode="plain")
    rounds.configure(msgspec.structs.replace(rounds.configuration, evaluation=asks))
    for member in "abc":
        take(rounds, told(10), member)
    monkeypatch.setattr(rounds.members, "gone", lambda: frozenset({"a"}))
    rounds.withdraw_gone()
    assert [member for member, _ in rounds.evaluation.stored.of_version(1)] == ["b", "c"]
    rounds.configure(msgspec.structs.replace(rounds.configuration, evaluation=EvaluationRules()))
    assert list(rounds.evaluation.stored.of_version(1)) == []
    assert figures(rounds) == [(3, 1 / 3, 1)]  # as a release, it stays


def test_old_versions_are_forgotten(rounds: Rounds) -> None:
    stored = rounds.evaluation.stored
    for version in range(1, KEPT_VERSIONS + 4):
        stored.put("a", told(10, version=version))
    kept = [version for version in range(1, KEPT_VERSIONS + 4) if stored.find(version, "a")]
    assert kept == list(range(4, KEPT_VERSIONS + 4))


def test_each_devices_counts_are_read_once_however_many_tell(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    stored, read = rounds.evaluation.stored, list[int]()
    every = stored.of_version
    monkeypatch.setattr(stored, "of_version", lambda version: (read.append(version), every(version))[1])
    for number in range(40):
        take(rounds, told(number % 29), f"m{number:02}")
    assert read == [1]
    shown = stored.sums()[1]["grade"]
    right = sum(number % 29 for number in range(39))
    assert (shown.devices, shown.groups[0].now) == (39, (right, 39 * 30 - right, 0, 0))
    rounds.evaluation.look_again()
    take(rounds, told(1), "m40")
    take(rounds, told(1), "m41")
    assert read == [1, 1], "once more, since a step was undone"
    assert stored.sums()[1]["grade"].devices == 42


def test_counts_of_a_step_that_was_undone_are_in_no_sum(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    rounds.configure(
        msgspec.structs.replace(rounds.configuration, min_devices=3, evaluation=EvaluationRules(mode="plain"))
    )
    for member in "ab":
        rounds.take_counts(told(10), member)

    def fails(*_: object, **__: object) -> None:
        raise OSError("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr("homeroom_aggregator.merge.evaluation.audit.record", fails)
        with pytest.raises(OSError, match="full"):
            rounds.take_counts(told(30), "c")
    assert figures(rounds) == []
    rounds.take_counts(told(10), "d")
    assert figures(rounds) == [(3, 1 / 3, 1)]


def test_counts_of_who_left_go_out_of_the_next_sum(rounds: Rounds, monkeypatch: pytest.MonkeyPatch) -> None:
    for member in "abc":
        take(rounds, told(10), member)
    monkeypatch.setattr(rounds.members, "gone", lambda: frozenset({"a"}))
    rounds.withdraw_gone()
    for number in range(3):
        take(rounds, told(20), f"m{number}")
    assert figures(rounds) == [(5, 80 / 150, 1)]
