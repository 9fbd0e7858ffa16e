"""What this machine has and how it fares, as far as the system tells without rights; imports nothing of the house.

Whatever cannot be read is None: unknown is not zero. Linux tells most, Windows and macOS what their libraries give.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from homeroom.errors import HomeroomError

PROC, SYS = Path("/proc"), Path("/sys")
SIMD = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM = ("neon", "asimd", "asimddp", "i8mm")
WINDOWS_FEATURES = {"avx": 39, "avx2": 40, "avx512f": 41, "neon": 19, "asimddp": 43}  # PF_* of winnt.h


@dataclass(frozen=True)
class Memory:
    """Bytes: what the machine has, what this process may use at most, by which limit, and what is free now."""

    total: int | None
    limit: int | None
    limit_from: str
    available: int | None


@dataclass(frozen=True)
class Power:
    """`share` of the battery, 0 to 1; both None where there is none or the system does not tell."""

    share: float | None = None
    plugged: bool | None = None


def refuse_32_bit() -> None:
    """Raise HomeroomError where Python is 32-bit: the graph runtime is published for 64-bit systems only."""
    if struct.calcsize("P") < 8:
        raise HomeroomError(
            "this is a 32-bit system, which Homeroom cannot run on",
            remedy="install the 64-bit system, on a Raspberry Pi the 64-bit Raspberry Pi OS",
        )


def cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simd(cpuinfo: Path = PROC / "cpuinfo") -> tuple[str, ...]:
    """The vector instructions that matter here, of those the processor has."""
    found: set[str] = set()
    if sys.platform == "win32":
        here = ctypes.windll.kernel32.IsProcessorFeaturePresent
        found = {name for name, number in WINDOWS_FEATURES.items() if here(number)}
    elif sys.platform == "darwin":
        found = {name.lower().replace(".", "_") for name in _said_by("sysctl", "-n", "machdep.cpu.features").split()}
        found |= {name.lower() for name in _said_by("sysctl", "-n", "machdep.cpu.leaf7_features").split()}
        found |= {"neon", "asimd"} if platform.machine() == "arm64" else set()
    else:
        for line in _text(cpuinfo).splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                found = set(value.split())
                break
    return tuple(name for name in (*SIMD, *ARM) if name in found)


def memory(proc: Path = PROC, root: Path = SYS / "fs" / "cgroup") -> Memory:
    """The least of the machine's memory, the control groups' limits and the process's own."""
    total, available = _physical(proc)
    limits = {"cgroup": cgroup_limit(proc, root), "rlimit": _rlimit()}
    least = {name: value for name, value in limits.items() if value is not None and (total is None or value < total)}
    if least:
        name = min(least, key=lambda key: least[key])
        return Memory(total, least[name], name, available)
    return Memory(total, total, "machine", available)


def cgroup_limit(proc: Path = PROC, root: Path = SYS / "fs" / "cgroup") -> int | None:
    """Bytes, the least memory.max (or memory.high, version 1: memory.limit_in_bytes) from this process's group up."""
    found: list[int] = []
    names: tuple[str, ...]
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            top, names = root, ("memory.max", "memory.high")
        elif "memory" in controllers.split(","):
            top, names = root / "memory", ("memory.limit_in_bytes",)
        else:
            continue
        folder = top / path.lstrip("/")
        for place in (folder, *folder.parents):
            found += [int(text) for name in names if (text := _text(place / name).strip()).isdigit()]
            if place == top:
                break
    least = min(found, default=None)
    return None if least is None or least >= 1 << 60 else least  # version 1 writes "no limit" as a huge number


def resident() -> int | None:
    """Bytes of memory that this process holds now (macOS: at most so far)."""
    if sys.platform == "win32":
        return _working_set(3)
    if pages := _text(PROC / "self" / "statm").split():
        return int(pages[1]) * os.sysconf("SC_PAGE_SIZE")
    return _most_resident()


