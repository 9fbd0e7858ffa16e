"""What `make docs` does beside mkdocs: pages made from the code, links that lead out of docs/, and a check of the site.

Pages are written for a code-hosting page, where a link is a path of the repository. On the site a link to one of
`OUTSIDE` leads to a page made of that file; of a link to any other file outside docs/ the words stay, with the path.
"""

from __future__ import annotations

import inspect
import json
import os
import posixpath
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = {  # by file of the repository that is no page of docs/: its page on the site
    "README.md": "outside/overview.md",
    "CHANGELOG.md": "outside/changelog.md",
    "CONTRIBUTING.md": "outside/contributing.md",
    "SECURITY.md": "outside/security.md",
    "examples/raspberry_pi/README.md": "outside/raspberry-pi.md",
    "docs/notebooks/first_lesson.ipynb": "notebooks/first_lesson.md",
    "docs/notebooks/twenty_schools.ipynb": "notebooks/twenty_schools.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
LOADED = {  # attributes by which a page loads something
    **{tag: ("src", "srcset") for tag in ("script", "img", "iframe", "source", "video", "audio", "embed")},
    "link": ("href",),
    "object": ("data",),
}
LOADED_RELATIONS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "dns-prefetch", "manifest"}


BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "above",
    "maximum": "at most",
    "exclusiveMaximum": "below",
    "minLength": "characters at least",
    "maxLength": "characters at most",
    "minItems": "entries at least",
    "maxItems": "entries at most",
}
FIELD = re.compile(r"^(\w+(?:, \w+)*): (.*(?:\n {4}.*)*)\n?", re.M)  # of a docstring
HTTP_BEGINNING = """\
What an aggregator answers, from the OpenAPI document that it serves at `/v1/openapi.json`. Homeroom's devices speak
this by themselves; an app needs [the SDK](../api.md) alone. [Requests](../update.md#requests) says how a request and
its answer are signed, and which codes a refusal has. The pages of [the dashboard](../dashboard.md) are for people, and
no part of it.

Whatever is refused is answered with [Refusal](#refusal), and has changed nothing. Every answer has the headers
`homeroom-nonce`, for the next signed request, and `signature`."""


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name headings as code-hosting pages do, so that a link to one holds on both."""
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def slug(heading: str, separator: str = "-") -> str:
    """The anchor of a heading: its letters, digits and hyphens in lower case, a hyphen for a blank."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", separator)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made: of files outside docs/, of the command line, HTTP, the public names."""
    from mkdocs.structure.files import File

    texts = {page: ROOT / path for path, page in OUTSIDE.items()}
    made = {page: notebook_page(path) if path.suffix == ".ipynb" else path.read_text() for page, path in texts.items()}
    made |= {"reference/commands.md": commands_page(), "reference/python.md": names_page()}
    made |= {"reference/http.md": http_page()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """A page as the site needs it: links, and a blank line before each list, which code-hosting pages do not need."""
    path = page.file.src_uri
    source = next((file for file, made in OUTSIDE.items() if made == path), f"docs/{path}")
    parts = re.split(r"(^```.*?^```$)", markdown, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else _loose_lists(relink(part, source, path)) for part in parts)


def relink(text: str, source: str, page: str) -> str:
    """Text with the links of `source`, a file of the repository, as those of `page`, a page of the site."""

    def replaced(link: re.Match[str]) -> str:
        image, words, target = link.groups()
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:") or not path:
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        here = OUTSIDE.get(file) or (file.removeprefix("docs/") if file.startswith("docs/") else None)
        if here is None:
            return f"{words} (`{file}`)" if words.strip("`") != file else words
        relative = posixpath.relpath(here, posixpath.dirname(page) or ".")
        return f"{image}[{words}]({relative}{f'#{anchor}' if anchor else ''})"

    return LINK.sub(replaced, text)


def _loose_lists(text: str) -> str:
    text = re.sub(r"^ {2,3}(?=- )", "    ", text, flags=re.M)
    return re.sub(r"(^(?![-*] |\d+\. |[|>#\s]).+\n)(?=(?:-|\d+\.) \S)", r"\1\n", text, flags=re.M)


def notebook_page(path: Path) -> str:
    """A notebook as a page: its words, its cells, and itself to download. It holds no outputs."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        language = "sh" if text.startswith("!") else "python"
        parts.append(text if cell["cell_type"] == "markdown" else f"```{language}\n{text.removeprefix('!')}\n```")
    title, *rest = parts[0].split("\n", 1)
    note = f'<a href="{path.name}" download>Download this notebook</a>; a test of the project runs it.'
    return "\n\n".join([title, note, *rest, *parts[1:]]) + "\n"


