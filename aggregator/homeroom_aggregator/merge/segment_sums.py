"""Segment sums: the exact integer merge, by segment and tier slice.

Federated averaging with weights (McMahan et al. 2017), asynchronously as in FedBuff (Nguyen et al. 2022). Sums are
integers, so the order of updates changes nothing; what follows is elementwise float64, so a replay gives the same bits.
Updates are added in place: one of them is in memory at a time, and being integers they can be taken out again exactly.
A school's own segments have sums of their own (`sum_key`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

import msgspec
import numpy as np

from homeroom.contract.layout import Layout, segment_of
from homeroom.contract.round import RoundConfiguration, weight
from homeroom.contract.update import Update
from homeroom.errors import UpdateError
from homeroom_aggregator.merge.server_optimizers import OptimizerState

WEIGHT_LIMIT = 1 << 38  # in one segment; with values below 2**24 no int64 sum can overflow
MULTIPLIED_VALUES = 1 << 16  # at once: the only memory that adding takes

Undo = Callable[[], None]
SchoolOf = Callable[[str], str]  # the school of a member by its name; empty where it was invited without one


def no_school(_: str) -> str:
    """The school of members who have none."""
    return ""


def count_fed(fed: Collection[str], k_of: str, school_of: SchoolOf) -> int:
    """How many of what `k_of` names, devices or schools, these members are; one without a school counts by itself."""
    return len(fed) if k_of == "devices" else len({school_of(member) or ("", member) for member in fed})


def sum_key(tier_slice: str, school: str) -> str:
    """Key of a running sum: segment, tier slice and, where one school owns the segment, the school."""
    return f"{tier_slice}\n{school}" if school else tier_slice


def tier_slice_of(key: str) -> str:
    """The tier slice of a running sum's key (`Layout.tier_slices`)."""
    return key.partition("\n")[0]


def school_of_key(key: str) -> str:
    """The school of a running sum's key; empty where all devices feed it."""
    return key.partition("\n")[2]


def add_weighted(total: np.ndarray, values: np.ndarray, units: int) -> None:
    """total += units * values, in place and exactly; total int64 [n], values int32 or int64 [n]."""
    for start in range(0, len(values), MULTIPLIED_VALUES):
        part = values[start : start + MULTIPLIED_VALUES].astype(np.int64)
        part *= units
        into = total[start : start + MULTIPLIED_VALUES]
        into += part  # by name: `total[…] += part` would copy the slice onto itself afterwards


class WaitingUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """An update of the bounded rule, whose body is read again from the log when it is released.

    member: whom it counts for. units: its weight. norms: by running sum that still waits for it, its integer L2 norm.
    """

    update_id: str
    member: str
    units: int
    norms: dict[str, int]


