"""Changes of the round configuration: which fields may change in a log, how, and what becomes of updates that wait.

An entry of the log holds the configuration that is in force after it; the next version is the first that it makes. An
update is checked and weighed by the configuration in force when it arrives, and stays in the sums as it came.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import msgspec

from homeroom.contract.canonical_json import canonical, decode, digest
from homeroom.contract.privacy import Privacy
from homeroom.contract.round import RoundConfiguration, ServerOptimizer
from homeroom.errors import InputError, StoreError
from homeroom_aggregator.merge.round_state import MergeRules, RoundState
from homeroom_aggregator.state import audit
from homeroom_aggregator.state.log import Log

CONFIGURATION_LIMIT_BYTES = 1 << 20
OLDEST_BASE = "oldest base"  # a fact: of the folder that this one took over from
NEW_FOLDER = "serve it from a new folder"
UPGRADE = "`homeroom district upgrade-bundle` takes a newer bundle into a new folder"


@dataclass(frozen=True)
class FieldRule:
    """Whether a field may change from the next version on.

    change: `next` in either direction, `up` only to a higher value, `never`, or `follows` another field by itself.
    waiting: what becomes of updates that wait.
    remedy: where it may not change so.
    """

    change: Literal["next", "up", "never", "follows"]
    waiting: str = ""
    remedy: str = NEW_FOLDER


_COUNT, _NEVER = "They count as they came.", FieldRule("never")
_SECURE = "The secure round under way ends without a sum; its devices offer their updates to the next one."
_MOMENTS_STAY = FieldRule("next", f"{_COUNT} The optimizer's moments go on.")
ROUND_FIELDS = {
    "format": _NEVER,
    "bundle_id": FieldRule("never", remedy=UPGRADE),
    "scale_bits": _NEVER,
    "codec": FieldRule("next", f"{_COUNT} One in an earlier codec that arrives later counts too."),
    "keep": FieldRule("next", f"{_COUNT} So do those that arrive later."),
    "buffer_size": FieldRule(
        "next", "They count towards the new size; where it and `min_devices` are reached, a version is released."
    ),
    "min_devices": FieldRule("up", "A segment waits until the new number of devices has fed it."),
    "max_staleness": FieldRule(
        "next", f"{_COUNT} Later ones are judged by the new number; bases that were too old at the change stay so."
    ),
    "cap_examples": FieldRule("next", "They keep their weight; later ones are weighed by the new cap."),
    "max_norm": FieldRule("next", f"{_COUNT} A longer one that arrives later is refused (`too_large`)."),
    "server_rate": FieldRule("next", "Their mean moves theta at the new rate."),
    "update_limit_bytes": FieldRule("next", f"{_COUNT} A larger one that arrives later is refused (`too_long`)."),
    "secure": _NEVER,
    "secure.minimum": FieldRule("up", _SECURE),
    "secure.cohort": FieldRule("next", _SECURE),
    "secure.drop_rate": FieldRule("next", _SECURE),
    "secure.corrupt_rate": FieldRule("up", _SECURE),
    "secure.phase_s": FieldRule("next", _SECURE),
    **dict.fromkeys(("privacy", *(f"privacy.{name}" for name in Privacy.__struct_fields__), "scope", "scopes"), _NEVER),
    "optimizer.name": FieldRule("next", f"{_COUNT} The optimizer's moments begin anew."),
    "optimizer.beta1": _MOMENTS_STAY,
    "optimizer.beta2": _MOMENTS_STAY,
    "optimizer.tau": _MOMENTS_STAY,
    "cohort": FieldRule("next", "They count towards the next version; later ones must be asked for."),
    "cohort.deadline_s": FieldRule("next", "They count; the round begins anew with the server."),
    "cohort.quorum": FieldRule("next", "They count towards the new quorum."),
    "cohort.over": FieldRule("next", "They count; devices are asked anew."),
    "by_school": _NEVER,
    "proximal": FieldRule("next", f"{_COUNT} It is for trainings to come."),
    "earlier_codecs": FieldRule("follows"),
    "earlier_bundles": FieldRule("never", remedy=UPGRADE),
    # "devices" sorts before "schools": up is to schools, since who sent was told that so many schools are in a release
    "k_of": FieldRule("up", "A segment waits until enough schools have fed it."),
    "rule": FieldRule(
        "next", f"{_COUNT} What came by the bounded rule waits for the next version, and is bounded there."
    ),
    "school_share": FieldRule("next", "Those that wait by the bounded rule are shared out by the new number."),
    "school_devices": FieldRule("next", f"{_SECURE} A roster with more of a school is refused: sign a new one."),
    "statistics.mode": FieldRule(
        "next",
        f"{_COUNT} Each device sends plain statistics once a person there said yes; "
        "another mode erases all that were sent.",
    ),
    "statistics.k": FieldRule("up", "A release waits until the new number has fed it."),
    "statistics.k_of": FieldRule("next", "The next release counts so."),
    "statistics.subjects": FieldRule("up", "A row waits until the new number of subjects is in it."),
    "statistics.sample_limit": FieldRule("next", "Totals that are here stay; larger ones that come later are refused."),
    "statistics.within_days": FieldRule("next", "What waits is judged by the new number."),
    "evaluation.mode": FieldRule(
        "next", f"{_COUNT} A device tells its counts once a person there said yes; off erases those of single devices."
    ),
    "unlearning.rule": FieldRule(
        "up", "What was withdrawn before is left out as it was promised; later withdrawals rewind.", NEW_FOLDER
    ),  # "replay" sorts before "rewind": who asks for a rewind is not served less afterwards
    "unlearning.within_days": FieldRule("next", "What waits to be unlearned is judged by the new number."),
    "unlearning.most_versions": FieldRule("next", "What waits to be unlearned is judged by the new number."),
}


@dataclass(frozen=True)
class FieldChange:
    """One field by its dotted name, and its values in plain types; None where it is not there."""

    name: str
    before: Any
    after: Any

    def __str__(self) -> str:
        before, after = ("none" if v is None else msgspec.json.encode(v).decode() for v in (self.before, self.after))
        return f"{self.name} {before} -> {after}"


def field_values(configuration: RoundConfiguration) -> dict[str, Any]:
    """Every field by its dotted name, in plain types; one of a part that is not there is left out.

    No optimizer is FedAvg.
    """
    fields, values = msgspec.structs.asdict(configuration), dict[str, Any]()
    for name, value in (fields | {"optimizer": configuration.optimizer or ServerOptimizer()}).items():
        part = msgspec.structs.asdict(value) if isinstance(value, msgspec.Struct) else {}
        values |= {f"{name}.{key}": part[key] for key in part}
        if name not in ("optimizer", "statistics", "evaluation", "unlearning"):
            values[name] = bool(part) or value
    return {name: None if value is msgspec.UNSET else value for name, value in values.items()}


def field_changes(before: RoundConfiguration, after: RoundConfiguration) -> list[FieldChange]:
    """The fields that differ; of a part that comes or goes, the part alone."""
    old, new = field_values(before), field_values(after)
    common = [name for name in ROUND_FIELDS if name in old and name in new]
    return [FieldChange(name, old[name], new[name]) for name in common if old[name] != new[name]]


def check_changes(
    before: RoundConfiguration, after: RoundConfiguration, where: str, typed: Mapping[str, str] = MappingProxyType({})
) -> list[FieldChange]:
    """The fields that differ; InputError names one that may not change so, and says what to do.

    where: the file that has the fields. typed: options that were typed instead, by their field's dotted name.
    """
    changes = field_changes(before, after)
    for change in changes:
        rule = ROUND_FIELDS[change.name]
        if rule.change == "never" or (rule.change == "up" and change.after < change.before):
            how = "cannot change" if rule.change == "never" else "cannot be lowered"
            option = typed.get(f"round.{change.name}")
            says = f"{option or change.name} {how} once rounds have begun ({change})"
            raise InputError(says, where="options" if option else where, remedy=rule.remedy)
    return changes


def followed(before: RoundConfiguration, after: RoundConfiguration) -> RoundConfiguration:
    """`after` with the fields that follow from what was in force before."""
    known = dict.fromkeys((*before.earlier_codecs, before.codec))
    earlier = tuple(codec for codec in known if codec not in (after.codec, "fixed32"))
    bundles = after.earlier_bundles or before.earlier_bundles  # no file names them
    return msgspec.structs.replace(after, earlier_codecs=earlier, earlier_bundles=bundles)


def check_log(log: Log, begun: RoundConfiguration) -> None:
    """Raise StoreError unless the log belongs to the configuration it was begun with, which a new one takes on.

    The fact `configuration` is the identity of the one in force, `begun` that of the first once it has changed: a
    Homeroom that knows of no changes refuses the log.
    """
    known, where = log.fact("configuration"), str(log.database.path)
    if known is None:
        log.put_fact("configuration", begun.configuration_id.encode())
        if begun.privacy:
            audit.record(log.database, "private rounds", promise=msgspec.to_builtins(begun.privacy))
    elif (log.fact("begun") or known) != begun.configuration_id.encode():
        raise StoreError("was begun with another bundle or round configuration", where=where, remedy=NEW_FOLDER)
    elif in_force(log, begun).configuration_id.encode() != known:
        raise StoreError("configuration and log do not agree", where=where, remedy="restore the last backup")


def record(log: Log, begun: RoundConfiguration, wanted: RoundConfiguration, changes: Sequence[FieldChange]) -> int:
    """Append a change to the log, and to the audit log; the entry's number. Inside the caller's step."""
    body, version = pack(wanted), log.newest()
    number = log.append("configuration", version, body=body)
    log.put_fact("begun", begun.configuration_id.encode())
    log.put_fact("configuration", wanted.configuration_id.encode())
    said = "; ".join(map(str, changes))
    audit.record(log.database, "configured", version=version, sha256=digest(body), changes=said)
    return number


def pack(configuration: RoundConfiguration) -> bytes:
    """An entry's body: the configuration as devices get it."""
    return canonical(configuration.document)


