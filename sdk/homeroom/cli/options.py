"""What several commands share: opening the device, options, and what is printed for whom."""

from __future__ import annotations

import datetime
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from homeroom.cli.parameters import PATH, Finite, Whole
from homeroom.errors import Code, InputError, StoreError
from homeroom.system.printable import printable

if TYPE_CHECKING:
    from homeroom.device.device import Device
    from homeroom.device.reader import DeviceReader
    from homeroom.device.resources.budget import Budget

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

STEERING = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")  # of JSON
SPANS = "Such as 'mon-fri 16:00-20:00'; may be given again."
BUDGET_OPTIONS = (
    click.option("--megabytes", type=Finite(0, min_open=True), help="Of memory, at most."),
    click.option("--threads", type=Whole(1, 256), help="In place of as many as were measured to be fastest."),
    click.option("--free-megabytes", type=Finite(0), default=100.0, show_default=True, help="Of disk that stay free."),
    click.option(
        "--battery",
        type=Finite(0, 100),
        default=30.0,
        show_default=True,
        help="Percent below which, unplugged, it rests.",
    ),
    click.option(
        "--celsius", type=Finite(0), default=85.0, show_default=True, help="The hottest its processor may get."
    ),
    click.option("--quiet", multiple=True, help=f"Hours in which it never trains. {SPANS}"),
)
for_person = click.option("--profile", metavar="PERSON", help="This person's own model.")
group_option = click.option(
    "--group", default="", metavar="NAME", help="A slot or a column, such as topic, that is held out whole to judge by."
)
MACHINE, BRIEF, VERBOSE = (f"homeroom.{name}" for name in ("json", "quiet", "verbose"))  # in a context's `meta`


def _kept_as(key: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def keep(context: click.Context, _: click.Parameter, value: bool) -> bool:
        context.meta[key] = value
        return value

    return keep


def json_option(about: str) -> Decorator:
    """The option `--json`: with it lines for people are not printed (`say`), and `print_record` prints the record."""
    return click.option("--json", "machine", is_flag=True, expose_value=False, callback=_kept_as(MACHINE), help=about)


as_json = json_option("Print one JSON object.")
VERBOSITY = (  # of every command
    click.Option(
        ["-q", "brief"],
        is_flag=True,
        expose_value=False,
        callback=_kept_as(BRIEF),
        help="Print results, warnings and errors alone: no progress, no next steps.",
    ),
    click.Option(
        ["-v", "verbose"],
        is_flag=True,
        expose_value=False,
        callback=_kept_as(VERBOSE),
        help="Also print, on stderr, each step, the log, where an error arose, and what it took.",
    ),
)


def add_options(*options: Decorator) -> Decorator:
    """Declare options on a command, which takes them as keywords; help lists them in this order."""

    def decorate(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


with_bundle = add_options(
    click.option("--bundle", type=PATH, help="Bundle to install; needed the first time."),
    click.option("--root", help="Fingerprint of the institution's root key."),
)
budget_options = add_options(*BUDGET_OPTIONS)


def budget_of(minutes: float, limits: Mapping[str, Any]) -> Budget:
    """The budget of a training. limits: the values of `budget_options`. InputError for hours that are none."""
    from homeroom.device.resources.budget import Budget, read_weekly_hours

    quiet = tuple(map(read_weekly_hours, limits["quiet"]))
    return Budget(minutes, **{**limits, "battery": limits["battery"] / 100, "quiet": quiet})


def refuse_idle(context: click.Context, with_what: str, names: Iterable[str]) -> None:
    """InputError where one of these options was typed: it would have no effect with what the sentence says."""
    typed = [name for name in names if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if typed:
        shown = next(param.opts[0] for param in context.command.params if param.name == typed[0])
        raise InputError(f"{shown} says nothing with {with_what}", where="options", remedy="leave it out")


@contextmanager
def opened(directory: Path, bundle: Path | None = None, root: str | None = None, **options: Any) -> Iterator[Device]:
    """An open device. root: a fingerprint; options: others of `Device.open`."""
    from homeroom.device.device import Device

    with Device.open(directory, bundle, root, **options) as device:
        yield device


@contextmanager
def readable(directory: Path) -> Iterator[DeviceReader]:
    """An open device, or one that is read beside the process that has it open, which a line on stderr says."""
    from homeroom.device.device import Device

    device: DeviceReader
    try:
        device = Device.open(directory)
    except StoreError as problem:
        if problem.code != Code.IN_USE:
            raise
        device = Device.read(directory)
        say(f"{directory}: {problem.what}; this reads what is in use now", err=True)
    with device:
        yield device


def plain(value: Any) -> Any:
    """A value as JSON has it."""
    import msgspec

    return value.isoformat() if isinstance(value, datetime.date) else msgspec.to_builtins(value, enc_hook=os.fspath)


def json_text(document: Any) -> str:
    """A document as indented JSON."""
    return escaped(json.dumps(document, default=plain, ensure_ascii=False, indent=1))


def escaped(text: str) -> str:
    """JSON with those characters escaped that would steer a terminal; it says the same."""
    return STEERING.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def one_line(text: str) -> str:
    """Text on one line, with a space for each character that would steer a terminal: a name may bring some."""
    return printable(text)


def asked(key: str) -> bool:
    """Whether the running command was given the option that is kept under `key`; no, outside of commands."""
    context = click.get_current_context(silent=True)
    return context is not None and bool(context.meta.get(key))


def print_record(record: Any) -> None:
    """Print, with `--json` alone, what the command did: a data class, or names with values."""
    if asked(MACHINE):
        click.echo(json_text(record))


def say(line: str, *, err: bool = False) -> None:
    """Print one line for people; see `one_line`. err: on stderr, with `--json` too."""
    if err or not asked(MACHINE):
        click.echo(one_line(line), err=err)


def hint(line: str) -> None:
    """Print one line for people that is no result, such as the next step: `-q` leaves it out."""
    if not asked(BRIEF):
        say(line)


def progress(text: str, *, done: bool = False) -> None:
    """Show on a terminal, in place of what was shown before, how far a command is; with `-v` on a line of its own.

    done: leave no trace.
    """
    if asked(VERBOSE):
        if not done:
            say(f"... {text}", err=True)
    elif sys.stderr.isatty() and not asked(BRIEF):
        click.echo(f"\r\033[K{'' if done else one_line(text)}", nl=False, err=True)
