"""Forecast of private rounds: the noise of a release beside what its devices agree on, told beforehand.

A release's noise has length `noise_multiplier * clip * sqrt(values)`. What devices agree on adds up to their number
of clips times an agreement, which was measured (`benchmarks/privacy.py`, cosines of the first release with one without
noise); in other lessons it may be two or three times as much, or as little. The clip itself cancels out. Over several
releases the signal adds up, and independent noise by the root of their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import msgspec

from homeroom.contract.layout import Layout
from homeroom.contract.privacy import epsilon_spent
from homeroom.contract.round import RoundConfiguration

DEVICE_AGREEMENT, SUBJECT_AGREEMENT = 0.4, 0.15  # of a clip, that one part adds to the direction of all
LEARNS_BELOW, NOISE_ABOVE = 1.0, 3.0  # noise over signal after the budget's releases; see `ReleaseForecast.words`
USUAL_SUBJECTS = 30  # of a class
SUBJECTS_FACTOR = DEVICE_AGREEMENT / (SUBJECT_AGREEMENT * USUAL_SUBJECTS)  # of the noise, by subject
MOST_RELEASES = 1 << 12


@dataclass(frozen=True)
class ReleaseForecast:
    """The expected noise of private rounds.

    values: trained and shared values.
    devices: in a release.
    releases: that one device may enter within its budget.
    noise: length of a release's noise over that of its signal.
    by_subject: whether the promise is to each subject.
    """

    values: int
    devices: int
    releases: int
    noise: float
    by_subject: bool

    @property
    def noise_at_end(self) -> float:
        """Noise over signal once the budget is spent."""
        return self.noise / sqrt(self.releases)

    @property
    def learns(self) -> bool:
        """Whether the rounds can be expected to learn nearly as much as without noise."""
        return self.noise_at_end <= LEARNS_BELOW

    def words(self) -> str:
        """The forecast for people, with what would make the rounds learn where they will not."""
        end = f"{_rounded(self.noise_at_end)} times after all {self.releases} releases of the budget"
        much = f"the noise of a release will be {_rounded(self.noise)} times its signal, {end}"
        much += f" ({self.values:,} trained values, {self.devices} devices in a release)"
        if self.learns:
            return f"{much}: it should learn"
        less = "will not learn" if self.noise_at_end > NOISE_ABOVE else "will learn much less than without noise"
        needs = [f"about {_two_digits_up(self.devices * self.noise_at_end):,} devices"]
        if not self.by_subject:
            needs.append(f"--subjects (with {USUAL_SUBJECTS}: {_rounded(self.noise_at_end * SUBJECTS_FACTOR)} times)")
        if values := int(self.values / self.noise_at_end**2):
            needs.append(f"at most {values:,} trained values")
        return f"{much}: it {less}; it needs {', or '.join(needs)}"


def forecast_release(
    configuration: RoundConfiguration, layout: Layout, *, buffer_follows: bool = False
) -> ReleaseForecast | None:
    """The forecast for a bundle's layout under a round configuration; None where rounds are not private.

    buffer_follows: the devices, so that the first releases are of the fewest that the rounds allow.
    """
    privacy, secure = configuration.privacy, configuration.secure
    if privacy is None:
        return None
    devices = configuration.min_devices if buffer_follows else configuration.buffer_size
    devices = secure.cohort if secure else devices
    multiplier, values = privacy.noise_multiplier, sum(segment.size for segment in configuration.merged(layout))
    if privacy.bands is not msgspec.UNSET:  # a stream's release has more noise, which the next ones take back in part
        clip_grid = privacy.clip_grid(configuration.scale_bits) << privacy.extra_bits
        multiplier *= privacy.sensitivity_grid(configuration.scale_bits) / clip_grid
    if secure:  # every device adds enough for the honest ones alone
        multiplier *= sqrt(devices / max(1, secure.honest(devices, secure.minimum)))
    agreement = SUBJECT_AGREEMENT * privacy.parts if configuration.by_subject else DEVICE_AGREEMENT
    low, high = 1, MOST_RELEASES
    while low < high:
        middle = (low + high + 1) // 2
        fits = epsilon_spent([privacy.noise_multiplier] * middle, privacy.delta) <= privacy.epsilon
        low, high = (middle, high) if fits else (low, middle - 1)
    noise = multiplier * sqrt(values) / (devices * agreement)
    return ReleaseForecast(values, devices, low, noise, configuration.by_subject)


def _two_digits_up(value: float) -> int:
    """A count rounded up to two digits."""
    step: int = 10 ** max(0, len(str(ceil(value))) - 2)
    return ceil(value / step) * step


def _rounded(value: float) -> str:
    """A ratio with two digits."""
    return f"{_two_digits_up(value)}" if value >= 10 else f"{value:.2g}"
