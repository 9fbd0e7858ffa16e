"""Fixtures that tests of every part share; what builds them is in `tiny.py`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import httpx
import pytest
import solvable
import tiered
import tiny
from hypothesis import HealthCheck, settings

from homeroom.runtime.bundle import Bundle

# A busy machine is no failure: the first example of a test may pay for an import. And a test has the same examples in
# each run, so that none fails by chance; the fuzz tests marked `extra` draw new ones.
settings.register_profile("homeroom", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("homeroom")
os.nice = lambda _: 0  # the agent's command lowers the priority of its process, which here is that of all tests


MEMORY, ROOM_BYTES = Path("/dev/shm"), 4 << 30  # a file system in memory, if programs may run there


def has_room(folder: Path) -> bool:
    """Whether tests may keep their files there."""
    if not hasattr(os, "ST_NOEXEC") or not os.access(folder, os.W_OK):
        return False
    facts = os.statvfs(folder)
    return facts.f_bavail * facts.f_frsize >= ROOM_BYTES and not facts.f_flag & os.ST_NOEXEC


# Stores and logs wait for the disk at each step, tens of thousands of times in a run; in memory that takes no time.
if has_room(MEMORY):
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))
# A client reads the file of all authorities, 0.05 s each time.
httpx._transports.default.create_ssl_context = cache(httpx._transports.default.create_ssl_context)


@pytest.fixture
def hub_offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with HF_HUB_OFFLINE; the hub's library keeps its session, which would stay offline after the test."""
    from huggingface_hub.utils import reset_sessions

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    reset_sessions()
    yield
    reset_sessions()


@pytest.fixture(autouse=True, scope="session")
def possible_remedies() -> Iterator[None]:
    """An error that a command line prints names only options that its command has."""
    from test_remedies import unknown_options

    from homeroom.cli import main
    from homeroom.errors import HomeroomError

    printed = main.print_error

    def checked(problem: HomeroomError, arguments: list[str]) -> None:
        printed(problem, arguments)
        assert unknown_options(problem, arguments) == set(), f"{arguments[:3]}: {problem}"

    main.print_error = checked
    yield
    main.print_error = printed


@dataclass
class Attack:
    """What an attacker got (bytes, devices, versions, ...) and what honest devices noticed."""

    got: int = 0
    noticed: str = ""


@pytest.fixture
def attack(record_property: pytest.RecordProperty) -> Iterator[Attack]:
    """The outcome of a test marked `attack`, which it fills in; fails where the attacker got anything."""
    outcome = Attack()
    yield outcome
    record_property("got", int(outcome.got))
    record_property("noticed", outcome.noticed)
    assert outcome.got == 0, f"the attacker got {outcome.got}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Attacks carry their section and title into the report that `benchmarks/security.py` reads.

    Files with slow tests come first, so that none is left to one of several workers at the end.
    """
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)
    for item in items:
        for mark in item.iter_markers("attack"):
            section, title = mark.args
            item.user_properties += [("section", section), ("attack", title)]


@pytest.fixture(scope="session")
def tiered_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with smaller adapters inside the whole one; read it, never change it."""
    return tiered.build(tmp_path_factory.mktemp("tiered"))


@pytest.fixture(scope="session")
def tiny_bundle() -> tiny.Tiny:
    """A complete signed bundle of tiny random encoders; read it, never change it."""
    return tiny.bundle()


@pytest.fixture(scope="session")
def solved_bundle(tmp_path_factory: pytest.TempPathFactory) -> tiny.Tiny:
    """The tiny bundle with statistics, from which heads are solved; read it, never change it."""
    pytest.importorskip("torch")
    return solvable.with_statistics(tmp_path_factory.mktemp("solved") / "bundle")


@pytest.fixture(scope="session")
def small_starter() -> Path:
    """The file of a starter bundle with tiny random encoders; read it, never change it."""
    pytest.importorskip("torch")
    import small_starter

    return small_starter.bundle()
