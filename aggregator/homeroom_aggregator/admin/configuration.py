"""Configuration of a district's aggregator: one frozen value, in sections.

A field's default stands here, or in the contract, only. `admin.configuration_file` is the same as a file.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec

from homeroom.contract.address import Address, is_address, is_loopback
from homeroom.contract.roster import LEAST_ROSTER_DEVICES
from homeroom.contract.round import RoundConfiguration, ServerOptimizer, UnlearningRules
from homeroom.contract.secagg import SecureRules
from homeroom.errors import InputError
from homeroom_aggregator.merge.configuration_change import ROUND_FIELDS
from homeroom_aggregator.merge.rounds import CHECKPOINT_BYTES, CHECKPOINT_ENTRIES

OPTIONS = "options"  # where an error lies
LARGEST_EXACT = 1 << 53  # integers up to here are written exactly by every reader of JSON (RFC 8785)
ADAPTIVE, ADAPTIVE_RATE = ("fedadam", "fedyogi"), 0.1  # optimizers, and their largest usual server rate
OPTIMIZERS_OF_OPTION = {"beta1": ("fedavgm", *ADAPTIVE), "beta2": ADAPTIVE, "tau": ADAPTIVE}
PRIVACY_DELTA = 1e-5  # where --delta is not given
SCHOOL_SHARE = 0.5  # of the rules but the mean, where --school-share is not given
SCHOOL_DEVICES = 2  # on a roster of a new district, where --school-devices is not given
AnyBundle = RoundConfiguration(bundle_id="0" * 64)
NEW_PLAIN_ROUNDS = msgspec.structs.replace(
    AnyBundle,
    k_of="schools",
    rule="bounded",
    school_share=SCHOOL_SHARE,
    unlearning=UnlearningRules(rule="rewind"),
)
NEW_SECURE_ROUNDS = msgspec.structs.replace(AnyBundle, unlearning=NEW_PLAIN_ROUNDS.unlearning)
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrNone = Annotated[int, msgspec.Meta(ge=0)]


class ServerSection(msgspec.Struct, frozen=True, kw_only=True):
    """Listening and logging.

    host: address to listen on; 0.0.0.0 for all of this machine's.
    port: TCP port; 0 takes a free one.
    addresses: URLs by which devices reach it through a proxy or by a name; the first one stands in invitations.
        Requests that were signed for another authority are refused; where this is not set, as in files of 0.1.0, they
        are taken until the server has learned its addresses.
    trusted_proxies: addresses or networks of proxies whose `Forwarded` and `X-Forwarded-Host` count.
    announce: devices on the local network find the server (docs/network.md).
    insecure: plain http to other machines too, which shows updates and codes to everybody on the way; without it they
        are served by TLS, with a certificate of its own where no other is given.
    tls_cert: file with the PEM certificate chain.
    tls_key: file with its private key.
    log_requests: one line of JSON a request on stderr; nothing about people in it.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 8340
    addresses: tuple[Address, ...] | None = None
    trusted_proxies: tuple[str, ...] = ()
    announce: bool = False
    insecure: bool | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    log_requests: bool = False

    def __post_init__(self) -> None:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together")
        if self.tls_cert and self.insecure:
            raise ValueError("insecure says plain http, and tls_cert says TLS")
        if wrong := [address for address in self.addresses or () if not is_address(address)]:
            raise ValueError(f"{wrong[0]} has no port that is one")
        for proxy in self.trusted_proxies:
            ip_network(proxy)  # raises ValueError


class LogSection(msgspec.Struct, frozen=True, kw_only=True):
    """What the log keeps.

    retain: newest versions whose updates are kept at least; 0 keeps all.
    checkpoint_entries: entries after which the state is written down; a start computes no more than that again.
    checkpoint_mib: MiB of updates after which it is, if that is sooner.
    """

    retain: CountOrNone = 0
    checkpoint_entries: Count = CHECKPOINT_ENTRIES
    checkpoint_mib: Count = CHECKPOINT_BYTES >> 20


