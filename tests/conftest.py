"""Fixtures that tests of every part share; what builds them is in `tiny.py`."""

from __future__ import annotations

import pytest
import tiered
import tiny
from hypothesis import settings

from homeroom.runtime.bundle import Bundle

# A busy machine is no failure: the first example of a test may pay for an import.
settings.register_profile("homeroom", deadline=None)
settings.load_profile("homeroom")


@pytest.fixture(scope="session")
def tiered_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with smaller adapters inside the whole one; read it, never change it."""
    return tiered.build(tmp_path_factory.mktemp("tiered"))


@pytest.fixture(scope="session")
def tiny_bundle() -> tiny.Tiny:
    """A complete signed bundle of tiny random encoders; read it, never change it."""
    return tiny.bundle()
