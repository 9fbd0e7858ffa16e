"""Whether this machine is on mobile data or another metered connection, as far as the system tells; standard library.

Linux: NetworkManager (`nmcli`). Windows: the connection's cost (WinRT, by way of PowerShell). Elsewhere nobody tells.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from homeroom.errors import NetworkError

if TYPE_CHECKING:
    from homeroom.federation.network.transport import NetworkSettings

COMMAND_TIMEOUT_S = 10
NMCLI_ARGUMENTS = ("-t", "-f", "GENERAL.DEVICE,GENERAL.STATE,GENERAL.METERED,IP4.GATEWAY,IP6.GATEWAY", "device", "show")
POWERSHELL_COMMAND = (
    "[Windows.Networking.Connectivity.NetworkInformation,Windows,ContentType=WindowsRuntime]"
    "::GetInternetConnectionProfile().GetConnectionCost().NetworkCostType"
)


def is_metered() -> bool | None:
    """None where the system does not tell."""
    if sys.platform == "win32":
        return _read_windows(_output("powershell", "-NoProfile", "-NonInteractive", "-Command", POWERSHELL_COMMAND))
    return _read_network_manager(_output("nmcli", *NMCLI_ARGUMENTS))


def check_metered(network: NetworkSettings) -> None:
    """Raise NetworkError where the settings keep this device offline on the connection that it has."""
    if network.metered == "allow" or (network.metered == "auto" and not is_metered()):
        return
    if network.metered == "refuse" and is_metered() is False:
        return
    raise NetworkError(
        "this connection is metered, or may be: nothing was sent or fetched",
        remedy="wait for another one, or `homeroom device network DIR --metered allow`",
    )


def _output(command: str, *arguments: str) -> str:
    path = shutil.which(command)
    if path is None:
        return ""
    try:
        done = subprocess.run(
            [path, *arguments], capture_output=True, timeout=COMMAND_TIMEOUT_S, stdin=subprocess.DEVNULL, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else ""


def _read_network_manager(said: str) -> bool | None:
    """Metered if every connected device that leads outside is; one block of lines a device."""
    found = []
    for block in said.split("\n\n"):
        facts = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        outside = any(facts.get(f"IP{n}.GATEWAY", "--").strip() not in ("", "--") for n in (4, 6))
        if facts.get("GENERAL.STATE", "").startswith("100") and outside:
            found.append(facts.get("GENERAL.METERED", "unknown"))
    if not found or all(word.startswith("unknown") for word in found):
        return None
    return all(word.startswith("yes") for word in found)


def _read_windows(said: str) -> bool | None:
    return {"Unrestricted": False, "Fixed": True, "Variable": True}.get(said.strip())
