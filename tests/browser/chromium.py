"""Debian's own Chromium for the tests, without root: on the PATH, or downloaded with apt and unpacked in a cache."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import platformdirs

if TYPE_CHECKING:
    from playwright.sync_api import Browser

PACKAGE = "chromium-headless-shell"
ON_PATH = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
LIMIT_S = 600  # for the download of about 90 MB
OPTIONS = ("-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1")


class NoChromiumError(Exception):
    """There is none, and none can be had here; the message says why."""


@dataclass(frozen=True)
class Chromium:
    program: Path
    libraries: tuple[Path, ...] = field(default=())


def find() -> Chromium:
    """NoChromiumError where there is none on the PATH and no Debian to take one from."""
    for name in ON_PATH:
        if found := shutil.which(name):
            return Chromium(Path(found))
    root = cache_folder() / PACKAGE
    if not root.is_dir():
        _unpack(root)
    return Chromium(root / "usr/lib/chromium" / PACKAGE, tuple(sorted(_libraries(root / "usr/lib"))))


def _libraries(folder: Path) -> Iterator[Path]:
    for pattern in ("*-linux-gnu", "*-linux-gnu/pulseaudio"):
        yield from folder.glob(pattern)


def cache_folder() -> Path:
    return Path(os.environ.get("HOMEROOM_CACHE") or platformdirs.user_cache_dir("homeroom"))


def _unpack(root: Path) -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoChromiumError(f"no Chromium on the PATH, and {tool} is not installed")
    downloads, scratch = root.with_suffix(".debs"), root.with_suffix(".incoming")
    for folder in (downloads, scratch):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    # What it needs and the system lacks; nothing is installed.
    planned = _run(["apt-get", *OPTIONS, "-s", "--no-install-recommends", "install", PACKAGE], downloads)
    names = re.findall(r"^Inst (\S+)", planned, re.M)
    _run(["apt-get", *OPTIONS, "-q", "download", *names], downloads)
    for archive in sorted(downloads.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(archive), str(scratch)], downloads)
    shutil.rmtree(downloads)
    scratch.rename(root)


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoChromiumError(f"{command[0]} took longer than {LIMIT_S // 60} minutes") from None
    if done.returncode:
        raise NoChromiumError(f"{command[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


@contextmanager
def launched(chromium: Chromium) -> Iterator[Browser]:
    """The browser, driven by playwright."""
    from playwright.sync_api import sync_playwright

    environment = dict(os.environ)
    if chromium.libraries:
        known = [environment["LD_LIBRARY_PATH"]] if "LD_LIBRARY_PATH" in environment else []
        environment["LD_LIBRARY_PATH"] = os.pathsep.join([*map(str, chromium.libraries), *known])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium.program, env=environment)
        try:
            yield browser
        finally:
            browser.close()
