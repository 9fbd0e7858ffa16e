"""Types of values on the command line: finite numbers no larger than the contracts can write, folders, files."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from homeroom.errors import InputError
from homeroom.system.files import check_folder_of

LARGEST_WHOLE = (1 << 62) - 1  # a whole number that MessagePack, JSON and SQLite all hold


def range_words(least: float | None, most: float | None, above: bool = False, below: bool = False) -> str:
    """A range as help and errors say it, "" where there is none. above, below: the bound itself is left out."""
    low = "" if least is None else f"above {least:,}" if above else f"{least:,}"
    high = "" if most is None else f"below {most:,}" if below else f"up to {most:,}"
    if low and high:
        return f"{low} to {most:,}" if not above and not below else f"{low}, {high}"
    return f"{low} or more" if low and not above else low or high


class Whole(click.IntRange):
    """A whole number from `least` to `most`, by default LARGEST_WHOLE."""

    name = "number"

    def __init__(self, least: int, most: int = LARGEST_WHOLE) -> None:
        super().__init__(least, most)

    def _describe_range(self) -> str:
        return range_words(self.min, None if self.max == LARGEST_WHOLE else self.max)


class Finite(click.FloatRange):
    """A number that is neither infinite nor nan: nan passes every comparison of `click.FloatRange`."""

    name = "number"

    def _describe_range(self) -> str:
        return range_words(self.min, self.max, self.min_open, self.max_open)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """A finite number in the range, or a usage error."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class NamedPath(click.Path):
    """A path with a name: an empty one, such as that of a variable that is not set, is not the folder at hand."""

    def __init__(self, *, exists: bool = False, file_okay: bool = True, dir_okay: bool = True) -> None:
        super().__init__(exists=exists, file_okay=file_okay, dir_okay=dir_okay, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, or a usage error."""
        if not str(value):
            self.fail("an empty name is no path; `.` is the folder you are in.", param, ctx)
        return super().convert(value, param, ctx)


class Folder(NamedPath):
    """A folder, whether it is there or not."""

    def __init__(self) -> None:
        super().__init__(file_okay=False)


class OutputFile(NamedPath):
    """A file to write into a folder that is there."""

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; InputError where its folder is not there."""
        path = Path(str(super().convert(value, param, ctx)))
        check_folder_of(path)
        return path


class OutputFolder(Folder):
    """A folder to write or to make, in one that is there."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path; a usage error, or InputError where the folder that it lies in is not there."""
        path = super().convert(value, param, ctx)
        check_folder_of(path)
        return path


class Text(click.types.StringParamType):
    """Text that is UTF-8, so that it can be stored and signed; every option and argument of text is one."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, or a usage error."""
        text = super().convert(value, param, ctx)
        try:
            text.encode()
        except UnicodeEncodeError:
            self.fail(f"{text!a} is not UTF-8.", param, ctx)
        return text


class NameText(Text):
    """A name of a school, an institution or a person (`contract.names`)."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The name, or a usage error."""
        from homeroom.contract.names import check_name

        try:
            return check_name(super().convert(value, param, ctx))
        except InputError as problem:
            self.fail(f"{problem}.", param, ctx)


class InvitationSource(NamedPath):
    """An invitation: its file, its line of text, or `-` for standard input, which no other user of the machine sees."""

    name = "invitation"

    def __init__(self) -> None:
        super().__init__(dir_okay=False)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The text, or the path of the file."""
        from homeroom.contract.invitation import INVITATION_LIMIT_BYTES, is_invitation_text

        if value == "-":
            return sys.stdin.buffer.read(2 * INVITATION_LIMIT_BYTES + 1).decode(errors="replace")
        if isinstance(value, str) and is_invitation_text(value):
            return value
        return super().convert(value, param, ctx)


FOLDER, OUT_FILE, OUT_FOLDER = Folder(), OutputFile(), OutputFolder()
INVITATION, NAME, TEXT = InvitationSource(), NameText(), Text()
FILE, PATH = NamedPath(dir_okay=False), NamedPath()
