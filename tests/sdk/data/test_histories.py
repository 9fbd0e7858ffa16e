"""A person's history goes on with their next export, nothing in it counts twice, and its times are seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import tiny
from faults.devices import open_store

from homeroom.contract.manifest import Manifest, SequencePreprocess, Slot, Task
from homeroom.data.histories import join_histories
from homeroom.data.ingest import Intake, ReadOptions, read
from homeroom.data.interactions import check_interactions, check_time
from homeroom.data.preprocess.sequence import by_skill, next_answers, prepare
from homeroom.data.samples import StoredSample
from homeroom.errors import InputError
from homeroom.store import AddReport, Store

SKILLS = ("addition", "fractions")
DAY_S = 86_400.0


def timed(*times_s: float, right: bool = True) -> list[Any]:
    return [(SKILLS[number % 2], right, time_s) for number, time_s in enumerate(times_s)]


def untimed(answers: str) -> list[Any]:
    return [("addition", one == "1", None) for one in answers]


def manifest() -> Manifest:
    """Of a bundle that reads histories, without its files."""
    spec = SequencePreprocess(skills=SKILLS)
    base = tiny.draft()
    modality = msgspec.structs.replace(base.modalities[0], name="sequence", preprocess=spec)
    task = Task(name="next", kind="tracing", reads=("history",), labels=SKILLS, width=2)
    slots = (Slot("history", "sequence"),)
    return msgspec.structs.replace(base, modalities=(modality,), slots=slots, tasks=(task,))


def test_a_target_is_the_number_of_the_next_skill_negative_where_it_is_wrong() -> None:
    spec = SequencePreprocess(skills=("addition", "fractions", "decimals"))
    steps = prepare(spec, [("decimals", True, None), ("addition", False, None), ("addition", True, None)], 8)
    targets = next_answers(steps.arrays["steps"])
    assert targets.tolist() == [3.0, -1.0, 1.0, 0.0]
    assert by_skill(targets, 3).tolist() == [[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    unknown = steps.arrays["steps"].copy()
    unknown[2] = 0.0
    assert next_answers(unknown).tolist() == [3.0, 0.0, 1.0, 0.0]


HELD = timed(0, 60, 120, 180)


@pytest.mark.parametrize(
    ("held", "new", "joined"),
    [
        (untimed("110"), untimed("11010"), untimed("11010")),
        (untimed("11010"), untimed("110"), untimed("11010")),
        (untimed("110"), untimed("010"), None),
        (HELD, HELD, HELD),
        (HELD, timed(0, 60, 120, 180, 240), timed(0, 60, 120, 180, 240)),
        (HELD, timed(DAY_S, DAY_S + 60), [*HELD, *timed(DAY_S, DAY_S + 60)]),
        (timed(DAY_S, DAY_S + 60), HELD, [*HELD, *timed(DAY_S, DAY_S + 60)]),
        (HELD, HELD[2:], HELD),
        (HELD, [*HELD[2:], *timed(240)], [*HELD, *timed(240)]),
        (HELD, [HELD[0], ("fractions", True, 30.0), *HELD[1:]], [HELD[0], ("fractions", True, 30.0), *HELD[1:]]),
        (HELD, timed(0, 60, 120, 180, right=False), None),
        (HELD, timed(10, 70, 130), None),
        (HELD, [*HELD[:2], ("addition", False, 120.0), *timed(240)], None),
        (timed(60, 60), timed(60, 60, 60), timed(60, 60, 60)),
        (HELD, untimed("1"), None),
        (HELD, timed(1_793_700_000, 1_793_700_060), None),
        (timed(20_261_103.0), timed(20_261_104.0), None),
    ],
)
def test_two_exports_are_one_history_where_that_is_clear(held: Any, new: Any, joined: Any) -> None:
    assert join_histories([list(one) for one in held], new) == joined  # type: ignore[misc]


def add(store: Store, *histories: Any, subject: str = "p-1", **fields: Any) -> AddReport:
    report = AddReport()
    samples = [StoredSample(inputs={"history": [history]}, subject=subject, **fields) for history in histories]
    store.add(samples, lambda sample: str(sample.inputs).encode(), report)
    return report


def held(store: Store) -> list[Any]:
    return [[tuple(one) for one in sample.inputs["history"][0]] for sample in store.samples()]  # type: ignore[union-attr]


def test_a_cumulative_export_counts_nothing_twice(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        add(store, HELD, source="week 1", retain_until="2999-01-01")
        report = add(store, [*HELD, *timed(240, 300)], source="week 2", retain_until="2999-02-01")
        assert (report.continued, report.interactions) == (1, 2)
        assert held(store) == [[*HELD, *timed(240, 300)]]
        (sample,) = store.samples()
        assert (sample.source, sample.retain_until) == ("week 2", "2999-01-01")
        assert add(store, HELD, source="week 2").continued == 0, "an old export brings nothing back"
        report = add(store, timed(DAY_S), timed(2 * DAY_S))
        assert (report.continued, report.interactions) == (2, 2)
        assert held(store) == [[*HELD, *timed(240, 300), *timed(DAY_S), *timed(2 * DAY_S)]]
        assert store.quarantined() == []
        add(store, HELD, subject="p-2")
        assert len(held(store)) == 2, "another person's is another history"
    with open_store(tmp_path) as store:
        assert store.count() == 2
        assert store.damage() == []


def test_the_next_week_added_twice_goes_on_from_one_history_alone(tmp_path: Path) -> None:
    corrected = [*((skill, not correct, time) for skill, correct, time in HELD), *timed(240)]
    with open_store(tmp_path) as store:
        add(store, HELD)
        (first,) = store.samples()
        assert add(store, corrected).apart == {"p-1": first.sample_id}
        assert (add(store, timed(DAY_S)).continued, len(held(store))) == (1, 2)
        after = held(store)
        assert [*corrected, *timed(DAY_S)] in after, "the corrected export goes on, not the one that it corrects"
        report = add(store, timed(DAY_S))
        assert (report.continued, report.interactions, held(store)) == (0, 0, after)


def test_what_does_not_go_on_is_kept_beside_it_and_counted(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        add(store, untimed("110"))
        (first,) = store.samples()
        assert (add(store, untimed("011")).apart, store.count()) == ({"p-1": first.sample_id}, 2)
        assert (add(store, untimed("011")).apart, store.count()) == ({}, 2)
        assert (add(store, untimed("01100")).continued, store.count()) == (1, 2)
        add(store, untimed("1"), untimed("0"), subject="classroom")
        assert store.count() == 4, "histories of nobody are not joined"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("12.5", 12.5),
        (1_770_000_000, 1_770_000_000.0),
        ("", None),
        ("2026-11-03T10:00:00Z", 1_793_700_000.0),
        ("2026-11-03 10:00:00", 1_793_700_000.0),
        ("03.11.2026 10:00", 1_793_700_000.0),
        ("2026-11-03T11:00:00+01:00", 1_793_700_000.0),
        ("2026/11/03 11:00:00 AM GMT+1", 1_793_700_000.0),
        ("2026/11/03 9:00 pm GMT+11", 1_793_700_000.0),
        ("13/11/2026 12:05 AM", 1_794_528_300.0),
    ],
)
def test_a_time_is_seconds_or_a_day_and_time(value: Any, seconds: float | None) -> None:
    assert check_time(value, "time") == seconds


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (("1.250",), r"could be 1\.25 or 1250"),
        ((1_770_000_000_000,), "milliseconds"),
        ((1_770_000_000_000_000,), "microseconds"),
        ((1_770_000_000_000_000_000,), "nanoseconds"),
        (("03/04/2026 10:00",), "two days"),
        (("10 o'clock",), "is no time"),
        (("2026/11/03 13:00 PM",), "is no time"),
        (("2026/11/03 11:00 MEZ",), "is no time"),
        ((True,), "is no time"),
        ((0, 60, 1_770_000_000), "two units"),
        ((46_329.41, 46_329.42, 46_329.43), "no person answers so fast"),
        ((20_261_103, 20_261_104), "look like days"),
    ],
)
def test_times_that_are_not_seconds_are_refused_with_what_they_look_like(times: tuple[Any, ...], says: str) -> None:
    with pytest.raises(InputError, match=says) as problem:
        check_interactions(SKILLS, [("addition", 1, time) for time in times], "history")
    assert problem.value.remedy


ONE, TWO, THREE = ("addition", True, 0.0), ("fractions", False, 60.0), ("addition", True, 120.0)
SAME_TIME = ("fractions", True, 60.0)


@pytest.mark.parametrize(
    ("given", "ordered"),
    [
        ([THREE, TWO, ONE], [ONE, TWO, THREE]),
        ([TWO, THREE, ONE], [ONE, TWO, THREE]),
        ([THREE, SAME_TIME, TWO, ONE], [ONE, TWO, SAME_TIME, THREE]),
        ([THREE, TWO, TWO, ONE, THREE], [ONE, TWO, TWO, THREE, THREE]),
    ],
)
def test_times_put_a_history_in_order_and_that_is_said(given: list[Any], ordered: list[Any]) -> None:
    notes: list[str] = []
    assert check_interactions(SKILLS, given, "history", notes.append) == ordered
    assert "in order by its times" in notes[0]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ([TWO, ONE, ("addition", True, None)], "without a time"),
        ([THREE, TWO, SAME_TIME, ONE, THREE], "two interactions of the same time .fractions, fractions."),
    ],
)
def test_a_history_whose_order_is_not_known_is_refused(given: list[Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as problem:
        check_interactions(SKILLS, given, "history")
    assert "oldest interaction first" in problem.value.remedy


def test_a_history_that_rises_is_as_it_was_given_and_nothing_is_said() -> None:
    notes: list[str] = []
    given = [ONE, TWO, SAME_TIME, ("addition", True, None), THREE]
    assert check_interactions(SKILLS, given, "history", notes.append) == given
    assert not notes


def test_a_sheet_with_the_newest_first_is_one_history_and_goes_on(tmp_path: Path) -> None:
    sheet = tmp_path / "week.csv"
    rows = ["p-1,addition,1,2026-11-03 10:02:00", "p-1,fractions,0,2026-11-03 10:01:00", "p-1,addition,1,2026-11-03"]
    sheet.write_text("subject,history.skill,history.correct,history.time\n" + "\n".join(rows) + "\n")
    intake = Intake()
    (sample,) = read([sheet], manifest(), intake)
    (history,) = sample.inputs["history"]
    assert [time_s for _, _, time_s in history] == [1_793_664_000.0, 1_793_700_060.0, 1_793_700_120.0]  # type: ignore[union-attr]
    assert any("in order by its times" in note for note in intake.notes)


def test_a_row_without_a_skill_is_one_problem(tmp_path: Path) -> None:
    sheet = tmp_path / "week.csv"
    sheet.write_text(
        "subject,history.skill,history.correct,history.time\n"
        "p-1,addition,1,0\np-1,,1,60\np-2,fractions,0,0\np-1,addition,perhaps,90\np-1,fractions,1,1770000000000\n"
        "p-1,fractions,1,120\n"
    )
    with pytest.raises(InputError, match="3 of 6 rows") as problem:
        list(read([sheet], manifest()))
    lines = "\n".join(problem.value.details)
    assert "week.csv line 3 history: the skill is missing" in lines
    assert "week.csv line 5 history: 'perhaps'" in lines
    assert "week.csv line 6 history: 1770000000000 is too large for seconds" in lines
    intake = Intake(ReadOptions(skip_bad=True))
    one, two = read([sheet], manifest(), intake)
    assert one.inputs["history"] == [[("addition", True, 0.0), ("fractions", True, 120.0)]]
    assert (two.subject, len(intake.problems)) == ("p-2", 3)


def test_what_any_row_says_of_consent_and_retention_holds_of_the_history(tmp_path: Path) -> None:
    sheet = tmp_path / "week.csv"
    sheet.write_text(
        "subject,history.skill,history.correct,consent,consent_on,retain_until,source\n"
        "p-1,addition,1,given,2026-05-03,2999-07-31,week 1\np-1 ,fractions,0,withdrawn,2026-06-03,2999-02-01,\n"
        "p-1,addition,1,,,,\np-2,addition,1,given,,,\np-2,no such skill,1,refused,,,\n"
        "p-3,addition,1,refused,2026-05-03,,\np-3,addition,1,given,2026-06-03,,\n"
        "p-4,addition,1,given,,,week 1\np-4,addition,1,no,,,\np-4,addition,1,,,,week 2\n"
    )
    intake = Intake(ReadOptions(skip_bad=True))
    one, two, three, four = read([sheet], manifest(), intake)
    assert len(one.inputs["history"][0]) == 3, "a name's blank makes no other history"  # type: ignore[arg-type]
    assert (one.consent_state, one.retain_until, one.source) == ("withdrawn", "2999-02-01", "week 1")
    assert [sample.consent_state for sample in (two, three, four)] == ["refused", "given", "given"]
    problems = "\n".join(map(str, intake.problems))
    assert "week.csv line 10 consent: 'no' is no state" in problems
    assert "week.csv line 11: says 'week 2' of source, an earlier row 'week 1'" in problems


def test_of_a_history_beyond_what_one_holds_the_oldest_go_and_are_counted_once(tmp_path: Path) -> None:
    long, more = timed(*range(0, 10_000 * 60, 60)), timed(DAY_S * 30)
    with open_store(tmp_path) as store:
        add(store, long)
        report = add(store, more)
        assert (report.continued, report.interactions, report.cut) == (1, 1, 1)
        assert held(store) == [[*long[1:], *more]]
        report = add(store, long)
        assert (report.continued, report.interactions, report.cut) == (0, 0, 0), "what went before does not go on again"
        assert held(store) == [[*long[1:], *more]]


def test_a_history_that_goes_on_twice_in_one_call_is_known_by_its_last_id(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        ids = store.add(
            [StoredSample(inputs={"history": [one]}, subject="p-1") for one in (HELD, timed(DAY_S), timed(2 * DAY_S))],
            lambda sample: str(sample.inputs).encode(),
        )
        assert set(ids) == {sample.sample_id for sample in store.samples()}


def test_times_without_a_zone_are_said_once(tmp_path: Path) -> None:
    rows = ["p-1,addition,1,2026-11-03 10:00:00", "p-1,addition,1,2026-11-03 10:01:00"]
    for name, zone, said in (("bare.csv", "", 1), ("zoned.csv", "+01:00", 0)):
        sheet = tmp_path / name
        sheet.write_text("subject,history.skill,history.correct,history.time\n" + "".join(f"{r}{zone}\n" for r in rows))
        intake = Intake()
        list(read([sheet], manifest(), intake))
        assert len([note for note in intake.notes if "without a zone are read as UTC" in note]) == said
