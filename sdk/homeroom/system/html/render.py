"""Renders pages from Jinja templates: every value is escaped, and a value that is missing is an error.

A character that would steer a page, such as one that turns the direction of what follows, becomes a space.

A page's template lies beside its module and extends `base.html` of this folder, which holds the one style sheet.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from homeroom.system.printable import LINES, printable

if TYPE_CHECKING:
    import jinja2

SHARED_FOLDER = Path(__file__).parent
STYLE_FILE = SHARED_FOLDER / "style.css"


@cache
def environment(folder: Path) -> jinja2.Environment:
    """Returns the environment of a folder's templates; its owner may add filters and globals."""
    import jinja2  # only those who render a page pay for it

    def shown(value: Any) -> Any:
        return printable(value, LINES) if isinstance(value, str) and not hasattr(value, "__html__") else value

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, SHARED_FOLDER]),
        autoescape=True,
        finalize=shown,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def render(template: Path, **values: Any) -> str:
    """Returns the text of a template with these values."""
    return environment(template.parent).get_template(template.name).render(values)


@cache
def style_source() -> str:
    """Returns the style sheet's hash as a source for `style-src` of a Content-Security-Policy."""
    style = STYLE_FILE.read_text("utf-8").removesuffix("\n")
    return f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"


def colours() -> tuple[dict[str, str], dict[str, str]]:
    """Returns the style sheet's light and dark colours by name, for a picture that does not stand in a page."""
    light, dark = re.findall(r":root \{(.*?)\}", STYLE_FILE.read_text("utf-8"), re.S)[:2]
    return tuple(dict(re.findall(r"--([\w-]+): (#\w+);", block)) for block in (light, dark))  # type: ignore[return-value]
