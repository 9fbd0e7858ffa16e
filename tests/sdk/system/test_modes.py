"""Nobody but its user opens what Homeroom makes: each file and folder has its mode before a byte is in it."""

from __future__ import annotations

import ast
import logging
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Attack
from faults.devices import make_sample, open_store
from faults.recording import find_strace

from homeroom.errors import StoreError
from homeroom.system import files

ROOT = Path(__file__).parents[3]
PACKAGES = [ROOT / "sdk" / "homeroom", ROOT / "aggregator" / "homeroom_aggregator"]
MAKERS = {"system/files.py", "system/sqlite.py"}  # where files are made
PUBLIC = {  # whatever else makes one: why it may
    "runtime/bundle.py: write_bytes": "a bundle's signature, which is public",
    "runtime/bundle.py: ZipFile": "a .homeroom file, which is handed out",
    "system/hardware.py: write_text": "a setting of the system, in /proc",
}
METHODS = {"write_text", "write_bytes", "touch", "mkdir", "makedirs", "mkfifo", "copyfile", "copy2", "copytree", "move"}
LOGS = {"FileHandler", "RotatingFileHandler", "TimedRotatingFileHandler"}
MODES = pytest.mark.attack("files and bundles", "another user of the machine opens what Homeroom writes")


def makes_a_file(call: ast.Call) -> str:
    """The name of a call that makes a file or folder in its own way, or ""."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    owner = call.func.value.id if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name) else ""
    words = [a.value for a in [*call.args, *(k.value for k in call.keywords)] if isinstance(a, ast.Constant)]
    writes = any(isinstance(word, str) and re.fullmatch(r"[rwaxbt+]*[wax][rwaxbt+]*", word) for word in words)
    if name == "open" and owner == "os":
        return "os.open" if "O_CREAT" in ast.unparse(call) else ""
    if name == "fdopen":
        return ""  # of a descriptor that is open already
    if name == "ZipFile":
        return name if writes and not (isinstance(call.args[0], ast.Name) and call.args[0].id == "file") else ""
    if name == "connect" and owner == "sqlite3":
        return "" if any(k.arg == "uri" for k in call.keywords) else "sqlite3.connect"
    if name in METHODS | LOGS or (name == "copy" and owner == "shutil"):
        return name
    return "open" if name == "open" and writes else ""


def sources() -> list[tuple[str, ast.Module]]:
    return [
        (path.relative_to(package).as_posix(), ast.parse(path.read_text("utf-8")))
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
    ]


@MODES
def test_no_module_makes_a_file_in_its_own_way(attack: Attack) -> None:
    found = {
        f"{name}: {way}"
        for name, tree in sources()
        if name not in MAKERS
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and (way := makes_a_file(call))
    }
    attack.got = len(found - PUBLIC.keys())
    attack.noticed = "; ".join(sorted(found - PUBLIC.keys()))
    assert found - PUBLIC.keys() == set()
    assert found == PUBLIC.keys(), "an exception that nothing needs"


@pytest.mark.parametrize(
    "source",
    ["Path('x').write_bytes(b'')", "open('x', 'wb')", "p.open(mode='a')", "os.open('x', os.O_CREAT)", "p.mkdir()"],
)
def test_the_search_finds_such_a_way(source: str) -> None:
    (call,) = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and makes_a_file(node)][:1]
    assert call


WORK = """
import os, sys
os.umask(0)
sys.path[:0] = [{tests!r}]
from pathlib import Path
from faults.devices import features, make_sample, open_store, theta
from homeroom.agent import inbox, status
from homeroom.agent.support_bundle import write_support
from homeroom.errors import InputError
from homeroom.store.subject_export import write_export
from homeroom.system.files import PrivateLogFile, make_directory
home = Path(sys.argv[1])
with open_store(home) as store:
    store.add([make_sample(n, "p") for n in range(9)])
    store.versions.set_current(store.versions.put(theta(0), "local", 0, {{}}, ["p"]))
    store.write_features("v", {{("p", b"1"): features(1)}})
    write_export(store.export("p"), home / "export")
    store.forget("p")
