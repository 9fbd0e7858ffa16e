"""Histories of the field benchmark: what learning programs export of pupils' answers, once and again."""

from __future__ import annotations

from collections.abc import Sequence

from field_kind import Kind, Outcome, right_if
from field_sheets import Judge, inputs_of, mentions, sheet

HEAD = "subject,history.skill,history.correct,history.time\n"
FIRST = "p-1,addition,1,0\np-1,fractions,0,60\n"
NEXT = "p-1,addition,1,120\n"


def history(*answers: tuple[str, bool, float | None], said: str = "") -> Judge:
    wanted = [list(one) for one in answers]

    def judge(outcome: Outcome) -> object:
        return right_if(inputs_of(outcome, "history") == [wanted] and (not said or mentions(outcome, said)))

    return judge  # type: ignore[return-value]


def kinds() -> list[Kind]:
    one, two, three = ("addition", True, 0.0), ("fractions", False, 60.0), ("addition", True, 120.0)
    went_on = history(one, two, three, said="went on")

    def kind(
        name: str, wanted: str, rows: str, judge: Judge | None, *told: str, then: Sequence[str] = (), skip: bool = False
    ) -> Kind:
        more = tuple(("add", "DIR", "FILE:" + text) for text in then)
        options = ("--skip-bad", "bad.csv") if skip else ()
        return sheet(name, HEAD + rows, wanted, judge, *told, group="history", options=options, then=more, tracing=True)

    bare = HEAD.replace(",history.time", "")
    untimed = "p-1,addition,1,\np-1,fractions,0,\n"
    return [
        kind("a pupil's answers", "one history", FIRST, history(one, two)),
        kind("a cumulative export", "nothing twice", FIRST, went_on, then=(HEAD + FIRST + NEXT,)),
        kind("the next week's answers alone", "the history goes on", FIRST, went_on, then=(HEAD + NEXT,)),
        kind("the same export again", "nothing twice", FIRST, history(one, two), then=(HEAD + FIRST,)),
        kind("an older export after it", "nothing lost", FIRST + NEXT, history(one, two, three), then=(HEAD + FIRST,)),
        kind(
            "a cumulative export without times",
            "nothing twice",
            untimed,
            history(("addition", True, None), ("fractions", False, None), ("addition", True, None)),
            then=(bare + "p-1,addition,1\np-1,fractions,0\np-1,addition,1\n",),
        ),
        kind(
            "another export without times",
            "kept beside it, and said",
            untimed,
            lambda outcome: right_if(len(outcome.samples) == 2 and mentions(outcome, "kept beside it")),
            then=(bare + "p-1,fractions,1\n",),
        ),
        kind(
            "a cumulative export with an answer corrected",
            "kept beside the one before, and both are named",
            FIRST,
            lambda outcome: right_if(len(outcome.samples) == 2 and mentions(outcome, "device remove")),
            then=(HEAD + FIRST.replace(",0,60", ",1,60") + NEXT,),
        ),
        kind(
            "seconds since the start, then days and times",
            "not joined over decades, and said",
            FIRST,
            lambda outcome: right_if(len(outcome.samples) == 2 and mentions(outcome, "kept beside it")),
            then=(HEAD + "p-1,addition,1,2026-11-03 10:00:00Z\n",),
        ),
        kind("a row without a skill", "one problem, with its line", FIRST + "p-1,,1,90\n", None, "line 4"),
        kind("a row without a skill, left out", "the others", FIRST + "p-1,,1,90\n", history(one, two), skip=True),
        kind(
            "the newest answer first",
            "put in order by its times, and said",
            "p-1,fractions,0,60\np-1,addition,1,0\n",
            history(one, two, said="in order by its times"),
        ),
        kind(
            "answers in no order, two of one moment",
            "refused",
            NEXT + FIRST + "p-1,fractions,1,60\n",
            None,
            "same time",
        ),
        kind(
            "answers in no order, without all times",
            "refused",
            NEXT + FIRST + "p-1,fractions,1,\n",
            None,
            "without a time",
        ),
        kind(
            "times of Google Forms",
            "seconds",
            "p-1,addition,1,2026/11/03 11:00:00 AM GMT+1\n",
            history(("addition", True, 1_793_700_000.0)),
        ),
        kind("times in milliseconds", "refused", "p-1,addition,1,1770000000000\n", None, "milliseconds"),
        kind(
            "days and times",
            "seconds; that no zone was named is said",
            "p-1,addition,1,2026-11-03 10:00:00\np-1,addition,1,2026-11-03 10:01:00\n",
            history(("addition", True, 1_793_700_000.0), ("addition", True, 1_793_700_060.0), said="read as UTC"),
        ),
        kind(
            "times as Excel counts days",
            "refused",
            "".join(f"p-1,addition,1,46329.{41 + number}\n" for number in range(3)),
            None,
            "no person answers so fast",
        ),
        kind("an answer of nobody", "refused", ",addition,1,0\n", None, "subject"),
        sheet(
            "one row that withdraws consent, others that give it",
            HEAD[:-1] + ",consent\np-1,addition,1,0,given\np-1,fractions,0,60,withdrawn\np-1,addition,1,120,given\n",
            "the whole history is not trained on",
            lambda outcome: right_if([one["trainable"] for one in outcome.samples] == [False]),
            group="history",
            tracing=True,
        ),
    ]