def peak_resident() -> int | None:
    """Bytes, the most that this process held since it began, or since `forget_peak`."""
    if sys.platform == "win32":
        return _working_set(2)
    for line in _text(PROC / "self" / "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    return _most_resident()


def forget_peak() -> bool:
    """Begin to measure the peak anew; whether the system can."""
    with contextlib.suppress(OSError):
        (PROC / "self" / "clear_refs").write_text("5")
        return True
    return False


def disk_free(path: Path) -> int | None:
    """Bytes free for this user where `path`, or the nearest folder above it, lies."""
    for place in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(place).free
    return None


def power(supplies: Path = SYS / "class" / "power_supply") -> Power:
    if sys.platform == "win32":
        return _windows_power()
    share: float | None = None
    plugged: bool | None = None
    for supply in _entries(supplies):
        if _text(supply / "scope").strip() == "Device":
            continue  # a mouse's battery
        kind = _text(supply / "type").strip()
        if kind == "Battery" and (text := _text(supply / "capacity").strip()).isdigit():
            share = min(share if share is not None else 1.0, int(text) / 100)
            if _text(supply / "status").strip() == "Discharging":
                plugged = plugged or False
        elif kind in ("Mains", "USB") and (online := _text(supply / "online").strip()).isdigit():
            plugged = bool(plugged) or online != "0"
    return Power(share, plugged)


def celsius(zones: Path = SYS / "class" / "thermal") -> float | None:
    """The hottest processor zone, in degrees Celsius."""
    found = []
    for zone in _entries(zones):
        text = _text(zone / "temp").strip()
        if zone.name.startswith("thermal_zone") and text.lstrip("-").isdigit():
            found.append(int(text) / 1000)
    sane = [value for value in found if 0 < value < 150]
    return max(sane, default=None)


def _physical(proc: Path) -> tuple[int | None, int | None]:
    """Total and available bytes."""
    if sys.platform == "win32":
        return _windows_memory()
    facts = {}
    for line in _text(proc / "meminfo").splitlines():
        name, _, value = line.partition(":")
        if value.split():
            facts[name] = int(value.split()[0]) << 10
    if facts:
        return facts.get("MemTotal"), facts.get("MemAvailable")
    text = _said_by("sysctl", "-n", "hw.memsize").strip() if sys.platform == "darwin" else ""
    return (int(text) if text.isdigit() else None), None


def _rlimit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    else:
        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        return min((value for value in limits if value != resource.RLIM_INFINITY), default=None)


def _most_resident() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    else:
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most << 10


def _windows_memory() -> tuple[int | None, int | None]:
    if sys.platform != "win32":
        return None, None

    class Status(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ulong), ("load", ctypes.c_ulong)] + [
            (name, ctypes.c_ulonglong)
            for name in ("total", "free", "page", "page_free", "space", "space_free", "extra")
        ]

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):
        return None, None
    return status.total, status.free


def _working_set(field: int) -> int | None:
    """A field of PROCESS_MEMORY_COUNTERS: 2 is PeakWorkingSetSize, 3 is WorkingSetSize."""
    if sys.platform != "win32":
        return None
    counters = (ctypes.c_size_t * 9)()
    counters[0] = ctypes.sizeof(counters)  # cb and PageFaultCount share the first eight bytes
    handle = ctypes.c_void_p(-1)  # this process
    if not ctypes.windll.kernel32.K32GetProcessMemoryInfo(handle, ctypes.byref(counters), ctypes.sizeof(counters)):
        return None
    return int(counters[field - 1])


def _windows_power() -> Power:
    if sys.platform != "win32":
        return Power()
    status = (ctypes.c_ubyte * 12)()  # SYSTEM_POWER_STATUS: line, battery flag, percent, …
    if not ctypes.windll.kernel32.GetSystemPowerStatus(ctypes.byref(status)):
        return Power()
    line, _, percent = status[0], status[1], status[2]
    return Power(percent / 100 if percent <= 100 else None, {0: False, 1: True}.get(line))


def _said_by(*command: str) -> str:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        return subprocess.run(command, capture_output=True, text=True, timeout=5).stdout
    return ""


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text("utf-8", errors="replace")
    return ""


def _entries(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return sorted(folder.iterdir())
    return []
