"""Pages: one base, one style sheet, everything escaped, and no value that is missing passes unseen."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from homeroom.system.html.render import STYLE_FILE, colours, render, style_source

ROOT = Path(__file__).resolve().parents[3]
SOURCES = [path for top in ("sdk", "exporter", "aggregator", "examples") for path in (ROOT / top).rglob("*.*")]
MODULES = [path for path in SOURCES if path.suffix == ".py"]
TEMPLATES = [path for path in SOURCES if path.suffix in (".html", ".svg")]
UNESCAPED = re.compile(r"\|\s*safe\b|\bMarkup\b|\bautoescape(?!=True)|mark_?safe")
MARKUP = re.compile(r"</?(html|body|style|svg|table|tr|td|p|div|form|rect|text)\b[^|\]]*>")
EVERY_PART = """{% extends "base.html" %}
{% from "macros.html" import bars, facts, field, hidden, row, table %}
{% block heading %}{{ text }}{% endblock %}
{% block content %}
{% call table(text, [text], [text]) %}{{ row([text, text], [text]) }}{% endcall %}
{{ facts([(text, text)]) }}{{ bars([(text, 1.0), (text, 0.0)]) }}{{ hidden(text, text) }}
{% for widget in ("select", "checkboxes", "text", "note") %}{{ field(text, text, widget, [text], [text]) }}{% endfor %}
{% endblock %}
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("templates") / "page.html"
    path.write_text(EVERY_PART)
    return path


def test_nothing_is_marked_as_safe_and_html_is_written_in_templates_alone() -> None:
    assert len(TEMPLATES) >= 15
    for path in [*TEMPLATES, *MODULES]:
        assert not UNESCAPED.search(path.read_text("utf-8")), path
    for path in MODULES:
        assert not MARKUP.search(path.read_text("utf-8")), path
    for wrong in ("{{ name|safe }}", "import Markup", "{% autoescape false %}", "Environment(autoescape=False)"):
        assert UNESCAPED.search(wrong)
    assert MARKUP.search('f"<p class=note>{name}</p>"')


def test_there_is_one_style_sheet_and_every_page_has_it() -> None:
    (sheet,) = (path for path in SOURCES if path.suffix == ".css")
    assert sheet.read_bytes() == STYLE_FILE.read_bytes()
    for path in TEMPLATES:
        if path.suffix == ".html" and path != sheet.with_name("base.html"):
            assert "<style" not in path.read_text("utf-8"), path


def test_the_policy_allows_the_style_sheet_as_it_stands_in_a_page_and_no_other(template: Path) -> None:
    styles = re.findall(r"<style>(.*?)</style>", render(template, text="x"), re.S)
    digests = [base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() for style in styles]
    assert [f"'sha256-{digest}'" for digest in digests] == [style_source()]


class Structure(HTMLParser):
    """Tags and their attributes' names, in their order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))


@given(text=st.text(st.sampled_from("<>&\"'{}%#/ =ax"), min_size=1, max_size=20))
def test_whatever_people_write_stays_text_in_every_part(template: Path, text: str) -> None:
    assert Structure(render(template, text=text)).tags == Structure(render(template, text="x")).tags


def test_a_value_that_is_missing_is_an_error(template: Path) -> None:
    with pytest.raises(jinja2.UndefinedError, match="text"):
        render(template)


def test_light_and_dark_name_the_same_colours_and_every_one_that_is_used_exists() -> None:
    light, dark = colours()
    assert light.keys() == dark.keys()
    style = STYLE_FILE.read_text("utf-8")
    assert set(re.findall(r"var\(--([\w-]+)", style)) - {"pull"} <= set(re.findall(r"--([\w-]+):", style))


def test_an_agent_that_nobody_looks_at_loads_no_template_engine() -> None:
    script = (
        "import sys, homeroom.agent.page, homeroom.inference.explanation_page; assert homeroom.agent.page.PageServer\n"
        "print([name for name in ('jinja2', 'markupsafe') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