class DeviceLimits(msgspec.Struct, frozen=True):
    """Limits of each device, whatever key it has now, counted in memory; 0 means no limit.

    requests_a_minute: requests in a minute.
    burst: requests at once.
    updates_a_day: updates in a day.
    mb_a_day: megabytes of updates in a day.
    at_once: requests that are being answered.
    connections: open connections; its idlest make room for new ones.
    withdrawals_a_day: updates withdrawn in a day; a school's devices together have twenty times as many.
    audit_entries_a_day: entries of the audit log about its machines; a school's devices have twenty times as many.
    """

    requests_a_minute: CountOrNone = 600
    burst: CountOrNone = 300
    updates_a_day: CountOrNone = 1000
    mb_a_day: CountOrNone = 4096
    at_once: CountOrNone = 16
    connections: CountOrNone = 16
    withdrawals_a_day: CountOrNone = 1000
    audit_entries_a_day: CountOrNone = 50


class RequestLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of all requests together.

    headers_s: seconds in which a request's headers must come.
    headers_kib: KiB of headers.
    body_s: seconds in which a request's body must come, beside the time that it takes at `least_kib_s`.
    least_kib_s: KiB a second that a body, and the reading of an answer, must reach on average.
    bodies_mib: MiB of bodies in memory at once; further senders are told to come back. A device has a quarter of them
        at most, a school half.
    connections: connections at once; where all are taken, those that wait for their client make room.
    keep_alive_s: seconds that an idle connection is kept.
    nonce_s: seconds for which a nonce holds; with an older one a device is asked to sign again.
    """

    headers_s: Positive = 20.0
    headers_kib: Count = 16
    body_s: Positive = 30.0
    least_kib_s: Count = 8
    bodies_mib: Count = 512
    connections: Count = 2000
    keep_alive_s: Count = 30
    nonce_s: Count = 600


class DashboardSection(msgspec.Struct, frozen=True, kw_only=True):
    """Sessions of the dashboard.

    session_hours: hours after which one is signed out.
    idle_minutes: minutes without a look after which one is.
    """

    session_hours: Positive = 8.0
    idle_minutes: Positive = 60.0


class DistrictConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that can be set of an aggregator.

    institution: name that devices and invitations show.
    automatic_buffer: the file does not set `round.buffer_size`, which follows the devices (`admin.next_version`).
    """

    institution: str = "Homeroom"
    automatic_buffer: bool = False
    round: RoundConfiguration = AnyBundle
    server: ServerSection = ServerSection()
    log: LogSection = LogSection()
    device_limits: DeviceLimits = DeviceLimits()
    request_limits: RequestLimits = RequestLimits()
    dashboard: DashboardSection = DashboardSection()


# Fields by their dotted name

DERIVED_ROUND = ("format", "bundle_id", "earlier_codecs", "earlier_bundles")
DERIVED = frozenset({"automatic_buffer", *(f"round.{name}" for name in DERIVED_ROUND)})  # not for people
FIELD_OF_OPTION = {
    **{name: f"round.{name}" for name in ("buffer_size", "min_devices", "k_of", "max_staleness", "codec")},
    **{name: f"round.{name}" for name in ("by_school", "rule", "school_share", "server_rate", "proximal")},
    "school_devices": "round.school_devices",
    "statistics": "round.statistics.mode",
    "evaluation": "round.evaluation.mode",
    "deadline": "round.cohort.deadline_s",
    **{name: f"round.cohort.{name}" for name in ("quorum", "over")},
    "optimizer": "round.optimizer.name",
    **{name: f"round.optimizer.{name}" for name in ("beta1", "beta2", "tau")},
    **{name: f"round.privacy.{name}" for name in ("epsilon", "delta", "clip_norm", "noise_multiplier", "subjects")},
    "clip_quantile": "round.privacy.quantile",
    "bands": "round.privacy.bands",
    "secure": "round.secure",
    **{name: f"round.secure.{name}" for name in ("cohort", "drop_rate", "corrupt_rate")},
    "phase_hours": "round.secure.phase_s",
    **{name: f"server.{name}" for name in ServerSection.__struct_fields__},
    "retain": "log.retain",
}
OPTIONS_OF_PART = {  # the options that make a part of the round's configuration
    "cohort": ("--deadline", "--quorum"),
    "optimizer": ("--optimizer",),
    "privacy": ("--epsilon", "--clip-norm", "--noise-multiplier"),
    "secure": ("--secure",),
}
Change = Literal["next", "up", "never", "follows", "start"]
CHANGE_TEXT: dict[Change, str] = {
    "next": "from the next version on",
    "up": "upwards, from the next version on",
    "never": "never",
    "follows": "with `codec`",
    "start": "at each start",
}


