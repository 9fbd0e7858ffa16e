"""Draws the dashboard's pictures for the documentation: `python -m browser.pictures`, in the folder `tests`.

A real small district is built (`district`), and each page is photographed as a phone and a desktop show it.
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import pytest
import tiny
from PIL import Image

from browser import chromium
from browser.district import District, built

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
SHOTS = (  # name, page, width and height, light or dark
    ("dashboard-overview-phone", "", (390, 844), "light"),
    ("dashboard-schools-phone", "schools", (390, 844), "light"),
    ("dashboard-versions-phone", "versions", (390, 844), "dark"),
    ("dashboard-schools-desktop", "schools", (1280, 800), "light"),
    ("dashboard-overview-desktop", "", (1280, 800), "dark"),
)


def draw(district: District, folder: Path) -> None:
    """Every picture, as a PNG with a palette."""
    with chromium.launched(chromium.find()) as browser:
        for name, place, (width, height), scheme in SHOTS:
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)  # type: ignore[arg-type]
            page.goto(district.link())
            page.get_by_role("button", name="Open the dashboard").click()
            page.wait_for_url("**/dashboard")
            page.goto(f"{district.address}/dashboard/{place}".rstrip("/"))
            shot = Image.open(BytesIO(page.screenshot()))
            shot.convert("RGB").quantize(128).save(folder / f"{name}.png", optimize=True)
            page.close()


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else IMAGES
    folder.mkdir(parents=True, exist_ok=True)
    patch = pytest.MonkeyPatch()
    with tempfile.TemporaryDirectory() as scratch, built(Path(scratch) / "all", tiny.bundle(), patch) as district:
        draw(district, folder)
    patch.undo()


if __name__ == "__main__":
    main()
