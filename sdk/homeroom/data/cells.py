"""Cells of a sheet: numbers with a point or a comma, percentages, missing values, days of a year.

A sheet's own evidence tells its decimal separator. What can be read in two ways is asked about, never guessed.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from homeroom.errors import InputError

Decimal = Literal["", "point", "comma"]
SEPARATORS: dict[Decimal, str] = {"point": ".", "comma": ","}
MISSING_CELLS = frozenset(["n/a", "na", "null", "none", "nan", "-", "\u2013", "\u2014", "?"])
SPREADSHEET_ERRORS = frozenset([
    "#n/a", "#null!", "#div/0!", "#value!", "#ref!", "#name?", "#num!", "#spill!", "#calc!", "#error!",
    "#nv", "#wert!", "#bezug!", "#zahl!", "#valeur!", "#nombre!", "#nom?",
])  # fmt: skip
THOUSANDS_SPACES = str.maketrans("", "", " \u00a0\u202f'\u2019")
NUMBER = re.compile(r"([+-]?)(\d*(?:[.,]\d+)*[.,]?)(?:[eE]([+-]?\d{1,4}))?")
GROUPED = r"[1-9]\d{0,2}(?:\%s\d{3})+"
DAY = re.compile(r"(\d{1,4})([-./])(\d{1,2})\2(\d{1,4})")


@dataclass(frozen=True)
class Range:
    """The usual values of a number, by those that the bundle was made with."""

    least: float
    largest: float

    def holds(self, number: float) -> bool:
        """Whether a number is a usual one."""
        return self.least <= number <= self.largest


ANY = Range(-math.inf, math.inf)


def is_filled(cell: Any) -> bool:
    """Whether a cell holds anything."""
    return cell is not None and cell != "" and not (isinstance(cell, str) and not cell.strip())


def is_number(cell: str) -> bool:
    """Whether a text is a number, be it one that could be read in two ways."""
    return _parts(cell.strip()) is not None


def is_missing(cell: str) -> bool:
    """Whether a cell that should hold a number or a label says that there is none."""
    return cell.strip().casefold() in MISSING_CELLS or is_spreadsheet_error(cell)


def is_spreadsheet_error(cell: str) -> bool:
    """Whether a formula of a spreadsheet failed there, so that the cell holds nothing that a person wrote."""
    return cell.strip().casefold() in SPREADSHEET_ERRORS


def decimal_of(cells: Iterable[str]) -> Decimal:
    """The decimal separator that the cells prove; empty where they prove none, or both."""
    proved = {decimal for cell in cells if (decimal := _proved_decimal(cell))}
    return proved.pop() if len(proved) == 1 else ""


def parse_number(
    cell: str,
    decimal: Decimal = "",
    usual: Range = ANY,
    advise: Callable[[str, str], str] = lambda plain, options: plain,
) -> float:
    """Returns the number of a cell. Raises InputError where it is none, or could be two.

    decimal: of the sheet, where it is known. usual: tells whether a percentage is a share. advise: as `Intake.advise`.
    """
    text = cell.strip()
    if text.endswith("%"):
        return _percentage(text, decimal, usual, advise)
    parts = _parts(text)
    if parts is None:
        raise InputError(f"{cell!r} is not a number", remedy="correct it, or leave the cell empty")
    sign, digits, exponent = parts
    separator = SEPARATORS.get(_proved_decimal(text) or decimal, "")
    if not separator and any(one in digits for one in ".,"):
        small, large = float(sign + digits.replace(",", ".")), sign + re.sub("[.,]", "", digits)
        raise InputError(
            f"{cell!r} could be {small:.10g} or {large}",
            remedy=advise(f"write {small:.10g} or {large}", "--decimal point|comma"),
        )
    other = "," if separator == "." else "."
    return float(f"{sign}{digits.replace(other, '').replace(separator or '.', '.')}e{exponent or 0}")


def parse_day(text: str, where: str = "retain_until") -> datetime.date:
    """Returns the day of 2027-07-31, 2027/07/31, 31.07.2027 or 31/07/2027; InputError where it could be two days."""
    remedy = "write it as 2027-07-31"
    found = DAY.fullmatch(text.strip())
    try:
        if not found or found[2] == "-":
            return datetime.date.fromisoformat(text.strip())
        if len(found[1]) == 4:
            return datetime.date(int(found[1]), int(found[3]), int(found[4]))
        first, second, year = int(found[1]), int(found[3]), int(found[4])
        if found[2] == "/" and first <= 12 and second <= 12 and first != second:
            raise InputError(f"{text!r} could be two days", where=where, remedy=remedy)
        day, month = (second, first) if found[2] == "/" and second > 12 else (first, second)
        if len(found[4]) != 4:
            raise ValueError
        return datetime.date(year, month, day)
    except ValueError:
        raise InputError(f"{text!r} is not a day", where=where, remedy=remedy) from None


def _parts(text: str) -> tuple[str, str, str | None] | None:
    """Sign, digits with separators, and exponent; None where it is no number."""
    found = NUMBER.fullmatch(text.translate(THOUSANDS_SPACES).replace("\u2212", "-"))
    if not found or not any(one.isdecimal() for one in found[2]):
        return None
    points, commas = found[2].count("."), found[2].count(",")
    if (points > 1 or commas > 1 or (points and commas)) and not _proved_decimal(found[2]):
        return None
    return found[1], found[2], found[3]


def _proved_decimal(cell: str) -> Decimal:
    """The decimal separator that one cell proves: 4,5 and 1.250,5 and 0,125 do, 1,250 does not."""
    digits = cell.strip().rstrip("%").translate(THOUSANDS_SPACES).lstrip("+-\u2212").casefold().partition("e")[0]
    if not digits or digits.strip("0123456789.,"):
        return ""
    for decimal, separator in SEPARATORS.items():
        other = "," if separator == "." else "."
        whole, found, part = digits.rpartition(separator)
        if found and separator not in whole and other not in part:
            grouped = bool(re.fullmatch(GROUPED % other, whole))
            plain = whole.isdecimal() or not whole
            if grouped or (plain and (len(part) != 3 or len(whole) > 3 or whole.startswith("0") or not whole)):
                return decimal
        if re.fullmatch(GROUPED % other, digits) and digits.count(other) > 1:
            return decimal
    return ""


def _percentage(text: str, decimal: Decimal, usual: Range, advise: Callable[[str, str], str]) -> float:
    """A percentage as a share of 1 or of 100, whichever the usual values hold."""
    number = parse_number(text[:-1], decimal, usual, advise)
    readings = [value for value in (number / 100, number) if usual.holds(value)]
    if len(readings) != 1:
        raise InputError(
            f"{text!r} could be {number / 100:g} or {number:g}", remedy="write the number as the others of its column"
        )
    return readings[0]
