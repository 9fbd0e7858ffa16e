"""The device's page, an explanation and a report in a real Chromium, on a phone and a desktop, light and dark."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
from exporter.export.test_reports import report
from sdk.agent.test_page import page as served  # noqa: F401  (a fixture)
from sdk.inference.test_explain import explained, rows
from sdk.learning import opened

from browser.test_dashboard import SIZES
from homeroom.agent.page import PageServer
from homeroom.data.validation import resolve
from homeroom.inference.explanation_page import page as explanation
from homeroom_exporter.export.model_card import html

pytestmark = pytest.mark.extra
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")


@pytest.fixture(scope="module")
def addresses(served: PageServer, tiny_bundle: tiny.Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:  # noqa: F811
    """Where each page is, by its name."""
    folder, sample = tmp_path_factory.mktemp("pages"), rows(1)[0]
    bundle, _ = opened()
    explains = explanation(explained(sample, "category"), resolve(sample, bundle.manifest), bundle.manifest)
    files = {"explanation": explains, "report": html(tiny_bundle.manifest, tiny_bundle.bundle_id, report())}
    for name, text in files.items():
        (folder / f"{name}.html").write_text(text, "utf-8")
    return {name: (folder / f"{name}.html").as_uri() for name in files} | {"device": served.address.url}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_axe_finds_no_violation_nothing_is_cut_off_and_nothing_is_fetched_from_elsewhere(
    browser: playwright.Browser, addresses: dict[str, str], size: str, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    width, height = SIZES[size]
    for name, address in addresses.items():
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        complaints, requests = list[str](), list[str]()
        page.on("console", lambda message, complaints=complaints: complaints.append(message.text))
        page.on("request", lambda request, requests=requests: requests.append(request.url))
        page.goto(address)
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert ground == {"light": "rgb(243, 245, 248)", "dark": "rgb(15, 20, 26)"}[scheme], f"{name} has no style"
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{name} is too wide"
        assert page.evaluate("document.scripts.length") == 0
        origin = address.split("?")[0]
        assert [url for url in requests if not url.startswith((origin, "data:"))] == []
        found = Axe().run(page)
        assert found.violations_count == 0, f"{name}: {found.generate_report()}"
        assert complaints == [], f"{name}: the browser has something to complain about"
        page.close()


def test_a_file_may_not_fetch_or_run_anything_even_if_something_got_into_it(
    browser: playwright.Browser, addresses: dict[str, str], tmp_path: Path
) -> None:
    text = Path(addresses["explanation"].removeprefix("file://")).read_text("utf-8")
    (tmp_path / "other.png").write_bytes(b"")
    inserted = f"<script>document.title = 'run'</script><img alt='x' src='{(tmp_path / 'other.png').as_uri()}'></main>"
    (tmp_path / "page.html").write_text(text.replace("</main>", inserted), "utf-8")
    page, complaints = browser.new_page(), list[str]()
    page.on("console", lambda message: complaints.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() != "run"
    assert len([text for text in complaints if "Content Security Policy" in text]) == 2
    page.close()


def test_a_label_is_given_by_hand(browser: playwright.Browser, addresses: dict[str, str]) -> None:
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(addresses["device"])
    form = page.locator("article").first
    form.get_by_label("category").select_option("dog")
    form.get_by_label("fur").check()
    form.get_by_role("button", name="Save").click()
    page.get_by_role("status").get_by_text("The labels are saved").wait_for()
    page.close()


def test_a_persons_consent_is_set_by_hand(browser: playwright.Browser, addresses: dict[str, str]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto(addresses["device"])
    page.locator("summary").first.click()
    form = page.locator("form[action='/consent']").first
    form.get_by_label("Consent").select_option("given")
    form.get_by_label("By").fill("Ms Ray")
    assert Axe().run(page).violations_count == 0
    form.get_by_role("button", name="Set the consent").click()
    page.get_by_role("heading", name="Set this consent?").wait_for()
    assert Axe().run(page).violations_count == 0
    page.get_by_role("button", name="Set it").click()
    page.get_by_role("status").get_by_text("is given now").wait_for()
    page.close()
