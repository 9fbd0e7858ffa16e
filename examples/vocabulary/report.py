"""What the lesson showed: figures by setting, a table for the terminal and, with `page`, one page with pictures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich import box
from rich.table import Table

from examples.vocabulary.lesson import Accuracies, SchoolResult, best_round, mean
from examples.vocabulary.schools import CHOICES, School

SETTINGS = ("before", "alone", "together", "own", "pooled")
TITLES = {
    "before": "before",
    "alone": "alone",
    "together": "together",
    "own": "together, then own",
    "pooled": "all in one place",
}
SHORT = {"own": "then own", "pooled": "one place"}  # for a terminal of 80 columns
LANGUAGES = {"en": "English", "es": "Spanish", "fr": "French"}


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
class Shown:
    """What there is to show. `central`: the device with all data, its `elsewhere` by school."""

    schools: Sequence[SchoolResult]
    facts: Mapping[str, School]
    central: SchoolResult
    stages: Mapping[str, float]
    seconds: float
    stamps: int
    note: str = ""

    @property
    def chosen(self) -> int:
        """The round that validation chose."""
        return best_round(list(self.schools))

    def tested(self, school: SchoolResult) -> dict[str, Accuracies]:
        """Accuracies by setting; `together` is what the school answered with after the chosen round."""
        together = school.rounds[self.chosen].test
        return {
            "before": school.before,
            "alone": school.alone,
            "together": together,
            "own": school.own or together,
            "pooled": self.central.elsewhere[school.name],
        }

    def scores(self, school: SchoolResult) -> dict[str, dict[str, float]]:
        """Accuracy of the answers by setting and task."""
        return {setting: one.answers for setting, one in self.tested(school).items()}

    def means(self) -> dict[str, float]:
        return {s: sum(mean(self.scores(school)[s]) for school in self.schools) / len(self.schools) for s in SETTINGS}

    def gain(self, school: SchoolResult) -> float:
        scores = self.scores(school)
        return mean(scores["together"]) - mean(scores["alone"])

    def parts(self) -> str:
        """What the trained and the solved heads reach alone, mean over the schools and the tasks that are solved."""
        said = []
        for setting in ("alone", "together", "pooled"):
            found = [self.tested(school)[setting] for school in self.schools]
            solved = [one for one in found if one.solved]
            if solved:
                trained = sum(mean({task: one.trained[task] for task in one.solved}) for one in solved) / len(solved)
                summed = sum(mean(one.solved) for one in solved) / len(solved)
                said.append(f"{TITLES[setting]} {trained:.1%} trained, {summed:.1%} solved")
        return f"Of it by trained and by solved heads alone: {'; '.join(said)}." if said else ""

    def losses(self) -> str:
        """The tasks that a school answers less often right together than alone, and own epochs that did no good."""
        lost = [
            f"{school.name} {task} {alone:.1%} to {scores['together'][task]:.1%}"
            for school in self.schools
            for scores in (self.scores(school),)
            for task, alone in scores["alone"].items()
            if scores["together"][task] < alone
        ]
        own = [
            f"{school.name} {mean(scores['together']):.1%} to {mean(scores['own']):.1%}"
            for school in self.schools
            for scores in (self.scores(school),)
            if mean(scores["own"]) < mean(scores["together"])
        ]
        sentences = [f"Worse together than alone: {', '.join(lost)}."] if lost else []
        return " ".join([*sentences, *([f"Worse after own epochs: {', '.join(own)}."] if own else [])])

    def unreached(self) -> str:
        """The schools that no sums of the others had reached by the last round; empty where they reached all."""
        names = [school.name for school in self.schools if not school.released]
        return f"No sums of other schools had reached {', '.join(names)} by the last round." if names else ""

    def by_language(self) -> dict[str, dict[str, float]]:
        """Mean over tasks and schools of a language, by setting."""
        found: dict[str, dict[str, float]] = {}
        for language in dict.fromkeys(self.facts[s.name].language for s in self.schools):
            ours = [s for s in self.schools if self.facts[s.name].language == language]
            found[language] = {x: sum(mean(self.scores(s)[x]) for s in ours) / len(ours) for x in SETTINGS}
        return found

    def verdict(self) -> str:
        means = self.means()
        gains = {school.name: self.gain(school) for school in self.schools}
        lost = [name for name, gain in gains.items() if gain <= 0]
        best = max(gains, key=lambda name: gains[name])
        return (
            f"Together {means['together']:.1%}, alone {means['alone']:.1%}, all in one place {means['pooled']:.1%} "
            f"(mean accuracy over schools and tasks). {len(gains) - len(lost)} of {len(gains)} schools gained, "
            f"{best} most ({100 * gains[best]:+.1f} points)" + (f"; {', '.join(lost)} did not." if lost else ".")
        )


def harder_line(schools: Sequence[SchoolResult], lengths: Sequence[float]) -> str:
    """What the last round reaches where wrong options are alike. lengths: what a word's length alone does."""
    found = {
        said: [school.harder[task] for school in schools if task in school.harder]
        for task, said in (
            ("picture_of_word", "pictures of one category {:.1%}"),
            ("word_of_speech", "words of like length {:.1%}"),
        )
    }
    told = [said.format(sum(values) / len(values)) for said, values in found.items() if values]
    alone = f", by length alone {sum(lengths) / len(lengths):.1%}" if lengths else ""
    return f"Harder draws: {', '.join(told)}{alone} (guessing {1 / CHOICES:.0%})" if told else ""


def as_table(shown: Shown) -> Table:
    """Per cent right, a row for each task of each school; fits 80 columns."""
    title = "Right answers on the held-out test, per cent"
    table = Table(title=title, caption=shown.verdict(), box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    for column in ("school", "task", "tested"):
        table.add_column(column, no_wrap=True, justify="right" if column == "tested" else "left")
    for setting in SETTINGS:
        table.add_column(SHORT.get(setting, setting), justify="right", no_wrap=True)
    for school in shown.schools:
        scores = shown.scores(school)
        for number, task in enumerate(school.before.answers):
            name = f"{school.name} ({shown.facts[school.name].language})" if not number else ""
            row = (f"{100 * scores[s].get(task, 0.0):.1f}" for s in SETTINGS)
            table.add_row(name, task, str(school.tested[task]), *row)
        totals = (f"{100 * mean(scores[s]):.1f}" for s in SETTINGS)
        table.add_row("", "mean", "", *totals, style="bold", end_section=True)
    return table
