"""`python -m newcomer --wheel W --starter S`: what each role of a new user needs, from the docs alone.

Each has a new folder, a new home and a new environment; what is typed comes from the docs' pages, and goes to bash.
Prints a table and, with `--json`, writes every figure. Exit code 1 where a role does not get there, or types more than
it may; seconds beyond a bound are told alone, since a busy machine is no fault.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from newcomer.roles import ROLES, WHEEL, Role

ROOT = Path(__file__).parents[2]
LINE_LIMIT_S, START_LIMIT_S = 1800.0, 300.0
KEPT = ("PATH", "LANG", "LC_ALL", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")  # and what pip and proxies read


@dataclass(frozen=True)
class Journey:
    """What a role needed. count: commands or lines; seconds: of all of them; tail: the last lines where one failed."""

    role: Role
    reached: bool
    count: int
    seconds: float
    tail: str

    def targets(self) -> list[dict[str, Any]]:
        """Its bounds, judged."""
        name = self.role.name
        rows = [{"name": f"{name}: gets there", "value": int(self.reached), "bound": 1, "met": self.reached}]
        met = self.count <= self.role.limit
        rows.append({"name": f"{name}: {self.role.counts}", "value": self.count, "bound": self.role.limit, "met": met})
        if (limit_s := self.role.limit_s) is not None:
            met, value = self.seconds <= limit_s, round(self.seconds, 1)
            rows.append({"name": f"{name}: seconds", "value": value, "bound": limit_s, "met": met})
        return rows


class Newcomer:
    """Types lines in a folder, with a new environment's commands first on the path."""

    def __init__(self, folder: Path, environment: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if name in KEPT or name.lower().endswith("_proxy")}
        kept |= {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        home = folder.with_name(f"{folder.name}-home")
        home.mkdir()
        self.folder, self.python = folder, environment / "bin" / "python"
        self.variables = kept | {"HOME": str(home), "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"}
        self.said = ""
        self.servers: list[subprocess.Popen[str]] = []

    def type(self, line: str) -> None:
        """Types a line; CalledProcessError where it fails. A server goes on, once it listens."""
        if line.startswith("python: "):
            self._run([str(self.python), "-c", line.removeprefix("python: ")])
        elif line.startswith("notebook: "):
            self._run([str(self.python), str(ROOT / "tests" / "notebook.py"), line.removeprefix("notebook: ")])
        elif line.startswith("homeroom district serve"):
            self._serve(line)
        else:
            self._run(["bash", "-ec", line])

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=LINE_LIMIT_S,
            check=False,
        )
        self.said += done.stdout
        done.check_returncode()

    def _serve(self, line: str) -> None:
        log = self.folder / "server.log"
        with log.open("w") as file:
            variables = self.variables | {"PYTHONUNBUFFERED": "1"}
            command = ["bash", "-ec", f"exec {line}"]
            server = subprocess.Popen(command, cwd=self.folder, env=variables, text=True, stdout=file, stderr=file)
        self.servers.append(server)
        deadline = time.monotonic() + START_LIMIT_S
        while "listening on " not in log.read_text():
            if server.poll() is not None or time.monotonic() > deadline:
                self.said += log.read_text()
                raise subprocess.CalledProcessError(server.poll() or 1, line)
            time.sleep(0.1)

    def leave(self) -> None:
        """Stops the servers."""
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def go(role: Role, scratch: Path, wheel: Path, starter: Path) -> Journey:
    """One role's journey, in a new folder below `scratch`."""
    folder = scratch / role.name
    environment = folder.with_name(f"{folder.name}-environment")
    folder.mkdir()
    shutil.copy(wheel, folder / WHEEL)
    shutil.copy(starter, folder / "starter.homeroom")
    role.prepare(folder)
    wanted = ["pip"] if role.extras is None else ["-c", str(ROOT / "constraints.txt"), f"{folder / WHEEL}{role.extras}"]
    subprocess.run([str(ROOT / ".ci" / "environment"), str(environment), *wanted], check=True)
    newcomer, began, reached = Newcomer(folder, environment), time.monotonic(), False
    try:
        for line in role.lines:
            newcomer.type(line)
        seconds = time.monotonic() - began
        newcomer.leave()
        reached = role.reached(folder, newcomer.said)
    except (subprocess.SubprocessError, OSError) as problem:
        seconds, newcomer.said = time.monotonic() - began, f"{newcomer.said}\n{problem}"
        newcomer.leave()
    shutil.rmtree(environment)
    count = len(role.lines)
    if role.counts == "lines":
        count = sum(bool(line.strip()) for line in role.lines[0].splitlines())
    return Journey(role, reached, count, seconds, "" if reached else newcomer.said[-2000:])


def table(journeys: list[Journey]) -> str:
    """The table of `docs/measurements/newcomer.md`."""
    rows = ["| who | wants | page | typed | seconds | gets there |", "|---|---|---|---|---|---|"]
    for one in journeys:
        typed = f"{one.count} of {one.role.limit} {one.role.counts}"
        seconds = f"{one.seconds:.0f}" + ("" if one.role.limit_s is None else f" of {one.role.limit_s:.0f}")
        page = f"[{one.role.page.rpartition('/')[2]}](../{one.role.page})"
        rows.append(
            f"| {one.role.name} | {one.role.wants} | {page} | {typed} | {seconds} | {'yes' if one.reached else 'no'} |"
        )
    return "\n".join(rows)


def failed(targets: list[dict[str, Any]]) -> bool:
    """Whether a target is missed that does not depend on how busy the machine is."""
    return any(not target["met"] and not target["name"].endswith(": seconds") for target in targets)


def main() -> None:
    parser = argparse.ArgumentParser(prog="newcomer", description=__doc__)
    parser.add_argument("roles", nargs="*", metavar="ROLE", help=", ".join(role.name for role in ROLES))
    parser.add_argument("--wheel", type=Path, required=True)
    parser.add_argument("--starter", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    names = {role.name for role in ROLES}
    if unknown := sorted(set(given.roles) - names):
        parser.error(f"{unknown[0]!r} is no role: {', '.join(sorted(names))}")
    journeys = []
    with tempfile.TemporaryDirectory(prefix="newcomer-") as scratch:
        for role in ROLES:
            if not given.roles or role.name in given.roles:
                print(f"{role.name}: {role.wants}", file=sys.stderr, flush=True)
                journeys.append(go(role, Path(scratch), given.wheel.resolve(), given.starter.resolve()))
                print(journeys[-1].tail, file=sys.stderr, flush=True)
    targets = [target for one in journeys for target in one.targets()]
    if given.json:
        roles = [{"role": one.role.name, "lines": one.role.lines, "seconds": one.seconds} for one in journeys]
        given.json.write_text(json.dumps({"targets": targets, "roles": roles}, indent=1))
    print(table(journeys))
    missed = [target for target in targets if not target["met"]]
    for target in missed:
        print(f"missed: {target['name']}: {target['value']}, at most {target['bound']}", file=sys.stderr)
    raise SystemExit(failed(targets))


if __name__ == "__main__":
    main()
