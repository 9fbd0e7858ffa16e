"""A recipe's text while it is read: every refusal names its line and field."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from homeroom.errors import RecipeError
from homeroom_exporter.recipe.messages import Fault, find_fault

Converted = TypeVar("Converted")


@dataclass(frozen=True)
class Document:
    """A recipe's tables; `file` is the name that errors give, `text` what they find their lines in."""

    text: str
    file: str
    tables: Mapping[str, Any]

    def refusal(self, what: str, *path: str, remedy: str = "") -> RecipeError:
        """The error for what stands at a path such as ("tasks", "grade", "kind")."""
        name = ".".join(path)
        where = f"{self.file} line {line_of(self.text, path)}"
        return RecipeError(f"{name}: {what}" if name else what, where=where, remedy=remedy)

    def convert(self, value: Any, into: type[Converted], *path: str, others: Sequence[str] = ()) -> Converted:
        """The value at a path as a type; RecipeError for its first fault. others: names that may stand there too."""
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as problem:
            fault = find_fault(value, into, others) or Fault(str(problem))
            raise self.refusal(fault.what, *path, *fault.field, remedy=fault.remedy) from None

    def table(self, name: str) -> dict[str, Any]:
        """A table at the top, empty where the recipe has none."""
        value = self.tables.get(name, {})
        if not isinstance(value, dict):
            raise self.refusal("must be a table", name, remedy=f"write [{name}.…]")
        return value


def parse(text: str, file: str) -> Document:
    """The tables of a TOML text; RecipeError with the line where it is none."""
    try:
        return Document(text, file, tomllib.loads(text))
    except (ValueError, RecursionError) as problem:
        lines = text.split("\n")
        valid = next(count for count in reversed(range(len(lines))) if _is_toml("\n".join(lines[:count])))
        raise RecipeError(f"is not valid TOML: {problem}", where=f"{file} line {valid + 1}") from None


def _is_toml(text: str) -> bool:
    try:
        tomllib.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def line_of(text: str, path: tuple[str, ...]) -> int:
    """The line, from 1, where a key such as ("tasks", "grade", "kind") stands; else that of the nearest table."""
    best, best_depth = 1, 0
    table: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if header := re.match(r"^\[\[?([^\]]+)\]\]?", stripped):
            table = key_path = _keys(header[1])
        elif key := re.match(r"^([A-Za-z0-9_.\-\"' ]+?)\s*=", stripped):
            key_path = (*table, *_keys(key[1]))
        else:
            continue
        depth = min(len(key_path), len(path))
        if depth > best_depth and key_path[:depth] == path[:depth]:
            best, best_depth = number, depth
    return best


def _keys(dotted: str) -> tuple[str, ...]:
    return tuple(key.strip().strip("\"'") for key in dotted.split("."))