def commands_page() -> str:
    """Every command with what its `--help` prints."""
    import click

    from homeroom.cli.commands import COMMANDS, GROUPS
    from homeroom.cli.main import Commands, homeroom

    lines = ["# Every command's help", "", "What `--help` prints; [the command line](../cli.md) says what each is for."]
    group_of = {path: path.rpartition(" ")[0] for path in COMMANDS}
    groups = [*dict.fromkeys(group_of.values())]
    for path in sorted(COMMANDS, key=lambda path: groups.index(group_of[path])):
        title = f"## homeroom {group_of[path]}".rstrip()
        if title not in lines:
            lines += ["", title, "", GROUPS.get(group_of[path], "Commands of no group.")]
        command: click.Command | None = homeroom
        context = click.Context(homeroom, info_name="homeroom", max_content_width=100, terminal_width=100)
        for word in path.split():
            assert isinstance(command, Commands)
            command = command.get_command(context, word)
            assert command is not None
            context = click.Context(command, context, info_name=word, max_content_width=100, terminal_width=100)
        assert command is not None
        lines += ["", f"### homeroom {path}", "", "```text", command.get_help(context), "```"]
    return "\n".join(lines) + "\n"


def names_page() -> str:
    """Every public name of `homeroom`, by its docstrings."""
    import homeroom

    lines = ["# Python names", "", "`from homeroom import …`; [the SDK for apps](../api.md) shows them in use."]
    for name in homeroom.__all__:
        module = getattr(homeroom, name).__module__
        lines += ["", f"::: {module}.{name}"]
    return "\n".join(lines) + "\n"


def http_page() -> str:
    """Every operation of the aggregator's HTTP interface and every schema, from its OpenAPI document."""
    from homeroom_aggregator.server.openapi import document

    described = document()
    lines = ["# HTTP", "", HTTP_BEGINNING]
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            lines += ["", f"## {method.upper()} {path}", "", _linked(operation["summary"])]
            lines += ["", f"**By**: {_who(operation)}"]
            for parameter in operation.get("parameters", ()):
                lines += ["", f"**`{parameter['name']}`** in the path: {_type(parameter['schema'])}"]
            if body := operation.get("requestBody"):
                lines += ["", f"**Body**, {_content(body)}"]
            lines += ["", f"**Answer**, {_content(operation['responses']['200'])}"]
    lines += ["", "## Schemas", "", "The data classes that requests and answers hold."]
    for name, schema in described["components"]["schemas"].items():
        told = inspect.cleandoc(schema.get("description", ""))
        meanings = {name: " ".join(text.split()) for names, text in FIELD.findall(told) for name in names.split(", ")}
        words = re.sub(r"\n{3,}", "\n\n", FIELD.sub("", told)).strip()
        lines += ["", f"### {name}", "", _linked(words), "", _fields(schema, meanings)]
    return "\n".join(lines).rstrip() + "\n"


def _who(operation: dict[str, Any]) -> str:
    if "security" not in operation:
        return "everybody; unsigned"
    return f"{', '.join(operation['x-roles']) or 'any key'}; signed"