def part_type(annotation: Any) -> type[msgspec.Struct] | None:
    """The structure that a field is, or may be; None for a plain field and for a row of structures."""
    inside = () if get_origin(annotation) is tuple else get_args(annotation)
    kinds = [one for one in (annotation, *inside) if isinstance(one, type)]
    return next((one for one in kinds if issubclass(one, msgspec.Struct)), None)


def field_names(kind: type[msgspec.Struct] = DistrictConfiguration, table: str = "") -> Iterator[str]:
    """Every field by its dotted name; of a part that may be missing, the part too."""
    for field in msgspec.structs.fields(kind):
        name, part = f"{table}{field.name}", part_type(field.type)
        if name == "automatic_buffer":  # the file says it by what it leaves out
            continue
        if part is None or (part is not field.type and name != "round.optimizer"):
            yield name
        if part:
            yield from field_names(part, f"{name}.")


def change_of(name: str) -> Change:
    """When a field may change, by its dotted name."""
    if name == "institution":
        return "never"
    return ROUND_FIELDS[name.removeprefix("round.")].change if name.startswith("round.") else "start"


def option_default(option: str) -> str | None:
    """The default of an option's field as help shows it; None where there is none."""
    *tables, name = FIELD_OF_OPTION[option].split(".")
    kind: type[msgspec.Struct] = DistrictConfiguration
    for table in tables:
        kind = part_type(next(field.type for field in msgspec.structs.fields(kind) if field.name == table)) or kind
    default = next(field.default for field in msgspec.structs.fields(kind) if field.name == name)
    if option in ("phase_hours", "delta"):
        return f"{default / 3600 if option == 'phase_hours' else PRIVACY_DELTA:g}"
    unset = default is None or isinstance(default, (bool, msgspec.UnsetType)) or default is msgspec.NODEFAULT
    return None if unset else str(default)


# Options over a configuration


def shown_option(option: str) -> str:
    """An option as it is typed."""
    option = {"addresses": "address", "trusted_proxies": "trusted_proxy"}.get(option, option)
    return f"--{option.removesuffix('_size').replace('_', '-')}"


def typed_fields(options: Iterable[str]) -> dict[str, str]:
    """The option as it is typed by the dotted name of its field, and of the part of the round that it makes."""
    names: dict[str, str] = {}
    for option in options:
        field = FIELD_OF_OPTION[option]
        names[field] = shown_option(option)
        if field.count(".") == 2:
            names.setdefault(field.rpartition(".")[0], names[field])
    return names


PRIVACY_FIELDS = frozenset(field for field in FIELD_OF_OPTION.values() if field.startswith("round.privacy."))


def _check_effect(before: RoundConfiguration, options: Mapping[str, Any]) -> None:
    """InputError for an option that has no effect, or harms, unless the folder has been served so already."""
    if options.get("secure") or before.secure:
        new = {name for name in options if before.secure is None or options[name] != getattr(before, name, None)}
        if "codec" in new and options["codec"] != "fixed32":
            says = f"--codec {options['codec']} says nothing with --secure: masked updates are always fixed32"
            raise InputError(says, where=OPTIONS, remedy="leave --codec out")
        if "buffer_size" in new and before.privacy is None and "epsilon" not in options:
            says = "--buffer says nothing with --secure: each sum is a release"
            raise InputError(says, where=OPTIONS, remedy="leave it out; --cohort is the number of devices in a sum")
    name, known, rate = options.get("optimizer"), (before.optimizer or ServerOptimizer()).name, before.server_rate
    for option, optimizers in OPTIMIZERS_OF_OPTION.items() if name or before.optimizer else ():
        changed = option in options and options[option] != getattr(before.optimizer, option, None)
        if changed and (name or known) not in optimizers:
            says = f"{shown_option(option)} says nothing with the optimizer {name or known}"
            raise InputError(says, where=OPTIONS, remedy=f"leave it out, or give --optimizer {' or '.join(optimizers)}")
    usual = name not in ADAPTIVE or "server_rate" in options or rate <= ADAPTIVE_RATE
    if not usual and name != known and rate == AnyBundle.server_rate:
        says = f"--optimizer {name} moves each value by about the server rate, and {rate:g} is too much"
        raise InputError(says, where=OPTIONS, remedy=f"add --server-rate, from 0.01 to {ADAPTIVE_RATE:g}")


