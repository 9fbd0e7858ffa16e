"""Where this Homeroom was installed from, and the command that adds a part of it from there.

No package index is known to have Homeroom, so a command that names an index alone could fail: what pip recorded of the
installation (PEP 610) says where the wheel, the clone or the repository is. Standard library only.
"""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit
from urllib.request import url2pathname

Kind = Literal["clone", "wheel", "address", "index"]
PACKAGE_FOLDER = Path(__file__).resolve().parents[1]  # of `homeroom`
FOLDER_IN_CLONE = Path("sdk") / "homeroom"


@dataclass(frozen=True)
class Origin:
    """Where an installation came from.

    kind: "clone", a folder with pyproject.toml; "wheel", a wheel or sdist file; "address", of another machine or of a
    repository; "index", what pip calls an index.
    source: the folder, the file or the address, as pip takes it; "" for an index.
    """

    kind: Kind
    source: str = ""

    @property
    def folder(self) -> Path | None:
        """The clone, or the folder that the wheel lay in; None where it came from elsewhere."""
        if self.kind == "clone":
            return Path(self.source)
        return Path(self.source).parent if self.kind == "wheel" else None


def find_origin() -> Origin:
    """The origin of the running Homeroom; an index where nothing else is recorded."""
    clone = PACKAGE_FOLDER.parents[len(FOLDER_IN_CLONE.parts) - 1]
    if clone / FOLDER_IN_CLONE == PACKAGE_FOLDER and (clone / "pyproject.toml").is_file():
        return Origin("clone", str(clone))
    try:
        record = metadata.distribution("homeroom").read_text("direct_url.json")
        return _origin_of(json.loads(record)) if record else Origin("index")
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return Origin("index")  # a record that cannot be read says nothing


def _origin_of(record: dict[str, Any]) -> Origin:
    """record: direct_url.json."""
    address = record["url"]
    if "vcs_info" in record:
        return Origin("address", f"{record['vcs_info']['vcs']}+{address}")
    if not address.startswith("file:"):
        return Origin("address", address)
    path = url2pathname(urlsplit(address).path)
    return Origin("clone" if "dir_info" in record else "wheel", path)


def how_to_install(*extras: str) -> str:
    """The command that installs extras (names in pyproject.toml) from where this Homeroom came from.

    Where that folder or file is not there any more, the command names it in words, and says so.
    """
    origin, wanted = find_origin(), f"[{','.join(extras)}]"
    if origin.kind == "index":
        return f"pip install {quoted('homeroom' + wanted)}"
    if origin.kind == "address":
        return f"pip install {quoted(f'homeroom{wanted} @ {origin.source}')}"
    path = Path(origin.source)
    if origin.kind == "clone":
        source = "." if path == Path.cwd() else str(path)
        gone = "" if (path / "pyproject.toml").is_file() else ", with the folder of your clone: it was there"
    else:
        source, gone = str(path), "" if path.is_file() else ", with the folder of that file: it was there"
    return f"pip install {quoted(source + wanted)}{gone}"


def quoted(word: str | Path) -> str:
    """A word of a command, for this system's shell."""
    return f'"{word}"' if os.name == "nt" else shlex.quote(str(word))
