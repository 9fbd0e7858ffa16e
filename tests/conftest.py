"""Fixtures that tests of every part share; what builds them is in `tiny.py`."""

from __future__ import annotations

import pytest
import tiny


@pytest.fixture(scope="session")
def tiny_bundle() -> tiny.Tiny:
    """A complete signed bundle of tiny random encoders; read it, never change it."""
    return tiny.bundle()
