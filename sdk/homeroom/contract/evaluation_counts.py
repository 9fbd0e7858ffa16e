"""Federated evaluation: how often a version was right and wrong at each device, as integers that are summed.

A task's counts are split into groups by language and by the inputs that a sample has. Sums are the same in any order,
so the sum over devices equals the counts over all their samples pooled. Beside them each device adds one to one of ten
bins, that of its own accuracy: the worst tenth of devices is read off that sum.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Literal, NamedTuple, TypeVar

import msgspec

from homeroom.contract.evaluation_report import TaskName
from homeroom.errors import UpdateError

BINS = 10  # of a device's accuracy; the last one holds 1 too
LEAST_SAMPLES = 20  # of a task at one device; a tenth of fewer would be noise, and tell of single samples
MOST_SAMPLES = 1 << 20  # of a task at one device
MOST_CLASSES = 32  # whose confusion is counted; of more classes only how many were right
NUMBER_GRID = 1 << 10  # parts of a task's scale, in which numbers and errors are counted
NUMBER_LIMIT = 8  # to which they are cut, in units of the task's scale
COUNTS_LIMIT_BYTES = 4 << 20  # of a device's message
VALUE_LIMIT = MOST_SAMPLES * (NUMBER_LIMIT * NUMBER_GRID) ** 2

Group = tuple[str, str]  # language and inputs
OTHERS: Group = ("*", "*")  # groups that too few devices have, added up
Who = TypeVar("Who")
Value = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]
ShortName = Annotated[str, msgspec.Meta(max_length=512)]


class CountsShape(NamedTuple):
    """The form of a task's counts.

    classes: [width, width], rows of the true class, columns of the answer. columns: [width, 4], for each column how
    often true and answered, answered alone, true alone, neither. right: [2], samples and right ones. numbers: [6],
    samples, sums of |error|, error squared, y, y squared in parts of the scale, and how many were cut to its limit.
    """

    form: Literal["classes", "columns", "right", "numbers"]
    width: int = 1

    @property
    def size(self) -> int:
        """Number of values."""
        return {"classes": self.width**2, "columns": 4 * self.width, "right": 2, "numbers": 6}[self.form]


class GroupCounts(msgspec.Struct, frozen=True, array_like=True):
    """Counts of one group: by the version that is told of, and by the one before it on the same samples."""

    language: ShortName
    inputs: ShortName
    now: tuple[Value, ...]
    before: tuple[Value, ...]

    @property
    def group(self) -> Group:
        """Its name."""
        return self.language, self.inputs


Groups = Annotated[tuple[GroupCounts, ...], msgspec.Meta(max_length=4096)]


class DeviceCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What a device tells in plain rounds.

    version: the global version that is told of. before: the one that the device had before; 0 is the bundle's own.
    """

    version: Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
    before: Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
    tasks: Annotated[dict[TaskName, Groups], msgspec.Meta(max_length=256)]


