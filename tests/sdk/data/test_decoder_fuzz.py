"""Mutations of true files, for every decoder of the SDK: a value or one typed error, within memory, nobody dies.

`HOMEROOM_FUZZ_S` is how long, in seconds for each decoder; the extra takes two minutes in all.
"""

from __future__ import annotations

import csv
import io
import os
import random
import sys
import time
import wave
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import soundfile
import tiny
from conftest import Attack
from PIL import Image

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess
from homeroom.data.decoder import client
from homeroom.data.decoder.wire import Reply, WireError, decode, encode
from homeroom.data.ingest import read_samples
from homeroom.data.preprocess.media import check, prepared
from homeroom.errors import HomeroomError
from homeroom.runtime.bundle import MANIFEST_FILE, SIGNATURE_FILE, install, verify_signed
from homeroom.runtime.external_data import check_external_data
from sdk.data.test_decoder import MOST_BYTES, peak_bytes

RELEASE = Path(__file__).parents[2] / "data" / "0.1.0"
SHORT_S = float(os.environ.get("HOMEROOM_FUZZ_S", "0.7"))
EXTRA_S = float(os.environ.get("HOMEROOM_FUZZ_S", "12"))
EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\x10\0",
    b"99999999",
    b"1e308",
)
CALL_LIMIT_S = 5.0  # a mutation that computes for long is a refusal like another; a busy machine makes some of them
LEAST_TRIED = 4  # however busy the machine is
GROWTH_BYTES = 200 << 20  # of this process, over all mutations of a decoder


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One to eight changes: bytes, runs, extremes, cuts, doublings."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, length = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 16, 64))
        match rng.randrange(6):
            case 0 if changed:
                changed[at % len(changed)] = rng.randrange(256)
            case 1:
                changed[at : at + length] = rng.randbytes(length)
            case 2:
                value = rng.choice(EXTREMES)
                changed[at : at + len(value)] = value
            case 3:
                del changed[at : at + length]
            case 4:
                changed[at:at] = changed[at : at + length] * rng.choice((1, 2, 50))
            case _:
                del changed[rng.choice((at, len(changed) - 1, len(changed))) :]
    return bytes(changed)


def pictures() -> list[bytes]:
    picture, files = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 31, 3), np.uint8)), []
    exif = Image.Exif()
    exif[0x112] = 6
    for mode, kind, options in (
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("RGB", "JPEG", {"exif": exif}),
        ("RGB", "JPEG", {"progressive": True}),
        ("P", "GIF", {}),
        ("RGB", "BMP", {}),
        ("RGB", "WEBP", {}),
        ("RGB", "TIFF", {"compression": "tiff_lzw"}),
        ("L", "TIFF", {}),
        ("RGB", "PPM", {}),
        ("RGB", "TGA", {}),
        ("RGB", "PCX", {}),
        ("RGB", "JPEG2000", {}),
    ):
        out = io.BytesIO()
        picture.convert(mode).save(out, kind, **options)
        files.append(out.getvalue())
    return [*files, (RELEASE / "cat.png").read_bytes()]


def drawings() -> list[bytes]:
    body = '<defs><linearGradient id="g"><stop offset="0" stop-color="red"/></linearGradient><filter id="b">'
    body += '<feGaussianBlur stdDeviation="3"/></filter></defs><g opacity=".5" filter="url(#b)"><path d="M0 0 L9 9 C1 2'
    body += ' 3 4 5 6Z" fill="url(#g)"/><text x="1" y="9">cat</text><use href="#g"/><rect width="9" height="9"/></g>'
    sizes = ('width="40" height="30"', 'viewBox="0 0 9 12"', 'width="100%" height="50%" viewBox="0 0 9 9"')
    return [f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'.encode() for size in sizes]


def sounds() -> list[bytes]:
    tone, files = (0.3 * np.sin(np.arange(1600) / 7)).astype(np.float32), []
    for kind, subtype in SOUND_KINDS:
        out = io.BytesIO()
        soundfile.write(out, np.stack([tone, tone], 1), 16_000, format=kind, subtype=subtype)
        files.append(out.getvalue())
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(500))
    return [*files, out.getvalue()]


ROWS = b'{"word": "cat", "facts": {"legs": 4}, "labels": {"category": "cat", "weight": 4.5}, "subject": "p-1"}\n'
ROWS += b'{"word": "dog"}\n'
SHEET = b'word,facts.legs,label.category,label.traits,subject\ncat,4,cat,fur|swims,p-1\n"a ""dog""",4,dog,,"p\n2"\n'

SOUND_KINDS = (
    ("WAV", "PCM_16"),
    ("WAV", "IMA_ADPCM"),
    ("FLAC", "PCM_16"),
    ("OGG", "VORBIS"),
    ("MP3", None),
    ("AIFF", "FLOAT"),
)


def workbook() -> bytes:
    """What `SHEET` says, as Excel saves it; b"" without the extra `sheets`."""
    try:
        import openpyxl
    except ModuleNotFoundError:
        return b""
    book, out = openpyxl.Workbook(), io.BytesIO()
    for line in csv.reader(io.StringIO(SHEET.decode())):
        book.active.append(line)
    book.save(out)
    return out.getvalue()


