"""`bundle pull` from folders, real HTTP servers and a server with a hub's conventions."""

from __future__ import annotations

import json
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import tiny

from homeroom.cli.main import main
from homeroom.errors import BundleError, DiskFullError, HomeroomError, InputError, NetworkError, TrustError
from homeroom.federation.network import download
from homeroom.pull import local, web
from homeroom.pull.offer import read_hash
from homeroom.pull.pull import pull
from homeroom.runtime.bundle import open_bundle, zip_bundle
from homeroom.runtime.fallback import second_file, zip_second
from sdk.pull.servers import Files, left, serving, sha256


def refused(source: str, out: Path, kind: type[HomeroomError], *words: str, **options: Any) -> HomeroomError:
    """Pulls, expects the error with these words, and that nothing is in place."""
    before = left(out)
    with pytest.raises(kind) as caught:
        pull(source, out, **options)
    for word in words:
        assert word in str(caught.value)
    assert [name for name in left(out) if not name.endswith(".part")] == before
    return caught.value


# A folder, a file


def test_a_file_is_copied_and_said_in_full(
    packed: Path, tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "pull", str(packed), str(tmp_path), "--root", tiny_bundle.root, "--json"])
    told = json.loads(capsys.readouterr().out)
    assert (told["name"], told["version"]) == (tiny_bundle.manifest.name, tiny_bundle.manifest.version)
    assert told["bundle_id"] == tiny_bundle.bundle_id
    assert told["file"]["sha256"] == sha256(packed) == sha256(tmp_path / "lesson.homeroom")
    assert set(told["tasks"]) == {task.name for task in tiny_bundle.manifest.tasks}
    main(["bundle", "pull", str(packed), str(tmp_path)])
    said = capsys.readouterr().out
    assert "was here already" in said
    assert "compare it" in said
    assert "no hash was published beside it" in said
    for task in tiny_bundle.manifest.tasks:
        assert task.described in said
    for licence in tiny_bundle.manifest.licences:
        assert licence.name in said
    assert left(tmp_path) == ["lesson.homeroom"]


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_others_can_read_what_was_pulled(packed: Path, tmp_path: Path) -> None:
    pulled = pull(str(packed), tmp_path)
    assert stat.S_IMODE(pulled.file.path.stat().st_mode) == 0o644