class Accuracy(NamedTuple):
    """A share as two integers, and the samples that it is of; of numbers R^2, at least 0."""

    right: int
    of: int
    samples: int

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.right / self.of if self.of else 0.0

    @property
    def bin(self) -> int:
        """Which of the ten bins it is in."""
        return min(BINS - 1, BINS * self.right // self.of) if self.of else 0


def accuracy(shape: CountsShape, values: Sequence[int]) -> Accuracy:
    """The accuracy that counts say: the share of right answers; of columns, of right columns; of numbers R^2."""
    if shape.form == "classes":
        total = sum(values)
        return Accuracy(sum(values[:: shape.width + 1]), total, total)
    if shape.form == "columns":
        total = sum(values)
        return Accuracy(sum(values[::4]) + sum(values[3::4]), total, total // shape.width)
    if shape.form == "right":
        return Accuracy(values[1], values[0], values[0])
    samples, _, squares, labels, labels_squared, _ = values
    spread = samples * labels_squared - labels**2
    spread = spread or (samples * NUMBER_GRID) ** 2  # all labels equal: the scale takes the place of their deviation
    return Accuracy(max(0, spread - samples * squares), spread, samples)


def add_counts(parts: Iterable[Sequence[int]], size: int) -> tuple[int, ...]:
    """The exact sum of counts, each of `size` values."""
    total = [0] * size
    for part in parts:
        total = [one + other for one, other in zip(total, part, strict=True)]
    return tuple(total)


def check_counts(shape: CountsShape, now: Sequence[int], before: Sequence[int], where: str, devices: int = 1) -> None:
    """UpdateError unless the counts of two versions can be of the same samples of so many devices."""
    for values in (now, before):
        if len(values) != shape.size:
            raise UpdateError(f"{len(values)} values in place of {shape.size}", code="wrong_shape", where=where)
        signed = {3} if shape.form == "numbers" else set()
        if any(value < 0 and index not in signed for index, value in enumerate(values)):
            raise UpdateError("a count is negative", code="malformed", where=where)
        samples = accuracy(shape, values).samples
        if not 0 < samples <= MOST_SAMPLES * devices:
            raise UpdateError(f"{samples:,} samples in a group", code="malformed", where=where)
        if not _possible(shape, values, samples):
            raise UpdateError("no samples have such counts", code="malformed", where=where)
    if _truth(shape, now) != _truth(shape, before):
        raise UpdateError("the two versions were not counted on the same samples", code="malformed", where=where)


def _possible(shape: CountsShape, values: Sequence[int], samples: int) -> bool:
    if shape.form == "columns":
        return all(sum(values[4 * column : 4 * column + 4]) == samples for column in range(shape.width))
    if shape.form == "right":
        return values[1] <= values[0]
    if shape.form == "numbers":
        _, errors, squares, labels, labels_squared, cut = values
        most, largest = samples * NUMBER_LIMIT * NUMBER_GRID, samples * (NUMBER_LIMIT * NUMBER_GRID) ** 2
        bounded = errors <= most and cut <= samples and max(squares, labels_squared) <= largest
        return bounded and errors**2 <= samples * squares and labels**2 <= samples * labels_squared
    return True


def _truth(shape: CountsShape, values: Sequence[int]) -> tuple[int, ...]:
    """What is said of the samples alone, whatever was answered."""
    if shape.form == "classes":
        return tuple(sum(values[row * shape.width : (row + 1) * shape.width]) for row in range(shape.width))
    if shape.form == "columns":
        true = (values[4 * column] + values[4 * column + 2] for column in range(shape.width))
        return (sum(values), *true)
    return (values[0],) if shape.form == "right" else (values[0], values[3], values[4])


def shown_as(
    fed: Mapping[Group, AbstractSet[Who]], k: int, count: Callable[[AbstractSet[Who]], int] = len
) -> dict[Group, Group]:
    """Under which name each group's counts are shown: its own, or that of the groups that are added up.

    Every name has at least k feeders. Empty where all together are fewer: then nothing of the task is shown.

    fed: who has samples in each group. count: how many of what k counts these are.
    """

    def together(groups: Iterable[Group]) -> int:
        return count(frozenset[Who]().union(*(fed[group] for group in groups)))

    named = {group for group, who in fed.items() if count(who) >= k}
    rest = set(fed) - named
    while rest and named and together(rest) < k:
        smallest = min(named, key=lambda group: (count(fed[group]), group))
        named.discard(smallest)
        rest.add(smallest)
    if rest and together(rest) < k:
        return {}
    return {group: group if group in named else OTHERS for group in fed}


def worst_tenth(bins: Sequence[int]) -> tuple[float, float] | None:
    """Between which values the mean accuracy of the worst tenth of devices is, as ten bins tell; None without devices.

    The worst tenth is at least one device. bins: devices in each.
    """
    left = most = -(-sum(bins) // 10)
    if not most:
        return None
    low = 0
    for number, devices in enumerate(bins):
        taken = min(left, devices)
        low, left = low + taken * number, left - taken
    return low / most / BINS, (low + most) / most / BINS
