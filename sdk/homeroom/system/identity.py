"""Which machine and which disk this is, as far as a cloned disk cannot copy it; imports nothing.

A Raspberry Pi's serial number tells two clones of one SD card apart. Elsewhere the system's own machine id is the best
that needs no rights; network addresses are not used, because docks and privacy settings change them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

SOURCES = (
    "/sys/firmware/devicetree/base/serial-number",
    "/etc/machine-id",
    "/var/lib/dbus/machine-id",
)


def machine_identity() -> str:
    """A text that stays the same on one machine; the host's name where nothing better can be read."""
    if sys.platform == "win32":
        found = _windows()
    elif sys.platform == "darwin":
        found = _mac()
    else:
        found = "/".join(filter(None, map(_read, SOURCES)))
    return found or platform.node()


def disk_identity(directory: Path, devices: Path = Path("/sys/dev/block")) -> str:
    """The number that its maker gave the disk (or card) a directory lies on; "" where the system does not tell.

    A card's cid, a disk's wwid or serial number, on Linux: they tell two clones of one machine's disk apart even where
    the clone copied the system's machine id.
    """
    if not hasattr(os, "major"):
        return ""
    try:
        number = directory.stat().st_dev
        return "/".join(_disks((devices / f"{os.major(number)}:{os.minor(number)}").resolve(), 4))
    except OSError:
        return ""


def _disks(device: Path, depth: int) -> list[str]:
    """Of a partition its disk, of a mapped device (LVM, encryption) the disks below it."""
    if (device / "partition").exists():
        device = device.parent
    slaves = device / "slaves"
    if depth and slaves.is_dir() and (below := sorted(slaves.iterdir())):
        return sorted({number for slave in below for number in _disks(slave.resolve(), depth - 1)})
    named = (_read(str(device / name)) for name in ("device/cid", "wwid", "device/wwid", "device/serial", "serial"))
    return [found for found in [next(filter(None, named), "")] if found]


def _read(path: str) -> str:
    try:
        return Path(path).read_text("utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def _windows() -> str:
    if sys.platform != "win32":
        return ""
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key:
            return str(winreg.QueryValueEx(key, "MachineGuid")[0])
    except OSError:
        return ""


def _mac() -> str:
    try:
        listing = subprocess.run(
            ["/usr/sbin/ioreg", "-rd1", "-c", "IOPlatformExpertDevice"], capture_output=True, text=True, timeout=5
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return next((line.split('"')[-2] for line in listing.splitlines() if "IOPlatformUUID" in line), "")
