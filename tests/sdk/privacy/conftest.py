"""A secure round of eight devices, before and after they masked their updates."""

from __future__ import annotations

import pytest
from secagg_clients import Round, gather


@pytest.fixture
def shared() -> Round:
    """Eight devices that have shared: five open a secret, five agree on survivors, two may drop out."""
    found = gather(8)
    found.share()
    return found


@pytest.fixture
def masked(shared: Round) -> Round:
    shared.mask()
    return shared
