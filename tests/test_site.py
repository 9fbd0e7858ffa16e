"""The documentation as a site: what mkdocs is told, the pages that are made, and the check that `make docs` ends with.

mkdocs itself is in an environment of its own: `make docs` builds all of it, strictly, and `.ci/run` does so too.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import homeroom
from homeroom.cli.commands import COMMANDS
from homeroom_aggregator.server.openapi import document

ROOT = Path(__file__).parents[1]
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
SPEC = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
assert SPEC is not None
assert SPEC.loader is not None
SITE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(SITE)
LOCAL = '<script src="a.js"></script><img src="data:image/png;base64,AA"><a href="https://elsewhere.example">there</a>'


def pages(entry: Any) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:
            yield from pages(one)


def test_the_navigation_has_four_kinds_and_every_page() -> None:
    assert [*dict.fromkeys(name for entry in SETTINGS["nav"] for name in entry)][1:5] == [
        "Tutorials",
        "How-to",
        "Reference",
        "Explanation",
    ]
    written = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    made = {*SITE.OUTSIDE.values(), "reference/commands.md", "reference/http.md", "reference/python.md"}
    listed = [*pages(SETTINGS["nav"])]
    assert sorted(listed) == sorted(written | made)


def test_the_theme_asks_nobody() -> None:
    assert SETTINGS["theme"]["font"] is False
    assert "analytics" not in SETTINGS.get("extra", {})
    assert SETTINGS["strict"] is True


def test_every_command_is_in_the_reference_with_its_help() -> None:
    text = SITE.commands_page()
    assert sorted(re.findall(r"^### homeroom (.*)$", text, re.M)) == sorted(COMMANDS)
    assert text.count("Usage: homeroom ") == len(COMMANDS)
    assert text.count("--json") >= len(COMMANDS) - 2
    assert "needs a part that is not installed" not in text


def test_every_public_name_is_in_the_reference() -> None:
    named = re.findall(r"^::: ([\w.]+)$", SITE.names_page(), re.M)
    assert [name.rpartition(".")[2] for name in named] == homeroom.__all__


def test_every_operation_and_schema_of_the_aggregator_is_in_the_reference() -> None:
    text, described = SITE.http_page(), document()
    operations = {f"{method.upper()} {path}" for path, methods in described["paths"].items() for method in methods}
    assert sorted(re.findall(r"^## ([A-Z]+ /.*)$", text, re.M)) == sorted(operations)
    assert re.findall(r"^### (.*)$", text, re.M) == [*described["components"]["schemas"]]
    anchors = {SITE.slug(heading) for heading in re.findall(r"^#+ (.*)$", text, re.M)}
    assert {anchor for anchor in re.findall(r"\]\(#([^)]+)\)", text) if anchor not in anchors} == set()
    assert "**By**: device; signed" in text
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert all(re.match(r"\| `\w+` \| \S", row) for row in rows)
    meant = [row for row in rows if "| least number of distinct devices" in row]
    assert len(meant) == 1, "what a field means comes from its data class"


@pytest.mark.parametrize(
    ("text", "source", "page", "there"),
    [
        ("[a](cli.md#samples)", "docs/README.md", "README.md", "[a](cli.md#samples)"),
        ("[a](../quality.md)", "docs/measurements/quality.md", "measurements/quality.md", "[a](../quality.md)"),
        ("[a](../README.md#figures)", "docs/faq.md", "faq.md", "[a](outside/overview.md#figures)"),
        ("![a](docs/images/x.png)", "README.md", "outside/overview.md", "![a](../images/x.png)"),
        ("[`x`](../../SECURITY.md)", "docs/measurements/a.md", "measurements/a.md", "[`x`](../outside/security.md)"),
        ("[the licence](LICENSE)", "CONTRIBUTING.md", "outside/contributing.md", "the licence (`LICENSE`)"),
        ("[a](https://b.example/c.md)", "README.md", "outside/overview.md", "[a](https://b.example/c.md)"),
        ("[a](#here)", "docs/cli.md", "cli.md", "[a](#here)"),
    ],
)
def test_a_link_of_the_repository_leads_to_the_same_on_the_site(text: str, source: str, page: str, there: str) -> None:
    assert SITE.relink(text, source, page) == there


@pytest.mark.parametrize(
    ("more", "problem"),
    [
        ('<script src="https://cdn.example/x.js"></script>', "index.html: loads https://cdn.example/x.js"),
        ('<img src="//cdn.example/x.png">', "index.html: loads //cdn.example/x.png"),
        ('<img srcset="a.js 1x, http://cdn.example/y.png 2x">', "index.html: loads http://cdn.example/y.png"),
        ('<link rel="preconnect" href="https://fonts.example">', "index.html: loads https://fonts.example"),
        ('<link rel="stylesheet" href="gone.css">', "index.html: gone.css is not there"),
        ('<link rel="canonical" href="https://docs.example/">', ""),
        ("", ""),
    ],
)
def test_what_would_be_loaded_from_elsewhere_or_from_nowhere_is_found(more: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "a.js").touch()
    (tmp_path / "index.html").write_text(LOCAL + more)
    assert [*SITE.check_site(tmp_path)] == ([problem] if problem else [])


def test_a_style_sheet_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "a.css").write_text("a { background: url(b.png) } @import 'https://fonts.example/c.css';")
    assert [*SITE.check_site(tmp_path)] == ["a.css: loads https://fonts.example/c.css"]
