"""The configuration as the file `district.toml` in the aggregator's folder, and how it comes into force.

The log has the truth about rounds: the file says what is wanted. It is written first, and at the next start its round
configuration is compared with the one in force; so a process that is killed in between leaves the one or the other.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from homeroom.contract.roster import Roster
from homeroom.contract.round import RoundConfiguration
from homeroom.errors import InputError, StoreError
from homeroom.privacy.secagg.cohort_size import check_roster
from homeroom.system.files import read_small, write_durable
from homeroom_aggregator.admin.configuration import (
    CHANGE_TEXT,
    DERIVED,
    DistrictConfiguration,
    buffer_may_follow,
    change_of,
    converted,
    first_buffer,
    part_type,
)
from homeroom_aggregator.admin.folder import (
    LOG_FILE,
    ROSTER_FILE,
    FolderFacts,
    check_evaluation,
    check_statistics,
    load_roster,
    open_log,
    read_facts,
    refuse_backup,
)
from homeroom_aggregator.admin.roster_schools import roster_note
from homeroom_aggregator.merge.configuration_change import NEW_FOLDER, FieldChange, check_changes, followed, in_force
from homeroom_aggregator.merge.rounds import Rounds

CONFIGURATION_FILE = "district.toml"
TABLE_LINE = re.compile(r"\s*(#?)\[([\w.]+)\]\s*(?:#.*)?$")
REMARK = re.compile(r"""[^"'#]*(?:(?:"(?:[^"\\]|\\.)*"|'[^']*')[^"'#]*)*(#.*)$""")  # outside of a text
HEADER = """\
# Configuration of this aggregator: every field, with when it may change. `homeroom district configure FOLDER --check`
# says whether an edited file fits. Round options of `homeroom district serve` are written here, and comments of your
# own stay; its other options count for one start. Lines that begin with # and no space are not set.
"""


# The file


def to_toml(configuration: DistrictConfiguration) -> str:
    """The file's text."""
    text = "".join(f"{line}\n" for line in [HEADER, *_table(configuration, DistrictConfiguration, "")])
    return text.replace("\nbuffer_size = ", "\n#buffer_size = ") if configuration.automatic_buffer else text


def _table(value: Any, kind: type[msgspec.Struct], table: str) -> Iterator[str]:
    """Lines of a table and those inside it. value: None where the table is not set."""
    docs, parts = field_docs(kind), list[tuple[str, type[msgspec.Struct], Any]]()
    if table:
        yield from ("", f"{'' if value is not None else '#'}[{table}]")
    for field in msgspec.structs.fields(kind):
        name = f"{table}.{field.name}".lstrip(".")
        current = field.default if value is None else getattr(value, field.name)
        if part := part_type(field.type):
            parts.append((name, part, None if value is None else current))
        elif name not in DERIVED:
            about = f"{docs.get(field.name, '')} Changes: {CHANGE_TEXT[change_of(name)]}.".strip()
            yield from textwrap.wrap(about, 118, initial_indent="# ", subsequent_indent="# ")
            unset = current in (None, msgspec.UNSET, msgspec.NODEFAULT)
            mark, text = "#" if unset or value is None else "", "" if unset else f" {_toml_value(current)}"
            yield f"{mark}{field.name} ={text}"
    for name, part, current in parts:
        yield from _table(current, part, name)


def _toml_value(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml_value(key)} = {_toml_value(one)}" for key, one in value.items()) + "}"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(_toml_value, value)) + "]"
    if isinstance(value, (str, Path)):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else repr(value)


def field_docs(kind: type) -> dict[str, str]:
    """What the type's docstring says of each field: lines `name: text`, or `name, other: text`."""
    docs: dict[str, str] = {}
    for names, text in re.findall(
        r"^(\w+(?:, \w+)*): (.*(?:\n +\S.*)*)", inspect.cleandoc(kind.__doc__ or ""), re.MULTILINE
    ):
        docs |= dict.fromkeys(names.split(", "), _sentence(" ".join(text.split())))
    return docs


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def read_file(path: Path, bundle_id: str = "0" * 64) -> DistrictConfiguration:
    """The configuration in a file; InputError names the file, the table and the key that is not right."""
    return parse(_read(path), str(path), bundle_id)


def _read(path: Path) -> bytes:
    try:
        return read_small(path)
    except OSError as problem:
        raise StoreError(f"cannot be read: {problem.strerror}", where=str(path)) from None


