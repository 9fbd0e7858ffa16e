"""What the lesson showed: a table for the terminal, and one self-contained page with pictures."""

from __future__ import annotations

import base64
import html
import io
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.table import Table

from examples.vocabulary.lesson import SchoolResult, best_round, mean
from examples.vocabulary.schools import SCHOOLS
from homeroom.preprocess.image import decode

SETTINGS = ("before", "alone", "together", "own", "pooled")
TITLES = {
    "before": "before",
    "alone": "alone",
    "together": "together",
    "own": "together, then own",
    "pooled": "all in one place",
}
CHANCE = {"category": 1 / 11, "picture_of_word": 0.25, "word_of_speech": 0.25}
THUMBNAIL = 96


@dataclass
class Clock:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - begin


@dataclass(frozen=True)
class Lesson:
    """`central`: the pooled device, its `elsewhere` by school."""

    schools: Sequence[SchoolResult]
    central: SchoolResult
    stages: Mapping[str, float]
    seconds: float
    stamps: int

    def scores(self, school: SchoolResult) -> dict[str, dict[str, float]]:
        """Accuracy by setting and task; `together` is the global theta of the round that validation chose."""
        return {
            "before": school.before,
            "alone": school.alone,
            "together": school.rounds[best_round(list(self.schools))].test,
            "own": school.own,
            "pooled": self.central.elsewhere[school.name],
        }

    def means(self) -> dict[str, float]:
        return {s: sum(mean(self.scores(school)[s]) for school in self.schools) / len(self.schools) for s in SETTINGS}

    def verdict(self) -> str:
        means = self.means()
        gains = {s.name: mean(self.scores(s)["together"]) - mean(self.scores(s)["alone"]) for s in self.schools}
        won = [name for name, gain in gains.items() if gain > 0]
        lost = [name for name, gain in gains.items() if gain <= 0]
        best = max(gains, key=lambda name: gains[name])
        return (
            f"Together {means['together']:.1%}, alone {means['alone']:.1%}, all in one place {means['pooled']:.1%} "
            f"(mean accuracy over schools and tasks). {len(won)} of {len(gains)} schools gained, "
            f"{best} most ({gains[best]:+.1%})" + (f"; {', '.join(lost)} did not." if lost else ".")
        )


def as_table(lesson: Lesson) -> Table:
    table = Table(title="Accuracy on the held-out test", caption=lesson.verdict())
    for column in ("school", "samples", "task"):
        table.add_column(column)
    for setting in SETTINGS:
        table.add_column(TITLES[setting], justify="right")
    for school in lesson.schools:
        scores = lesson.scores(school)
        for number, task in enumerate(school.before):
            first = (school.name, str(school.samples)) if not number else ("", "")
            table.add_row(*first, task, *(f"{scores[s][task]:.3f}" for s in SETTINGS))
        table.add_row("", "", "mean", *(f"{mean(scores[s]):.3f}" for s in SETTINGS), style="bold", end_section=True)
    return table


