"""Three made-up schools and a server on the loopback: `homeroom quickstart --district`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from homeroom.cli.network import fetch_device
from homeroom.device.device import Device
from homeroom.errors import ExportError, MissingExtraError, NetworkError
from homeroom.quickstart.drawings import THINGS
from homeroom.quickstart.lesson import ASKED, TASK, TAUGHT, write_samples
from homeroom.quickstart.session import pictures_alone
from homeroom.system.files import make_directory, open_private, write_durable
from homeroom.system.installation import how_to_install
from homeroom.system.printable import counted

RUN = "import sys; from homeroom.cli.main import main; sys.exit(main())"
SCHOOLS = ("Hill School", "Lake School", "Mill Lane")
LANGUAGES = ("en", "es", "fr")
SEES = 2  # of each five things of a kind, so that no school sees all
ROUNDS = 2
HOST, START_LIMIT_S = "127.0.0.1", 120.0

Tell = Callable[[str], None]


@dataclass(frozen=True)
class SchoolResult:
    """A school's accuracy, 0 to 1, on twenty new drawings: after it learned alone, and together."""

    name: str
    language: str
    samples: int
    alone: float
    together: float


@dataclass(frozen=True)
class DistrictResult:
    """What the district showed. version: the newest that the server made of the schools' updates."""

    version: int
    schools: tuple[SchoolResult, ...]

    def sentence(self) -> str:
        """Who gained, and who did not."""
        better = [school.name for school in self.schools if school.together > school.alone]
        worse = [school.name for school in self.schools if school.together < school.alone]
        equal = [school.name for school in self.schools if school.together == school.alone]
        parts = [f"{', '.join(names)} {verb}" for names, verb in ((better, "gained"), (worse, "lost")) if names]
        return "; ".join([*parts, *([f"{', '.join(equal)} as before"] if equal else [])])


def run_district(folder: Path, bundle: Path, tell: Tell) -> DistrictResult:
    """Runs the district in a new folder: true commands for the server, a device for each school."""
    make_directory(folder)
    sheet = folder / "schools.csv"
    write_durable(sheet, "".join(["school,devices,consent\n", *(f"{name},1,made up\n" for name in SCHOOLS)]).encode())
    port = _free_port()
    made = ("--bundle", bundle, "--name", "Quickstart", "--schools", sheet, "--host", HOST, "--port", port)
    _run("district", "init", folder / "district", *made, "--statistics", "plain", "--days", 1)
    invitations = sorted((folder / "district-invitations").glob("*.json"))
    with _served(folder / "district", port), contextlib.ExitStack() as stack:
        tell(f"a server for three schools runs on the loopback, in {folder / 'district'}; statistics are plain there")
        devices = []
        for index, invitation in enumerate(invitations):
            fetch_device(folder / invitation.stem, invitation)
            device = stack.enter_context(Device.open(folder / invitation.stem))
            device.add(_lesson(folder, index))
            device.train(minutes=2)
            devices.append(device)
        test = pictures_alone(write_samples(folder / "test", ASKED))
        alone = [_accuracy(device, test) for device in devices]
        for device, invitation in zip(devices, invitations, strict=True):
            device.join(invitation)
        version = 0
        for _ in range(ROUNDS):
            for device in devices:
                device.train(minutes=2)
                device.sync()
            version = max(device.sync().version or 0 for device in devices)
        for device in devices:
            device.train(minutes=2)
        schools = [
            SchoolResult(
                SCHOOLS[index], LANGUAGES[index], device.status().samples, alone[index], _accuracy(device, test)
            )
            for index, device in enumerate(devices)
        ]
    for school in schools:
        own = f"{school.name} ({school.language}, {counted(school.samples, 'sample')})"
        tell(f"  {own}: of 20 new drawings {round(20 * school.alone)} alone, {round(20 * school.together)} together")
    result = DistrictResult(version, tuple(schools))
    tell(f"version {version} is of all three: {result.sentence()}")
    return result


def _lesson(folder: Path, index: int) -> Path:
    """A school's samples: two of five things of each kind, words in its language."""
    seen = [number for number in range(len(THINGS)) if (number - 2 * index) % 5 < SEES]
    return write_samples(folder / f"lesson-{index + 1}", TAUGHT, (LANGUAGES[index],), seen)


def _accuracy(device: Device, test: Path) -> float:
    return device.score(test)[TASK].accuracy or 0.0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(*words: object) -> list[str]:
    return [sys.executable, "-c", RUN, *map(str, words)]


def _run(*words: object) -> None:
    done = subprocess.run(_command(*words), capture_output=True, text=True, env=os.environ, check=False)
    if done.returncode == MissingExtraError.exit_code:
        raise MissingExtraError("a server needs a part that is not installed", remedy=how_to_install("aggregator"))
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise ExportError("ended with an error", where=f"homeroom {words[0]} {words[1]}", details=said[-3:])


@contextlib.contextmanager
def _served(district: Path, port: int) -> Iterator[None]:
    """Serves a district in a process of its own until the block ends; NetworkError where it does not come up."""
    log = district.with_name("server.log")
    with open_private(log) as file:
        process = subprocess.Popen(_command("district", "serve", district), stdout=file, stderr=file, env=os.environ)
    try:
        _wait_for(process, port, log)
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def _wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        time.sleep(0.2)
    raise NetworkError("the server did not start", where=str(log), remedy="its last lines say why")