status.write_status(home / "device", status.AgentStatus())
PrivateLogFile(home / "device" / "agent" / "agent.log").close()
os.environ["HOMEROOM_KEYS"] = str(home / "keys")
make_directory(home / "inbox")
with (home / "inbox" / "x.csv").open("x") as file:
    os.fchmod(file.fileno(), 0o600)
inbox.refuse_entry(home / "inbox" / "x.csv", InputError("wrong"))
"""


@MODES
@pytest.mark.skipif(find_strace() is None, reason="strace is neither installed nor to be had from apt-get")
def test_every_file_of_a_device_is_made_for_its_user_alone(tmp_path: Path, attack: Attack) -> None:
    """As the system sees it, with a umask that takes nothing away; SQLite's own files too."""
    script, log, home = tmp_path / "work.py", tmp_path / "log", tmp_path / "home"
    script.write_text(WORK.format(tests=str(ROOT / "tests")))
    home.mkdir(mode=0o700)
    strace = [str(find_strace()), "-f", "-e", "trace=openat,open,creat,mkdir,mkdirat", "-o", str(log)]
    subprocess.run([*strace, sys.executable, str(script), str(home)], check=True, timeout=200)
    made: set[str] = set()
    for line in log.read_text("utf-8", errors="replace").splitlines():
        call = re.search(r'(open|openat|creat|mkdir|mkdirat)\(.*?"([^"]+)".*?(?:, (0[0-7]+))?\) += (-?\d+)', line)
        if call is None or not call[2].startswith(str(home)) or int(call[4]) < 0 or call[2] in made:
            continue
        if any(path.startswith(call[2]) and path.endswith(".new") for path in made):
            continue  # it was renamed, and is opened again
        if call[1].startswith("mkdir") or "O_CREAT" in line:
            made.add(call[2])
            attack.got += bool(int(call[3], 8) & 0o077) and not call[2].endswith("x.csv")
    left = [path for path in home.rglob("*") if path.lstat().st_mode & 0o077]
    assert left == []
    names = {re.sub(r"(\.[0-9a-f]{8})?\.new$", "", Path(path).name) for path in made}
    assert {"device.db", "device.db-wal", "cache.db", "lock", "export.json", "agent.log"} <= names


@MODES
def test_wrong_modes_are_mended_at_the_next_opening_and_said(
    tmp_path: Path, attack: Attack, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path) as store:
        store.add([make_sample(1)])
    for path in (tmp_path / "device", *(tmp_path / "device").rglob("*"), *(tmp_path / "keys").rglob("*.json")):
        path.chmod(0o777)
    with caplog.at_level(logging.WARNING), open_store(tmp_path):
        paths = [tmp_path / "device", *(tmp_path / "device").rglob("*"), *(tmp_path / "keys").rglob("*.json")]
        attack.got = sum(bool(path.stat().st_mode & 0o077) for path in paths)
    attack.noticed = caplog.messages[0]
    assert "now they cannot" in attack.noticed
    with caplog.at_level(logging.WARNING):
        caplog.clear()
        open_store(tmp_path).close()
        assert caplog.messages == []


@MODES
def test_what_belongs_to_another_user_and_is_open_is_refused(
    tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_store(tmp_path).close()
    (tmp_path / "device").chmod(0o777)

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(StoreError, match="belongs to another user"):
        open_store(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: (tmp_path / "device").stat().st_uid)
    open_store(tmp_path).close()  # a file system without modes
    attack.noticed = "refused, with the command that mends it"


def test_an_existing_file_is_closed_before_it_is_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "old.zip"
    path.write_bytes(b"what was there")
    path.chmod(0o666)
    with files.open_private(path) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.stat().st_size == 0
        file.write(b"new")
    assert path.read_bytes() == b"new"