def as_page(lesson: Lesson, pictures: Mapping[str, Path]) -> str:
    """One HTML page that needs nothing from elsewhere."""
    rows = "".join(_school(lesson, school, pictures) for school in lesson.schools)
    means = "".join(_bar(TITLES[s], value) for s, value in lesson.means().items())
    stages = "; ".join(f"{html.escape(name)} {seconds / 60:.1f} min" for name, seconds in lesson.stages.items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>The vocabulary lesson</title><style>{STYLE}</style></head><body><main>
<h1>The vocabulary lesson</h1>
<p class="verdict">{html.escape(lesson.verdict())}</p>
<p>Five schools taught one model {lesson.stamps} stamps' worth of words without any picture, word or voice leaving a
school; only changes of the adapter's numbers travelled, over HTTP, and the aggregator saw those (plain rounds).
Each school was tested on stamps that no school was taught. A guess finds 9 % of the categories and 25 % of the choices.
Settings train for the same number of passes; each stops where its own validation pupils did best.</p>
<section aria-label="Mean over schools"><h2>Mean over schools and tasks</h2>{means}</section>
{rows}
<p class="small">Whole run {lesson.seconds / 60:.1f} minutes: {stages}. Pictures and
sounds: Tux Paint stamps, GPL-2.</p>
</main></body></html>
"""


def _school(lesson: Lesson, school: SchoolResult, pictures: Mapping[str, Path]) -> str:
    facts = next(s for s in SCHOOLS if s.name == school.name)
    scores = lesson.scores(school)
    gain = mean(scores["together"]) - mean(scores["alone"])
    tasks = ""
    for task in school.before:
        bars = "".join(_bar(TITLES[s], scores[s][task], CHANCE.get(task)) for s in SETTINGS)
        tasks += f"<h3>{html.escape(task.replace('_', ' '))}</h3>{bars}"
    shown = "".join(_example(example, pictures) for example in school.examples if "picture" in facts.senses)
    return f"""<section><h2>{html.escape(school.name)} <span class="{"gain" if gain > 0 else "loss"}">{gain:+.1%}
together against alone</span></h2>
<p>{", ".join(facts.senses)}; language {facts.language}; {school.samples} exercises taught, {school.tested} tested.
Sent {school.sent_bytes / 1e6:.1f} MB, received {school.received_bytes / 1e6:.1f} MB, {school.minutes:.1f} minutes,
{school.peak_mb:.0f} MB of memory at most.</p>{tasks}<div class="cards">{shown}</div></section>"""


def _bar(title: str, value: float, chance: float | None = None) -> str:
    mark = f'<i style="left:{100 * chance:.1f}%" title="a guess"></i>' if chance else ""
    label = f"{html.escape(title)} {value:.1%}"
    inside = f'<div role="img" aria-label="{label}"><b style="width:{100 * value:.1f}%"></b>{mark}</div>'
    return f'<div class="bar"><span>{html.escape(title)}</span>{inside}<em>{value:.1%}</em></div>'


def _example(example: Mapping[str, str | float | bool], pictures: Mapping[str, Path]) -> str:
    path = pictures.get(str(example["source"]))
    if path is None:
        return ""
    truth, answer = html.escape(str(example["truth"])), html.escape(str(example["answer"]))
    right = truth == answer
    said = f"{answer} {float(example['probability']):.0%}{'' if example['sure'] else ', not sure'}"
    caption = said if right else f"{said}<br>is {truth}"
    return (
        f'<figure class="{"right" if right else "wrong"}"><img src="{_thumbnail(path)}" alt="{truth}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _thumbnail(path: Path) -> str:
    picture = decode(path.read_bytes(), path.name)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


STYLE = """
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--soft:#eef1f5;--bar:#3567c4;--good:#1a7f37;--bad:#b3261e}
@media(prefers-color-scheme:dark){:root{--fg:#e6e9ee;--bg:#14171b;--soft:#262b32;--bar:#7ea6f4;--good:#5fce7b;--bad:#ff8a80}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--fg);background:var(--bg);margin:0}
main{max-width:46rem;margin:auto;padding:1rem}
h1{margin:.5rem 0}h2{margin:2rem 0 .3rem;font-size:1.2rem}h3{margin:.8rem 0 .2rem;font-size:1rem}
.verdict{font-size:1.1rem;font-weight:600}.small{font-size:.85rem}
.gain{color:var(--good);font-size:.95rem}.loss{color:var(--bad);font-size:.95rem}
.bar{display:grid;grid-template-columns:9rem 1fr 3.6rem;gap:.5rem;align-items:center;margin:.15rem 0}
.bar div{position:relative;background:var(--soft);height:.9rem;border-radius:3px}
.bar b{display:block;height:100%;background:var(--bar);border-radius:3px}
.bar i{position:absolute;top:-2px;bottom:-2px;width:2px;background:var(--fg);opacity:.6}
.bar em{font-style:normal;text-align:right;font-variant-numeric:tabular-nums}
.cards{display:flex;flex-wrap:wrap;gap:.6rem;margin-top:.8rem}
figure{margin:0;width:96px;font-size:.8rem;border-bottom:3px solid var(--good)}
figure.wrong{border-color:var(--bad)}
figure img{width:96px;height:96px;object-fit:contain;background:#fff;border-radius:4px}
"""
