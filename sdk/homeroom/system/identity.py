"""Identity of this machine and of its disk, for telling a cloned disk from the original.

A Raspberry Pi's serial number tells two clones of one SD card apart. Elsewhere the system's machine id is used, which
needs no rights. Network addresses are not used: docks and privacy settings change them.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

MACHINE_ID_FILES = ("/sys/firmware/devicetree/base/serial-number", "/etc/machine-id", "/var/lib/dbus/machine-id")


def machine_identity() -> str:
    """A string that stays the same on one machine; the host's name where no machine id can be read."""
    if sys.platform == "win32":
        machine_id = _windows()
    elif sys.platform == "darwin":
        machine_id = _mac()
    else:
        machine_id = "/".join(filter(None, map(_read, MACHINE_ID_FILES)))
    return machine_id or platform.node()


def disk_identity(directory: Path, devices: Path = Path("/sys/dev/block")) -> str:
    """Hardware serial number of the disk (or card) that holds `directory`; "" where the system does not give it.

    Linux only: a card's cid, a disk's wwid or serial number. They tell clones of a disk apart, which share the system's
    machine id.
    """
    if not hasattr(os, "major"):
        return ""
    try:
        number = directory.stat().st_dev
        return "/".join(_disks((devices / f"{os.major(number)}:{os.minor(number)}").resolve(), 4))
    except OSError:
        return ""


def _disks(device: Path, depth: int) -> list[str]:
    """Serial numbers of a partition's disk, or of the disks below a mapped device (LVM, encryption)."""
    if (device / "partition").exists():
        device = device.parent
    slaves = device / "slaves"
    if depth and slaves.is_dir() and (below := sorted(slaves.iterdir())):
        return sorted({serial for slave in below for serial in _disks(slave.resolve(), depth - 1)})
    serials = (_read(str(device / name)) for name in ("device/cid", "wwid", "device/wwid", "device/serial", "serial"))
    return list(filter(None, serials))[:1]


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
