"""Records what a program does to a directory, in order: every write, truncation, sync, rename and deletion, by strace.

strace sees SQLite's own writes, which nothing inside Python does. Where it is not installed it is unpacked from its
Debian package into the cache, which needs no root; without either there is no recording.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CALLS = (
    "?open,openat,?creat,write,pwrite64,writev,pwritev,?ftruncate,?truncate,?fallocate,fsync,fdatasync,?rename,renameat,"
    "?renameat2,?unlink,unlinkat,?mkdir,mkdirat,?rmdir,close,?dup,?dup2,dup3,lseek"
)
LINE = re.compile(r"^(?:\d+ +)?(\w+)\((.*)\)\s+= (-?\d+)")


@dataclass(frozen=True)
class Write:
    file: int  # which file, whatever its name is at the time
    offset: int
    data: bytes


@dataclass(frozen=True)
class Truncate:
    file: int
    length: int


@dataclass(frozen=True)
class Sync:
    file: int


@dataclass(frozen=True)
class SyncDirectory:
    path: Path


@dataclass(frozen=True)
class Create:
    path: Path
    file: int


@dataclass(frozen=True)
class MakeDirectory:
    path: Path


@dataclass(frozen=True)
class Rename:
    source: Path
    target: Path


@dataclass(frozen=True)
class Remove:
    path: Path


@dataclass(frozen=True)
class Mark:
    """A line that the program printed: what it was told to be done by then."""

    text: str


Event = Write | Truncate | Sync | SyncDirectory | Create | MakeDirectory | Rename | Remove | Mark


@cache
def find_strace() -> str | None:
    """The path of strace, or None where it can neither be found nor unpacked."""
    if found := shutil.which("strace"):
        return found if _works([found]) else None
    folder = Path(os.environ.get("HOMEROOM_CACHE", Path.home() / ".cache" / "homeroom")) / "strace"
    program = folder / "usr" / "bin" / "strace"
    if not program.exists() and shutil.which("apt-get") and shutil.which("dpkg-deb"):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "strace", "libunwind8"], cwd=folder, capture_output=True, timeout=120)
        for package in folder.glob("*.deb"):
            subprocess.run(["dpkg-deb", "-x", package, folder], capture_output=True, timeout=60)
    for libraries in folder.glob("usr/lib/*-linux-gnu"):
        os.environ["LD_LIBRARY_PATH"] = f"{libraries}:{os.environ.get('LD_LIBRARY_PATH', '')}".rstrip(":")
    return str(program) if program.exists() and _works([str(program)]) else None


def _works(strace: list[str]) -> bool:
    try:
        return subprocess.run([*strace, "-e", "trace=close", "true"], capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def record(script: Path, home: Path, log: Path) -> list[Event]:
    """Run `python script home` and return what it did below `home`, and the lines it printed."""
    strace = find_strace()
    assert strace is not None
    command = [strace, "-f", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-o", str(log)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, sys.executable, str(script), str(home)], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    with log.open(encoding="ascii") as lines:
        return list(_events(_whole(lines), home))


def _whole(lines: Iterator[str] | object) -> Iterator[str]:
    """Lines of the log, those joined that another thread interrupted."""
    begun: dict[str, str] = {}
    for line in lines:  # type: ignore[attr-defined]
        pid = line.split(" ", 1)[0]
        if line.rstrip().endswith("<unfinished ...>"):
            begun[pid] = line.rsplit("<unfinished", 1)[0].rstrip()
        elif "resumed>" in line and pid in begun:
            yield begun.pop(pid) + line.split("resumed>", 1)[1]
        else:
            yield line


@dataclass
class _Open:
    file: int
    path: Path
    position: int
    append: bool
    directory: bool


def _events(lines: Iterator[str], home: Path) -> Iterator[Event]:
    opened: dict[int, _Open] = {}
    files: dict[Path, int] = {}
    sizes: dict[int, int] = {}
    for line in lines:
        match = LINE.match(line)
        if match is None or int(match[3]) < 0:
            continue
        call, result = match[1], int(match[3])
        strings = [bytes.fromhex(text.replace(r"\x", "")) for text in re.findall(r'"((?:\\x[0-9a-f]{2})*)"', match[2])]
        bare = re.sub(r'"[^"]*"(\.\.\.)?', "S", match[2])
        first = int(n[0]) if (n := re.findall(r"^\d+", bare)) else -1
        paths = [Path(os.fsdecode(string)) for string in strings]
        if call in ("open", "openat", "creat"):
            path = paths[0]
            if path.is_absolute() and path.is_relative_to(home):
                flags = bare
                new = "O_CREAT" in flags and path not in files
                if new:
                    files[path] = len(sizes)
                    sizes[files[path]] = 0
                    yield Create(path, files[path])
                file = files.get(path, -1)
                opened[result] = _Open(file, path, 0, "O_APPEND" in flags, file < 0)
                if "O_TRUNC" in flags and file >= 0 and not new:
                    sizes[file] = 0
                    yield Truncate(file, 0)
        elif call == "close":
            opened.pop(first, None)
        elif call in ("write", "pwrite64", "writev", "pwritev"):
            data = b"".join(strings)[:result]
            if first == 1:
                yield from (Mark(text) for text in data.decode().splitlines())
            elif first in opened:
                at = opened[first]
                if call.startswith("p"):
                    offset = int(bare.rsplit(",", 1)[1])
                else:
                    offset = sizes[at.file] if at.append else at.position
                    at.position = offset + len(data)
                sizes[at.file] = max(sizes[at.file], offset + len(data))
                yield Write(at.file, offset, data)
        elif call == "lseek" and first in opened:
            opened[first].position = result
        elif call == "ftruncate" and first in opened:
            sizes[opened[first].file] = int(bare.split(",")[1])
            yield Truncate(opened[first].file, sizes[opened[first].file])
        elif call in ("fsync", "fdatasync") and first in opened:
            yield SyncDirectory(opened[first].path) if opened[first].directory else Sync(opened[first].file)
        elif call in ("dup", "dup2", "dup3") and first in opened:
            opened[result] = opened[first]
        elif call.startswith("rename") and paths[0].is_relative_to(home):
            if paths[0] in files:
                files[paths[1]] = files.pop(paths[0])
            yield Rename(paths[0], paths[1])
        elif call.startswith("unlink") and paths[0].is_relative_to(home):
            files.pop(paths[0], None)
            yield Remove(paths[0])
        elif call.startswith("mkdir") and paths[0].is_relative_to(home):
            yield MakeDirectory(paths[0])
        elif call in ("truncate", "fallocate", "rmdir") and any(p.is_relative_to(home) for p in paths):
            raise ValueError(f"the recording does not know {call}")
