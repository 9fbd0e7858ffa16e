"""Bundles that are damaged, forged, too new, too old or hostile: refused with one message, and nothing is installed."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import safetensors.numpy
import tiny

from homeroom import Device, Sample
from homeroom.cli.main import main
from homeroom.contract.canonical_json import digest_file
from homeroom.contract.manifest import File, Manifest
from homeroom.contract.signing import certify, new_key
from homeroom.errors import BundleError
from homeroom.runtime.bundle import write_signature

Change = Callable[[Path, tiny.Tiny], None]


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change manifest.json as text, without signing it again."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))


def sign_again(folder: Path, made: tiny.Tiny, **changes: Any) -> Manifest:
    """A manifest with true hashes and changed fields, signed with the exporter's own key."""
    files = {}
    for name in made.manifest.files:
        path = folder / name
        if path.exists():
            files[name] = File(digest_file(path), path.stat().st_size)
    manifest = msgspec.structs.replace(made.manifest, files=files, **changes)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    write_signature(folder, manifest, made.certificate, made.exporter_key)
    return manifest


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def graph(folder: Path) -> Path:
    return next(path for path in sorted((folder / "graphs").iterdir()) if "float32" not in path.name)


def forge(folder: Path, made: tiny.Tiny) -> None:
    """A stranger signs with a root of their own."""
    root, key = new_key(), new_key()
    write_signature(folder, made.manifest, certify(root, "exporter", key, "stranger"), key)


def pretend(folder: Path, made: tiny.Tiny) -> None:
    """A stranger's key behind the true exporter's certificate."""
    write_signature(folder, made.manifest, made.certificate, new_key())


def wrong_role(folder: Path, made: tiny.Tiny) -> None:
    """The aggregator's key signs a bundle."""
    certificate = certify(made.root_key, "aggregator", made.aggregator_key, "server")
    write_signature(folder, made.manifest, certificate, made.aggregator_key)


def endless_theta(folder: Path, made: tiny.Tiny) -> None:
    theta = np.full(made.manifest.layout.size, np.nan, np.float32)
    safetensors.numpy.save_file({"theta": theta}, folder / made.manifest.theta)
    sign_again(folder, made)


def short_theta(folder: Path, made: tiny.Tiny) -> None:
    safetensors.numpy.save_file({"theta": np.zeros(3, np.float32)}, folder / made.manifest.theta)
    sign_again(folder, made)


def broken_graph(folder: Path, made: tiny.Tiny) -> None:
    """Every hash and the signature are right, the graph is not one."""
    for path in (folder / "graphs").glob("features.text.*"):
        path.write_bytes(b"not a graph")
    sign_again(folder, made)


def linked(folder: Path, made: tiny.Tiny) -> None:
    target = graph(folder)
    shutil.move(target, folder / "elsewhere")
    target.symlink_to(folder / "elsewhere")


def linked_folder(folder: Path, made: tiny.Tiny) -> None:
    shutil.move(folder / "graphs", folder.parent / "graphs")
    (folder / "graphs").symlink_to(folder.parent / "graphs")


def linked_manifest(folder: Path, made: tiny.Tiny) -> None:
    shutil.move(folder / "manifest.json", folder / "elsewhere")
    (folder / "manifest.json").symlink_to(folder / "elsewhere")


CASES: dict[str, tuple[Change, int, str]] = {
    "a flipped bit in a graph": (lambda f, _: flip(graph(f)), 4, "damaged or altered"),
    "a flipped bit in theta": (lambda f, m: flip(f / m.manifest.theta), 4, "damaged or altered"),
    "a graph cut short": (lambda f, _: graph(f).write_bytes(graph(f).read_bytes()[:100]) and None, 4, "altered"),
    "a file that is missing": (lambda f, _: graph(f).unlink(), 4, "missing"),
    "no manifest": (lambda f, _: (f / "manifest.json").unlink(), 4, "manifest.json"),
    "no signature": (lambda f, _: (f / "signature.json").unlink(), 4, "signature.json"),
    "a manifest that is no JSON": (lambda f, _: (f / "manifest.json").write_text("{") and None, 4, "manifest.json"),
    "a manifest cut short": (lambda f, _: _cut(f / "manifest.json"), 4, "manifest.json"),
    "a manifest of eight megabytes": (lambda f, _: (f / "manifest.json").write_text(" " * (8 << 20)) and None, 4, ""),
    "a newer format": (lambda f, _: edit(f, lambda d: d.update(format=99)), 4, "update homeroom"),
    "an older format": (lambda f, _: edit(f, lambda d: d.update(format=0)), 4, "older"),
    "a name that leads outside": (
        lambda f, _: edit(f, lambda d: d["files"].update({"../evil": {"sha256": "0" * 64, "bytes": 1}})),
        4,
        "outside",
    ),
    "an altered manifest": (lambda f, _: edit(f, lambda d: d.update(version=7)), 4, "signed"),
    "a task that reads nothing": (lambda f, m: _manifest(f, m, lambda d: d["tasks"][0].update(reads=["x"])), 4, "x"),
    "a signature that is no JSON": (lambda f, _: (f / "signature.json").write_text("?") and None, 4, "signature"),
    "an altered signature": (lambda f, _: _signature(f, "signature"), 6, "signature"),
    "a stranger's root": (forge, 6, "root"),
    "a stranger's key": (pretend, 6, "signature"),
    "a key for another role": (wrong_role, 6, "exporter"),
    "a theta that is not finite": (endless_theta, 4, "finite"),
    "a theta of another length": (short_theta, 4, "float32"),
    "a graph that is none": (broken_graph, 4, "features"),
    "a linked file": (linked, 4, "it is a link"),
    "a linked folder": (linked_folder, 4, "it is a link"),
    "a linked manifest": (linked_manifest, 4, "it is a link"),
}


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _signature(folder: Path, field: str) -> None:
    path = folder / "signature.json"
    document = json.loads(path.read_bytes())
    document[field] = "0" * len(document[field])
    path.write_text(json.dumps(document))