def test_a_folder_with_one_bundle_and_an_unpacked_one(packed: Path, tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    assert pull(str(packed.parent), tmp_path).file.sha256 == sha256(packed)
    unpacked = tmp_path / "unpacked"
    shutil.copytree(tiny_bundle.path, unpacked)
    (unpacked / "a pupil's name.txt").write_text("not listed")
    pulled = pull(str(unpacked), tmp_path / "again.homeroom")
    assert pulled.bundle_id == tiny_bundle.bundle_id
    with zipfile.ZipFile(pulled.file.path) as archive:
        assert set(archive.namelist()) == {*tiny_bundle.manifest.files, "manifest.json", "signature.json"}
    assert pulled.file.sha256 == sha256(packed), "packed anew, byte for byte"


def test_the_second_file_comes_with_it_where_that_is_asked(
    tiny_bundle: tiny.Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "served"
    folder.mkdir()
    bundle = folder / "lesson.homeroom"
    zip_bundle(tiny_bundle.path, bundle, leave_out=tiny_bundle.manifest.fallback_files)
    main(["bundle", "pull", str(bundle), str(tmp_path)])
    assert "--float32 pulls them" in capsys.readouterr().out
    out = tmp_path / "out"
    out.mkdir()
    refused(str(bundle), out, InputError, "no second file", float32=True)
    second = second_file(bundle)
    zip_second(open_bundle(tiny_bundle.path, root=None), second)
    pulled = pull(str(bundle), out, float32=True)
    assert pulled.second is not None
    assert left(out) == ["lesson.float32.homeroom", "lesson.homeroom"]
    assert sha256(pulled.second.path) == sha256(second)
    (out / "lesson.homeroom").unlink()
    (out / "lesson.float32.homeroom").unlink()
    with zipfile.ZipFile(second, "w") as archive:
        for name in tiny_bundle.manifest.fallback_files:
            archive.writestr(name, b"other")
    refused(str(bundle), out, BundleError, "not the file that was signed", float32=True)
    refused(str(second), out, InputError, "is the second file of a bundle")
    with serving(Files({"/lesson.homeroom": bundle.read_bytes()})) as files:
        refused(f"{files.address}/lesson.homeroom", out, NetworkError, "lesson.float32.homeroom", float32=True)
    assert left(out) == []
    unpacked = pull(str(tiny_bundle.path), out, float32=True)
    assert unpacked.second is not None


def test_a_folder_that_names_no_one_bundle(packed: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "two", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    refused(str(folder), out, InputError, "holds no bundle")
    shutil.copy(packed, folder / "a.homeroom")
    shutil.copy(packed, folder / "b.homeroom")
    refused(str(folder), out, InputError, "2 bundles: a.homeroom, b.homeroom")
    refused(str(folder / "c.homeroom"), out, InputError, "no such bundle")
    refused("ftp://host/a.homeroom", out, InputError, "ftp is no way")
    with pytest.raises(InputError, match=r"the folder .* is not there"):
        pull(str(packed), tmp_path / "absent" / "a.homeroom")


def test_the_hash_beside_a_file_is_compared(packed: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "lesson.homeroom", tmp_path / "out"
    out.mkdir()
    shutil.copy(packed, source)
    beside = tmp_path / "lesson.homeroom.sha256"
    beside.write_text(f"{'0' * 64}  other.homeroom\n{sha256(packed)} *lesson.homeroom\n")
    assert pull(str(source), out).file.compared_with == "lesson.homeroom.sha256"
    (out / "lesson.homeroom").unlink()
    beside.write_text(f"{'0' * 64}  lesson.homeroom\n")
    refused(str(source), out, BundleError, sha256(packed), "0" * 64)
    beside.write_text("soon\n")
    refused(str(source), out, InputError, "does not say one SHA-256")
    beside.unlink()
    refused(str(source), out, BundleError, "--sha256 says", sha256="1" * 64)
    assert pull(str(source), out, sha256=sha256(packed).upper()).file.compared_with == "--sha256"


@pytest.mark.parametrize(
    "text", ["{0}", "{0}  lesson.homeroom", "SHA256 (lesson.homeroom) = {0}", "{0} *./lesson.homeroom"]
)
def test_forms_of_a_hash_file(text: str) -> None:
    wanted = "ab" * 32
    assert read_hash(text.format(wanted.upper()), "lesson.homeroom", "x") == wanted


@pytest.mark.parametrize("text", ["", "ab" * 33, f"{'a' * 64}\n{'b' * 64}"])
def test_what_is_no_hash_file(text: str) -> None:
    with pytest.raises(InputError):
        read_hash(text, "lesson.homeroom", "x")


def test_what_is_in_place_is_not_replaced(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "lesson.homeroom").write_text("another lesson")
    refused(str(packed), tmp_path, InputError, "is there already")
    assert (tmp_path / "lesson.homeroom").read_text() == "another lesson"
    assert left(tmp_path) == ["lesson.homeroom"]
    with pytest.raises(InputError, match=r"is called \*.homeroom"):
        pull(str(packed), tmp_path / "lesson.zip")


def test_a_damaged_or_foreign_bundle_is_not_put_in_place(packed: Path, tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    cut = tmp_path / "cut.homeroom"
    cut.write_bytes(packed.read_bytes()[:-2000])
    assert refused(str(cut), out, BundleError, "not a readable bundle").where == str(cut)
    altered = tmp_path / "altered.homeroom"
    unpacked = tmp_path / "unpacked"
    shutil.copytree(tiny_bundle.path, unpacked)
    theta = unpacked / tiny_bundle.manifest.theta
    theta.write_bytes(theta.read_bytes()[:-1] + b"x")
    zip_bundle(unpacked, altered)
    refused(str(altered), out, BundleError, "not the file that was signed")
    refused(str(packed), out, TrustError, root="0" * 64)
    assert left(out) == []


def test_a_full_disk_is_one_sentence(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "SPARE_BYTES", 1 << 60)
    refused(str(packed), tmp_path, DiskFullError, "no space left")
    assert left(tmp_path) == []


# An address


def test_an_address_and_the_hash_beside_it(files: Files, packed: Path, tmp_path: Path) -> None:
    address = f"{files.address}/lesson.homeroom"
    assert pull(address, tmp_path).file.compared_with == ""
    files.content["/lesson.homeroom.sha256"] = f"{sha256(packed)}  lesson.homeroom\n".encode()
    files.asked.clear()
    pulled = pull(address, tmp_path)
    assert pulled.file.was_here
    assert [path for path, _ in files.asked] == ["/lesson.homeroom.sha256"], "the same file is not fetched again"
    assert pulled.file.compared_with == f"{address}.sha256"
    (tmp_path / "lesson.homeroom").unlink()
    files.content["/lesson.homeroom.sha256"] = b"0" * 64
    refused(address, tmp_path, BundleError, "0" * 64)
    assert left(tmp_path) == [], "a file with another hash is not kept"


def test_a_query_names_no_file_and_is_not_said(
    files: Files, tiny_bundle: tiny.Tiny, packed: Path, tmp_path: Path
) -> None:
    files.content["/get"] = packed.read_bytes()
    assert pull(f"{files.address}/get?id=3", tmp_path).file.path.name == f"{tiny_bundle.manifest.name}.homeroom"
    missing = files.address.replace("//", "//name:secret@") + "/none.homeroom?sig=secret"
    error = refused(missing, tmp_path, NetworkError, "no such file")
    assert "secret" not in str(error)


def broken(files: Files, address: str, folder: Path, *cuts: int) -> None:
    """Breaks every attempt of a pull, without progress at last."""
    files.cuts = list(cuts)
    with pytest.raises(NetworkError):
        pull(address, folder)
    files.cuts = []


def test_what_was_cut_goes_on_the_next_time(
    files: Files, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FSYNC_INTERVAL_BYTES", 1 << 10)
    address, size = f"{files.address}/lesson.homeroom", packed.stat().st_size
    broken(files, address, tmp_path, size, size // 2, *[0] * 4)
    (part,) = left(tmp_path)
    assert part.endswith(".part")
    kept = (tmp_path / part).stat().st_size
    assert 0 < kept <= size // 2
    files.asked.clear()
    assert pull(address, tmp_path).file.sha256 == sha256(packed)
    assert ("/lesson.homeroom", f"bytes={kept // 1024 * 1024}-") in files.asked
    assert left(tmp_path) == ["lesson.homeroom"]


def test_parts_of_two_files_never_mix(
    files: Files, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FSYNC_INTERVAL_BYTES", 1 << 10)
    address, body = f"{files.address}/lesson.homeroom", packed.read_bytes()
    files.content["/lesson.homeroom"] = bytes(len(body))
    broken(files, address, tmp_path, len(body), len(body) // 2, *[0] * 4)
    files.content["/lesson.homeroom"] = body
    assert pull(address, tmp_path).file.sha256 == sha256(packed)
    assert left(tmp_path) == ["lesson.homeroom"], "the other file's part is gone"


def test_without_an_etag_nothing_is_resumed(
    files: Files, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "FSYNC_INTERVAL_BYTES", 1 << 10)
    files.etags = False
    address, size = f"{files.address}/lesson.homeroom", packed.stat().st_size
    broken(files, address, tmp_path, size, size // 2, *[0] * 4)
    files.asked.clear()
    assert pull(address, tmp_path).file.sha256 == sha256(packed)
    assert {asked for _, asked in files.asked} == {""}


def test_answers_that_are_no_bundle(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files.content["/page.homeroom"] = b"<html>" * 500
    files.headers["/page.homeroom"] = {"content-type": "text/html; charset=utf-8"}
    refused(f"{files.address}/page.homeroom", tmp_path, NetworkError, "a web page answered")
    files.content["/endless.homeroom"] = b"x"
    files.headers["/endless.homeroom"] = {"transfer-encoding": "chunked"}
    refused(f"{files.address}/endless.homeroom", tmp_path, NetworkError, "how large")
    files.headers["/endless.homeroom"] = {"content-length": str(9 << 30)}
    refused(f"{files.address}/endless.homeroom", tmp_path, NetworkError, "more than the")
    files.statuses["/broken.homeroom"] = 500
    refused(f"{files.address}/broken.homeroom", tmp_path, NetworkError, "500")
    files.content["/noise.homeroom"] = bytes(range(256)) * 10
    refused(f"{files.address}/noise.homeroom", tmp_path, BundleError, "/noise.homeroom")
    assert left(tmp_path) == []


def test_a_hash_that_cannot_be_fetched_is_not_left_out(files: Files, tmp_path: Path) -> None:
    files.statuses["/lesson.homeroom.sha256"] = 500
    refused(f"{files.address}/lesson.homeroom", tmp_path, NetworkError, "500")


def test_redirects_are_followed_but_not_for_ever_nor_out_of_tls(files: Files, tmp_path: Path) -> None:
    files.redirects["/moved.homeroom"] = "/lesson.homeroom"
    assert pull(f"{files.address}/moved.homeroom", tmp_path).file.path.name == "moved.homeroom"
    files.redirects["/round.homeroom"] = "/round.homeroom"
    refused(f"{files.address}/round.homeroom", tmp_path, NetworkError, "more than 5 times")
    with web.web_client() as client:
        client._within_tls = True
        with pytest.raises(TrustError, match="from https to"):
            client._stay_in_tls(client._http.build_request("GET", files.address))


def test_without_a_network_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "pull", "http://127.0.0.1:9/lesson.homeroom", str(tmp_path)])
    assert ended.value.code == NetworkError.exit_code
    said = capsys.readouterr().err
    assert "no connection" in said
    assert "homeroom bundle pull PATH" in said


def test_an_endpoint_without_a_hub_is_an_error(packed: Path, tmp_path: Path) -> None:
    refused(str(packed), tmp_path, InputError, "--endpoint says nothing", endpoint="https://hub.example")