def unpack(body: bytes) -> RoundConfiguration:
    """The configuration of an entry; StoreError if it is damaged."""
    return decode(body, RoundConfiguration, limit_bytes=CONFIGURATION_LIMIT_BYTES, where="log.db", error=StoreError)


def in_force(log: Log, begun: RoundConfiguration, until: int | None = None) -> RoundConfiguration:
    """The configuration after entry `until` (by default the last) of a log that was begun with `begun`."""
    entries = log.configurations(until)
    return unpack(entries[-1].body) if entries else begun


def oldest_base(log: Log, begun: RoundConfiguration) -> int:
    """The oldest base version whose updates are taken: what was too old at a change stays so.

    Who has sent an update on an older one is not known any more (`Log.forget_sent`).
    """
    oldest, before = max(log.last_restored(), int(log.fact(OLDEST_BASE) or 0)), begun
    for entry in log.configurations():
        oldest, before = max(oldest, entry.version - before.max_staleness), unpack(entry.body)
    return oldest


def adopt(rules: MergeRules, state: RoundState, configuration: RoundConfiguration) -> MergeRules:
    """Rules of the configuration; the state's moments begin anew under another optimizer, bounds by another rule."""
    before, after = ((one.optimizer or ServerOptimizer()).name for one in (rules.configuration, configuration))
    if before != after:
        state.moments = {}
    if rules.configuration.rule != configuration.rule:
        state.bounds = {}
    return dataclasses.replace(rules, configuration=configuration)
