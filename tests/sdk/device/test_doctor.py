"""The doctor: a fit machine, a runtime that crashes, limits, a wrong clock, a bundle that does not compute here."""

from __future__ import annotations

import datetime
import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import msgspec
import psutil
import pytest
import second
import tiny

from homeroom import Device
from homeroom.cli.main import main
from homeroom.contract.manifest import Tolerance
from homeroom.device import doctor
from homeroom.device.doctor import examine
from homeroom.device.resources.benchmark import BenchmarkResult, run_benchmark
from homeroom.device.resources.costs import Costs
from homeroom.errors import HomeroomError
from homeroom.runtime.fallback import second_file
from homeroom.system import hardware

CRASHES = "import os, signal\nos.kill(os.getpid(), signal.{name})\n"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str) -> None:
    """Let child processes find `code` in place of a library."""
    (folder / f"{module}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")


def test_a_fit_machine_is_said_to_be_fit_and_the_costs_are_kept(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "classroom"
    Device.open(place, tiny_bundle.path, tiny_bundle.root, threads=1).close()
    assert main(["doctor", str(place), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["fit"]
    by_name = {check["name"]: check["says"] for check in told["checks"]}
    assert "GFLOP/s" in by_name["arithmetic"]
    assert "onnxruntime" in by_name["runtime"]
    assert set(told["costs"]["features"]) == {"text", "image", "audio", "table"}
    assert all(step["seconds"] > 0 for step in told["costs"]["steps"].values())
    with Device.open(place, threads=1) as device:
        kept = device.store.get_secret("costs")
    assert kept is not None
    assert json.loads(kept)["bundle_id"] == tiny_bundle.bundle_id == told["costs"]["bundle_id"]


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize(("name", "said"), [("SIGILL", "this processor does not have"), ("SIGSEGV", "SIGSEGV")])
def test_a_runtime_that_kills_its_process_is_a_sentence(
    name: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stand_in(tmp_path, monkeypatch, "onnxruntime", CRASHES.format(name=name))
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    (line,) = [line for line in out.splitlines() if line.startswith("!")]
    assert said in line
    assert "pip install 'onnxruntime==" in out


def test_a_bundle_that_needs_its_second_file_here_is_tried_with_it_or_the_file_is_named(
    tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    exact = Tolerance(mean=1 - 1e-7, worst=1 - 1e-7)  # as on a machine whose int8 arithmetic is another
    modalities = [
        msgspec.structs.replace(one, tolerance=exact) if one.name == "image" else one
        for one in tiny_bundle.manifest.modalities
    ]
    lesson = second.set_apart(tiny_bundle, tmp_path / "lesson", modalities=tuple(modalities))
    checks, _ = examine(bundle=lesson)
    assert [check.says for check in checks if check.state == "wrong"] == []
    assert any(check.says.startswith("image float32") for check in checks)
    apart = tmp_path / "apart" / "lesson.float32.homeroom"
    apart.parent.mkdir()
    second_file(lesson).rename(apart)
    checks, _ = examine(bundle=lesson)
    (wrong,) = [check for check in checks if check.state == "wrong"]
    assert "needs the float32 backbone" in wrong.says
    assert f"lesson.float32.homeroom, and put it into {tmp_path}" in wrong.remedy


def test_a_library_that_is_missing_is_named_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "soxr", "raise ImportError('libsoxr.so.0: cannot open shared object file')")
    checks, costs = examine()
    (wrong,) = [check for check in checks if check.state == "wrong"]
    assert (wrong.name, wrong.remedy) == ("soxr", "pip install -U soxr")
    assert costs is None


def test_a_probe_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "onnxruntime", "import time\ntime.sleep(60)\n")
    found = run_benchmark(timeout_s=2)
    assert found.crashed
    assert "more than 2 s" in found.how


def test_a_bundle_that_computes_other_features_here_is_wrong(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    altered = tmp_path / "bundle"
    altered.mkdir()
    for path in tiny_bundle.path.rglob("*"):
        if path.is_file():
            copy = altered / path.relative_to(tiny_bundle.path)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    (altered / tiny_bundle.manifest.theta).write_bytes(b"not theta")
    checks, _ = examine(bundle=altered)
    assert any(c.name == "bundle" and c.state == "wrong" and "damaged or altered" in c.says for c in checks)


def test_features_that_are_too_far_are_wrong_only_if_no_precision_comes_near() -> None:
    far = {"precision": "int8", "mean": 0.5, "worst": 0.1, "within": False, "seconds": 0.1, "bytes": 1}
    near = far | {"precision": "float32", "mean": 1.0, "worst": 1.0, "within": True}
    found = BenchmarkResult({"features text int8": far, "features text float32": near})
    assert [check.state for check in doctor._check_benchmark(found)] == ["note", "ok"]
    found = BenchmarkResult({"features text int8": far})
    (_, verdict) = doctor._check_benchmark(found)
    assert (verdict.state, "every precision" in verdict.says) == ("wrong", True)


def test_a_directory_that_is_in_use_or_empty_is_said_so(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    checks, _ = examine(tmp_path / "nothing")
    assert any("device init" in check.remedy for check in checks if check.state == "wrong")
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1):
        checks, _ = examine(tmp_path / "device")
    assert any(check.name == "directory" and check.state == "wrong" for check in checks)


@pytest.mark.parametrize("year", [1970, 2024, 2070])
def test_a_clock_that_cannot_be_right_is_wrong(year: int) -> None:
    found = doctor.check_clock(datetime.datetime(year, 1, 1, tzinfo=datetime.UTC))
    assert found.state == "wrong"
    assert found.remedy


def test_a_32_bit_system_is_refused_with_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(struct, "calcsize", lambda _: 4)
    with pytest.raises(HomeroomError, match="32-bit"):
        examine()
    with pytest.raises(SystemExit) as ended:
        main(["device", "status", "nowhere"])
    assert ended.value.code == 1
    assert "64-bit Raspberry Pi OS" in capsys.readouterr().err


def groups(folder: Path, lines: str, limits: dict[str, str]) -> tuple[Path, Path]:
    """A /proc and a /sys/fs/cgroup with these limits."""
    (folder / "proc" / "self").mkdir(parents=True)
    (folder / "proc" / "self" / "cgroup").write_text(lines)
    for name, value in limits.items():
        (folder / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup" / name).write_text(value)
    return folder / "proc", folder / "cgroup"


def test_the_least_limit_of_the_control_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = SimpleNamespace(total=4000000 << 10, available=3000000 << 10)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: machine)
    monkeypatch.setattr(hardware, "_rlimit", lambda: None)
    second = {"school.slice/memory.max": "536870912\n", "school.slice/homeroom.service/memory.max": "max\n"}
    proc, root = groups(tmp_path / "2", "0::/school.slice/homeroom.service\n", second)
    assert hardware.cgroup_limit(proc, root) == 512 << 20
    assert hardware.memory(proc, root).limit_from == "cgroup"
    first = {"memory/app/memory.limit_in_bytes": "268435456", "memory/memory.limit_in_bytes": "9223372036854771712"}
    proc, root = groups(tmp_path / "1", "4:memory:/app\n1:cpu:/\n0::/\n", first)
    assert hardware.memory(proc, root).limit == 256 << 20
    proc, root = groups(tmp_path / "0", "0::/\n", {"memory.max": "max\n"})
    assert hardware.memory(proc, root) == hardware.Memory(4000000 << 10, 4000000 << 10, "machine", 3000000 << 10)


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_a_limit_of_the_process_counts_too() -> None:
    code = (
        "import resource; from homeroom.system import hardware;"
        "resource.setrlimit(resource.RLIMIT_AS, (700 << 20, -1));"
        "found = hardware.memory(); print(found.limit, found.limit_from)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [str(700 << 20), "rlimit"]


def supply(folder: Path, name: str, **values: str) -> None:
    (folder / name).mkdir(parents=True)
    for key, value in values.items():
        (folder / name / key).write_text(value + "\n")


def test_battery_and_temperature_are_read_where_the_system_tells(tmp_path: Path) -> None:
    supplies = tmp_path / "supplies"
    assert hardware.power(supplies) == hardware.Power(None, None)
    supply(supplies, "BAT0", type="Battery", capacity="38", status="Discharging")
    supply(supplies, "mouse", type="Battery", capacity="5", scope="Device")
    assert hardware.power(supplies) == hardware.Power(0.38, False)
    supply(supplies, "AC", type="Mains", online="1")
    assert hardware.power(supplies).plugged is True
    zones = tmp_path / "zones"
    supply(zones, "thermal_zone0", temp="48312")
    supply(zones, "thermal_zone1", temp="-274000")
    assert hardware.celsius(zones) == pytest.approx(48.312)
    assert hardware.celsius(tmp_path / "none") is None


def test_memory_in_use_is_what_the_system_says() -> None:
    held = hardware.resident()
    peak = hardware.peak_resident()
    assert 10 << 20 < held <= peak + (1 << 20)


def test_what_was_measured_belongs_to_one_bundle_and_one_machine() -> None:
    costs = Costs(bundle_id="a" * 64, place="here", threads=1, base_bytes=1)
    assert costs.belongs_to("a" * 64, "here")
    assert not costs.belongs_to("b" * 64, "here")
    assert not costs.belongs_to("a" * 64, "there")
