"""Which machine this is, as far as a cloned disk cannot copy it; imports nothing.

A Raspberry Pi's serial number tells two clones of one SD card apart. Elsewhere the system's own machine id is the best
that needs no rights; network addresses are not used, because docks and privacy settings change them.
"""

from __future__ import annotations

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
