"""The second file: float32 backbones travel apart, and a device takes them where its int8 features are others."""

from __future__ import annotations

import io
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import second
import tiny
from click.testing import CliRunner

from homeroom import Device, Sample, fit
from homeroom.agent import inbox
from homeroom.cli.main import homeroom
from homeroom.contract.canonical_json import canonical
from homeroom.contract.manifest_checks import read_manifest
from homeroom.errors import BundleError, FallbackNeededError
from homeroom.runtime.bundle import install, zip_bundle
from homeroom.runtime.fallback import second_file
from homeroom.train.settings import Settings

IMAGE = "graphs/features.image.float32.onnx"


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))


@pytest.fixture
def lesson(tiny_bundle: tiny.Tiny, tmp_path: Path) -> Path:
    """The tiny bundle as an export leaves it: `lesson/`, and `lesson.float32.homeroom` beside it."""
    return second.set_apart(tiny_bundle, tmp_path / "made" / "lesson")


@pytest.fixture
def other_features(monkeypatch: pytest.MonkeyPatch) -> None:
    second.other_image_features(monkeypatch)


def installed(directory: Path) -> set[str]:
    (folder,) = (directory / "bundles").iterdir()
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_device_whose_int8_features_hold_needs_no_second_file(lesson: Path, tmp_path: Path) -> None:
    second_file(lesson).unlink()
    with Device.open(tmp_path / "classroom", lesson) as device:
        assert set(device.graphs.precision.values()) == {"int8"}
    assert not [name for name in installed(tmp_path / "classroom") if "float32" in name]


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.usefixtures("other_features")
def test_a_device_whose_int8_features_are_others_takes_what_it_needs(
    lesson: Path, tmp_path: Path, zipped: bool
) -> None:
    source = lesson.with_name("lesson.homeroom") if zipped else lesson
    if zipped:
        zip_bundle(lesson, source)
    with Device.open(tmp_path / "classroom", source) as device:
        assert {name for name, precision in device.graphs.precision.items() if precision == "float32"} == {"image"}
        rows = tiny.samples(8, seed=3)
        device.add(*(Sample(**row) for row in rows))
        assert device.predict(Sample(picture=rows[0]["picture"]))
    assert [name for name in installed(tmp_path / "classroom") if "float32" in name] == [IMAGE]
    shutil.rmtree(lesson.parent)
    with Device.open(tmp_path / "classroom") as device:
        assert device.graphs.precision["image"] == "float32"
        assert device.predict(Sample(picture=rows[0]["picture"]))


@pytest.mark.usefixtures("other_features")
def test_without_the_second_file_the_device_says_which_file_goes_where_and_nothing_is_left(
    lesson: Path, tmp_path: Path
) -> None:
    kept = second_file(lesson).rename(tmp_path / "elsewhere")
    with pytest.raises(BundleError) as caught:
        Device.open(tmp_path / "classroom", lesson)
    size_mb = read_manifest((lesson / "manifest.json").read_bytes()).fallback_files[IMAGE].bytes / 1e6
    assert (caught.value.code, caught.value.exit_code) == (FallbackNeededError.code, 4)
    assert f"other image features in low precision, and needs the float32 backbone ({size_mb:.1f} MB)" in str(
        caught.value
    )
    assert "ask whoever made the bundle for lesson.float32.homeroom, put it there" in caught.value.remedy
    assert not (tmp_path / "classroom").exists()
    kept.rename(second_file(lesson))
    Device.open(tmp_path / "classroom", lesson).close()


def damaged(path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, data[:-1] + bytes([data[-1] ^ 1]))
    path.write_bytes(packed.getvalue())


