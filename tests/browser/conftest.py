"""The browser that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from browser import chromium

if TYPE_CHECKING:
    from playwright.sync_api import Browser


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    try:
        found = chromium.find()
    except chromium.NoChromiumError as problem:
        pytest.skip(str(problem))
    with chromium.launched(found) as opened:
        yield opened
