"""Detects mobile data and other metered connections, where the system tells.

Linux: NetworkManager (`nmcli`). Windows: the connection's cost (WinRT, by way of PowerShell). Elsewhere it is unknown.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from homeroom.errors import NetworkError

if TYPE_CHECKING:
    from homeroom.federation.network.settings import NetworkSettings

COMMAND_TIMEOUT_S = 10
NMCLI_ARGUMENTS = ("-t", "-f", "GENERAL.DEVICE,GENERAL.STATE,GENERAL.METERED,IP4.GATEWAY,IP6.GATEWAY", "device", "show")
POWERSHELL_COMMAND = (
    "[Windows.Networking.Connectivity.NetworkInformation,Windows,ContentType=WindowsRuntime]"
    "::GetInternetConnectionProfile().GetConnectionCost().NetworkCostType"
)


def is_metered() -> bool | None:
    """Whether the connection is metered; None where the system does not tell."""
    if sys.platform == "win32":
        return _read_windows(_output("powershell", "-NoProfile", "-NonInteractive", "-Command", POWERSHELL_COMMAND))
    return _read_network_manager(_output("nmcli", *NMCLI_ARGUMENTS))


def check_metered(network: NetworkSettings) -> None:
    """Raises NetworkError where the settings keep this device offline on its present connection."""
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


def _read_network_manager(output: str) -> bool | None:
    """Whether every connected device with a gateway is metered; `output` has one block of lines a device."""
    states = []
    for block in output.split("\n\n"):
        facts = dict(line.split(":", 1) for line in block.splitlines() if ":" in line)
        outside = any(facts.get(f"IP{n}.GATEWAY", "--").strip() not in ("", "--") for n in (4, 6))
        if facts.get("GENERAL.STATE", "").startswith("100") and outside:
            states.append(facts.get("GENERAL.METERED", "unknown"))
    if not states or all(state.startswith("unknown") for state in states):
        return None
    return all(state.startswith("yes") for state in states)


def _read_windows(output: str) -> bool | None:
    return {"Unrestricted": False, "Fixed": True, "Variable": True}.get(output.strip())