def of_another_bundle(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("graphs/features.text.float32.onnx", b"other")


def no_zip(path: Path) -> None:
    path.write_bytes(b"not a zip")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [(damaged, "not the file that was signed"), (of_another_bundle, "missing"), (no_zip, "not a readable bundle")],
)
@pytest.mark.usefixtures("other_features")
def test_a_second_file_that_is_not_the_signed_one_is_refused(
    lesson: Path, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(second_file(lesson))
    with pytest.raises(BundleError, match=said):
        Device.open(tmp_path / "classroom", lesson)
    assert not (tmp_path / "classroom").exists()


@pytest.mark.usefixtures("other_features")
def test_a_bundle_that_was_damaged_and_is_installed_anew_takes_its_second_file_again(
    lesson: Path, tmp_path: Path
) -> None:
    Device.open(tmp_path / "classroom", lesson).close()
    (folder,) = (tmp_path / "classroom" / "bundles").iterdir()
    (folder / IMAGE).write_bytes(b"damaged")
    with pytest.raises(BundleError, match="not the file that was signed"):
        Device.open(tmp_path / "classroom")
    with Device.open(tmp_path / "classroom", lesson) as device:
        assert device.graphs.precision["image"] == "float32"


@pytest.mark.usefixtures("other_features")
def test_fit_and_inspect_take_the_second_file_too_and_leave_the_bundles_folder_alone(lesson: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in lesson.rglob("*")}
    theta = fit(lesson, [Sample(**row) for row in tiny.samples(8, seed=3)], Settings(epochs=1), threads=1)
    assert len(theta)
    shown = CliRunner().invoke(homeroom, ["bundle", "inspect", str(lesson), "--golden"]).output
    assert "image: float32 gives the expected features on this machine" in shown
    assert "second file" in shown
    assert "NAME.float32.homeroom" in shown
    assert f"{IMAGE} (in the second file)" in shown
    assert {path: path.stat().st_mtime_ns for path in lesson.rglob("*")} == before


def test_the_second_file_alone_is_no_bundle(lesson: Path) -> None:
    with pytest.raises(BundleError, match="is the second file of a bundle, and nothing alone") as caught:
        install(second_file(lesson), lesson.parent / "scratch", root=None)
    assert "lesson.homeroom, beside which it lies" in caught.value.remedy


def test_an_inbox_reads_a_bundle_once_its_second_file_is_whole_and_removes_both(lesson: Path, tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    bundle, apart = folder / "lesson.homeroom", folder / "lesson.float32.homeroom"
    zip_bundle(lesson, bundle)
    assert inbox.scan_inbox(folder, 0.0).bundles == (bundle,)
    shutil.copy(second_file(lesson), apart)
    assert inbox.scan_inbox(folder, 0.0).bundles == (bundle,)
    assert "put that beside it" in inbox.left_entries(folder, None).unread[apart.name]
    old = apart.stat().st_mtime - 7200
    os.utime(bundle, (old, old))
    assert inbox.scan_inbox(folder, 600.0).bundles == ()
    inbox.remove_entry(bundle)
    assert not list(folder.iterdir())


def reject(manifest: Any, **changes: Any) -> str:
    with pytest.raises(BundleError) as caught:
        read_manifest(canonical(msgspec.structs.replace(manifest, **changes)))
    return caught.value.what


def test_a_manifest_whose_second_file_contradicts_it_is_refused(tiny_bundle: tiny.Tiny) -> None:
    manifest = tiny_bundle.manifest
    fallback = manifest.fallback
    assert fallback is not msgspec.UNSET
    both = {**manifest.files, IMAGE: fallback.files[IMAGE]}
    assert "is listed for the bundle and for its second file" in reject(manifest, files=both)
    more = msgspec.structs.replace(fallback, files={**fallback.files, "theta.txt": fallback.files[IMAGE]})
    assert "something else than backbones" in reject(manifest, fallback=more)
    low = tuple(g for g in manifest.graphs if (g.role, g.modality) != ("features", "image"))
    assert "no backbone that the bundle has in a lower precision" in reject(manifest, graphs=low)
    outside = {**fallback.files, "../x.onnx": fallback.files[IMAGE]}
    graphs = tuple(msgspec.structs.replace(g, file="../x.onnx") if g.file == IMAGE else g for g in fallback.graphs)
    outside.pop(IMAGE)
    assert "leads outside" in reject(manifest, fallback=msgspec.structs.replace(fallback, graphs=graphs, files=outside))
