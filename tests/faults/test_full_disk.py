"""A disk that is really full: a small file system of our own where the system allows one, and a limit on files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

WORK = Path(__file__).with_name("work_full.py")


UNSHARE = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
MOUNT = "mount -t tmpfs -o size=1m none /mnt && "


@cache
def own_file_system() -> list[str] | None:
    """The command that runs another with a private tmpfs of 1 MB on /mnt, or None where that is not allowed."""
    if not shutil.which("unshare"):
        return None
    command = [*UNSHARE, MOUNT + 'exec "$@"', "sh"]
    tried = subprocess.run([*command, "true"], capture_output=True, timeout=20)
    return command if tried.returncode == 0 else None


@pytest.mark.skipif(own_file_system() is None, reason="this system lets no user mount a file system of their own")
def test_on_a_full_file_system_nothing_changes_and_it_is_said_so() -> None:
    done = subprocess.run(
        [*(own_file_system() or ()), sys.executable, str(WORK), "/mnt", "disk"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all held" in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_when_files_may_not_grow_nothing_changes_and_it_is_said_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(WORK), str(tmp_path), "limit"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all held" in done.stdout


OPEN = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from faults.devices import open_store
from homeroom.errors import StoreError
try:
    open_store(Path("/mnt")).close()
    print("opened")
except StoreError as problem:
    print(problem)
"""


@pytest.mark.skipif(own_file_system() is None, reason="this system lets no user mount a file system of their own")
def test_a_read_only_file_system_is_one_clear_error() -> None:
    script = f'{MOUNT} "$@" && mount -o remount,ro /mnt && "$@" && mount -o remount,rw /mnt && "$@"'
    command = [*UNSHARE, script, "sh", sys.executable, "-c", OPEN, str(WORK.parent.parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    first, second, third = done.stdout.strip().splitlines()
    assert (first, third) == ("opened", "opened"), done.stderr
    assert "cannot be opened for writing" in second
