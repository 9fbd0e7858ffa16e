"""Fixtures that tests of every part share; what builds them is in `tiny.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import solvable
import tiered
import tiny
from hypothesis import settings

from homeroom.runtime.bundle import Bundle

# A busy machine is no failure: the first example of a test may pay for an import.
settings.register_profile("homeroom", deadline=None)
settings.load_profile("homeroom")


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
    """Attacks carry their section and title into the report that `benchmarks/security.py` reads."""
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
    return solvable.with_statistics(tmp_path_factory.mktemp("solved") / "bundle")
