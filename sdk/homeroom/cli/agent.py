"""`homeroom device run`, `agent`, `page`, `support-bundle`: the agent."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path
from typing import Any

import click

from homeroom.cli.network import fetch_device
from homeroom.cli.options import SPANS, as_json, budget_of, budget_options, opened, print_record, refuse_idle, say
from homeroom.cli.parameters import FOLDER, INVITATION, OUT_FILE, PATH, Finite, Whole
from homeroom.errors import InputError
from homeroom.system.installation import quoted

LOG_FORMAT = "%(asctime)s %(levelname)s %(message)s"
LOG_BYTES, LOG_FILES = 500_000, 2


@click.command()
@click.argument("directory", type=FOLDER)
@click.option("--inbox", type=FOLDER, help="Add what is put into this folder.")
@click.option("--window", multiple=True, help=f"Hours in which it may train; any if none is given. {SPANS}")
@click.option("--minutes", type=Finite(0, min_open=True), default=20.0, show_default=True, help="Of training a day.")
@budget_options
@click.option("--sync-minutes", type=Finite(1), default=60.0, show_default=True, help="Between two syncs.")
@click.option("--settled", type=Finite(0), show_default="30; 0 with --once", help="Seconds without a change.")
@click.option("--port", type=Whole(0, 65535), default=0, show_default=True, help="Of the page; 0 takes a free one.")
@click.option("--no-page", is_flag=True, help="Serve no page.")
@click.option("--once", is_flag=True, help="Do what there is to do, and end; code 1 if something went wrong.")
@click.option("--bundle", type=PATH, help="Bundle to install; needed the first time.")
@click.option("--root", help="Fingerprint of the institution's root key.")
@click.option("--join", type=INVITATION, help="Join with this invitation first, unless the device has joined.")
@click.pass_context
def run(
    context: click.Context,
    /,
    directory: Path,
    inbox: Path | None,
    window: tuple[str, ...],
    minutes: float,
    sync_minutes: float,
    settled: float | None,
    port: int,
    no_page: bool,
    once: bool,
    bundle: Path | None,
    root: str | None,
    join: str | Path | None,
    **limits: Any,
) -> None:
    """Run the agent of DIRECTORY: take in, train in its hours, sync when it can, until it is stopped.

    An invitation in the inbox waits for a person's yes: on the page, by --join, or by `homeroom device join`.
    """
    from homeroom.agent.inbox import SETTLED_S, refused_entries
    from homeroom.agent.loop import Agent, AgentSettings, lower_priority
    from homeroom.agent.page import PageServer
    from homeroom.device.resources.budget import read_weekly_hours
    from homeroom.system.files import make_directory

    _refuse_idle(context, inbox, once, no_page)
    settings = AgentSettings(
        directory=directory,
        inbox=inbox,
        window=tuple(map(read_weekly_hours, window)),
        budget=budget_of(minutes, limits),
        sync_minutes=sync_minutes,
        settled_s=settled if settled is not None else 0.0 if once else SETTLED_S,
        root=root,
    )
    _prepare(directory, inbox, bundle, root, join)
    if inbox is not None:
        make_directory(inbox)
    _log_to(directory)
    lower_priority()
    agent = Agent(settings)
    if once:
        refused = len(refused_entries(inbox)) if inbox is not None else 0
        agent.cycle()
        _show(directory)
        context.exit(1 if agent.status.problems or agent.status.refused_entries > refused else 0)
    signal.signal(signal.SIGTERM, _stop)
    page = None if no_page else PageServer(agent, port)
    try:
        agent.run()
    except KeyboardInterrupt:
        agent.say(doing="stopped")
    finally:
        if page is not None:
            page.close()


def _prepare(
    directory: Path, inbox: Path | None, bundle: Path | None, root: str | None, join: str | Path | None
) -> None:
    """Opens the device, so that it fails at once where the agent could not work; joins where a person said so."""
    from homeroom.agent.inbox import left_entries
    from homeroom.store.open import is_device

    if bundle is None and not is_device(directory):
        if join is not None:
            fetch_device(directory, join)
        elif inbox and (waiting := [one for one in left_entries(inbox, None).waiting if one.kind == "invitation"]):
            raise InputError(
                f"there is no device yet, and {waiting[0].name} in the inbox waits for your yes: it {waiting[0].what}",
                where=str(directory),
                remedy=f"homeroom device join {quoted(directory)} {quoted(inbox / waiting[0].name)}"
                ", then run this again",
            )
    with opened(directory, bundle, root) as device:
        if join is not None and not device.status()["joined"]:
            device.join(join)


def _refuse_idle(context: click.Context, inbox: Path | None, once: bool, no_page: bool) -> None:
    if inbox is None:
        refuse_idle(context, "no --inbox", ("settled",))
    if once:
        refuse_idle(context, "--once", ("port", "sync_minutes"))
    if no_page:
        refuse_idle(context, "--no-page", ("port",))


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def agent(directory: Path) -> None:
    """Say how the agent of DIRECTORY stands: queued, syncing, last seen, disk full, clock wrong, bundle too old."""
    _show(directory)


@click.command()
@click.argument("directory", type=FOLDER)
@as_json
def page(directory: Path) -> None:
    """Print the address of the page that the agent of DIRECTORY serves on this machine, with its token."""
    from homeroom.agent.page import find_page

    served = find_page(directory)
    if served is None:
        raise InputError("no agent serves a page for it", where=str(directory), remedy="homeroom device run …")
    print_record({"url": served.url})
    say(served.url)


@click.command("support-bundle")
@click.argument("directory", type=FOLDER)
@click.option("--out", type=OUT_FILE, default=Path("homeroom-support.zip"), show_default=True)
@as_json
def support_bundle(directory: Path, out: Path) -> None:
    """Write a zip with what a helper needs to know of DIRECTORY, and nothing about a pupil."""
    from homeroom.agent.support_bundle import write_support

    names = write_support(directory, out)
    print_record({"file": out, "parts": names})
    say(f"{out}: {', '.join(names)}")


def _show(directory: Path) -> None:
    import msgspec

    from homeroom.agent import status

    present = status.read_status(directory)
    if present is None:
        raise InputError("no agent has run here", where=str(directory), remedy="homeroom device run …")
    print_record({"words": dict(status.status_lines(present)), **msgspec.to_builtins(present)})
    for name, text in status.status_lines(present):
        say(f"{name}: {text}")


def _log_to(directory: Path) -> None:
    """Log to stderr and to a file that a support bundle takes along; no line names anybody."""
    from homeroom.agent import status
    from homeroom.agent.support_bundle import LOG_FILE
    from homeroom.system.files import PrivateLogFile, make_directory

    folder = directory / status.AGENT_FOLDER
    make_directory(folder)
    file = PrivateLogFile(folder / LOG_FILE, maxBytes=LOG_BYTES, backupCount=LOG_FILES)
    logger = logging.getLogger("homeroom.agent")
    logger.setLevel(logging.INFO)
    for handler in (logging.StreamHandler(sys.stderr), file):
        handler.setFormatter(logging.Formatter(LOG_FORMAT))
        logger.addHandler(handler)


def _stop(*_: Any) -> None:
    raise KeyboardInterrupt