def _content(message: dict[str, Any]) -> str:
    (media, held), *_ = message["content"].items()
    schema = held["schema"]
    if "allOf" in schema:
        return f"`{media}`: the fields of all of these\n\n" + "\n\n".join(_fields(part) for part in schema["allOf"])
    words = f"`{media}`" if media != "application/json" or "properties" in schema else f"`{media}`: {_type(schema)}"
    words += f". {schema['description']}" if "description" in schema else ""
    return f"{words}\n\n{_fields(schema)}" if "properties" in schema else words


def _linked(words: str) -> str:
    return re.sub(r"`?docs/([\w-]+)\.md`?", r"[\1](../\1.md)", words)


def _fields(schema: dict[str, Any], meanings: dict[str, str] | None = None) -> str:
    """An object's fields as a table, with their meanings where a data class tells them; the type of anything else."""
    if "properties" not in schema:
        return f"As JSON: {_type(schema)}"
    needed, rows = schema.get("required", ()), []
    for name, field in schema["properties"].items():
        default = f"; by default `{json.dumps(field['default'])}`" if "default" in field else ""
        absent = "" if name in needed or default else "; may be absent"
        cells = [f"`{name}`", _type(field) + default + absent, *([_linked(meanings.get(name, ""))] if meanings else [])]
        rows.append(f"| {' | '.join(cells)} |")
    head = ["| field | type | means |", "|---|---|---|"] if meanings else ["| field | type |", "|---|---|"]
    return "\n".join([*head, *rows])


def _type(schema: dict[str, Any]) -> str:
    """A JSON schema in words, in a table's cell."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(f"`{json.dumps(value)}`" for value in schema["enum"])
    kind = str(schema.get("type", "any value"))
    if "prefixItems" in schema:
        items = [f"({_type(item)})" for item in schema["prefixItems"]]
        return f"array of {len(items)}: {', '.join(items)}"
    if kind == "array":
        return f"array of ({_type(schema.get('items', {}))})"
    if kind == "object" and "properties" in schema:
        return "object of " + ", ".join(f"`{name}` ({_type(field)})" for name, field in schema["properties"].items())
    if kind == "object" and "additionalProperties" in schema:
        return f"object of ({_type(schema['additionalProperties'])}) by name"
    bounds = [f"{words} {schema[key]}" for key, words in BOUNDS.items() if key in schema]
    form = [f"of the form `{schema['pattern']}`".replace("|", "\\|")] if "pattern" in schema else []
    return ", ".join([kind, *bounds, *form])


def on_post_build(config: MkDocsConfig) -> None:
    """Refuse a site that would load something from elsewhere, or something that is not there."""
    from mkdocs.exceptions import PluginError

    if problems := [*check_site(Path(config.site_dir))]:
        raise PluginError("\n".join(problems))


def check_site(site: Path) -> Iterator[str]:
    """Yields a line for each file that a page of the site would load from elsewhere, or that is not there."""
    for page in sorted(site.rglob("*.html")):
        parser = _Loads()
        parser.feed(page.read_text())
        for target in parser.targets:
            parts = urlsplit(target)
            if parts.scheme == "data":
                continue
            if parts.scheme or parts.netloc:
                yield f"{page.relative_to(site)}: loads {target}"
            elif not Path(os.path.normpath(page.parent / unquote(parts.path))).exists():
                absolute = page.name == "404.html" and (site / parts.path.lstrip("/")).exists()
                yield from [] if absolute else [f"{page.relative_to(site)}: {target} is not there"]
    for sheet in sorted(site.rglob("*.css")):
        for target in re.findall(r"(?:url\(|@import )[\"']?((?:https?:)?//[^\"')\s]+)", sheet.read_text()):
            yield f"{sheet.relative_to(site)}: loads {target}"


class _Loads(HTMLParser):
    """The files that a page loads by itself; what a person must click on is none."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "link" and not LOADED_RELATIONS & set((values.get("rel") or "").split()):
            return
        for name in LOADED.get(tag, ()):
            entries = (values.get(name) or "").split(",") if name == "srcset" else [values.get(name) or ""]
            self.targets += [entry.split()[0] for entry in entries if entry.strip()]
