"""The one lock of a file: one process at a time, of this version or 0.1.0, and free once its process is dead."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homeroom.errors import StoreError
from homeroom.system.sqlite import lock_file

WHEEL = next((Path(__file__).parents[2] / "data" / "0.1.0").glob("*.whl"))
OURS = "from homeroom.system.sqlite import lock_file; lock = lock_file(path)"
RELEASED = "from homeroom.store.opening import _lock; lock = _lock(path.parent)"


def holder(path: Path, statement: str, *, released: bool) -> subprocess.Popen[Any]:
    """A process that takes the lock, says whether it has it, and holds it until its standard input ends."""
    code = f"""
import sys
if {released}:
    sys.path.insert(0, {str(WHEEL)!r})
from pathlib import Path
from homeroom.errors import StoreError
path = Path({str(path)!r})
try:
    {statement}
    print("has it", flush=True)
except StoreError as problem:
    print(problem, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.parametrize(("statement", "released"), [(OURS, False), (RELEASED, True)])
def test_a_process_that_holds_the_lock_keeps_others_out_until_it_dies(
    statement: str, released: bool, tmp_path: Path
) -> None:
    path = tmp_path / "lock"
    with holder(path, statement, released=released) as process:
        assert process.stdout
        assert process.stdout.readline().strip() == "has it"
        with pytest.raises(StoreError, match=r"lock: is in use by another process"):
            lock_file(path)
        process.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        process.wait()
    lock = lock_file(path)
    assert path.stat().st_mode & 0o777 == 0o600 or sys.platform == "win32"
    with holder(path, statement, released=released) as process:
        said, _ = process.communicate()
        assert "in use by another process" in said
    with pytest.raises(StoreError, match="in use"):
        lock_file(path)  # not twice in one process either
    lock.close()
    lock_file(path).close()
