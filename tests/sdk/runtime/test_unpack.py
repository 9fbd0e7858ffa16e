"""A bundle's signature is checked before anything is unpacked, and external data of its graphs stays inside."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tiny
from conftest import Attack

from homeroom.contract.canonical_json import digest_file
from homeroom.contract.manifest import File
from homeroom.contract.manifest_checks import read_manifest
from homeroom.contract.signing import certify, new_key
from homeroom.errors import BundleError, DiskFullError, TrustError
from homeroom.runtime import external_data, unpack
from homeroom.runtime.bundle import install, open_bundle, write_signature, zip_bundle
from homeroom.runtime.external_data import TENSOR_PATHS, check_external_data
from homeroom.runtime.unpack import copy_signed


def huge(made: tiny.Tiny, folder: Path, size_bytes: int) -> Path:
    """A zip of a stranger: what it lists is as large as it says, and signed by a root of theirs."""
    shutil.copytree(made.path, folder)
    with (folder / made.manifest.theta).open("wb") as file:
        file.truncate(size_bytes)
    manifest = json.loads((folder / "manifest.json").read_bytes())
    manifest["files"][made.manifest.theta] = {"sha256": digest_file(folder / made.manifest.theta), "bytes": size_bytes}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def written_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.attack("files and bundles", "A megabyte that unpacks to gigabytes before its signature is looked at")
@pytest.mark.parametrize("signed", ["by nobody", "by a stranger"])
def test_nothing_is_unpacked_before_the_signature_holds(
    signed: str, tiny_bundle: tiny.Tiny, tmp_path: Path, attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = huge(tiny_bundle, tmp_path / "copy", 300 << 20)
    if signed == "by a stranger":
        root, key = new_key(), new_key()
        manifest = read_manifest((folder / "manifest.json").read_bytes())
        write_signature(folder, manifest, certify(root, "exporter", key, "stranger"), key)
    zip_bundle(folder, tmp_path / "lesson.homeroom")
    assert (tmp_path / "lesson.homeroom").stat().st_size < 3 << 20
    kept: list[int] = []
    remove = shutil.rmtree

    def look(path: Any, **options: Any) -> None:
        kept.append(written_bytes(tmp_path / "into"))
        remove(path, **options)

    monkeypatch.setattr("homeroom.runtime.bundle.shutil.rmtree", look)
    with pytest.raises((BundleError, TrustError), match=r"signed|root"):
        install(tmp_path / "lesson.homeroom", tmp_path / "into", root=tiny_bundle.root)
    attack.got = max(kept, default=0)
    assert not (tmp_path / "into").exists() or not list((tmp_path / "into").iterdir())


def test_a_file_that_is_not_the_signed_one_is_never_whole_on_disk(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    """One that is too long ends at its signed size; nothing of the bundle stays."""
    path = tmp_path / "lesson.homeroom"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(p for p in tiny_bundle.path.rglob("*") if p.is_file()):
            name = file.relative_to(tiny_bundle.path).as_posix()
            archive.writestr(name, bytes(200 << 20) if name == tiny_bundle.manifest.theta else file.read_bytes())
    with pytest.raises(BundleError, match="larger than the manifest says"):
        install(path, tmp_path / "into", root=tiny_bundle.root)
    assert written_bytes(tmp_path / "into") == 0


def part(number: int, *contents: bytes) -> bytes:
    """A field of protobuf that holds a message, a string or bytes; the onnx package is not on a device."""
    body, length = b"".join(contents), b""
    size = len(body)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    tag = number << 3 | 2
    return (bytes([tag]) if tag < 128 else bytes([tag & 127 | 128, tag >> 7])) + length + bytes([size]) + body


def model(location: str, where: str) -> bytes:
    """A graph with external data at a location, in one of the places where a tensor can stand."""
    entry = part(13, part(1, b"location"), part(2, location.encode()))
    tensor = b"\x08\x04\x10\x01" + part(8, b"w") + entry + b"\x70\x01"  # dims, data_type, name, data_location
    match where:
        case "initializer":
            inside = part(7, part(5, tensor))
        case "attribute":
            inside = part(7, part(1, part(5, part(1, b"value"), part(5, tensor))))
        case "sparse":
            inside = part(7, part(15, part(1, tensor)))
        case "function":
            inside = part(25, part(1, b"f"), part(7, part(5, part(10, tensor))))
        case "subgraph":
            inside = part(7, part(1, part(5, part(6, part(5, tensor)))))
        case _:
            inside = part(20, part(1, part(5, tensor)))
    return b"\x08\x08" + inside  # ir_version


PLACES = ("initializer", "attribute", "sparse", "function", "subgraph", "training")


@pytest.mark.attack("files and bundles", "A graph that reads its weights from a file outside the bundle")
@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "a/../../secret", "C:\\x", "other.bin", "./../x", ""])
def test_external_data_outside_is_refused(location: str, where: str, tmp_path: Path, attack: Attack) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(model(location, where))
    with pytest.raises(BundleError, match="no file of the bundle"):
        check_external_data(path, "graphs/g.onnx", {"graphs/g.onnx", "graphs/weights.bin"})
    attack.noticed = "the bundle is not installed"


@pytest.mark.parametrize("where", PLACES)
def test_external_data_that_is_signed_may_be_used(where: str, tmp_path: Path) -> None:
    path = tmp_path / "g.onnx"
    path.write_bytes(model("weights.bin", where))
    check_external_data(path, "graphs/g.onnx", {"graphs/g.onnx", "graphs/weights.bin"})


def test_a_graph_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    body = part(5, b"location")
    for _ in range(60):  # a graph in an attribute of a node of a graph
        body = part(1, part(5, part(6, body)))
    (tmp_path / "g.onnx").write_bytes(part(7, body))
    with pytest.raises(BundleError, match="nested deeper"):
        check_external_data(tmp_path / "g.onnx", "g.onnx", set())


def test_another_file_of_the_same_length_ends_the_copy(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not the file that was signed"):
        copy_signed(io.BytesIO(b"abcd"), tmp_path, "graphs/a", File("0" * 64, 4))
    with pytest.raises(BundleError, match="not the file that was signed"):
        copy_signed(io.BytesIO(b"ab"), tmp_path, "graphs/b", File(hashlib.sha256(b"ab").hexdigest(), 4))


@pytest.mark.parametrize("where", PLACES)
def test_the_graphs_of_these_tests_are_graphs(where: str) -> None:
    onnx = pytest.importorskip("onnx")
    assert "location" in str(onnx.load_from_string(model("weights.bin", where)))


def test_the_numbers_of_fields_are_those_of_onnx() -> None:
    """Every field of a message on the way to a tensor that leads to one is known, and no other."""
    onnx = pytest.importorskip("onnx")
    for message, fields in TENSOR_PATHS.items():
        parts = [field for field in getattr(onnx, message).DESCRIPTOR.fields if field.message_type]
        leading = [f for f in parts if f.name == "external_data" or f.message_type.name in TENSOR_PATHS]
        assert fields == {field.number: field.message_type.name for field in leading}, message


@pytest.mark.parametrize(
    "data", [b"location", b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01location", b"\x0blocation"]
)
def test_what_is_no_graph_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(data)
    with pytest.raises(BundleError, match="not a graph"):
        check_external_data(tmp_path / "g.onnx", "g.onnx", set())


def test_a_signed_bundle_with_data_outside_is_not_opened(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    """The graph of a features backbone, which every runtime would load."""
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    graph = next(g.file for g in tiny_bundle.manifest.graphs if g.role == "features")
    np.zeros(4, np.float32).tofile(tmp_path / "secret")
    (folder / graph).write_bytes(model(os.path.relpath(tmp_path / "secret", (folder / graph).parent), "initializer"))
    files = {n: File(digest_file(folder / n), (folder / n).stat().st_size) for n in tiny_bundle.manifest.files}
    manifest = msgspec.structs.replace(tiny_bundle.manifest, files=files)
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    write_signature(folder, manifest, tiny_bundle.certificate, tiny_bundle.exporter_key)
    for opened in (lambda: open_bundle(folder, root=None), lambda: install(folder, tmp_path / "into", root=None)):
        with pytest.raises(BundleError, match="no file of the bundle"):
            opened()
    assert written_bytes(tmp_path / "into") == 0


@pytest.mark.attack("files and bundles", "A graph that reads files outside the bundle")
@pytest.mark.parametrize("suffix", [".ort", ".bin", ".tflite"])
def test_a_graph_by_a_name_that_the_check_would_pass_over_is_not_opened(
    suffix: str, tiny_bundle: tiny.Tiny, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy"))
    first, *others = tiny_bundle.manifest.graphs
    renamed = msgspec.structs.replace(first, file=first.file.replace(".onnx", suffix))
    (folder / first.file).rename(folder / renamed.file)
    files = {name.replace(first.file, renamed.file): file for name, file in tiny_bundle.manifest.files.items()}
    manifest = msgspec.structs.replace(tiny_bundle.manifest, files=files, graphs=(renamed, *others))
    (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    write_signature(folder, manifest, tiny_bundle.certificate, tiny_bundle.exporter_key)
    with pytest.raises(BundleError, match=r"is not called \*\.onnx"):
        open_bundle(folder, root=None)


@pytest.mark.attack("files and bundles", "A graph that reads files outside the bundle")
@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (b"\x3a\x7flocation", "cut short"),  # a field longer than the file
        (b"\x3a\x08location\x09", "cut short"),  # a number of eight bytes that are not there
        (b"\x3a\x08location\x0b", "unknown wire type"),
        (b"\x3a\x08location" + b"\x3a\x00" * 100, "more parts, than any graph"),
    ],
)
def test_a_graph_that_is_none_is_refused_before_a_runtime_reads_it(
    graph: bytes, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "FIELD_LIMIT", 50)
    (tmp_path / "graph.onnx").write_bytes(graph)
    with pytest.raises(BundleError, match=why):
        check_external_data(tmp_path / "graph.onnx", "graph.onnx", {})


@pytest.mark.attack("files and bundles", "A zip that leads outside, or unpacks to more than was signed")
def test_a_zip_of_more_bytes_than_any_bundle_is_refused(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zip_bundle(tiny_bundle.path, tmp_path / "tiny.homeroom")
    assert unpack.read_signed_zip(str(tmp_path / "tiny.homeroom"))[0]
    monkeypatch.setattr(unpack, "SIZE_LIMIT_BYTES", 1000)
    with pytest.raises(BundleError, match="holds more than any bundle does"):
        unpack.read_signed_zip(str(tmp_path / "tiny.homeroom"))


def test_a_bundle_that_is_not_there_or_no_room_for_it_is_said(tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no such bundle"):
        install(tmp_path / "none", tmp_path / "into", root=tiny_bundle.root)
    full, denied = OSError(errno.ENOSPC, "no space"), OSError(errno.EACCES, "denied")
    assert isinstance(unpack.not_installed(full, tmp_path), DiskFullError)
    assert not isinstance(unpack.not_installed(denied, tmp_path), DiskFullError)
