"""`homeroom quickstart`: a first lesson with the starter bundle."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from homeroom.cli.options import MACHINE, as_json, asked, hint, print_record, refuse_idle, say
from homeroom.cli.parameters import FILE, OUT_FOLDER
from homeroom.errors import InputError
from homeroom.system.installation import quoted

DEFAULT_FOLDER = "homeroom-quickstart"


@click.command()
@click.argument("folder", type=OUT_FOLDER, default=DEFAULT_FOLDER)
@click.option("--bundle", type=FILE, help="The starter bundle, where it is neither beside the wheel nor here.")
@click.option("--district", is_flag=True, help="Three schools and a server on this machine instead [aggregator].")
@click.option("--no-page", is_flag=True, help="Do not open the device's page at the end; without a terminal none is.")
@as_json
@click.pass_context
def quickstart(context: click.Context, folder: Path, bundle: Path | None, district: bool, no_page: bool) -> None:
    """Make a device in FOLDER (homeroom-quickstart) that learns forty drawings, words and sounds, and ask it.

    Everything is made by this project and stays on this machine. Takes a minute or two, and no torch.
    """
    from homeroom.cli.quickstart_district import run_district
    from homeroom.quickstart.session import run_session
    from homeroom.quickstart.starter import find_starter
    from homeroom.system.files import removed_on_failure

    if asked(MACHINE):
        refuse_idle(context, "--json", ("no_page",))
    if district:
        refuse_idle(context, "--district", ("no_page",))
    if folder.exists():
        raise InputError("is there already", where=str(folder), remedy="name a new folder, or remove it first")
    starter = find_starter(bundle)
    if district:
        with removed_on_failure(folder):
            result = run_district(folder, starter, say)
        print_record(result)
        say(f"all of it is in {folder}: remove the folder to undo it")
        return
    with removed_on_failure(folder):
        session = run_session(folder, starter, say)
    print_record({**asdict(session), "score": session.score})
    say(f"that took {session.seconds:.0f} s; {folder} has all of it: remove the folder to undo it")
    device = quoted(session.device)
    hint(f'ask it yourself:  homeroom device predict {device} word="a small cat"')
    hint(f"your own lesson:  homeroom device add {device} FOLDER, with pictures in folders animals, plants, …")
    if no_page or asked(MACHINE) or not sys.stdout.isatty():
        hint(f"its page:         homeroom device run {device}, then homeroom device page {device}")
        return
    _show_page(Path(session.device))


def _show_page(directory: Path) -> None:
    """Serves the device's page and opens it, until Ctrl-C."""
    import webbrowser

    from homeroom.agent.loop import Agent, AgentSettings
    from homeroom.agent.page import PageServer

    agent = Agent(AgentSettings(directory=directory))
    page = PageServer(agent)
    try:
        say(f"its page, until Ctrl-C: {page.address.url}")
        if _has_screen():
            webbrowser.open(page.address.url)
        agent.run()
    except KeyboardInterrupt:
        say("the page is closed; what was learned is kept")
    finally:
        page.close()


def _has_screen() -> bool:
    """Whether a browser would have a window; one that runs in the terminal would take it away from this command."""
    return sys.platform != "linux" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