def with_options(base: DistrictConfiguration, options: Mapping[str, Any]) -> DistrictConfiguration:
    """The configuration with the values of options that were given; InputError if they do not go together."""
    _check_effect(base.round, options)
    fields = msgspec.to_builtins(base, enc_hook=str)
    if options.get("secure") and fields["round"]["secure"] is None:
        least = max(LEAST_ROSTER_DEVICES, options.get("min_devices", base.round.min_devices))
        fields["round"]["secure"] = msgspec.to_builtins(SecureRules(minimum=least))
    for option, value in options.items():
        if option == "secure":
            continue
        *tables, key = FIELD_OF_OPTION[option].split(".")
        target = fields
        for table in tables:
            target[table] = target = dict(target[table] or {})
        target[key] = max(1, round(value * 3600)) if option == "phase_hours" else value
    given = [option for option in options if FIELD_OF_OPTION[option].count(".") == 2]
    _complete(fields["round"], base.round, options)
    if base.automatic_buffer:
        follows = fields["automatic_buffer"] = "buffer_size" not in options and buffer_may_follow(fields["round"])
        if "buffer_size" not in options:
            least = fields["round"]["min_devices"] if follows else AnyBundle.buffer_size
            fields["round"]["buffer_size"] = max(base.round.buffer_size, least)
    for option in given:
        part = FIELD_OF_OPTION[option].split(".")[1]
        if fields["round"][part] is None and option != "optimizer":
            needed = " and ".join(OPTIONS_OF_PART[part])
            why = f"with --optimizer {options[part]}" if part in options else f"without {needed}"
            raise InputError(f"{shown_option(option)} says nothing {why}", where=OPTIONS)
    wanted = converted(fields, where=OPTIONS, typed=typed_fields(options))
    if options.get("announce") and is_loopback(wanted.server.host):
        says = f"--announce says nothing: {wanted.server.host} is this machine alone"
        raise InputError(says, where=OPTIONS, remedy="leave it out, or give --host 0.0.0.0")
    if "insecure" in options and is_loopback(wanted.server.host):
        says = (
            f"--{'' if options['insecure'] else 'no-'}insecure says nothing: {wanted.server.host} is this machine alone"
        )
        raise InputError(says, where=OPTIONS, remedy="leave it out, or give --host, like 0.0.0.0")
    return wanted


def buffer_may_follow(fields: Mapping[str, Any]) -> bool:
    """Whether a round of these fields may have an automatic buffer: no sum and no deadline ends it."""
    return not fields.get("secure") and not fields.get("cohort")


def first_buffer(fields: Mapping[str, Any]) -> int:
    """An automatic buffer before any device has come; a private release takes no fewer updates than the default."""
    least = fields.get("min_devices", AnyBundle.min_devices)
    least = least if isinstance(least, int) and least > 0 else AnyBundle.min_devices
    return max(least, AnyBundle.buffer_size) if fields.get("privacy") else least


def first_configuration(base: DistrictConfiguration | None, options: Mapping[str, Any]) -> DistrictConfiguration:
    """The configuration of a new folder: as `with_options`, with all addresses known and an automatic buffer's size.

    base: of the folder's own file; where it is None, rounds that are not private rewind to unlearn, and those that
        are not secure either count schools and merge by the bounded rule; a roster has `SCHOOL_DEVICES` of a school.
    """
    private = any(FIELD_OF_OPTION[option] in PRIVACY_FIELDS for option in options)
    terms = AnyBundle if private else NEW_SECURE_ROUNDS if options.get("secure") else NEW_PLAIN_ROUNDS
    if base is None and options.get("secure"):
        options = {"school_devices": SCHOOL_DEVICES} | dict(options)
    wanted = with_options(base or DistrictConfiguration(automatic_buffer=True, round=terms), options)
    server = msgspec.structs.replace(wanted.server, addresses=wanted.server.addresses or ())
    wanted = msgspec.structs.replace(wanted, server=server)
    if not wanted.automatic_buffer:
        return wanted
    size = first_buffer(msgspec.to_builtins(wanted.round))
    return msgspec.structs.replace(wanted, round=msgspec.structs.replace(wanted.round, buffer_size=size))


