"""Cohort sizes: whether the devices of a roster can ever start a secure round, and the numbers that would."""

from __future__ import annotations

from homeroom.contract.roster import LEAST_ROSTER_DEVICES
from homeroom.contract.round import RoundConfiguration
from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError
from homeroom.privacy.secagg.noise import LEAST_SHARE_GRID, cohort_share_grid
from homeroom.privacy.secagg.parameters import bears_rates

MOST_DEVICES = 10_000  # of a roster


def starts(devices: int, minimum: int, configuration: RoundConfiguration) -> bool:
    """Whether a cohort of so many devices starts a round whose sum needs `minimum` of them, all promises kept."""
    rules = configuration.secure or SecureRules()
    if not bears_rates(devices, rules) or devices - rules.drops(devices) < minimum:
        return False
    return configuration.privacy is None or cohort_share_grid(configuration, devices, minimum) >= LEAST_SHARE_GRID


def check_roster(devices: int, minimum: int, configuration: RoundConfiguration, where: str) -> None:
    """Raises InputError where no cohort of a roster's devices would ever start; it names numbers that would.

    devices: on the roster. minimum: its least number of devices in a sum.
    configuration: of the rounds. where: the roster's file.
    """
    rules = configuration.secure or SecureRules()
    minimum, sizes = max(minimum, rules.minimum), range(min(rules.cohort, devices), devices + 1)
    if any(starts(size, minimum, configuration) for size in sizes):
        return
    more = (size for size in range(devices + 1, MOST_DEVICES + 1) if starts(size, minimum, configuration))
    least = max(rules.minimum, LEAST_ROSTER_DEVICES)
    lower = (m for m in range(minimum - 1, least - 1, -1) if any(starts(size, m, configuration) for size in sizes))
    numbers = [f"{size} devices" for size in (next(more, 0),) if size]
    numbers += [f"minimum {least}" for least in (next(lower, 0),) if least]
    rates = f"drop-out {rules.drop_rate:g}, corrupt {rules.corrupt_rate:g}"
    raise InputError(
        f"{devices} devices, minimum {minimum}, {rates}: no secure round would ever start",
        where=where,
        remedy=", or ".join(numbers) or "lower rates of drop-out and corruption, or a higher minimum",
    )