def parse(data: bytes, where: str, bundle_id: str = "0" * 64) -> DistrictConfiguration:
    """The configuration that a file's bytes say; as `read_file`."""
    try:
        fields = tomllib.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as problem:  # not only TOML's: an integer may have too many digits
        raise InputError(f"not TOML: {problem}", where=where, remedy="correct the file") from None
    given = fields.get("round", {})
    if isinstance(given, dict):
        for name in sorted((given.keys() | fields.keys()) & {name.removeprefix("round.") for name in DERIVED}):
            shown = name if name in fields else f"[round] {name}"
            raise InputError(f"{shown} is not for people to set", where=where, remedy="remove it")
        fields["automatic_buffer"] = "buffer_size" not in given and buffer_may_follow(given)
        first = {"buffer_size": first_buffer(given)} if fields["automatic_buffer"] else {}
        fields["round"] = {"bundle_id": bundle_id} | first | given
    return converted(fields, where=where)


def edited(text: str, before: DistrictConfiguration, after: DistrictConfiguration) -> str:
    """A file's text with only the lines changed whose fields change: what people wrote around them stays."""
    lines, table = text.removeprefix("\ufeff").splitlines(), ""
    for was, now in zip(to_toml(before).splitlines(), to_toml(after).splitlines(), strict=True):
        header = TABLE_LINE.match(now)
        table = header[2] if header else table
        if was != now:
            _put_line(lines, table, now)
    return "".join(f"{line}\n" for line in lines)


def _put_line(lines: list[str], table: str, line: str) -> None:
    """Put a header, or a field's line of a table, in the place of its present one, or into the table."""
    headers = {number: match for number, one in enumerate(lines) if (match := TABLE_LINE.match(one))}
    start = next((number for number, match in headers.items() if match[2] == table), None)
    if start is None:
        if not line.startswith("#"):
            lines += ["", f"[{table}]"] if TABLE_LINE.match(line) else ["", f"[{table}]", line]
        return
    if TABLE_LINE.match(line):
        lines[start] = line
        return
    end = min((number for number in headers if number > start), default=len(lines))
    key = re.escape(line.lstrip("#").partition(" =")[0])
    present = [number for number in range(start, end) if re.match(rf"\s*#?{key}\s*=", lines[number])]
    if present:
        number = next((number for number in present if not lines[number].lstrip().startswith("#")), present[0])
        after = _after_value(lines, number)
        remarks = [found[1] for one in lines[number:after] if (found := REMARK.match(one))]
        if lines[number].lstrip().startswith("#"):
            lines[number] = line
        elif after == number + 1:
            lines[number] = line + "".join(f"  {remark}" for remark in remarks)
        else:
            lines[number:after] = [*remarks, line]
    elif not line.startswith("#"):
        lines.insert(start + 1, line)


def _after_value(lines: list[str], number: int) -> int:
    """The line after a field's value, which may be an array over several lines."""
    for after in range(number + 1, len(lines) + 1):
        with contextlib.suppress(tomllib.TOMLDecodeError):
            tomllib.loads("\n".join(lines[number:after]))
            return after
    return number + 1


def write_file(folder: Path, configuration: DistrictConfiguration) -> None:
    """Replace the folder's file, durably and as a whole; people's comments in it stay.

    A file in a form that cannot be edited line by line is written anew, and kept beside as `district.toml.before`.
    """
    path = folder / CONFIGURATION_FILE
    text = to_toml(configuration)
    if path.exists():
        before, bundle_id = _read(path), configuration.round.bundle_id
        present = parse(before, str(path), bundle_id)
        changed = edited(before.decode("utf-8-sig"), present, configuration)
        try:
            kept = _set_lines(parse(changed.encode(), str(path), bundle_id)) == _set_lines(configuration)
        except InputError:
            kept = False
        if not kept:
            write_durable(path.with_name(f"{CONFIGURATION_FILE}.before"), before)
        text = changed if kept else text
    write_durable(path, text.encode())


def _set_lines(configuration: DistrictConfiguration) -> list[str]:
    return [line for line in to_toml(configuration).splitlines() if line and not line.startswith("#")]


def link_note(folder: Path) -> str:
    """What to say where the file is a link; empty where it is none."""
    path = folder / CONFIGURATION_FILE
    if not path.is_symlink():
        return ""
    return f"{path} is a link: whoever may write {path.resolve()} sets this aggregator; a change here replaces the link"


# The file and the log


def round_in_force(folder: Path, facts: FolderFacts) -> RoundConfiguration:
    """The round configuration that the log has come to."""
    refuse_backup(folder)  # opening its log would change it
    if not (folder / LOG_FILE).exists():
        return facts.configuration
    with contextlib.closing(open_log(folder)) as log:
        return in_force(log, facts.configuration)


