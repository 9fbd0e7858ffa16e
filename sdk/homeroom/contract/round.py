"""Round configuration: the signed rules that devices and aggregator share, and the weight of an update."""

from __future__ import annotations

from math import isqrt
from typing import Annotated, Any, Literal

import msgspec

from homeroom.contract.canonical_json import identity
from homeroom.contract.codecs import Codec
from homeroom.contract.layout import Layout, Scope, Segment, narrower
from homeroom.contract.manifest import Hash
from homeroom.contract.policy import narrowed
from homeroom.contract.privacy import Privacy
from homeroom.contract.secagg import SecureRules, exact_share
from homeroom.contract.signing import Certificate, check_certificate, verify
from homeroom.errors import Code, NetworkError, TrustError

ROUND_FORMAT = 1
OLDEST_ROUND_FORMAT = 1
UNITS_AN_EXAMPLE = 16  # weights are integers in sixteenths of an example
MOST_KRUM_UPDATES = 500  # a release by rule multi-krum: the distances are as many squared
UNITS_A_DEVICE = 1 << 18  # of the bounded rule; fine enough for a school of 10,000 devices to count as one device does
MOST_PRIVATE_DEVICES = 1 << 24  # times ENCODED_LIMIT and a stream's coefficients: below 2**62
FIRST_FIELDS = frozenset(
    {
        *("format", "bundle_id", "scale_bits", "codec", "keep", "buffer_size", "min_devices", "max_staleness"),
        *("cap_examples", "max_norm", "server_rate", "update_limit_bytes"),
    }
)


class ServerOptimizer(msgspec.Struct, frozen=True, kw_only=True):
    """Server optimizer (Reddi et al. 2021), applied to the mean update with rate `server_rate`.

    name: `fedavg` alone adds the mean update as it is.
    beta1: decay of the first moment: of FedAvgM, FedAdam, FedYogi.
    beta2: decay of the second moment: of FedAdam, FedYogi.
    tau: how adaptive a step is, least for large values: of FedAdam, FedYogi.
    """

    name: Literal["fedavg", "fedavgm", "fedadam", "fedyogi"] = "fedavg"
    beta1: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.9
    beta2: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.99
    tau: Annotated[float, msgspec.Meta(gt=0)] = 1e-3


