"""The dashboard in a real Chromium: axe finds nothing, the keyboard reaches everything, nothing is cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny

from browser.district import District, built
from homeroom_aggregator.admin import new_district
from homeroom_aggregator.admin.folder import create_folder
from homeroom_aggregator.admin.invitations import InvitationRequest

pytestmark = pytest.mark.extra
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

ACTIONS = (
    "versions/1/back",
    "do/consent?about=Oak Street School",
    "do/release",
    "do/buffer?about=2",
    "do/revoke?about=KEY",
)
PAGES = ("", "schools", "segments", "privacy", "versions", "audit", "versions/1/back", *ACTIONS)
FOCUSED = """() => {
  const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  if (e === document.body) return ["", "", true];
  return [e.textContent.trim(), s.outlineStyle, r.bottom > 0 && r.top < innerHeight && r.left >= 0];
}"""
SIZES = {"phone": (390, 844), "desktop": (1280, 900)}


@pytest.fixture(scope="module")
def district(tmp_path_factory: pytest.TempPathFactory, tiny_bundle: tiny.Tiny) -> Iterator[District]:
    patch = pytest.MonkeyPatch()
    with built(tmp_path_factory.mktemp("district"), tiny_bundle, patch) as found:
        yield found
    patch.undo()


def opened(browser: playwright.Browser, district: District, size: str, scheme: str) -> playwright.Page:
    """A page that signed in as an officer does: by the link, and its button."""
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme, has_touch=size == "phone")
    page.set_default_timeout(20_000)
    page.goto(district.link())
    page.get_by_role("button", name="Open the dashboard").click()
    page.wait_for_url("**/dashboard")
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_axe_finds_no_violation_and_nothing_is_cut_off(
    browser: playwright.Browser, district: District, size: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    axe, said = Axe(), list[str]()
    page = opened(browser, district, size, scheme)
    page.on("console", lambda message: said.append(message.text))
    key = next(row["device"] for row in district.service.members.every() if row["role"] == "device")
    for place in PAGES:
        answer = page.goto(f"{district.address}/dashboard/{place}".rstrip("/").replace("KEY", key))
        assert answer.status == 200, place
        for summary in page.locator("summary").all():
            summary.click()
        found = axe.run(page)
        assert found.violations_count == 0, f"/{place}: {found.generate_report()}"
        assert page.evaluate("document.documentElement.scrollWidth") <= SIZES[size][0], f"/{place} is too wide"
        assert page.evaluate("document.scripts.length") == 0
    page.goto(district.link())
    assert axe.run(page).violations_count == 0, "the link's page"
    assert said == [], "the browser has something to complain about"
    page.close()


def test_axe_is_awake(browser: playwright.Browser) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page()
    page.set_content("<p style='color: #999; background: #aaa'>grey on grey</p><img src='data:,'>")
    assert {found["id"] for found in Axe().run(page).response["violations"]} >= {"color-contrast", "image-alt"}
    page.close()


def test_the_keyboard_alone_reaches_every_page_and_the_focus_is_seen(
    browser: playwright.Browser, district: District
) -> None:
    page = opened(browser, district, "phone", "light")
    names: list[str] = []
    for _ in range(60):
        page.keyboard.press("Tab")
        name, outline, seen = page.evaluate(FOCUSED)
        if not name or name in names[:1]:
            break  # past the last one, and round again
        names.append(name)
        assert outline != "none", f"no outline on {name!r}"
        assert seen, f"{name!r} is out of sight"
    assert names[0] == "To the content"
    for place in ("Overview", "Schools", "Segments", "Privacy", "Versions", "Audit", "Sign out"):
        assert place in names
    page.goto(f"{district.address}/dashboard")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.close()


def test_a_screen_reader_hears_the_page(browser: playwright.Browser, district: District) -> None:
    page = opened(browser, district, "phone", "light")
    page.goto(f"{district.address}/dashboard/schools")
    tree = page.locator("body").aria_snapshot()
    for heard in ('heading "Schools" [level=1]', 'heading "Hill School" [level=2]', 'navigation "Pages"', "main"):
        assert heard in tree
    assert " now" in tree, "the drawings say their figures"
    page.close()


def test_what_needs_a_person_names_the_school_and_its_button_does_it(
    browser: playwright.Browser, district: District
) -> None:
    page = opened(browser, district, "phone", "light")
    needs = page.get_by_role("region", name="Needs you")
    assert "Oak Street School: its updates are refused until its consent is recorded" in needs.inner_text()
    needs.get_by_role("link", name="Record the consent of Oak Street School").click()
    page.get_by_role("button", name="Record the consent of Oak Street School").click()
    assert "/do/consent" in page.url, "the browser asks for a reason first"
    page.get_by_label("Who gave it, and how?").fill("Ms Lee, letter of 3 March")
    page.get_by_role("button", name="Record the consent of Oak Street School").click()
    page.wait_for_url("**/dashboard/schools")
    assert "Ms Lee, letter of 3 March, recorded today" in page.locator("main").inner_text()
    before = district.service.reader.newest()
    page.get_by_role("link", name="Overview", exact=True).click()
    page.get_by_role("link", name="Release now").click()
    page.get_by_label("Why?").fill("The lesson is tomorrow.")
    page.get_by_role("button", name="Release now").click()
    page.wait_for_url("**/dashboard")
    assert district.service.reader.newest() == before + 1
    page.get_by_role("link", name="Audit", exact=True).click()
    page.wait_for_url("**/dashboard/audit")
    said = page.locator("main").inner_text()
    assert "operator chose “Release now” on the dashboard: The lesson is tomorrow." in said
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_page_of_invitations_is_read_and_printed(
    browser: playwright.Browser, tmp_path: Path, tiny_bundle: tiny.Tiny, size: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    folder = tmp_path / "district"
    create_folder(folder, tiny_bundle.path, institution="District 7", root_key=tiny_bundle.root_key)
    schools = [InvitationRequest("Hill School", 2), InvitationRequest("Lake & Sons", 1, "school")]
    new_district.invite_schools(folder, "https://homeroom.district.example", schools, tmp_path / "out", 30)
    width, height = SIZES[size]
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
    page.goto((tmp_path / "out" / new_district.PAGE_FILE).as_uri())
    found = Axe().run(page)
    assert found.violations_count == 0, found.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.get_by_role("img", name="QR code of the line below").count() == 3
    natural = page.locator("img.code").first.evaluate("image => image.complete && image.naturalWidth")
    assert natural > 100, "the QR code is drawn"
    page.emulate_media(media="print")
    cards = page.locator("li.invitation").evaluate_all("cards => cards.map(c => getComputedStyle(c).breakInside)")
    assert cards == ["avoid"] * 3
    page.close()


def test_going_back_by_hand_then_it_is_audited_and_replayed(browser: playwright.Browser, district: District) -> None:
    page = opened(browser, district, "phone", "dark")
    before = district.service.reader.newest()
    page.get_by_role("link", name="Versions", exact=True).click()
    page.get_by_role("link", name="Go back to version 1", exact=True).click()
    page.get_by_role("button", name="Go back to version 1").click()
    assert page.url.endswith("/versions/1/back"), "the browser asks for a reason first"
    page.get_by_label("Why?").fill("Two schools reported worse grades.")
    page.get_by_role("button", name="Go back to version 1").click()
    page.wait_for_url("**/dashboard/versions")
    assert district.service.reader.newest() == before + 1
    page.get_by_role("link", name="Audit", exact=True).click()
    page.wait_for_url("**/dashboard/audit")
    assert f"Version {before + 1} was made from version 1 by operator" in page.locator("main").inner_text()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_role("heading", name="Signed out").wait_for()
    page.goto(f"{district.address}/dashboard")
    assert "not signed in" in page.locator("main").inner_text()
    page.close()
