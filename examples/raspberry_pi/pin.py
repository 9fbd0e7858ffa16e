"""Write `wheels-arm64.txt` anew: what a Raspberry Pi installs, each package with the hashes of its arm64 wheels.

    python examples/raspberry_pi/pin.py

Asks pip which wheels it would take on arm64 (a dry run; nothing is installed) for the Python of Debian 12 and of
Debian 13, with the versions of `constraints.txt`. The runtime is held below 1.28: newer ones have not been run on
arm64. `hatchling` builds Homeroom itself. Imports the standard library.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections import defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parents[1]
PYTHONS = ("3.11", "3.13")  # Debian 12, Debian 13
GLIBCS = (34, 31, 28, 27, 26, 17)  # Debian 12 has 2.36
RUNTIME = "onnxruntime<1.28"
OWN = "pip"  # each environment has its own
HEADER = """# Made by pin.py: for arm64 Linux, Python {pythons}; installed with --require-hashes and --no-deps."""


def asked(python: str, wanted: list[str], constraints: Path) -> list[dict[str, str]]:
    """What pip would install on arm64 with this Python: name, version and sha256 of each wheel."""
    platforms = [f"manylinux_2_{glibc}_aarch64" for glibc in GLIBCS] + ["manylinux2014_aarch64"]
    command = [sys.executable, "-m", "pip", "install", "-q", "--dry-run", "--ignore-installed", "--report", "-"]
    command += ["--target", str(constraints.parent / "none"), "--only-binary", ":all:", "-c", str(constraints)]
    command += ["--python-version", python, "--implementation", "cp"]
    command += [part for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for part in ("--abi", abi)]
    command += [part for platform in platforms for part in ("--platform", platform)]
    done = subprocess.run([*command, *wanted], stdout=subprocess.PIPE, text=True, check=True)
    return read(done.stdout)


def read(report: str) -> list[dict[str, str]]:
    return [
        {
            "name": one["metadata"]["name"].lower().replace("_", "-"),
            "version": one["metadata"]["version"],
            "sha256": one["download_info"]["archive_info"]["hashes"]["sha256"],
        }
        for one in json.loads(report)["install"]
        if one["metadata"]["name"] != OWN
    ]


def pins(wheels: list[dict[str, str]]) -> str:
    """One line a package, with a hash for each Python; where they differ in version, pip would refuse the file."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in wheels:
        found[one["name"], one["version"]].add(one["sha256"])
    assert len({name for name, _ in found}) == len(found), "one version a package, whatever the Python"
    lines = [HEADER.format(pythons=" and ".join(PYTHONS))]
    for (name, version), hashes in sorted(found.items()):
        lines.append(" \\\n    ".join([f"{name}=={version}", *(f"--hash=sha256:{value}" for value in sorted(hashes))]))
    return "\n".join(lines) + "\n"


def main() -> None:
    wanted = [*tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["dependencies"], "hatchling"]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        lines = (PROJECT / "constraints.txt").read_text().splitlines()
        constraints.write_text("\n".join([*(line for line in lines if not line.startswith("onnxruntime==")), RUNTIME]))
        text = pins([one for python in PYTHONS for one in asked(python, wanted, constraints)])
    (HERE / "wheels-arm64.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