class CohortRules(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a synchronous round: it ends with `buffer_size` updates, or `quorum` at the deadline.

    deadline_s: seconds after which the round ends, if a quorum of updates came.
    quorum: updates that make a release at the deadline.
    over: over-selection, the ratio of invited devices to `buffer_size`.
    """

    deadline_s: Annotated[float, msgspec.Meta(gt=0)]
    quorum: Annotated[int, msgspec.Meta(ge=1)]
    over: Annotated[float, msgspec.Meta(ge=1, le=10)] = 1.3


class StatisticsRules(msgspec.Struct, frozen=True, kw_only=True):
    """How statistics are shared (docs/statistics.md).

    mode: `off`; `plain`: the aggregator sees each device's sums, where a person at the device said yes; `secure`: it
        sees sums over a cohort alone (docs/secure.md).
    k: schools that feed each released number at least, and each change of one between two releases.
    k_of: what counts as one: `schools`, where a device that was invited without one counts by itself, or `devices`.
    subjects: least number of subjects whose samples are in a released row.
    sample_limit: samples of one device in a task.
    within_days: days after which a change that fewer than k of them made is not waited for: its rows are released
        without a name, or nothing is served until k have changed.
    """

    mode: Literal["off", "plain", "secure"] = "off"
    k: Annotated[int, msgspec.Meta(ge=2)] = 3
    k_of: Literal["schools", "devices"] = "schools"
    subjects: Annotated[int, msgspec.Meta(ge=3)] = 10
    sample_limit: Annotated[int, msgspec.Meta(ge=1, le=1 << 24)] = 100_000
    within_days: Annotated[int, msgspec.Meta(ge=1, le=3650)] = 30


class EvaluationRules(msgspec.Struct, frozen=True, kw_only=True):
    """Whether devices tell how each version does on their validation samples, as counts (docs/evaluation.md).

    mode: `off`; `plain`: the aggregator sees each device's counts, and shows a figure where `min_devices` fed it;
        `secure`: it sees sums over a cohort alone (docs/secure.md).
    """

    mode: Literal["off", "plain", "secure"] = "off"


class UnlearningRules(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a version that holds an update which is to be unlearned; of rounds that are not private.

    rule: `rewind`: the next version is the last one from before that update came, and what was learned since is void;
        `replay`: the next version is computed without that update from all others, as by earlier releases.
    within_days: days after the first request by which a rewind is done, for all requests till then.
    most_versions: that become void by themselves; beyond, a person decides.
    """

    rule: Literal["replay", "rewind"] = "replay"
    within_days: Annotated[int, msgspec.Meta(ge=0, le=3650)] = 30
    most_versions: Annotated[int, msgspec.Meta(ge=0)] = 10


class EarlierBundle(msgspec.Struct, frozen=True, kw_only=True):
    """A bundle that this aggregator served before; updates made with it count where its segments go on.

    version: the last one of its rounds; numbers go on from there.
    segments: `segment_id`s that the present bundle has too.
    tiers: that have the same values of these segments.
    """

    bundle_id: Hash
    version: Annotated[int, msgspec.Meta(ge=0)]
    segments: tuple[Hash, ...]
    tiers: tuple[str, ...]


class RoundConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Rules of a round, signed by the aggregator.

    bundle_id: the bundle whose segments are trained.
    scale_bits: values are encoded in units of 2**-scale_bits.
    codec: encoding of values; a device may always send `fixed32`.
    keep: values of each 256 that `topk` sends.
    buffer_size: updates in a release; where `district.toml` does not set it, half of the devices that were here in the
        last 30 days, at least `min_devices`.
    min_devices: least number of distinct devices, or schools (`k_of`), before a segment is released.
    max_staleness: versions that an update's base may be behind.
    cap_examples: largest number of examples that counts in a weight.
    max_norm: largest L2 norm of an update, all segments together.
    server_rate: the server's learning rate: theta moves by so many times the mean update.
    update_limit_bytes: largest size of an update.
    secure: set where updates are summed in secure rounds (`docs/secure.md`).
    privacy: set where the round is private.
    scope: narrowest scope that is merged here; `institution` on a school's own aggregator.
    scopes: narrower scopes than the bundle's, from the serving institution's policy.
    optimizer: None for FedAvg.
    cohort: set where rounds are synchronous.
    by_school: segments of scope `institution` are merged too, separately for each school.
    proximal: FedProx's mu, with which devices train.
    earlier_codecs: of before a change of `codec`; updates that were made in one still come in.
    statistics: how heads are shared as sums.
    k_of: what `min_devices` counts: `devices`, or `schools`, where a device that was invited without one counts by
        itself. A school's own segments count its devices. New districts with plain rounds count schools.
    rule: how plain updates are merged. `mean`: weighted by the examples that they claim. `bounded`: one weight a
        device, none longer than the median. `trimmed`: of these, for each value, without the lowest and the highest
        quarter. `multi-krum`: of these, without those far from most others. New districts with plain rounds have
        `bounded`.
    school_share: of the rules but `mean`: the largest share of a release's weight that one school has, where enough
        schools feed it; 0: each has the same. A school's own segments are not shared.
    school_devices: of secure rounds: the most devices of one school on a roster, and in a cohort; 0: any number. A
        device that was invited without a school counts by itself. New districts with secure rounds have 2.
    unlearning: what becomes of versions that hold an update which is to be unlearned. New districts whose rounds are
        not private rewind; in secure ones a whole sum goes.
    evaluation: whether devices tell how each version does, as counts that are summed.
    earlier_bundles: that this one took over from, the newest first.

    A field that is added later needs a default and is left out of `document` while it has it: older configurations, and
    the logs that belong to them, keep their identity.
    """

    format: int = ROUND_FORMAT
    bundle_id: Hash
    scale_bits: Annotated[int, msgspec.Meta(ge=0, le=30)] = 20
    codec: Codec = "fixed32"
    keep: Annotated[int, msgspec.Meta(ge=1, le=128)] = 32  # at 24 short answers lost 0.6 points in 20 rounds
    buffer_size: Annotated[int, msgspec.Meta(ge=1)] = 5
    min_devices: Annotated[int, msgspec.Meta(ge=1)] = 3
    max_staleness: Annotated[int, msgspec.Meta(ge=0)] = 20
    cap_examples: Annotated[int, msgspec.Meta(ge=1, le=1 << 16)] = 500
    max_norm: float = 50.0
    server_rate: float = 1.0
    update_limit_bytes: Annotated[int, msgspec.Meta(ge=1024)] = 64 << 20
    secure: SecureRules | None = None
    privacy: Privacy | None = None
    scope: Literal["shared", "institution"] = "shared"
    scopes: dict[str, Scope] = {}
    optimizer: ServerOptimizer | None = None
    cohort: CohortRules | None = None
    by_school: bool = False
    proximal: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    earlier_codecs: tuple[Codec, ...] = ()
    statistics: StatisticsRules = StatisticsRules()
    k_of: Literal["devices", "schools"] = "devices"
    rule: Literal["mean", "bounded", "trimmed", "multi-krum"] = "mean"
    school_share: Annotated[float, msgspec.Meta(ge=0, le=1)] = 1.0
    school_devices: Annotated[int, msgspec.Meta(ge=0)] = 0
    unlearning: UnlearningRules = UnlearningRules()
    evaluation: EvaluationRules = EvaluationRules()
    earlier_bundles: tuple[EarlierBundle, ...] = ()

    def __post_init__(self) -> None:
        if self.secure or self.privacy:
            self._check_hidden()
        self._check_rule()
        if self.school_devices and not self.secure:
            raise ValueError("school_devices is of rosters, and says nothing without secure rounds")
        if self.by_school and self.scope != "shared":
            raise ValueError("schools' own segments are merged in plain rounds of several schools only")
        if self.cohort and (self.max_staleness or self.cohort.quorum > self.buffer_size):
            raise ValueError("a synchronous round has max_staleness 0 and a quorum up to buffer_size")
        if self.evaluation.mode == "secure" and not self.secure:
            raise ValueError("a secure evaluation needs secure rounds (`homeroom district init --secure`)")
        if self.evaluation.mode == "secure" and self.privacy:
            raise ValueError("a secure evaluation has exact sums, and would show what private rounds hide")
        if self.statistics.mode == "secure" and not self.secure:
            raise ValueError("secure statistics need secure rounds (`homeroom district init --secure`)")
        if self.statistics.mode == "secure" and self.privacy:
            raise ValueError("secure statistics are exact sums, and would show what private rounds hide")
        if self.privacy is None:
            return
        self.privacy.check(self.scale_bits)
        if self.codec != "fixed32":
            raise ValueError(f"codec {self.codec} is lossy, and a private round needs fixed32")
        if self.min_devices > self.buffer_size:
            raise ValueError("min_devices above buffer_size: no private release would ever come")
        if (self.privacy.mechanism == "distributed") != bool(self.secure):
            raise ValueError("noise is distributed in secure rounds, and central in others")
        if self.buffer_size > MOST_PRIVATE_DEVICES:
            raise ValueError(
                f"buffer_size above {MOST_PRIVATE_DEVICES:,}: the integers of a private release would overflow"
            )
        if self.secure and self.secure.minimum <= exact_share(self.secure.corrupt_rate, self.secure.cohort):
            raise ValueError("with so many corrupt devices in a cohort, no sum is sure to hold an honest one's noise")

    def _check_rule(self) -> None:
        """ValueError where the rule of the merge does not go with other fields."""
        if self.rule == "mean" and self.school_share < 1:
            raise ValueError("school_share says nothing with rule mean: leave it out, or set it to 1")
        if self.rule == "multi-krum" and self.buffer_size > MOST_KRUM_UPDATES:
            raise ValueError(f"rule multi-krum compares at most {MOST_KRUM_UPDATES} updates: lower buffer_size")

    def _check_hidden(self) -> None:
        """ValueError where secure or private rounds, which show nobody's update, are to do what needs one."""
        if self.rule != "mean":
            raise ValueError(f"rule {self.rule} needs plain rounds: secure and private ones show nobody's update")
        if self.by_school:
            raise ValueError("schools' own segments are merged in plain rounds of several schools only")
        if self.cohort:
            raise ValueError("synchronous rounds are plain ones: neither secure nor private")
        if self.rewinds and self.privacy:
            raise ValueError("private rounds are never rewound: their noise bounds what a release tells of an update")
        if self.evaluation.mode == "plain":
            raise ValueError("plain counts of an evaluation would show what secure and private rounds hide")
        if self.statistics.mode == "plain":
            raise ValueError("plain statistics would show what secure and private rounds hide")

    @property
    def central(self) -> bool:
        """Whether the aggregator adds the noise (central differential privacy)."""
        return self.privacy is not None and self.privacy.mechanism == "central"

    @property
    def rewinds(self) -> bool:
        """Whether an update that is to be unlearned takes what was learned since with it."""
        return self.unlearning.rule == "rewind"

    @property
    def sums_whole_segments(self) -> bool:
        """Whether updates hold whole segments, whatever a device's tier, since masks and noise cover whole segments."""
        return bool(self.secure or self.privacy)

    @property
    def by_subject(self) -> bool:
        """Whether updates are clipped subject by subject."""
        return self.privacy is not None and self.privacy.unit == "subject"

    @property
    def parts(self) -> int:
        """The length of the longest update, in clipped parts."""
        return self.privacy.parts if self.privacy else 1

    def with_clip(self, clip_norm: float | msgspec.UnsetType) -> RoundConfiguration:
        """The configuration with the clip of one version's header, where the clip adapts."""
        if self.privacy is None or not self.privacy.adapts or clip_norm is msgspec.UNSET:
            return self
        return msgspec.structs.replace(self, privacy=msgspec.structs.replace(self.privacy, clip_norm=clip_norm))

    @property
    def document(self) -> dict[str, Any]:
        """The signed document: fields of the first release, and later ones that differ from their default."""
        fields, unset = msgspec.to_builtins(self), RoundConfiguration(bundle_id=self.bundle_id)
        return {n: v for n, v in fields.items() if n in FIRST_FIELDS or getattr(self, n) != getattr(unset, n)}

    @property
    def configuration_id(self) -> str:
        """Identity of `document`."""
        return identity(self.document)

    def earlier_bundle(self, bundle_id: str) -> EarlierBundle | None:
        """The earlier bundle of this id; None of the present one, and of any other."""
        return next((one for one in self.earlier_bundles if one.bundle_id == bundle_id != self.bundle_id), None)

    def merges(self, segment: Segment) -> bool:
        """Whether the segment's scope allows it to be merged here."""
        narrowest: Scope = "institution" if self.by_school else self.scope
        return narrower(segment.scope, narrowest) == narrowest

    def school_segments(self, layout: Layout) -> frozenset[str]:
        """Names of the segments that are merged separately for each school."""
        if not self.by_school:
            return frozenset()
        return frozenset(segment.name for segment in self.merged(layout) if segment.scope == "institution")

    def merged(self, layout: Layout) -> list[Segment]:
        """The segments that are merged here, in the layout's order, with their scope under `scopes`."""
        return [segment for segment in narrowed(layout, self.scopes) if self.merges(segment)]


def read_round(
    document: dict[str, Any], certificate: Certificate, signature: str, *, bundle_id: str, root: str, where: str
) -> RoundConfiguration:
    """The round configuration that an aggregator of the root signed for a bundle; TrustError or NetworkError otherwise.

    document, certificate, signature: as they came.
    bundle_id: in use here.
    root: fingerprint of the trusted root key.
    """
    check_certificate(certificate, role="aggregator", root_fingerprint=root, where=where)
    verify(certificate.key, "round", document, signature, where=where)
    try:
        configuration = msgspec.convert(document, RoundConfiguration)
    except msgspec.ValidationError as problem:
        what = f"a round this version cannot read: {problem}"
        raise NetworkError(what, where=where, remedy="update homeroom") from None
    if configuration.bundle_id != bundle_id:
        what, remedy = "the round is for another bundle", "`homeroom device upgrade DIR`"
        raise TrustError(what, code=Code.OTHER_BUNDLE, where=where, remedy=remedy)
    return configuration


def weight(examples: int, staleness: int, configuration: RoundConfiguration) -> int:
    """Integer weight of a segment: capped examples in units of 1/16, divided by sqrt(1 + staleness); at least 1.

    The polynomial staleness discount of FedAsync (Xie et al. 2019) with a = 1/2. In a private round every update weighs
    1: a weight would reveal the number of examples and change the sensitivity. Under another rule than the mean each
    weighs `UNITS_A_DEVICE`, discounted so: nobody believes a number of examples.
    """
    if configuration.privacy:
        return 1
    capped = UNITS_AN_EXAMPLE * min(examples, configuration.cap_examples)
    capped = capped if configuration.rule == "mean" else UNITS_A_DEVICE
    return max(1, isqrt(capped * capped // (1 + staleness)))
