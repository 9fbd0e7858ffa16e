"""Finds what does not fit in a table of a recipe, and says it in plain words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import msgspec
from msgspec import inspect

READS = ("the inputs that it looks at", 'reads = ["answer"]')
REQUIRED = {  # by table and field without a default: what it is, and how it is written
    "RecipeHeader.name": ("what the bundle is called", 'name = "vocabulary"'),
    "RecipeHeader.version": ("a whole number that rises with every release", "version = 1"),
    "EncoderTable.source": ("where the encoder comes from", 'source = "pip:minilm" or "hf:DIRECTORY"'),
    "TaskTable.kind": ("what is asked", 'kind = "classification"'),
    "TaskTable.reads": READS,
    "ObjectiveTable.kind": ("what is learned without labels", 'kind = "masked"'),
    "ObjectiveTable.reads": READS,
    "AdapterPlan.family": ("what stands inside the encoder", 'family = "lora"'),
    "Column.name": ("what the column is called", '{name = "hours", mean = 3.0, std = 2.0}'),
}
TYPE_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    bool: "true or false",
    list: "a list in [ ]",
    dict: "a table",
}
PYTHON_TYPES: dict[type, type] = {
    inspect.IntType: int,
    inspect.FloatType: float,
    inspect.StrType: str,
    inspect.LiteralType: str,
    inspect.BoolType: bool,
    inspect.VarTupleType: list,
    inspect.DictType: dict,
    inspect.StructType: dict,
}
BOUNDS = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}


@dataclass(frozen=True)
class Fault:
    """What is wrong at `field`, names from the table downwards (none where it is the table); `remedy` may be empty."""

    what: str
    field: tuple[str, ...] = ()
    remedy: str = ""

    def within(self, name: str) -> Fault:
        """The same fault, seen from the table that holds this one under `name`."""
        return replace(self, field=(name, *self.field))


def find_fault(value: Any, into: Any, others: Sequence[str] = ()) -> Fault | None:
    """The first fault of a value, as TOML gives it, that is to become the type `into`; None where there is none.

    others: names that may stand beside the fields of `into`.
    """
    return _check(value, inspect.type_info(into), others)


def _check(value: Any, kind: inspect.Type, others: Sequence[str] = ()) -> Fault | None:
    kinds = [one for one in getattr(kind, "types", [kind]) if type(one) in PYTHON_TYPES]
    fitting = next((one for one in kinds if _accepts(PYTHON_TYPES[type(one)], value)), None)
    match fitting:
        case None:
            wanted = " or ".join(TYPE_WORDS[PYTHON_TYPES[type(one)]] for one in kinds)
            return Fault(f"must be {wanted}, not {TYPE_WORDS.get(type(value), type(value).__name__)}")
        case inspect.LiteralType(values=choices):
            return None if value in choices else Fault(f"{value!r} is no choice", remedy=_one_of(choices))
        case inspect.IntType() | inspect.FloatType():
            return _check_bounds(value, {name: getattr(fitting, name) for name in BOUNDS}, "")
        case inspect.StrType(pattern=str(pattern)) if not re.search(pattern, value):  # the only one is that of names
            return Fault("must be lower-case letters, digits and _, a letter first, at most 48 of them")
        case inspect.VarTupleType(item_type=entry, min_length=least, max_length=most):
            faults = (_check(one, entry) for one in value)
            return next(filter(None, faults), None) or _check_bounds(len(value), {"ge": least, "le": most}, " entries")
        case inspect.DictType(value_type=entry):
            return next((fault.within(key) for key, one in value.items() if (fault := _check(one, entry))), None)
        case inspect.StructType():
            return _check_table(value, fitting, others)
    return None


def _accepts(wanted: type, value: Any) -> bool:
    """Whether a value is of a type of TYPE_WORDS, whatever its bounds."""
    return type(value) in {float: (int, float), list: (list, tuple)}.get(wanted, (wanted,))


def _check_bounds(number: float, bounds: Mapping[str, float | None], unit: str) -> Fault | None:
    holds = {"ge": float.__ge__, "gt": float.__gt__, "le": float.__le__, "lt": float.__lt__}
    for name, bound in bounds.items():
        if bound is not None and not holds[name](float(number), float(bound)):
            return Fault(f"must {'have' if unit else 'be'} {BOUNDS[name]} {str(bound).removesuffix('.0')}{unit}")
    return None


def _check_table(table: Mapping[str, Any], kind: inspect.StructType, others: Sequence[str]) -> Fault | None:
    fields = {field.name: field for field in kind.fields}
    for name, value in table.items():
        if name in fields:
            if fault := _check(value, fields[name].type):
                direct = not fault.field and not fault.remedy
                return replace(fault, remedy=_example(kind, fields[name]) if direct else fault.remedy).within(name)
        elif kind.forbid_unknown_fields:
            known = [*fields, *others]
            near = get_close_matches(name, known, 1)
            return Fault("is no field", (name,), f"did you mean {near[0]}?" if near else _one_of(known))
    for name in (field.name for field in kind.fields if field.required and field.name not in table):
        meaning, example = REQUIRED.get(f"{kind.cls.__name__}.{name}", ("", ""))
        return Fault(f"is missing{', ' * bool(meaning)}{meaning}", (name,), example and f"add {example}")
    return None


def _one_of(names: Sequence[Any]) -> str:
    return f"one of {', '.join(map(str, names))}"


def _example(table: inspect.StructType, field: inspect.Field) -> str:
    """The field as it may be written, or with its default."""
    if required := REQUIRED.get(f"{table.cls.__name__}.{field.name}"):
        return f"for example {required[1]}"
    if field.default in (None, (), msgspec.NODEFAULT):
        return ""
    return f"for example {field.name} = {msgspec.json.encode(field.default).decode()}"
