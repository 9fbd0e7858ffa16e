"""The command line: `homeroom device …`, `homeroom inspect`, and what the exporter and the aggregator add.

A HomeroomError ends in one or two lines on stderr and its own exit code (`docs/cli.md`), never in a traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from homeroom.errors import DiskFullError, HomeroomError, MissingExtraError, TrainError
from homeroom.system.files import DISK_FULL_ERRNOS
from homeroom.system.hardware import refuse_32_bit

ELSEWHERE = {
    "export": "exporter",
    "to-peft": "exporter",
    "trust": "aggregator",
    "serve": "aggregator",
    "invite": "aggregator",
    "members": "aggregator",
    "revoke": "aggregator",
    "consent": "aggregator",
    "recover": "aggregator",
    "audit": "aggregator",
    "dashboard": "aggregator",
    "rebuild": "aggregator",
    "rollback": "aggregator",
    "succeed": "aggregator",
    "privacy": "aggregator",
    "carry": "aggregator",
    "backup": "aggregator",
    "restore": "aggregator",
    "simulate": "aggregator",
}
NEIGHBOURS = {"exporter": "homeroom_exporter.cli", "aggregator": "homeroom_aggregator.cli.main"}
HERE = {"device": "homeroom.cli.device", "inspect": "homeroom.cli.inspect", "doctor": "homeroom.cli.doctor"}
MORE = {  # modules that add commands to a group
    "device": ("homeroom.cli.network", "homeroom.cli.offline", "homeroom.cli.explain")
}


class Commands(click.Group):
    """Loads a sub-command when it is asked for, so that `homeroom --help` needs no extra."""

    def list_commands(self, _: click.Context) -> list[str]:
        return [*HERE, *ELSEWHERE]

    def get_command(self, _: click.Context, name: str) -> click.Command | None:
        if name in HERE:
            found = _named(import_module(HERE[name]).commands, name)
            for module in MORE.get(name, ()):
                import_module(module)
            return found
        if name not in ELSEWHERE:
            return None
        try:
            return _named(import_module(NEIGHBOURS[ELSEWHERE[name]]).commands, name)
        except ModuleNotFoundError as problem:
            return _missing(name, ELSEWHERE[name], problem)

    def invoke(self, context: click.Context) -> Any:
        """Run the sub-command; what it imports when it runs may be missing too."""
        try:
            return super().invoke(context)
        except ModuleNotFoundError as problem:
            name = context.invoked_subcommand or ""
            if name not in ELSEWHERE:
                raise
            raise _missing_extra(name, ELSEWHERE[name], problem) from None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, ABOUT[name]) for name in self.list_commands(context)])


ABOUT = {
    "device": "What a school does: add samples, train, predict, join, sync, forget.",
    "inspect": "Verify a bundle and say what it holds.",
    "doctor": "Is this machine fit, and what is missing?",
    "export": "Make a bundle from a recipe [exporter].",
    "to-peft": "Write what LoRA learned as a PEFT checkpoint [exporter].",
    "trust": "Make and certify the institution's keys [aggregator].",
    "serve": "Serve an aggregator [aggregator].",
    "invite": "Write invitations for devices [aggregator].",
    "members": "List keys, roles and schools of an aggregator [aggregator].",
    "revoke": "Let a key open nothing any more [aggregator].",
    "consent": "Record a school's consent, or that it was withdrawn [aggregator].",
    "recover": "Give an aggregator a newly certified key [aggregator].",
    "audit": "Show and verify an aggregator's audit log [aggregator].",
    "succeed": "Go on with a newer bundle, the same key and the same devices [aggregator].",
    "carry": "Take in what devices without a network sent on a stick [aggregator].",
    "dashboard": "Print a link that opens an aggregator's dashboard [aggregator].",
    "rebuild": "Recompute a global version from the log [aggregator].",
    "rollback": "Release an older global version again, under a new number [aggregator].",
    "privacy": "Say what private rounds promised and spent [aggregator].",
    "backup": "Copy an aggregator while it serves [aggregator].",
    "restore": "Put a backup of an aggregator in place [aggregator].",
    "simulate": "Run a federation of virtual schools in one process [aggregator].",
}

NO_ROOM = ("bad_alloc", "failed to map segment", "cannot allocate memory", "Cannot allocate memory")  # of a library


def _named(commands: list[click.Command], name: str) -> click.Command | None:
    return next((command for command in commands if command.name == name), None)


def _missing(name: str, extra: str, problem: ModuleNotFoundError) -> click.Command:
    @click.command(name, context_settings={"ignore_unknown_options": True}, add_help_option=False)
    @click.argument("rest", nargs=-1)
    def missing(rest: tuple[str, ...]) -> None:
        raise _missing_extra(name, extra, problem)

    return missing


def _missing_extra(name: str, extra: str, problem: ModuleNotFoundError) -> MissingExtraError:
    return MissingExtraError(
        f"`homeroom {name}` needs a part that is not installed ({problem.name})",
        remedy=f"pip install 'homeroom[{extra}]'",
    )


@click.group(cls=Commands)
@click.version_option(package_name="homeroom")
def homeroom() -> None:
    """Adapt one picture, text and sound model together with other schools; no pupil's data leaves yours."""


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; ends the process with the error's exit code."""
    try:
        refuse_32_bit()
        return homeroom.main(args=arguments, prog_name="homeroom", standalone_mode=False) or 0
    except HomeroomError as problem:
        first = f"{problem.where}: {problem.what}" if problem.where else problem.what
        click.echo(f"homeroom: {_one_line(first)}", err=True)
        if problem.remedy:
            click.echo(f"  {_one_line(problem.remedy)}", err=True)
        sys.exit(problem.exit_code)
    except (MemoryError, ImportError) as problem:
        if isinstance(problem, ImportError) and not any(words in str(problem) for words in NO_ROOM):
            raise
        click.echo("homeroom: memory ran out; what was done is kept", err=True)
        click.echo("  close other programs, or train with --megabytes, so that what is chosen fits", err=True)
        sys.exit(TrainError.exit_code)
    except click.ClickException as problem:
        problem.show()
        sys.exit(problem.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("homeroom: stopped; what was done is kept", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(141)
    except OSError as problem:
        if problem.errno not in DISK_FULL_ERRNOS:
            raise
        what = problem.filename or "what is printed"
        click.echo(f"homeroom: no space left for {what}; what was done is kept", err=True)
        sys.exit(DiskFullError.exit_code)


def _one_line(text: str) -> str:
    """At most 600 characters on one line, without control characters that a file's content may have brought."""
    plain = "".join(c if c.isprintable() else " " for c in text)
    return plain if len(plain) <= 600 else f"{plain[:597]}..."
