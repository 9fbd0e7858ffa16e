"""Configuration of a district's aggregator, and of a simulation: one frozen value each, in sections.

A field is named as its option, and its default stands here only. A section checks its fields when it makes the
contract's type of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from homeroom.contract.codecs import Codec
from homeroom.contract.privacy import Privacy
from homeroom.contract.roster import LEAST_ROSTER_DEVICES
from homeroom.contract.round import CohortRules, RoundConfiguration, ServerOptimizer
from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError

OPTIONS = "options"  # where an error lies


class RoundSection(msgspec.Struct, frozen=True, kw_only=True):
    """When updates become a release.

    deadline, quorum, over: synchronous rounds, in seconds, updates and devices asked per update of the buffer.
    """

    buffer_size: int = 5
    min_devices: int = 3
    max_staleness: int = 20
    codec: Codec = "fixed32"
    by_school: bool = False
    deadline: float | None = None
    quorum: int | None = None
    over: float = 1.3

    def synchronous(self) -> CohortRules | None:
        """None where rounds are asynchronous; InputError if only a part was given."""
        if (self.deadline is None) != (self.quorum is None):
            raise InputError("--deadline and --quorum belong together", where=OPTIONS)
        if self.deadline is None or self.quorum is None:
            return None
        return CohortRules(deadline_s=self.deadline, quorum=self.quorum, over=self.over)


class OptimizerSection(msgspec.Struct, frozen=True, kw_only=True):
    """The server's optimizer; `proximal` is FedProx's mu, with which devices train."""

    optimizer: str = "fedavg"
    server_rate: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.99
    tau: float = 1e-3
    proximal: float = 0.0

    def server_optimizer(self) -> ServerOptimizer | None:
        """None for FedAvg, so that a round which uses nothing else keeps its identity."""
        if self.optimizer == "fedavg":
            return None
        fields = {"name": self.optimizer, "beta1": self.beta1, "beta2": self.beta2, "tau": self.tau}
        try:
            return msgspec.convert(fields, ServerOptimizer)
        except msgspec.ValidationError as problem:
            raise InputError(f"no such optimizer: {problem}", where=OPTIONS, remedy="0 <= beta < 1, tau > 0") from None


class PrivacySection(msgspec.Struct, frozen=True, kw_only=True):
    """The privacy guarantee of private rounds; without `epsilon` and the rest, rounds are not private."""

    epsilon: float | None = None
    delta: float = 1e-5
    clip_norm: float | None = None
    noise_multiplier: float | None = None
    subjects: int | None = None
    clip_quantile: float | None = None
    bands: int | None = None

    def privacy(self, *, secure: bool = False) -> Privacy | None:
        """The guarantee, None if none is asked for; InputError if only a part of one was given.

        secure: the devices add the noise.
        """
        needed = {
            "--epsilon": self.epsilon,
            "--clip-norm": self.clip_norm,
            "--noise-multiplier": self.noise_multiplier,
        }
        missing = [name for name, value in needed.items() if value is None]
        extras = {"subjects": self.subjects, "quantile": self.clip_quantile, "bands": self.bands}
        further: dict[str, Any] = {name: value for name, value in extras.items() if value is not None}
        if len(missing) == len(needed) and not further:
            return None
        if missing:
            raise InputError(
                f"a private round also needs {' and '.join(missing)}",
                where=OPTIONS,
                remedy="a clip without noise, or noise without a budget, promises nothing",
            )
        fields: dict[str, Any] = {"epsilon": self.epsilon, "delta": self.delta, "clip_norm": self.clip_norm}
        fields |= {"noise_multiplier": self.noise_multiplier, "mechanism": "distributed" if secure else "central"}
        try:
            return Privacy(**fields, **further)
        except ValueError as problem:
            raise InputError(str(problem), where=OPTIONS) from None


class SecureSection(msgspec.Struct, frozen=True, kw_only=True):
    """Secure rounds. cohort: devices of one sum; rates: shares of them that may drop out or collude."""

    secure: bool = False
    cohort: int = 20
    drop_rate: float = 0.3
    corrupt_rate: float = 0.1
    phase_hours: float = 24.0

    def rules(self, min_devices: int) -> SecureRules | None:
        """None where rounds are not secure."""
        if not self.secure:
            return None
        return SecureRules(
            minimum=max(LEAST_ROSTER_DEVICES, min_devices),
            cohort=self.cohort,
            drop_rate=self.drop_rate,
            corrupt_rate=self.corrupt_rate,
            phase_s=max(1, round(self.phase_hours * 3600)),
        )


class ServerSection(msgspec.Struct, frozen=True, kw_only=True):
    """The process that serves; may differ at each start. retain: versions whose updates are kept, 0 for all."""

    host: str = "127.0.0.1"
    port: int = 8340
    announce: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_requests: bool = False
    retain: int = 0
    roster: Path | None = None


class DistrictConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """All options of `homeroom district serve` but its folder."""

    institution: str = "Homeroom"
    bundle: Path | None = None
    root_key: Path | None = None
    key: Path | None = None
    certificate: Path | None = None
    policy: Path | None = None
    rounds: RoundSection = RoundSection()
    optimization: OptimizerSection = OptimizerSection()
    private: PrivacySection = PrivacySection()
    secure_rounds: SecureSection = SecureSection()
    server: ServerSection = ServerSection()

    def privacy(self) -> Privacy | None:
        """The privacy guarantee that is asked for."""
        return self.private.privacy(secure=self.secure_rounds.secure)

    def round_configuration(self) -> RoundConfiguration:
        """The configuration of the rounds, for any bundle; InputError if its parts do not go together."""
        rounds, optimization = self.rounds, self.optimization
        try:
            return RoundConfiguration(
                bundle_id="0" * 64,
                buffer_size=rounds.buffer_size,
                min_devices=rounds.min_devices,
                max_staleness=0 if rounds.deadline else rounds.max_staleness,
                cohort=rounds.synchronous(),
                by_school=rounds.by_school,
                codec=rounds.codec,
                optimizer=optimization.server_optimizer(),
                server_rate=optimization.server_rate,
                proximal=optimization.proximal,
                privacy=self.privacy(),
                secure=self.secure_rounds.rules(rounds.min_devices),
            )
        except ValueError as problem:
            raise InputError(str(problem), where=OPTIONS) from None


class SimulationConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """A federation of simulated schools.

    epochs: of each school in each round. participation: share of schools in a round. lag: share that trains on an
    older theta. measure_every: rounds between two scores; None for the last round only.
    """

    rounds: int = 20
    epochs: int = 2
    participation: float = 1.0
    lag: float = 0.0
    seed: int = 0
    engine: str = "homeroom"
    measure_every: int | None = None
    optimization: OptimizerSection = OptimizerSection()
    private: PrivacySection = PrivacySection()


Configuration = TypeVar("Configuration", bound=msgspec.Struct)


def from_options(kind: type[Configuration], options: Mapping[str, Any]) -> Configuration:
    """A configuration from the values of options by name, which may be more than it has fields."""
    types = {field.name: field.type for field in msgspec.structs.fields(kind)}
    sections = {name: t for name, t in types.items() if isinstance(t, type) and issubclass(t, msgspec.Struct)}
    nested = {name: from_options(section, options) for name, section in sections.items()}
    return kind(**nested, **{name: options[name] for name in types.keys() - sections.keys()})