def _complete(fields: dict[str, Any], before: RoundConfiguration, options: Mapping[str, Any]) -> None:
    """What follows from options for the fields of the round's configuration that are not given."""
    if before.secure is None and not options.get("secure"):
        fields["secure"] = None
    elif "min_devices" in options:
        fields["secure"]["minimum"] = max(fields["secure"]["minimum"], options["min_devices"])
    if cohort := fields["cohort"]:
        missing = [name for name in ("deadline_s", "quorum") if name not in cohort]
        if len(missing) == 1:
            raise InputError("--deadline and --quorum belong together", where=OPTIONS)
        if missing:
            fields["cohort"] = None
        elif before.cohort is None and "max_staleness" not in options:
            fields["max_staleness"] = 0
    if privacy := fields["privacy"]:
        missing = [name for name in OPTIONS_OF_PART["privacy"] if name[2:].replace("-", "_") not in privacy]
        if missing == list(OPTIONS_OF_PART["privacy"]) and privacy.keys() == {"delta"}:
            fields["privacy"] = None
        elif missing:
            remedy = "a clip without noise, or noise without a budget, promises nothing"
            given = ", ".join(shown_option(name) for name in options if FIELD_OF_OPTION[name] in PRIVACY_FIELDS)
            says = f"{given}: a private round also needs {' and '.join(missing)}"
            raise InputError(says, where=OPTIONS, remedy=remedy)
        elif before.privacy is None:
            mechanism = "distributed" if fields["secure"] else "central"
            fields["privacy"] = {"delta": PRIVACY_DELTA, "mechanism": mechanism} | privacy
    if "school_share" not in options and (fields["rule"] == "mean") != (before.rule == "mean"):
        fields["school_share"] = 1.0 if fields["rule"] == "mean" else SCHOOL_SHARE
    if (fields["optimizer"] or {}).get("name", "fedavg") == "fedavg":
        fields["optimizer"] = None  # so that a round that uses nothing else keeps its identity


def converted(
    fields: Mapping[str, Any], *, where: str, typed: Mapping[str, str] = MappingProxyType({})
) -> DistrictConfiguration:
    """A configuration of plain fields; InputError names the table and the field that is not right, or its option."""
    _check_plain(fields, DistrictConfiguration, where)

    def path(kind: type, value: Any) -> Any:
        if kind is Path and isinstance(value, (str, Path)):
            return Path(value)
        raise TypeError(f"Expected `str`, got {value!r}")

    try:
        return msgspec.convert(fields, DistrictConfiguration, dec_hook=path)
    except msgspec.ValidationError as problem:
        said, _, place = str(problem).partition(" - at `$.")
        place = place.rstrip("`")
        table, _, field = place.rpartition(".")
        shown = f"[{table}] {field}: " if table in _tables() else f"[{place}]: " if place else ""
        options = [option for name, option in typed.items() if place and f"{name}.".startswith(f"{place}.")]
        shown = f"{', '.join(dict.fromkeys(options))}: " if options else shown
        raise InputError(f"{shown}{said}", where=where) from None


def _tables() -> set[str]:
    return {name.rpartition(".")[0] for name in field_names()} - {""}


def _check_plain(fields: Mapping[str, Any], kind: type[msgspec.Struct], where: str, table: str = "") -> None:
    """InputError for an unknown key, and for a number that is not finite or not exact everywhere."""
    parts = {field.name: part_type(field.type) for field in msgspec.structs.fields(kind)}
    for key, value in fields.items():
        named = f"[{table}] {key}" if table else key
        if key not in parts:
            known = ", ".join(parts)
            raise InputError(f"{named} is no field", where=where, remedy=f"remove it, or name one of {known}")
        if not math.isfinite(value) if isinstance(value, float) else isinstance(value, int) and value > LARGEST_EXACT:
            shown = value if isinstance(value, float) else f"more than {LARGEST_EXACT:,}"
            raise InputError(f"{named}: {shown} is not a number that can be kept", where=where)
        if (part := parts[key]) and isinstance(value, Mapping):
            _check_plain(value, part, where, f"{table}.{key}".lstrip("."))
