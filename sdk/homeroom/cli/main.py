"""The command line: loads the commands of `homeroom.cli.commands`, and ends errors with their exit codes.

A HomeroomError ends in one or two lines on stderr, one more for each detail, and its own exit code (`docs/cli.md`),
never in a traceback.
"""

from __future__ import annotations

import copy
import os
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any, NoReturn

import click

from homeroom.cli.commands import ALIASES, COMMANDS, DEFAULTS, EXTRAS, GROUPS, OLD_JSON, OLD_ORDER
from homeroom.cli.examples import examples_of_help
from homeroom.cli.options import VERBOSITY, one_line, progress
from homeroom.cli.parameters import TEXT
from homeroom.cli.verbose import told_in_full
from homeroom.errors import DiskFullError, HomeroomError, InputError, MissingExtraError, TrainError
from homeroom.system.files import DISK_FULL_ERRNOS
from homeroom.system.hardware import refuse_32_bit
from homeroom.system.installation import how_to_install

NO_MEMORY_WORDS = ("bad_alloc", "failed to map segment", "cannot allocate memory")  # of a library, in lower case


class Commands(click.Group):
    """The commands below one path of the table. Each is loaded when it is asked for: help needs no extra."""

    def __init__(self, name: str | None = None, *, path: str = "", **settings: Any) -> None:
        """path: the words after `homeroom`; "" is the top."""
        super().__init__(name, **settings)
        self.path = path

    def below(self, name: str) -> str:
        """The path of a command of this group."""
        return f"{self.path} {name}".strip()

    def list_commands(self, _: click.Context) -> list[str]:
        """Names in the table's order."""
        return _children(self.path, COMMANDS) or _children(self.path, ALIASES)

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        """The command or group of a name, an old spelling too; None if there is none."""
        path = self.below(name)
        present = _present(path)
        if present not in GROUPS:
            return None if present is None else _load(path)
        old = _load(path).params if path in ALIASES else ()  # a group that was a command: `resolve_command` tells
        options = [_hidden(option) for option in old if isinstance(option, click.Option)]
        return Commands(name, path=path, help=GROUPS[present], params=options)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that `args` begin with; says on stderr where an old spelling has a new one."""
        path = self.below(args[0])
        if path in DEFAULTS and len(args) > 1 and args[1] not in (*_children(path), "-h", "--help"):
            return args[0], _load(DEFAULTS[path]), args[1:]
        if path not in ALIASES or (path in GROUPS and (len(args) < 2 or args[1] in (*_children(path), "-h", "--help"))):
            return super().resolve_command(context, args)
        click.echo(f"homeroom: `homeroom {path}` is now `homeroom {ALIASES[path]}`", err=True)
        return args[0], _load(path), args[1:]

    def invoke(self, context: click.Context) -> Any:
        """Run the sub-command; what it imports when it runs may be missing too."""
        try:
            return super().invoke(context)
        except BrokenPipeError:  # which click would end with 1
            _end_unread()
        except ModuleNotFoundError as problem:
            path = _present(self.below(context.invoked_subcommand or ""))
            if path is None or _extra(path) is None:
                raise
            raise _missing_extra(path, problem) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """List each command with its line; no module is loaded for it."""
        paths = {name: _present(self.below(name)) or "" for name in self.list_commands(context)}
        with formatter.section("Commands"):
            formatter.write_dl([(name, self._about(path)) for name, path in paths.items()])

    def _about(self, path: str) -> str:
        """One line of help, with the extra that is needed beside the group's own."""
        extra = _extra(path)
        suffix = f" [{extra}]" if extra and extra != _extra(self.path) else ""
        return (GROUPS[path] if path in GROUPS else COMMANDS[path][1]) + suffix


def _children(path: str, table: Iterable[str] = COMMANDS) -> list[str]:
    """The words that follow `path` in a table, in its order."""
    start = f"{path} " if path else ""
    return list(dict.fromkeys(row[len(start) :].split()[0] for row in table if row.startswith(start)))


def _present(path: str) -> str | None:
    """Today's path of a command or group; None if there never was one."""
    if path in GROUPS or path in COMMANDS:
        return path
    groups = (new.rpartition(" ")[0] for old, new in ALIASES.items() if old.startswith(f"{path} "))
    return ALIASES.get(path) or next(groups, None)