Target = Callable[[bytes], object]


def targets(made: tiny.Tiny, work: Path) -> dict[str, tuple[list[bytes], Target]]:
    """Seeds and what reads them, by decoder."""
    manifest = made.manifest
    image = next(m for m in manifest.modalities if isinstance(m.preprocess, ImagePreprocess))
    audio = next(m for m in manifest.modalities if isinstance(m.preprocess, AudioPreprocess))

    def media(modality: object) -> Target:
        def read(data: bytes) -> object:
            limit_s = client.TIME_LIMIT_S if data in whole else CALL_LIMIT_S
            client.run(check, modality.preprocess, data, "file", limit_s=limit_s)  # type: ignore[attr-defined]
            return client.run(prepared, modality, data, limit_s=limit_s)

        return read

    def sheet(name: str) -> Target:
        return lambda data: list(read_samples(write(name, data), manifest))

    def write(name: str, data: bytes) -> Path:
        (work / name).write_bytes(data)
        return work / name

    whole = {*pictures(), *drawings(), *sounds()}  # which have to be read, on a busy machine too
    signed = [(made.path / name).read_bytes() for name in (MANIFEST_FILE, SIGNATURE_FILE)]
    graph = max((made.path / g.file for g in manifest.graphs if g.role == "predict"), key=lambda p: p.stat().st_size)
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {
        "pictures": (pictures(), media(image)),
        "drawings": (drawings(), media(image)),
        "sounds": (sounds(), media(audio)),
        "bundles": (
            [(RELEASE / "lesson.homeroom").read_bytes()],
            lambda data: install(write("b.homeroom", data), work / "into", root=None),
        ),
        "manifests": ([signed[0]], lambda data: verify_signed(data, signed[1], root=made.root)),
        "signatures": ([signed[1]], lambda data: verify_signed(signed[0], data, root=made.root)),
        "rows": ([ROWS], sheet("rows.jsonl")),
        "sheets": ([SHEET], sheet("sheet.csv")),
        "workbooks": ([workbook()], sheet("sheet.xlsx")),
        "graphs": (
            [graph.read_bytes()[: 64 << 10] + b"location"],
            lambda data: check_external_data(write("g.onnx", data), "g.onnx", {"g.onnx"}),
        ),
        "replies": ([encode(Reply(msgspec.Raw(encode(array))))], reply),
    }


def reply(data: bytes) -> object:
    """What the decoder may send, if it is somebody else's by now."""
    try:
        return decode(decode(data, Reply).value, np.ndarray)
    except WireError:  # as `client.run` catches
        return None


KINDS = (
    "pictures",
    "drawings",
    "sounds",
    "bundles",
    "manifests",
    "signatures",
    "rows",
    "sheets",
    "workbooks",
    "graphs",
    "replies",
)


def fuzz(kind: str, made: tiny.Tiny, work: Path, seconds: float, seed: int) -> tuple[int, int, int]:
    """Mutations tried, how many of them ended the decoder, and how many it was ended for, as they took too long."""
    seeds, read = targets(made, work)[kind]
    rng, process = random.Random(f"{kind} {seed}"), psutil.Process()
    tried = ended = slow = 0
    if not all(seeds):
        pytest.skip("needs the extra `sheets`")
    for data in seeds:
        if kind != "graphs":  # its seed is cut short
            read(data)
    before, end_s = process.memory_info().rss, time.monotonic() + seconds
    while time.monotonic() < end_s or tried < LEAST_TRIED:
        data = mutate(rng.choice(seeds), rng)
        try:
            read(data)
        except HomeroomError as problem:
            late = "takes more than" in problem.what and " s to decode" in problem.what
            slow, ended = slow + late, ended + (problem.code == "decoder" and not late)
        except Exception as problem:
            raise AssertionError(f"{kind}: {problem!r} of {data[:4000].hex()}") from problem
        tried += 1
        if sys.platform == "linux":
            assert peak_bytes() < MOST_BYTES
            assert process.memory_info().rss - before < GROWTH_BYTES
    return tried, ended, slow


@pytest.mark.attack("files and bundles", "A file made to break its decoder")
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutated_file_is_a_value_or_one_error(
    kind: str, tiny_bundle: tiny.Tiny, tmp_path: Path, attack: Attack
) -> None:
    tried, ended, slow = fuzz(kind, tiny_bundle, tmp_path, SHORT_S, 1)
    attack.noticed = f"{tried} files, {ended} ended the decoder, which started again, and {slow} took too long"


@pytest.mark.extra
@pytest.mark.timeout(0)
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutated_files_are_values_or_errors(kind: str, tiny_bundle: tiny.Tiny, tmp_path: Path) -> None:
    tried, ended, slow = fuzz(kind, tiny_bundle, tmp_path, EXTRA_S, time.time_ns())
    print(f"{kind}: {tried} files, {ended} ended the decoder, {slow} took too long")