def _manifest(folder: Path, made: tiny.Tiny, change: Callable[[dict[str, Any]], None]) -> None:
    edit(folder, change)


def refuse(capsys: pytest.CaptureFixture[str], place: Path, source: Path, root: str, code: int, words: str) -> None:
    """Installing ends in one message, and leaves no bundle behind."""
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["device", "init", str(place), "--bundle", str(source), "--root", root]))
    said = capsys.readouterr().err
    assert ended.value.code == code, said
    assert words in said
    assert 1 <= len(said.strip().splitlines()) <= 2, said
    assert not place.exists(), "a device that cannot be made leaves nothing"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def copy(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))


@pytest.mark.attack("files and bundles", "A bundle that is altered, forged, linked or hostile")
@pytest.mark.parametrize("case", CASES)
def test_a_bad_bundle_is_refused(
    case: str, copy: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, code, words = CASES[case]
    change(copy, tiny_bundle)
    refuse(capsys, tmp_path / "device", copy, tiny_bundle.root, code, words)


def pack(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(folder).as_posix())


def traversal(path: Path, name: str) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, b"evil")


def link(path: Path) -> None:
    entry = zipfile.ZipInfo("graphs/link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(entry, "/etc/passwd")


def bomb(path: Path) -> None:
    """A listed file that unpacks to far more than the manifest says."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, bytes(200 << 20) if name == "theta.safetensors" else data)


def crowd(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for number in range(5_000):
            archive.writestr(f"notes/{number}", b"")


def long_manifest(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data + b" " * (8 << 20) if name == "manifest.json" else data)


ZIPS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a path above": (lambda p: traversal(p, "../evil"), "outside"),
    "an absolute path": (lambda p: traversal(p, "/tmp/evil"), "outside"),
    "a path for Windows": (lambda p: traversal(p, "graphs\\..\\..\\evil"), "outside"),
    "a drive": (lambda p: traversal(p, "C:/evil"), "outside"),
    "a link": (link, "link"),
    "a bomb": (bomb, "larger than the manifest says"),
    "a cut file": (lambda p: p.write_bytes(p.read_bytes()[:-200]), "readable"),
    "noise": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(500)), "readable"),
    "nothing": (lambda p: p.write_bytes(b""), "readable"),
    "the same name twice": (lambda p: traversal(p, "MANIFEST.json"), "twice"),
    "5,000 files": (crowd, "more than any bundle"),
    "a manifest of eight megabytes": (long_manifest, "is larger than"),
    "another zip": (lambda p: (p.unlink(), traversal(p, "readme.txt")), "not of a bundle"),
}


@pytest.mark.attack("files and bundles", "A zip that leads outside, or unpacks to more than was signed")
@pytest.mark.parametrize("case", ZIPS)
def test_a_bad_zip_is_refused(
    case: str, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change, words = ZIPS[case]
    path = tmp_path / "lesson.homeroom"
    pack(tiny_bundle.path, path)
    change(path)
    refuse(capsys, tmp_path / "device", path, tiny_bundle.root, 4, words)
    assert not (tmp_path / "evil").exists()
    assert not (tmp_path / "device" / "evil").exists()


def test_a_sound_zip_is_installed_and_its_strangers_are_left_out(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    path = tmp_path / "lesson.homeroom"
    pack(tiny_bundle.path, path)
    traversal(path, "notes/extra.txt")
    with Device.open(tmp_path / "device", path, tiny_bundle.root, threads=1) as device:
        assert device.bundle.bundle_id == tiny_bundle.bundle_id
        assert not device.bundle.file("notes").exists()


def test_once_trusted_a_root_stays_the_only_one_and_an_older_bundle_is_not_taken(
    copy: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "device"
    sign_again(copy, tiny_bundle, version=5)
    Device.open(place, copy, threads=1).close()
    with pytest.raises(BundleError, match="older than 5"):
        Device.open(place, tiny_bundle.path, threads=1)
    forge(copy, tiny_bundle)
    with pytest.raises(SystemExit) as ended:
        sys.exit(main(["device", "init", str(place), "--bundle", str(copy)]))
    assert ended.value.code == 6
    with Device.open(place, threads=1) as device:
        assert device.bundle.manifest.version == 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_bundle_that_is_installed_is_not_copied_again(
    tiny_bundle: tiny.Tiny, copy: Path, tmp_path: Path, packed: bool
) -> None:
    place = tmp_path / "device"
    Device.open(place, copy, threads=1).close()
    graph(copy).unlink()  # of the source no more is read than who made it, and what it is
    source = tmp_path / "lesson.homeroom" if packed else copy
    if packed:
        pack(copy, source)
    with Device.open(place, source, threads=1) as device:
        assert device.bundle.bundle_id == tiny_bundle.bundle_id
        assert device.predict(Sample(word="cat"))["grade"]
    with pytest.raises(BundleError, match="missing"):
        Device.open(tmp_path / "another", source, threads=1)


def test_an_installed_bundle_that_was_altered_is_noticed(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    place = tmp_path / "device"
    with Device.open(place, tiny_bundle.path, threads=1) as device:
        installed = device.bundle.path
    flip(graph(installed))
    with pytest.raises(BundleError, match="damaged or altered"):
        Device.open(place, threads=1)
    Device.open(place, tiny_bundle.path, threads=1).close()
    Device.open(place, threads=1).close()