def _extra(path: str) -> str | None:
    """The extra that installs what a command needs; of a group, that which all of its commands need."""
    rows = [path] if path in COMMANDS else [row for row in COMMANDS if row.startswith(f"{path} ")]
    extras = {EXTRAS.get(COMMANDS[row][0].partition(".")[0]) for row in rows}
    return extras.pop() if len(extras) == 1 else None


def _load(path: str) -> click.Command:
    """The command of a path or an old spelling of it, or one that says which extra is missing."""
    present = ALIASES.get(path, path)
    module, _, function = COMMANDS[present][0].partition(":")
    try:
        command = copy.copy(getattr(import_module(module), function))
    except ModuleNotFoundError as problem:
        if _extra(present) is None:
            raise
        return _missing(present, problem)
    assert isinstance(command, click.Command)
    if path in OLD_JSON:
        command.params = [_as_json(param) if param.name == "machine" else param for param in command.params]
    order = OLD_ORDER.get(path, ())
    for parameter in command.params:  # so that no command can forget it
        parameter.type = TEXT if parameter.type is click.STRING else parameter.type
    command.params = sorted(command.params, key=lambda p: order.index(p.name) if p.name in order else len(order))
    command.params += VERBOSITY
    command.epilog = examples_of_help(present)
    command.callback = told_in_full(command.callback)
    return command


def _as_json(param: click.Parameter) -> click.Parameter:
    param = copy.copy(param)
    param.default = True
    return param


def _hidden(option: click.Option) -> click.Option:
    option = copy.copy(option)
    option.hidden = True
    return option


def _missing(path: str, problem: ModuleNotFoundError) -> click.Command:
    @click.command(path, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("rest", nargs=-1)
    def missing(rest: tuple[str, ...]) -> None:
        raise _missing_extra(path, problem)

    return missing


def _missing_extra(path: str, problem: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError(
        f"`homeroom {path}` needs a part that is not installed ({problem.name})",
        remedy=how_to_install(str(_extra(path))),
    )


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="homeroom")
def homeroom() -> None:
    """Adapt one picture, text and sound model together with other schools; no pupil's data leaves yours."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; ends the process with the error's exit code."""
    try:
        refuse_32_bit()
        return homeroom.main(args=arguments, prog_name="homeroom", standalone_mode=False) or 0
    except HomeroomError as problem:
        print_error(problem, sys.argv[1:] if arguments is None else arguments)
        sys.exit(problem.exit_code)
    except (MemoryError, ImportError) as problem:
        if isinstance(problem, ImportError) and not any(words in str(problem).lower() for words in NO_MEMORY_WORDS):
            raise
        click.echo("homeroom: memory ran out; what was done is kept", err=True)
        click.echo("  close other programs; `homeroom device train … --megabytes` chooses what fits", err=True)
        sys.exit(TrainError.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except UnicodeEncodeError as problem:
        click.echo(f"homeroom: a name is not UTF-8: {problem.object[:80]!a}", err=True)
        sys.exit(InputError.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("homeroom: stopped; what was done is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:
        _end_unread()
    except OSError as problem:
        if problem.errno not in DISK_FULL_ERRNOS:
            raise
        what = problem.filename or "what is printed"
        click.echo(f"homeroom: no space left for {what}; what was done is kept", err=True)
        sys.exit(DiskFullError.exit_code)


def print_error(problem: HomeroomError, arguments: list[str]) -> None:
    """Prints an error on stderr. arguments: the command line that ended so; the tests hold its remedy against it."""
    progress("", done=True)  # an error stands on a line of its own
    first = f"{problem.where}: {problem.what}" if problem.where else problem.what
    click.echo(f"homeroom: {_one_line(first)}", err=True)
    for detail in problem.details:
        click.echo(f"  {_one_line(detail)}", err=True)
    if problem.remedy:
        click.echo(f"  {_one_line(problem.remedy)}", err=True)


def _end_unread() -> NoReturn:
    """Ends the process where nobody reads what it prints any more; what is still to be printed goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(141)


def _one_line(text: str) -> str:
    """At most 600 characters on one line, without control characters that a file's content may have brought."""
    plain = one_line(text)
    return plain if len(plain) <= 600 else f"{plain[:597]}..."
