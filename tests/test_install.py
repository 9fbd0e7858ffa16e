"""`pip install .` into an empty environment: what it weighs, what it lacks, and that a device really works there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).resolve().parents[1]
LIMIT_MB = 260
IMPORT_LIMIT_S = 0.5
INSTALLERS = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
ABSENT = ("torch", "onnx", "onnxscript", "transformers", "peft", "optimum", "sklearn", "scipy", "starlette", "pytest")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROUND_TRIP = """
import json, pathlib, sys
from homeroom import Device, Sample
bundle, place = map(pathlib.Path, sys.argv[1:])
rows = [json.loads(line) for line in (bundle / "golden" / "samples.jsonl").read_text().splitlines()]
lesson = place / "lesson.jsonl"
for number, row in enumerate(rows):
    row["subject"] = f"p-{number % 4}"
lesson.write_text("".join(json.dumps(row) + "\\n" for row in rows))
for path in (bundle / "golden").iterdir():
    if path.name != "samples.jsonl":
        (place / path.name).write_bytes(path.read_bytes())
with Device.open(place / "device", bundle=bundle) as device:
    added = device.add(lesson)
    trained = device.train(minutes=0.5, epochs=2)
    scores = device.score(lesson)
    held = device.export("p-1")
    device.forget("p-1")
with Device.open(place / "device") as device:
    left = device.status()
print(json.dumps({
    "added": len(set(added)), "epochs": trained.epochs, "tasks": len(scores), "subjects": left["subjects"],
    "torch": [name for name in ("torch", "onnx", "transformers") if name in sys.modules],
}))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment that holds what `pip install .` brings, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "environment"
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")}
    environment["PYTHON"] = sys.executable
    subprocess.run(
        [str(ROOT / ".ci" / "environment"), str(folder), str(ROOT)], check=True, env=environment, timeout=600
    )
    return folder / "bin" / "python"


def run(python: Path, *arguments: str, **environment: str) -> str:
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, timeout=600, cwd=python.parent, env=clean
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def sizes_mb(python: Path) -> dict[str, float]:
    """Megabytes (10^6 bytes) of each entry of site-packages, bytecode included, pip and setuptools left out."""
    place = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    return {
        entry.name: sum(p.stat().st_size for p in ([entry, *entry.rglob("*")]) if p.is_file()) / 1e6
        for entry in place.iterdir()
        if not entry.name.startswith(INSTALLERS)
    }


def test_the_device_is_small(installed: Path) -> None:
    sizes = sizes_mb(installed)
    assert list(installed.parents[1].rglob("onnxruntime/__pycache__/*.pyc")), "bytecode is part of the measure"
    total, largest = sum(sizes.values()), sorted(sizes.items(), key=lambda item: -item[1])[:12]
    print(f"\ninstalled: {total:.0f} MB; " + ", ".join(f"{name} {size:.0f}" for name, size in largest))
    assert total <= LIMIT_MB, largest


def test_nothing_of_the_exporter_or_the_server_is_there(installed: Path) -> None:
    script = f"import importlib.util as u; print([n for n in {ABSENT!r} if u.find_spec(n)])"
    assert run(installed, "-c", script).strip() == "[]"


def test_every_template_is_there_and_pages_are_rendered(installed: Path) -> None:
    """Without them the device's page, `explain --html` and the dashboard would fail where it was installed."""
    place = Path(run(installed, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    for top in ("sdk", "exporter", "aggregator"):
        for path in (path for kind in ("html", "svg", "css", "typed") for path in (ROOT / top).rglob(f"*.{kind}")):
            assert (place / path.relative_to(ROOT / top)).read_bytes() == path.read_bytes()
    script = (
        "from homeroom.inference.explanation_page import TEMPLATE as page\n"
        "from homeroom.system.html.render import environment\n"
        "print([environment(page.parent).get_template(name).name for name in ('base.html', page.name)])"
    )
    assert run(installed, "-c", script).strip() == "['base.html', 'explanation_page.html']"


def test_importing_homeroom_takes_half_a_second_at_most(installed: Path) -> None:
    script = "import time; t = time.process_time(); import homeroom; print(time.process_time() - t)"
    run(installed, "-c", script)
    seconds = min(float(run(installed, "-c", script)) for _ in range(5))
    print(f"\nimport homeroom: {seconds:.2f} s")
    assert seconds <= IMPORT_LIMIT_S


def test_a_device_adds_trains_scores_exports_and_forgets_there(
    installed: Path, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    (tmp_path / "keys").mkdir()
    out = run(installed, "-c", ROUND_TRIP, str(tiny_bundle.path), str(tmp_path), HOMEROOM_KEYS=str(tmp_path / "keys"))
    result = json.loads(out.splitlines()[-1])
    assert result["torch"] == []
    assert result["epochs"] >= 1
    assert result["tasks"] >= 1
    assert result["subjects"] == 3


def test_the_command_line_works_there_and_names_a_missing_extra(installed: Path, tmp_path: Path) -> None:
    command = shutil.which("homeroom", path=str(installed.parent))
    assert command
    assert "device" in run(installed, "-m", "homeroom", "--help")
    done = subprocess.run(
        [command, "district", "serve", str(tmp_path)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 13
    assert f"pip install '{ROOT}[aggregator]'" in done.stderr or f"pip install {ROOT}[aggregator]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.extra
def test_the_contracts_and_the_store_pass_their_own_tests_there(installed: Path, tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    names = ["pytest", "pytest-timeout", "hypothesis"]
    pins = ["-c", str(ROOT / "constraints.txt")]
    run(
        installed,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-deps",
        "--target",
        str(extra),
        *pins,
        *names,
        "iniconfig",
        "sortedcontainers",
        "Pygments",
    )
    chosen = [
        str(p)
        for p in (ROOT / "tests/sdk/contract", *sorted((ROOT / "tests/sdk").glob("test_store*.py")))
        if p.exists()
    ]
    options = [
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(ROOT),
        "-c",
        str(ROOT / "pyproject.toml"),
    ]
    out = run(installed, "-m", "pytest", *options, *chosen, PYTHONPATH=str(extra), PYTHONDONTWRITEBYTECODE="1")
    assert " passed" in out
    assert " failed" not in out
