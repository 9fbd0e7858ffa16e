"""Says in plain words what does not fit in a table of a recipe; imports msgspec only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, get_args

import msgspec

READS = ("the inputs that it looks at", 'reads = ["answer"]')
REQUIRED = {  # by table and field without a default: what it is, and how it is written
    "Head.name": ("what the bundle is called", 'name = "vocabulary"'),
    "Head.version": ("a whole number that rises with every release", "version = 1"),
    "EncoderTable.source": ("where the encoder comes from", 'source = "pip:minilm" or "hf:DIRECTORY"'),
    "TaskTable.kind": ("what is asked", 'kind = "classification"'),
    "TaskTable.reads": READS,
    "ObjectiveTable.kind": ("what is learned without labels", 'kind = "masked"'),
    "ObjectiveTable.reads": READS,
    "AdapterPlan.family": ("what stands inside the encoder", 'family = "lora"'),
    "Column.name": ("what the column is called", '{name = "hours", mean = 3.0, std = 2.0}'),
}
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "text in quotes",
    "bool": "true or false",
    "array": "a list in [ ]",
    "object": "a table",
}
BOUNDS = {">=": "at least", "<=": "at most", ">": "more than", "<": "less than"}


@dataclass(frozen=True)
class Fault:
    """`field`: names from the table down to what is wrong, none where it is the table; `remedy` may be empty."""

    what: str
    field: tuple[str, ...]
    remedy: str = ""


def explain(problem: msgspec.ValidationError, into: Any, others: Sequence[str] = ()) -> Fault:
    """What msgspec found wrong on the way into the type `into`; others: names that may stand there too."""
    message, _, place = str(problem).partition(" - at `$")
    field = tuple(re.findall(r"[A-Za-z_]\w*", place))
    if found := re.search(r"missing required field `(\w+)`", message):
        meaning, example = _required(into, (*field, found[1])) or ("", "")
        return Fault(f"is missing{', ' * bool(meaning)}{meaning}", (*field, found[1]), example and f"add {example}")
    if found := re.search(r"unknown field `(\w+)`", message):
        known = [*_fields(_type_of(into, field)), *others]
        near = get_close_matches(found[1], known, 1)
        return Fault("is no field", (*field, found[1]), f"did you mean {near[0]}?" if near else _one_of(known))
    if found := re.search(r"^Invalid enum value (.+)", message):
        choices = [part for part in _parts(_type_of(into, field)) if isinstance(part, str)]
        return Fault(f"{found[1]} is no choice", field, _one_of(choices))
    return Fault(_plain(message), field, _example(into, field))


def _plain(message: str) -> str:
    if found := re.search(r"^Expected `([^`]+)`, got `(\w+)`", message):
        wanted = " or ".join(TYPES.get(one, one) for one in found[1].split(" | ") if one != "null")
        return f"must be {wanted}, not {TYPES.get(found[2], found[2])}"
    if found := re.search(r"^Expected `\w+`( of length)? (>=|<=|>|<) (\S+)", message):
        bound = f"{BOUNDS[found[2]]} {found[3].removesuffix('.0')}"
        return f"must have {bound} entries" if found[1] else f"must be {bound}"
    if "matching regex" in message:  # a recipe's only pattern is that of names
        return "must be lower-case letters, digits and _, a letter first, at most 48 of them"
    return message[:1].lower() + message[1:]


def _one_of(names: Sequence[str]) -> str:
    return f"one of {', '.join(names)}"


def _example(into: Any, field: Sequence[str]) -> str:
    """The field with its default, or as it may be written."""
    if required := _required(into, field):
        return f"for example {required[1]}"
    found = _fields(_type_of(into, field[:-1])).get(field[-1]) if field else None
    if found is None or found.default in (None, (), msgspec.NODEFAULT):
        return ""
    return f"for example {field[-1]} = {msgspec.json.encode(found.default).decode()}"


def _required(into: Any, field: Sequence[str]) -> tuple[str, str] | None:
    struct = _struct(_type_of(into, field[:-1]))
    return REQUIRED.get(f"{struct.__name__}.{field[-1]}") if struct and field else None


def _struct(kind: Any) -> type[msgspec.Struct] | None:
    """The table that the type is, or has in it."""
    return next((p for p in _parts(kind) if isinstance(p, type) and issubclass(p, msgspec.Struct)), None)


def _fields(kind: Any) -> dict[str, msgspec.structs.FieldInfo]:
    struct = _struct(kind)
    return {found.name: found for found in msgspec.structs.fields(struct)} if struct else {}


def _type_of(into: Any, field: Sequence[str]) -> Any:
    """The type of a field of a table, or of a field of that."""
    for name in field:
        found = _fields(into).get(name)
        if found is None:
            return into
        into = found.type
    return into


def _parts(kind: Any) -> Iterator[Any]:
    """The type and everything that it is made of; of a Literal its values."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)
