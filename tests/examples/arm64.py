"""An arm64 Raspberry Pi without a Pi: Debian's Python, unpacked without root, and the wheels it installs, in QEMU.

Everything is downloaded once, through apt and pip, into the user's cache. `python` in the root is a script that starts
the emulator with its own name as the program's name (`-0`), so that Python finds the environment it lies in, and names
the script as its executable: programs that it starts are emulated too, and nothing needs root, chroot or binfmt.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "raspberry_pi"
PINS = EXAMPLE / "wheels-arm64.txt"
PROCESSOR = "cortex-a72"  # a Raspberry Pi 4
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
SOURCE = f"deb [signed-by={KEYRING}] http://deb.debian.org/debian bookworm main\n"
PACKAGES = [
    *("python3.11", "python3.11-minimal", "python3.11-venv", "libpython3.11-minimal", "libpython3.11-stdlib"),
    *(
        "python3-pip-whl",
        "python3-setuptools-whl",
        "libc6",
        "libgcc-s1",
        "libstdc++6",
        "libgomp1",
        "zlib1g",
        "libexpat1",
    ),
    *("libssl3", "libsqlite3-0", "libffi8", "libbz2-1.0", "liblzma5", "libuuid1", "libcrypt1", "media-types"),
]
PLATFORMS = [f"manylinux_2_{glibc}_aarch64" for glibc in (34, 31, 28, 27, 26, 17)] + ["manylinux2014_aarch64"]
WRAPPER = """#!/bin/sh
exec {qemu} -cpu {processor} -0 "$0" -L {root} {root}/usr/bin/python3.11 "$@"
"""
PATIENCE_S = 900


class UnavailableError(Exception):
    """What this system lacks to emulate a Pi."""


@dataclass(frozen=True)
class Pi:
    """`python`: starts arm64 Python; `wheels`: the folder of pinned packages; `tools`: a `uname` that says arm64."""

    python: Path
    wheels: Path
    tools: Path


def cache() -> Path:
    return Path(os.environ.get("HOMEROOM_CACHE", Path.home() / ".cache" / "homeroom")) / "arm64"


def pi() -> Pi:
    """Make what is not there yet; minutes the first time, nothing afterwards. Raises UnavailableError."""
    if sys.platform != "linux" or not all(map(shutil.which, ("apt-get", "dpkg-deb"))) or not KEYRING.exists():
        raise UnavailableError("this is no Debian system, or has no apt-get")
    root = _once(cache() / f"root-{_digest(SOURCE, *PACKAGES, WRAPPER)}", _unpack)
    wheels = _once(cache() / f"wheels-{_digest(PINS.read_text())}", _download_wheels)
    return Pi(root / "usr/bin/python3", wheels, root / "tools")


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()[:12]


def _once(folder: Path, make: object) -> Path:
    """The folder, made whole or not at all."""
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix="making-", dir=folder.parent))
        try:
            make(scratch, folder)  # type: ignore[operator]
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return folder


def _run(command: list[str], folder: Path, **environment: str) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=PATIENCE_S
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{command[0]} took more than {PATIENCE_S} s") from None
    if done.returncode:
        told = (done.stderr.strip() or done.stdout.strip() or "no reason given").splitlines()
        raise UnavailableError(f"{' '.join(command[:3])}: {told[-1]}")


def _unpack(folder: Path, final: Path) -> None:
    """Debian's packages for arm64 and the emulator, below `folder`, which will be called `final`."""
    apt, packages = folder / "apt", folder / "packages"
    for name in ("lists/partial", "archives/partial"):
        (apt / name).mkdir(parents=True)
    packages.mkdir()
    (apt / "sources.list").write_text(SOURCE)
    (apt / "status").touch()
    (apt / "apt.conf").write_text(
        'APT::Architecture "arm64";\nAPT::Architectures { "arm64"; };\nAcquire::Languages "none";\n'
        f'Dir::Etc::sourcelist "{apt}/sources.list";\nDir::Etc::sourceparts "-";\nDir::State::status "{apt}/status";\n'
        f'Dir::State::lists "{apt}/lists";\nDir::Cache "{apt}";\n'
    )
    _run(["apt-get", "update", "-q"], packages, APT_CONFIG=str(apt / "apt.conf"))
    _run(["apt-get", "download", "-q", *PACKAGES], packages, APT_CONFIG=str(apt / "apt.conf"))
    for package in packages.glob("*.deb"):
        _run(["dpkg-deb", "-x", str(package), str(folder)], folder)
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None:
        _emulator_into(folder, "qemu-aarch64-static")
        qemu = str(final / "qemu-aarch64-static")
    wrapper, tools = folder / "usr/bin/python3", folder / "tools"
    wrapper.unlink(missing_ok=True)
    wrapper.write_text(WRAPPER.format(qemu=qemu, processor=PROCESSOR, root=final))
    wrapper.chmod(0o755)
    tools.mkdir()
    (tools / "uname").write_text("#!/bin/sh\necho aarch64\n")
    (tools / "uname").chmod(0o755)
    shutil.rmtree(apt)
    shutil.rmtree(packages)


def emulator(program: str) -> Path:
    """One of QEMU's user-mode emulators, such as `qemu-x86_64-static`: this system's, else Debian's own package's."""
    if found := shutil.which(program) or shutil.which(program.removesuffix("-static")):
        return Path(found)
    if sys.platform != "linux" or not all(map(shutil.which, ("apt-get", "dpkg-deb"))):
        raise UnavailableError(f"there is no {program} here, and no apt-get to fetch it")
    return _once(cache() / f"emulator-{program}", lambda folder, _: _emulator_into(folder, program)) / program


def _emulator_into(folder: Path, program: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        apt = Path(name)
        _run(["apt-get", "download", "-q", "qemu-user-static"], apt)
        (package,) = apt.glob("qemu-user-static*.deb")
        unpack = f'dpkg-deb --fsys-tarfile "{package.name}" | tar x ./usr/bin/{program}'
        _run(["sh", "-c", unpack], apt)
        shutil.move(apt / "usr/bin" / program, folder / program)


def _download_wheels(folder: Path, _: Path) -> None:
    """Every pinned package, its hash checked, and for Python 3.11 on arm64 alone."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", "-r", str(PINS)]
    command += ["--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp", "-d", str(folder)]
    command += [part for abi in ("cp311", "abi3", "none") for part in ("--abi", abi)]
    command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    _run(command, folder)
