"""The lesson's report as one HTML page that needs nothing from elsewhere: light and dark, for a phone, read aloud."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from examples.vocabulary.lesson import ALONE, Example, SchoolResult, mean
from examples.vocabulary.report import LANGUAGES, SETTINGS, TITLES, Shown
from homeroom.data.preprocess.image import decode

TASKS = {
    "category": "which kind of thing is it?",
    "picture_of_word": "which of four pictures does the word name?",
    "word_of_speech": "which of four words was spoken?",
}
CHANCE = {"picture_of_word": 0.25, "word_of_speech": 0.25}
THUMBNAIL = 96
STYLE = Path(__file__).with_name("page.css")


def as_page(shown: Shown) -> str:
    """The whole page; pictures are read from where the schools kept them."""
    note = f'<p class="note">{html.escape(shown.note)}</p>' if shown.note else ""
    bars = "".join(_bar(s, value) for s, value in shown.means().items())
    schools = "".join(_school(shown, school) for school in shown.schools)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Homeroom: the vocabulary lesson</title><style>{STYLE.read_text("utf-8")}</style></head><body><main>
<h1>The vocabulary lesson</h1>
{note}<p class="verdict">{html.escape(shown.verdict())}</p>
<p>Five schools adapted one model of pictures, written and spoken words, each on its own device without torch. No
picture, word or voice left a school: only changes of the adapter's numbers travelled, over HTTP, and the aggregator
saw those (plain rounds; updates can leak). Each school is tested on {_tested(shown)} stamps that no school was
taught; stamps that share a caption or look alike were kept on one side.</p>
<section><h2>Mean over schools and tasks</h2>{bars}{_curve(shown)}</section>
<section><h2>Who gained, who lost</h2>{_gains(shown)}</section>
<section><h2>By language</h2>{_languages(shown)}</section>
<section><h2>What it cost</h2>{_costs(shown)}</section>
{schools}
<section><h2>How to read this</h2><p><b>before</b>: the model as exported, its adapter untrained. <b>alone</b>: the
school's own samples only. <b>together</b>: the merged model of round {shown.chosen + 1} of
{len(shown.schools[0].rounds)}, the one that did best on the schools' own validation pupils. <b>together, then own</b>:
some more epochs at the school. <b>all in one place</b>: one device with everybody's samples, which the schools could
not do. No setting passes over its data more than {ALONE.epochs} times; all use the same rate, chosen on validation
pupils; each stops where its validation pupils did best. Tests of {_least(shown)} and more answers: a figure's standard
error is about 3 points, and this is one draw of the schools (<code>benchmarks/federation.py</code> repeats
it).</p></section>
<p class="small">Pictures, captions and sounds: Tux Paint stamps, GPL-2.</p>
</main></body></html>
"""


def _tested(shown: Shown) -> str:
    counts = [max(school.tested.values()) for school in shown.schools]
    return f"{min(counts)} to {max(counts)}" if min(counts) < max(counts) else str(counts[0])


def _least(shown: Shown) -> int:
    return min(min(school.tested.values()) for school in shown.schools)


def _bar(setting: str, value: float, chance: float | None = None) -> str:
    mark = f'<i style="left:{100 * chance:.1f}%"></i>' if chance else ""
    return (
        f'<div class="bar {setting}"><span>{TITLES[setting]}</span>'
        f'<div aria-hidden="true"><b style="width:{100 * value:.1f}%"></b>{mark}</div><em>{value:.1%}</em></div>'
    )


def _gains(shown: Shown) -> str:
    rows = ""
    for school in sorted(shown.schools, key=shown.gain, reverse=True):
        scores, gain = shown.scores(school), 100 * shown.gain(school)
        kind = "gain" if gain > 0 else "loss"
        cells = "".join(f"<td>{mean(scores[s]):.1%}</td>" for s in ("alone", "together", "pooled"))
        rows += f'<tr><th scope="row">{html.escape(school.name)}</th><td>{school.samples}</td>{cells}'
        rows += f'<td class="{kind}">{gain:+.1f}</td></tr>'
    head = "<th>school</th><th>exercises</th><th>alone</th><th>together</th><th>one place</th><th>points</th>"
    return _table(head, rows)


def _languages(shown: Shown) -> str:
    rows = ""
    for language, scores in shown.by_language().items():
        cells = "".join(f"<td>{scores[s]:.1%}</td>" for s in SETTINGS)
        rows += f'<tr><th scope="row">{LANGUAGES[language]}</th>{cells}</tr>'
    return _table("<th>language</th>" + "".join(f"<th>{TITLES[s]}</th>" for s in SETTINGS), rows)