def read_configuration(folder: Path) -> DistrictConfiguration:
    """The folder's file; where there is none, the defaults with what the log has come to."""
    facts, path = read_facts(folder), folder / CONFIGURATION_FILE
    if not path.exists():
        present = msgspec.structs.replace(round_in_force(folder, facts), earlier_codecs=())
        return DistrictConfiguration(institution=facts.institution, round=present)
    configuration = read_file(path, facts.bundle_id)
    if not configuration.automatic_buffer:
        return configuration
    wanted = configuration.round
    size = max(round_in_force(folder, facts).buffer_size, wanted.min_devices)
    return msgspec.structs.replace(configuration, round=msgspec.structs.replace(wanted, buffer_size=size))


def check_configuration(
    folder: Path,
    present: RoundConfiguration,
    wanted: DistrictConfiguration,
    typed: Mapping[str, str] = MappingProxyType({}),
    roster: Roster | None = None,
) -> list[FieldChange]:
    """The changes of the rounds that a start would bring; InputError names a field that may not change so.

    typed: the options that were typed, by their field's dotted name: an error names them instead.
    roster: a newer one than the folder's; no secure round may be left that could never start.
    """
    institution, where = read_facts(folder).institution, str(folder / CONFIGURATION_FILE)
    if wanted.institution != institution:
        change = FieldChange("institution", institution, wanted.institution)
        raise InputError(f"institution cannot change ({change})", where=where, remedy=NEW_FOLDER)
    changes = check_changes(present, followed(present, wanted.round), where, typed)
    if wanted.round.secure and (roster := roster or load_roster(folder)):
        check_roster(len(roster.devices), roster.minimum, wanted.round, str(folder / ROSTER_FILE))
    return changes


def waiting_note(configuration: RoundConfiguration) -> str:
    """What to say where a full buffer alone does not make a release; empty where it does."""
    least, size = configuration.min_devices, configuration.buffer_size
    if configuration.secure or size >= least:
        return ""
    of = f" {configuration.k_of}" if configuration.k_of == "schools" else ""
    return f"a release also needs min_devices = {least}{of}: buffer_size = {size} is less, and updates wait until then"


def statistics_note(configuration: RoundConfiguration) -> str:
    """What statistics show to whom; empty where they are off."""
    rules = configuration.statistics
    if rules.mode == "off":
        return ""
    if rules.mode == "secure":
        return (
            "statistics are summed in secure rounds: this server sees which rows each device feeds, and sums over "
            f"cohorts; a row is released from {rules.k} {rules.k_of} and {rules.subjects} subjects"
        )
    return (
        "statistics are plain: this server sees each device's sums, and a class mean of few samples is nearly their "
        f"features. A device sends them once a person there said yes; a row is released from {rules.k} {rules.k_of} "
        f"and {rules.subjects} subjects"
    )


def evaluation_note(configuration: RoundConfiguration) -> str:
    """What an evaluation shows to whom; empty where it is off."""
    if configuration.evaluation.mode == "off":
        return ""
    if configuration.evaluation.mode == "secure":
        return (
            "evaluation: how often each version is right and wrong is summed in secure rounds; this server sees sums "
            "over cohorts, and of which languages and inputs each device has samples; whoever joins is told"
        )
    least = f"{configuration.min_devices} {configuration.k_of}"
    return (
        "evaluation: devices tell how often each version is right and wrong there, and this server sees each device's "
        f"counts; whoever joins is told. A figure is shown from {least} (docs/evaluation.md)"
    )


def notes(folder: Path, configuration: RoundConfiguration) -> list[str]:
    """What a start has to say of a folder's rounds."""
    found = (waiting_note(configuration), statistics_note(configuration), evaluation_note(configuration))
    return [note for note in (*found, roster_note(folder, configuration), link_note(folder)) if note]


def bring_into_force(folder: Path, rounds: Rounds, wanted: DistrictConfiguration) -> list[FieldChange]:
    """Let the rounds go on by the wanted configuration, and write its round's part into the file; the changes."""
    check_configuration(folder, rounds.configuration, wanted)
    check_statistics(wanted.round, rounds.bundle, rounds.bundle.path)
    check_evaluation(wanted.round, rounds.bundle, rounds.bundle.path)
    changed = {"round": wanted.round, "automatic_buffer": wanted.automatic_buffer}
    lasting = msgspec.structs.replace(read_configuration(folder), **changed)
    if not (folder / CONFIGURATION_FILE).exists() or lasting != read_configuration(folder):
        write_file(folder, lasting)
    return rounds.configure(wanted.round)
