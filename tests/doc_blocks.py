"""Runs the code blocks of a documentation page in order, as a reader would type them.

- `sh`: each line, `homeroom` in this process, all else by bash; a server goes on until a page says that it is stopped.
- `python`: with the names that the blocks before it made.
- any other block, or Python, after a paragraph that ends with a file's name as code and a colon is that file.
- all others are output.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from homeroom.cli.main import main

DOCS = Path(__file__).parents[1] / "docs"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.S | re.M)
STOPPED = re.compile(r"stop(ped)? the server|server stopped", re.I)


@dataclass(frozen=True)
class Block:
    """A fenced block. file: the name that the paragraph before it gives it, or ""."""

    language: str
    text: str
    before: str
    file: str


def blocks(page: Path) -> list[Block]:
    """Every fenced block of a page, with the words since the one before it."""
    text, found, end = page.read_text("utf-8"), [], 0
    for fence in FENCE.finditer(text):
        before = text[end : fence.start()]
        named = re.search(r"`([\w/.-]+\.\w+)`:\s*\Z", before)
        found.append(Block(fence[1], fence[2], before, named[1] if named and fence[1] != "sh" else ""))
        end = fence.end()
    return found


def commands(block: Block) -> list[str]:
    """The lines of a `sh` block, each a whole command."""
    lines = block.text.replace("\\\n", " ").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")] if block.language == "sh" else []


@dataclass
class Reader:
    """Types what pages say in the working directory. typed: every line so far. port: of every server.

    words: what stands for a placeholder of the pages, such as KEY, or is computed when it is typed.
    """

    port: int
    words: dict[str, str | Callable[[], str]] = field(default_factory=dict)
    typed: list[str] = field(default_factory=list)
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    server: subprocess.Popen[str] | None = None

    def read(self, page: str) -> None:
        """Types every block of a page of docs/."""
        for block in blocks(DOCS / page):
            if STOPPED.search(block.before):
                self.stop()
            if block.file:
                Path(block.file).parent.mkdir(parents=True, exist_ok=True)
                Path(block.file).write_text(block.text, "utf-8")
            elif block.language == "python":
                exec(compile(block.text, page, "exec"), self.names)
            for line in commands(block):
                self.type(line)

    def type(self, line: str) -> None:
        """Types one line; AssertionError where it fails."""
        for placeholder, word in self.words.items():
            if placeholder in line:
                line = line.replace(placeholder, word if isinstance(word, str) else word())
        self.typed.append(line)
        words = shlex.split(line.replace("8340", str(self.port)))
        if words[0] != "homeroom":
            subprocess.run(["bash", "-ec", line], check=True)
        elif words[1:3] == ["district", "serve"]:
            self.serve(*words[1:])
        else:
            more = ["--port", str(self.port)] if words[1:3] == ["district", "init"] else []
            self.homeroom(line, *words[1:], *more)

    def homeroom(self, line: str, *words: str) -> None:
        """Runs a command in this process, and says yes to what it asks."""
        try:
            with mock.patch("sys.stdin", io.StringIO("y\n")):
                main([*words])
        except SystemExit as ended:
            if ended.code:
                raise AssertionError(f"{line}: exit code {ended.code}") from ended

    def serve(self, *words: str) -> None:
        """Starts a server and waits until it listens."""
        self.stop()
        command = [sys.executable, "-m", "homeroom", *words]
        self.server = subprocess.Popen(
            command,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self.server.stdout is not None
        lines = list[str]()
        for line in self.server.stdout:
            lines.append(line)
            if line.startswith("listening on "):
                return
        raise AssertionError("".join(lines))

    def stop(self) -> None:
        """Stops the server, if one runs."""
        server, self.server = self.server, None
        if server is not None:
            server.send_signal(signal.SIGTERM)
            server.communicate(timeout=120)
            assert server.returncode == 0