def _costs(shown: Shown) -> str:
    rows = ""
    for school in shown.schools:
        cells = (
            f"{school.alone_minutes:.1f}",
            f"{school.together_minutes:.1f}",
            f"{school.sent_bytes / 1e6:.1f}",
            f"{school.received_bytes / 1e6:.1f}",
            f"{school.peak_mb:.0f}",
        )
        rows += f'<tr><th scope="row">{html.escape(school.name)}</th>' + "".join(f"<td>{c}</td>" for c in cells)
        rows += "</tr>"
    head = "<th>school</th><th>min alone*</th><th>min together</th><th>MB sent</th><th>MB received</th><th>peak MB</th>"
    stages = "; ".join(f"{html.escape(name)} {seconds / 60:.1f} min" for name, seconds in shown.stages.items())
    return (
        _table(head, rows) + f'<p class="small">* with opening, storing and computing features. All five shared one '
        f"computer. The whole run took {shown.seconds / 60:.1f} minutes: {stages}.</p>"
    )


def _table(head: str, rows: str) -> str:
    head = head.replace("<th>", '<th scope="col">')
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _curve(shown: Shown) -> str:
    """Mean test accuracy of the merged model after each round, between alone and all in one place."""
    count, means = len(shown.schools[0].rounds), shown.means()
    values = [sum(mean(s.rounds[r].test) for s in shown.schools) / len(shown.schools) for r in range(count)]
    lines = {"alone": means["alone"], "pooled": means["pooled"]}
    low = min(*values, *lines.values()) - 0.03
    high = max(*values, *lines.values()) + 0.03

    def y(value: float) -> float:
        return 110 - 100 * (value - low) / (high - low)

    def x(place: int) -> float:
        return 10 + 300 * place / max(count - 1, 1)

    path = " ".join(f"{x(place):.1f},{y(value):.1f}" for place, value in enumerate(values))
    rules = "".join(
        f'<line class="{s}" x1="10" x2="310" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text x="316" y="{y(v) + 4:.1f}">{TITLES[s]}</text>'
        for s, v in lines.items()
    )
    dot = f'<circle cx="{x(shown.chosen):.1f}" cy="{y(values[shown.chosen]):.1f}" r="4"/>'
    label = f"Test accuracy of the merged model from {values[0]:.0%} after round 1 to {values[-1]:.0%} after {count}"
    return (
        f'<figure class="curve"><svg viewBox="0 0 420 120" role="img" aria-label="{label}">{rules}'
        f'<polyline points="{path}"/>{dot}</svg><figcaption>The merged model over {count} rounds; '
        "the dot is the one that validation chose.</figcaption></figure>"
    )


def _school(shown: Shown, school: SchoolResult) -> str:
    facts, scores, gain = shown.facts[school.name], shown.scores(school), 100 * shown.gain(school)
    tasks = ""
    for task, count in school.tested.items():
        bars = "".join(_bar(s, scores[s].get(task, 0.0), CHANCE.get(task)) for s in SETTINGS)
        tasks += f"<h3>{html.escape(TASKS.get(task, task))} <small>{count} tested</small></h3>{bars}"
    cards = "".join(_card(example) for example in school.examples if example.source)
    asked = "".join(_question(example, facts.language) for example in school.examples if example.options)
    return f"""<section><h2>{html.escape(school.name)} <span class="{"gain" if gain > 0 else "loss"}">{gain:+.1f}
points</span></h2><p>{LANGUAGES[facts.language]}; {", ".join(facts.senses)}; {school.samples} exercises.</p>{tasks}
{
        f'<h3>What is it? <small>from the picture alone, last merged model</small></h3><div class="cards">{cards}</div>'
        if cards
        else ""
    }
{f"<h3>Some questions <small>last merged model</small></h3>{asked}" if asked else ""}</section>"""


def _card(example: Example) -> str:
    right = example.answer == example.truth
    said = f"{html.escape(example.answer)} {example.probability:.0%}{'' if example.sure else ', not sure'}"
    mark = "✓" if right else f"✗ is {html.escape(example.truth)}"
    return (
        f'<figure class="{"right" if right else "wrong"}"><img src="{_thumbnail(example.source)}" '
        f'alt="{html.escape(example.word)}"><figcaption>{said}<br>{mark}</figcaption></figure>'
    )


def _question(example: Example, language: str) -> str:
    """Four options, the right and the chosen one marked; options that are no files are words."""
    options = ""
    for place, option in enumerate(example.options):
        classes = ["right"] * (place == example.right) + ["chosen"] * (place == example.chosen)
        words = ["right answer"] * (place == example.right) + ["the model's choice"] * (place == example.chosen)
        told = f'<span class="told">{", ".join(words)}</span>' if words else ""
        shown = (
            f'<img src="{_thumbnail(option)}" alt="option {place + 1}">'
            if option.endswith(".png")
            else f'<span lang="{language}">{html.escape(option)}</span>'
        )
        options += f'<li class="{" ".join(classes)}">{shown}{told}</li>'
    asked = "" if example.options[0].endswith(".png") else "heard: "
    return (
        f'<div class="question"><p>{asked}<q lang="{language}">{html.escape(example.word)}</q> '
        f"{'✓' if example.right == example.chosen else '✗'}</p><ol>{options}</ol></div>"
    )


def _thumbnail(path: str) -> str:
    picture = decode(Path(path).read_bytes(), path)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
