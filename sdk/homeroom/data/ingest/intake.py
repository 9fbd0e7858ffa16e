"""Intake: the options of reading samples, and a record of everything that was not taken as it stands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from homeroom.data.cells import Decimal
from homeroom.errors import InputError

PROBLEMS_SHOWN = 20
NOTES_KEPT = 1_000


@dataclass(frozen=True)
class ReadOptions:
    """How sheets and files are read.

    ignore: columns that are passed over. columns: the bundle's name for a sheet's column. decimal: the separator of
    numbers, where the sheet does not prove it. skip_bad: leave out rows that cannot be taken. group: a slot or
    a further column whose content is held out whole to judge by.
    """

    ignore: frozenset[str] = frozenset()
    columns: Mapping[str, str] = field(default_factory=dict)
    decimal: Decimal = ""
    skip_bad: bool = False
    group: str = ""


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be taken. place: its file and line. name: the column or input at fault. row: its cells."""

    place: str
    name: str
    what: str
    remedy: str
    row: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        remedy = f" ({self.remedy})" if self.remedy else ""
        return f"{' '.join(filter(None, (self.place, self.name)))}: {self.what}{remedy}"


@dataclass
class Intake:
    """What was noticed while samples were read.

    today: samples to be kept until a day before it are refused. adding: whether `homeroom device add` could read them
    too, whose options advice then names. columns: of the sheets that were read; header: the known ones of the last.
    read: files that were read. unread: files of a folder that were not, each with the reason.
    missing: cells taken as missing, by their text.
    notes: sentences about what was understood otherwise than it stands. sheets: that were read.
    grouped: samples with a group.
    """

    options: ReadOptions = field(default_factory=ReadOptions)
    today: str = ""
    adding: bool = False
    rows: int = 0
    columns: set[str] = field(default_factory=set)
    header: tuple[str, ...] = ()
    problems: list[Problem] = field(default_factory=list)
    read: set[Path] = field(default_factory=set)
    unread: dict[str, str] = field(default_factory=dict)
    missing: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    sheets: list[Path] = field(default_factory=list)
    grouped: int = 0
    _place: str = ""
    _row: Mapping[str, Any] = field(default_factory=dict)

    @contextmanager
    def row(self, place: str, cells: Mapping[str, Any]) -> Iterator[None]:
        """Reads one row: an InputError inside becomes a problem of the row."""
        self.begin(place, cells)
        try:
            yield
        except InputError as problem:
            self.refuse(problem)

    def begin(self, place: str, cells: Mapping[str, Any]) -> None:
        """Counts a row; problems without a place of their own are its problems from now on."""
        self.rows += 1
        self._place, self._row = place, cells

    def refuse(self, problem: InputError, place: str = "") -> None:
        """Keeps a problem of the row that is being read, or of the one at another place."""
        row = self._row if place in ("", self._place) else {}
        if row.keys() <= set(self.header):
            row = {**dict.fromkeys(self.header, ""), **row} if row else row
        place = place or self._place
        name = "" if problem.where == place else problem.where.removeprefix(f"{place} ")
        self.problems.append(Problem(place, name, problem.what, problem.remedy, row))

    def begin_sheet(self, sheet: Path, options: ReadOptions) -> None:
        """Reads a sheet by these options from now on."""
        self.sheets.append(sheet)
        self.options = options

    def advise(self, plain: str, options: str) -> str:
        """A remedy in the file itself, and by these options of `homeroom device add` where that could read it too."""
        return f"{plain}, or `homeroom device add … {options}`" if self.adding else plain

    def note(self, sentence: str) -> None:
        """Keeps a sentence, once."""
        if sentence not in self.notes and len(self.notes) < NOTES_KEPT:
            self.notes.append(sentence)

    def finish(self) -> None:
        """Raises the error of columns that no sheet has, and of rows that cannot be taken, unless they are left out."""
        given = {"--map": self.options.columns.keys(), "--ignore": self.options.ignore}
        for option, names in given.items():
            if absent := sorted(names - self.columns):
                what = f"{option} names a column that no sheet has: {', '.join(map(repr, absent))}"
                raise InputError(what, remedy=f"there are {', '.join(sorted(self.columns))}" if self.columns else "")
        if self.problems and not self.options.skip_bad:
            raise self.error()
        if (name := self.options.group) and not self.grouped:
            there = f"there are {', '.join(sorted(self.columns))}" if self.columns else ""
            raise InputError(f"no sample has what --group names: {name!r}", remedy=there or "name a slot or a column")

    def error(self) -> InputError:
        """One problem as its own error; several as a list, with their number by column."""
        first = self.problems[0]
        if len(self.problems) == 1:
            where = " ".join(filter(None, (first.place, first.name)))
            return InputError(first.what, where=where, remedy=first.remedy)
        by_name = Counter(problem.name or "the row" for problem in self.problems)
        lines = [str(problem) for problem in self.problems[:PROBLEMS_SHOWN]]
        if len(self.problems) > PROBLEMS_SHOWN:
            lines.append(f"… and {len(self.problems) - PROBLEMS_SHOWN} more")
        lines.append("by column: " + ", ".join(f"{name} {count}" for name, count in by_name.most_common()))
        what = f"{len(self.problems)} of {self.rows:,} rows cannot be taken"
        remedy = self.advise("correct them", "--skip-bad BAD.csv")
        return InputError(what, where=_file_of(first.place), remedy=remedy, details=lines)


def _file_of(place: str) -> str:
    return place.partition(" line ")[0]