class SegmentSums:
    """Running sums of weight * value until the next release, with their weights and the devices that fed them.

    By key (`sum_key`). A tier slice is a segment or the part that one tier adds to it, so each value's mean is over
    those devices alone whose tier has it.
    """

    def __init__(self) -> None:
        self.numerators: dict[str, np.ndarray] = {}  # int64 [size], changed in place
        self.weights: dict[str, int] = {}
        self.devices: dict[str, set[str]] = {}
        self.signal = 0  # of private updates, where the clip adapts to it
        self.waiting: dict[int, WaitingUpdate] = {}  # by the number of the log's entry; in no sum yet (`bounded`)

    def add(self, update: Update, staleness: int, configuration: RoundConfiguration, member: str = "") -> Undo:
        """Add every segment of an update that `read_update` has accepted; return what takes it out again.

        staleness: versions between its base and the newest.
        member: whom it counts for, where that is not the key that signed it.
        Raises UpdateError above `WEIGHT_LIMIT`, with nothing added.
        """
        device, segments = member or update.header.device, update.header.segments
        weights = {
            name: weight(entry.examples, staleness, configuration)
            for name, entry in zip(update.values, segments, strict=True)
        }
        units = {name: weights[segment_of(tier_slice_of(name))] for name in update.tier_slices}
        self._check_weights(units)
        known = {name for name in units if device in self.devices.get(name, ())}
        for name, values in update.tier_slices.items():
            self._add(name, values, units[name], units[name], (device,))
        self.signal += update.signal

        def undo() -> None:
            self.signal -= update.signal
            for name, values in update.tier_slices.items():
                if self.weights[name] == units[name]:
                    self._pop(name)
                    continue
                add_weighted(self.numerators[name], values, -units[name])
                self.weights[name] -= units[name]
                if name not in known:
                    self.devices[name].discard(device)

        return undo

    def take_out(
        self, values: Mapping[str, np.ndarray], units: Mapping[str, int], member: str, alone: Collection[str]
    ) -> Undo:
        """Take parts of an update that was added out again; return what puts them back.

        values: int32 [size] by key; units: their weights. alone: keys in which the member has nothing else.
        """
        before = {name: (self.weights[name], set(self.devices[name])) for name in values}
        taken = dict[str, np.ndarray]()
        for name, part in values.items():
            if self.weights[name] == units[name]:
                taken[name] = self._pop(name)[0]
                continue
            add_weighted(self.numerators[name], part, -units[name])
            self.weights[name] -= units[name]
            if name in alone:
                self.devices[name].discard(member)

        def undo() -> None:
            for name, part in values.items():
                if name in taken:
                    self.numerators[name] = taken[name]
                else:
                    add_weighted(self.numerators[name], part, units[name])
                self.weights[name], self.devices[name] = before[name]

        return undo

    def add_sum(self, numerators: dict[str, np.ndarray], weights: dict[str, int], fed: dict[str, list[str]]) -> Undo:
        """Add a secure round's sum; return what takes it out again.

        numerators: int64 [size] by segment. weights: their sums. fed: the devices in each.
        """
        before = self.copy()
        self._check_weights(weights)
        for name, values in numerators.items():
            self._add(name, values, 1, weights[name], fed[name])

        def undo() -> None:
            self.numerators, self.weights, self.devices = before.numerators, before.weights, before.devices

        return undo

    def _check_weights(self, weights: Mapping[str, int]) -> None:
        for name, units in weights.items():
            if self.weights.get(name, 0) + units > WEIGHT_LIMIT:
                why = f"segment {tier_slice_of(name)} has {WEIGHT_LIMIT:,} units of weight, and waits for devices"
                raise UpdateError(why, code="full", remedy="sync again later")

    def _add(self, name: str, values: np.ndarray, factor: int, units: int, devices: Iterable[str]) -> None:
        if name not in self.numerators:
            self.numerators[name] = np.zeros(len(values), np.int64)
        add_weighted(self.numerators[name], values, factor)
        self.weights[name] = self.weights.get(name, 0) + units
        self.devices.setdefault(name, set()).update(devices)

    def fed(self) -> dict[str, set[str]]:
        """By key, who is in the sum or waits for it."""
        fed = {name: set(devices) for name, devices in self.devices.items()}
        for update in self.waiting.values():
            for name in update.norms:
                fed.setdefault(name, set()).add(update.member)
        return fed

    def all_devices(self) -> set[str]:
        """Everybody who is in a sum, or waits."""
        return set().union(*self.devices.values(), (update.member for update in self.waiting.values()))

    def newest_waiting(self, name: str) -> list[int]:
        """Numbers of the updates that wait for a sum, the newest of each member, in rising order."""
        newest = {update.member: number for number, update in sorted(self.waiting.items()) if name in update.norms}
        return sorted(newest.values())

    def waiting_of(self, member: str) -> tuple[str, int] | None:
        """The id and entry of a member's newest update that waits, or None."""
        numbers = [number for number, update in self.waiting.items() if update.member == member]
        return (self.waiting[max(numbers)].update_id, max(numbers)) if numbers else None

    def leave_out(self, update_ids: Collection[str]) -> None:
        """Forget updates that wait."""
        self.waiting = {n: update for n, update in self.waiting.items() if update.update_id not in update_ids}

    def take_waiting(self, added: Mapping[str, np.ndarray], weights: Mapping[str, int]) -> Undo:
        """Put sums of what waits for these keys, int64 [size], in its place; return what lets it wait again."""
        before = self.numerators, self.weights, self.devices, self.waiting
        fed, numerators, devices = self.fed(), dict(self.numerators), dict(self.devices)
        for name, values in added.items():
            numerators[name] = numerators[name] + values if name in numerators else values
            devices[name] = fed[name]
        self.numerators, self.devices = numerators, devices
        self.weights = self.weights | {name: self.weights.get(name, 0) + units for name, units in weights.items()}
        left, waiting = fed.keys() - added.keys(), dict[int, WaitingUpdate]()
        for number, update in self.waiting.items():
            if norms := {name: norm for name, norm in update.norms.items() if name in left}:
                waiting[number] = msgspec.structs.replace(update, norms=norms)
        self.waiting = waiting

        def undo() -> None:
            self.numerators, self.weights, self.devices, self.waiting = before

        return undo

    def ready(self, configuration: RoundConfiguration, school_of: SchoolOf = no_school) -> list[str]:
        """Keys of the sums that at least `min_devices` of what `k_of` names fed, in alphabetical order.

        A sum of one school alone counts its devices.
        """

        def enough(key: str, fed: set[str]) -> bool:
            k_of = "devices" if school_of_key(key) else configuration.k_of
            return count_fed(fed, k_of, school_of) >= configuration.min_devices

        return sorted(key for key, fed in self.fed().items() if enough(key, fed))

    def release(
        self,
        theta: np.ndarray,
        layout: Layout,
        configuration: RoundConfiguration,
        optimizer: OptimizerState | None = None,
        school: str = "",
        school_of: SchoolOf = no_school,
    ) -> tuple[np.ndarray, dict[str, int], Undo]:
        """A new theta float32 [P]; by segment, how many devices fed it; what puts the sums back.

        theta: float32 [P], of a school's devices with its own segments.
        optimizer: keeps the server optimizer's moments, by key.
        school: release its own segments, or, where empty, the shared ones.
        school_of: of a member, where `min_devices` counts schools.
        Sums that too few fed go on waiting.
        """
        optimizer = optimizer or OptimizerState(configuration, {})
        theta, devices = theta.copy(), dict[str, set[str]]()
        ready = [name for name in self.ready(configuration, school_of) if school_of_key(name) == school]
        taken = {name: self._pop(name) for name in ready}
        for name, (numerator, units, fed) in taken.items():
            mean = numerator.astype(np.float64)
            mean /= units * configuration.parts
            mean *= 2.0**-configuration.scale_bits
            where = layout.slice_indices(tier_slice_of(name))
            theta[where] = optimizer.step(name, theta[where], mean)
            devices.setdefault(segment_of(tier_slice_of(name)), set()).update(fed)

        def undo() -> None:
            for name, (numerator, units, fed) in taken.items():
                self.numerators[name], self.weights[name], self.devices[name] = numerator, units, fed

        return theta, {name: len(fed) for name, fed in devices.items()}, undo

    def _pop(self, name: str) -> tuple[np.ndarray, int, set[str]]:
        return self.numerators.pop(name), self.weights.pop(name), self.devices.pop(name)

    def copy(self) -> SegmentSums:
        """The same sums, not sharing anything that changes in place."""
        other = SegmentSums()
        other.numerators = {name: values.copy() for name, values in self.numerators.items()}
        other.weights = dict(self.weights)
        other.devices = {name: set(fed) for name, fed in self.devices.items()}
        other.signal, other.waiting = self.signal, dict(self.waiting)
        return other
