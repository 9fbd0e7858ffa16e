"""Fill the disk and see what the store does: `python work_full.py HOME disk|limit [ROOM]`.

Prints `all held` at the end. ROOM: bytes that are left on the disk, so that a step may fail at any of its writes.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.devices import make_sample, open_store, theta
from faults.work_store import describe
from homeroom.errors import DiskFullError, StoreError
from homeroom.store import Store
from homeroom.system.files import write_durable

LIMIT_BYTES = 300_000


def refused(attempt: Callable[[], object], kind: type[StoreError]) -> bool:
    try:
        attempt()
    except kind:
        return True
    return False


def fill(home: Path, way: str, room: int) -> Callable[[], None]:
    """Leave so many bytes on the disk, or let no file grow; return what frees it again."""
    if way == "disk":
        ballast = home / "ballast"
        with ballast.open("wb", buffering=0) as file:
            for size in (4096, 512, 1):
                while True:
                    try:
                        if not file.write(bytes(size)):
                            break
                    except OSError:
                        break
            file.truncate(max(0, file.tell() - room))
        return ballast.unlink
    import resource

    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT_BYTES, hard))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def attempts(store: Store, home: Path) -> dict[str, Callable[[], object]]:
    return {
        "add": lambda: store.add([make_sample(number, "c") for number in range(100, 300)]),
        "state": lambda: store.versions.save_state(bytes(800_000), "tag", ["a"]),
        "version": lambda: store.versions.put(theta(0).repeat(1000), "local", 0, {}, ["a"]),
        "file": lambda: write_durable(home / "file", bytes(900_000)),
    }


def main(home: Path, way: str, room: int = 0) -> None:
    with open_store(home) as store:
        store.add([make_sample(number, "ab"[number % 2]) for number in range(6)])
        store.put_secret("identity.key", b"key")
        before = describe(store)
        free = fill(home, way, room)
        kind = DiskFullError if way == "disk" else StoreError  # SQLite takes any other failed write for a bad disk
        for name, attempt in attempts(store, home).items():
            told = refused(attempt, kind)
            assert told or room, f"{name} was not refused"
            assert (home / "file").exists() == (name == "file" and not told), name
            now = describe(store)
            assert (now == before) == (told or name == "file"), name
            before = now
        if way == "disk":
            told = refused(lambda: store.forget("a"), DiskFullError)
            assert told or room, "forget"
            assert not told or describe(store) == before, "forget"
    refused(
        lambda: open_store(home).close(), StoreError
    )  # may need space itself; what counts is that nothing is lost by it
    free()
    with open_store(home) as store:
        after = describe(store)
        assert after == before or (way == "disk" and "a" not in after["subjects"]), after
        store.add([make_sample(7, "b")])
        store.forget("b")
        assert store.damage() == []
    print("all held")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
