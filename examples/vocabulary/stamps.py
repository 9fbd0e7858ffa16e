"""Where the lesson's pictures, captions and spoken captions come from: Debian's stamps for children, without root."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import platformdirs

PACKAGE, VERSION = "tuxpaint-stamps-default", "2022.06.04-1"
LIMIT_S = 900  # for a download
LANGUAGES = ("en", "es", "fr")
INSIDE = "usr/share/tuxpaint/stamps"
SOUNDS = {"en": "_desc.ogg", "es": "_desc_es.ogg", "fr": "_desc_fr.ogg"}


@dataclass(frozen=True)
class Stamp:
    """One picture; `captions` and `sounds` by language, the sounds as paths."""

    name: str  # folder/…/stem
    category: str  # top folder
    picture: Path
    captions: dict[str, str]
    sounds: dict[str, Path]


class NoStampsError(Exception):
    """The package cannot be had here; the message says why."""


def cache_folder() -> Path:
    return Path(os.environ.get("HOMEROOM_CACHE") or platformdirs.user_cache_dir("homeroom"))


def fetch() -> Path:
    """The folder of stamps, downloaded and unpacked once (161 MB); NoStampsError where apt or dpkg is absent."""
    folder = cache_folder() / f"{PACKAGE}_{VERSION}"
    if (folder / INSIDE).is_dir():
        return folder / INSIDE
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise NoStampsError(f"{tool} is not installed")
    downloads = cache_folder() / "debs"
    downloads.mkdir(parents=True, exist_ok=True)
    if not list(downloads.glob(f"{PACKAGE}_*.deb")):
        print(f"Downloading {PACKAGE} (161 MB) …", flush=True)
        _download(downloads)
    archive = next(downloads.glob(f"{PACKAGE}_*.deb"))
    scratch = folder.with_suffix(".incoming")
    shutil.rmtree(scratch, ignore_errors=True)
    _run(["dpkg-deb", "-x", str(archive), str(scratch)], downloads)
    scratch.rename(folder)
    return folder / INSIDE


def _download(folder: Path) -> None:
    """The version that was split, or else the distribution's: pictures that differ are found by their digests."""
    state = folder / "apt"
    # Lists of our own need no root, where the system has none or may not be refreshed by us.
    own = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]
    own += ["-o", "APT::Sandbox::User=", "-o", "Debug::NoLocking=1"]
    for options in ([], own):
        if options:
            for part in ("lists/partial", "cache/archives/partial"):
                (state / part).mkdir(parents=True, exist_ok=True)
            _run(["apt-get", *options, "-q", "update"], folder)
        for wanted in (f"{PACKAGE}={VERSION}", PACKAGE):
            try:
                _run(["apt-get", *options, "-q", "download", wanted], folder)
                return
            except NoStampsError as problem:
                last = problem
    raise last


def _run(command: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        raise NoStampsError(f"{' '.join(command[:1])} took longer than {LIMIT_S // 60} minutes") from None
    if done.returncode:
        raise NoStampsError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[-300:]}")


def read(folder: Path) -> list[Stamp]:
    """All stamps with a picture and an English caption, by name; mirrored and flipped copies are left out."""
    stamps = []
    for text in sorted(folder.rglob("*.txt")):
        stem = text.with_suffix("")
        picture = next((p for p in (stem.with_suffix(".png"), stem.with_suffix(".svg")) if p.is_file()), None)
        captions = _captions(text)
        if picture is None or not captions.get("en"):
            continue
        name = stem.relative_to(folder).as_posix()
        sounds = {lang: stem.with_name(stem.name + end) for lang, end in SOUNDS.items()}
        stamps.append(
            Stamp(name, name.split("/")[0], picture, captions, {lang: p for lang, p in sounds.items() if p.is_file()})
        )
    return stamps


def _captions(path: Path) -> dict[str, str]:
    """The first line is English; the others are `language.utf8=caption`."""
    lines = path.read_text("utf-8", errors="replace").splitlines()
    found = {"en": lines[0].strip()} if lines else {}
    for line in lines[1:]:
        language, separator, caption = line.partition(".utf8=")
        if separator and language in LANGUAGES and caption.strip():
            found[language] = caption.strip()
    return found
