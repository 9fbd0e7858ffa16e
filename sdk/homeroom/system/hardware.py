"""This machine's processor, memory, disk, battery and temperature, read without special rights.

A reading that the system does not give is None: unknown is not zero. psutil reads memory everywhere and the battery
outside Linux. On Linux the battery and the temperature are read from /sys, since psutil counts a mouse's battery and
a disk's sensor too. psutil is imported where it is used: it takes 20 ms, and most commands measure nothing.
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
X86_SIMD = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8")
ARM_SIMD = ("neon", "asimd", "asimddp", "i8mm")
WINDOWS_FEATURES = {"avx": 39, "avx2": 40, "avx512f": 41, "neon": 19, "asimddp": 43}  # PF_* of winnt.h


@dataclass(frozen=True)
class Memory:
    """Bytes of the machine's memory (`total`), of what this process may use (`limit`), and free now (`available`).

    limit_from: `machine`, `cgroup` or `rlimit`.
    """

    total: int
    limit: int
    limit_from: str
    available: int


@dataclass(frozen=True)
class Power:
    """The battery's charge as a `share`, 0 to 1, and whether mains power is plugged in; None where unknown."""

    share: float | None = None
    plugged: bool | None = None


def refuse_32_bit() -> None:
    """Raises HomeroomError where Python is 32-bit: the graph runtime is published for 64-bit systems only."""
    if struct.calcsize("P") < 8:
        raise HomeroomError(
            "this is a 32-bit system, which Homeroom cannot run on",
            remedy="install the 64-bit system, on a Raspberry Pi the 64-bit Raspberry Pi OS",
        )


def cores() -> int:
    """Logical processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def simd(cpuinfo: Path = PROC / "cpuinfo") -> tuple[str, ...]:
    """The processor's vector instructions among those that matter here (`X86_SIMD`, `ARM_SIMD`)."""
    flags: set[str] = set()
    if sys.platform == "win32":
        is_present = ctypes.windll.kernel32.IsProcessorFeaturePresent
        flags = {name for name, number in WINDOWS_FEATURES.items() if is_present(number)}
    elif sys.platform == "darwin":
        flags = {name.lower().replace(".", "_") for name in _output("sysctl", "-n", "machdep.cpu.features").split()}
        flags |= {name.lower() for name in _output("sysctl", "-n", "machdep.cpu.leaf7_features").split()}
        flags |= {"neon", "asimd"} if platform.machine() == "arm64" else set()
    else:
        for line in _text(cpuinfo).splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    return tuple(name for name in (*X86_SIMD, *ARM_SIMD) if name in flags)


def memory(proc: Path = PROC, root: Path = SYS / "fs" / "cgroup") -> Memory:
    """The least of the machine's memory, the control groups' limits and the process's own."""
    import psutil

    physical = psutil.virtual_memory()
    limits = {"machine": physical.total, "cgroup": cgroup_limit(proc, root), "rlimit": _rlimit()}
    known = {name: limit for name, limit in limits.items() if limit is not None}
    name = min(known, key=lambda key: known[key])
    return Memory(physical.total, known[name], name, physical.available)


def cgroup_limit(proc: Path = PROC, root: Path = SYS / "fs" / "cgroup") -> int | None:
    """Bytes, the least limit of this process's control group and those above it.

    Version 2: memory.max or memory.high; version 1: memory.limit_in_bytes.
    """
    limits: list[int] = []
    files: tuple[str, ...]
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            top, files = root, ("memory.max", "memory.high")
        elif "memory" in controllers.split(","):
            top, files = root / "memory", ("memory.limit_in_bytes",)
        else:
            continue
        group = top / path.lstrip("/")
        for folder in (group, *group.parents):
            limits += [int(text) for name in files if (text := _text(folder / name).strip()).isdigit()]
            if folder == top:
                break
    least = min(limits, default=None)
    return None if least is None or least >= 1 << 60 else least  # version 1 writes "no limit" as a huge number


def resident() -> int:
    """Bytes of memory that this process holds now."""
    import psutil

    held: int = psutil.Process().memory_info().rss
    return held


def peak_resident() -> int:
    """Bytes, the most that this process held since it began, or since `forget_peak`."""
    if sys.platform != "win32":
        import resource

        for line in _text(PROC / "self" / "status").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak << 10
    import psutil

    return int(psutil.Process().memory_info().peak_wset)


def forget_peak() -> bool:
    """Starts a new measurement of the peak; False where the system cannot."""
    with contextlib.suppress(OSError):
        (PROC / "self" / "clear_refs").write_text("5")
        return True
    return False


def trim_memory() -> None:
    """Returns freed memory to the system, so that a measurement counts what is used; glibc only."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL("libc.so.6").malloc_trim(0)


def disk_free(path: Path) -> int | None:
    """Bytes free for this user on the disk of `path`, or of the nearest folder above it that exists."""
    for folder in (path, *path.absolute().parents):
        with contextlib.suppress(OSError):
            return shutil.disk_usage(folder).free
    return None


def power(supplies: Path = SYS / "class" / "power_supply") -> Power:
    """The emptiest battery of the machine, and whether it is plugged in."""
    if sys.platform != "linux":
        import psutil

        battery = psutil.sensors_battery()
        return Power(battery.percent / 100, battery.power_plugged) if battery else Power()
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
    """The temperature of the hottest thermal zone, in degrees Celsius."""
    readings = []
    for zone in _entries(zones):
        text = _text(zone / "temp").strip()
        if zone.name.startswith("thermal_zone") and text.lstrip("-").isdigit():
            readings.append(int(text) / 1000)
    return max((reading for reading in readings if 0 < reading < 150), default=None)


def _rlimit() -> int | None:
    try:
        import resource
    except ImportError:
        return None
    else:
        limits = [resource.getrlimit(kind)[0] for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
        return min((value for value in limits if value != resource.RLIM_INFINITY), default=None)


def _output(*command: str) -> str:
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
