"""Files from outside are decoded in a process of their own, within bounds of memory and time, and as before."""

from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pytest
import soundfile
import tiny
from conftest import Attack
from decoder_calls import burn, crash, hoard, leave, rest, sleep, trickle, wrong_type
from PIL import Image

from homeroom import Device, Sample
from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Preprocess
from homeroom.data.decoder import client
from homeroom.data.decoder.limits import MEMORY_LIMIT_BYTES
from homeroom.data.preprocess.image import decode, decode_stored
from homeroom.data.preprocess.media import check
from homeroom.data.preprocess.svg import SVG_LIMIT_S
from homeroom.device.resources.budget import Budget, BudgetWatch
from homeroom.errors import Code, HomeroomError, InputError
from homeroom.runtime.unpack import read_signed_zip
from homeroom.system import hardware

PICTURE = ImagePreprocess(size=32, resize=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SOUND = AudioPreprocess(rate=16_000, samples=48_000, form="waveform")
MOST_BYTES = MEMORY_LIMIT_BYTES + (64 << 20)  # with Python, numpy and the decoders themselves


def png(mode: str, width: int, height: int, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, kind)
    return out.getvalue()


def flac(seconds: int, channels: int) -> bytes:
    out = io.BytesIO()
    soundfile.write(out, np.zeros((seconds * 48_000, channels), np.int16), 48_000, format="FLAC")
    return out.getvalue()


def svg(size: str, body: str = "") -> bytes:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'.encode()


def nested(depth: int) -> bytes:
    return svg('width="9" height="99"', '<g opacity=".5">' * depth + '<rect width="9" height="9"/>' + "</g>" * depth)


def peak_bytes() -> int:
    """The most that the decoder held; 0 where it ended."""
    process = client._process
    if process is None or process.poll() is not None:
        return 0
    status = Path(f"/proc/{process.pid}/status").read_text()
    # One that ended meanwhile has no such line.
    return next((int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM")), 0)


def packed_svg(megabytes: int) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(svg('width="9" height="9"', " " * 1000)[:-6]), packer.flush(zlib.Z_FULL_FLUSH)]
    blanks = packer.compress(b" " * 1_000_000) + packer.flush(
        zlib.Z_FULL_FLUSH
    )  # decodes by itself, as often as it stands
    return b"".join([*parts, *[blanks] * megabytes])


BOMBS: dict[str, tuple[Preprocess, Callable[[], bytes], Code]] = {
    "a 98-byte SVG of 4.1 GB": (PICTURE, partial(svg, 'width="1" height="4000"'), Code.TOO_LARGE),
    "an SVG of a viewBox": (PICTURE, partial(svg, 'viewBox="0 0 1 1e9"'), Code.TOO_LARGE),
    "an SVG of 400 layers": (PICTURE, partial(nested, 400), Code.DECODER),
    "a PNG of 64 megapixels": (PICTURE, partial(png, "RGBA", 8000, 8000), Code.TOO_LARGE),
    "a PNG of 900 megapixels": (PICTURE, lambda: claim(30_000, 30_000), Code.TOO_LARGE),
    "an SVGZ of 700 MB": (PICTURE, partial(packed_svg, 700), Code.TOO_LARGE),
    "a FLAC of 8 channels": (SOUND, partial(flac, 180, 8), Code.TOO_LARGE),
}


@pytest.mark.attack("files and bundles", "A small file that decodes to gigabytes")
@pytest.mark.parametrize("case", BOMBS)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_bomb_is_refused_before_it_takes_memory(case: str, attack: Attack) -> None:
    preprocess, make, code = BOMBS[case]
    data = make()
    client.end()
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError) as refused:
        client.run(check, preprocess, data, "bomb", where="bomb")
    assert refused.value.code == code, refused.value
    assert "bomb" in str(refused.value)
    attack.got = max(0, peak_bytes() - MOST_BYTES)
    assert psutil.Process().memory_info().rss - before < 50 << 20
    client.run(check, PICTURE, png("RGB", 9, 9), "good")  # the next file is decoded
    attack.noticed = "the next file is decoded"


def claim(width: int, height: int) -> bytes:
    """A PNG that says so, of one row."""
    data = bytearray(png("L", 9, 9))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    from zlib import crc32

    data[29:33] = crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize(
    ("preprocess", "make"),
    [
        (PICTURE, partial(png, "RGB", 8000, 6000)),
        (PICTURE, partial(png, "RGBA", 8000, 6000)),
        (PICTURE, partial(png, "RGB", 6000, 4000, "WEBP")),
        (PICTURE, partial(svg, 'width="30" height="400"', '<rect width="9" height="9"/>')),
        (SOUND, partial(flac, 600, 2)),
    ],
    ids=["png", "png with alpha", "webp", "svg", "flac"],
)
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_largest_that_is_allowed_stays_within_the_bound(preprocess: Preprocess, make: Callable[[], bytes]) -> None:
    data = make()
    client.end()
    client.run(check, preprocess, data, "large")
    assert 0 < peak_bytes() < MOST_BYTES


EPS = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 9 9
(%pipe%touch MADE) (w) file closefile
"""


@pytest.mark.attack("files and bundles", "A picture whose format runs another program")
@pytest.mark.parametrize("read", [lambda data: client.run(check, PICTURE, data, "x"), decode, decode_stored])
def test_a_format_that_runs_a_program_is_not_read(
    read: Callable[[bytes], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
    (folder / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    client.end()
    with pytest.raises(InputError, match="not a picture"):
        read(EPS.replace(b"MADE", bytes(tmp_path / "made")))
    attack.got = sum((tmp_path / name).exists() for name in ("ran", "made"))
    client.end()


def test_an_svgz_is_the_svg_in_it() -> None:
    drawn = svg('width="30" height="40"', '<rect width="9" height="9"/>')
    assert decode(gzip.compress(drawn)).tobytes() == decode(drawn).tobytes()


def test_a_crash_is_an_error_and_the_next_file_is_decoded() -> None:
    with pytest.raises(InputError, match="SIGSEGV") as refused:
        client.run(crash, b"x", where="photo.png")
    assert refused.value.code == Code.DECODER
    assert refused.value.where == "photo.png"
    assert client.run(sleep, 0.0) == 1


def test_time_is_bounded() -> None:
    with pytest.raises(InputError, match="more than 1 s"):
        client.run(sleep, 60.0, limit_s=1.0)
    assert client.run(sleep, 0.0) == 1


def test_a_file_has_one_bound_of_time_however_many_rows_it_comes_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time of each request was bounded, but not their number: an inbox could wait for hours behind a sheet."""
    with pytest.raises(InputError, match="more than 1 s") as refused:
        list(client.stream(trickle, 10_000, 0.1, where="far.xlsx", limit_s=1.0))
    assert (refused.value.code, refused.value.where) == (Code.DECODER, "far.xlsx")
    clock, read_s = time.monotonic, 0.0
    monkeypatch.setattr("homeroom.data.decoder.client.time.monotonic", lambda: clock() + read_s)
    items = 0
    for _ in client.stream(trickle, 3, 0.0, where="good.xlsx", limit_s=60.0):
        items, read_s = items + 1, read_s + 100.0  # whoever reads may take their time
    assert items == 3


WITHOUT_LIMITS = (
    "from homeroom.data.decoder import limits; limits.BOUNDS_TIME = False; limits.bound_time = lambda limit_s: None; "
    "from homeroom.data.decoder import child; child.bound_time = limits.bound_time; child.main()"
)


def test_where_the_system_bounds_no_time_the_program_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Windows, where a drawing had a minute."""
    script = tmp_path / "child.py"
    script.write_text(WITHOUT_LIMITS)
    monkeypatch.setenv("HOMEROOM_DECODER", f"{sys.executable} {script}")
    client.end()
    with pytest.raises(InputError, match="processor's time") as refused:
        client.run(burn, 0.3, where="drawing.svg")
    assert (refused.value.code, refused.value.where) == (Code.DECODER, "drawing.svg")
    assert client.run(rest, 0.3, 0.6) == 1
    assert client.run(sleep, 0.0) == 1
    monkeypatch.delenv("HOMEROOM_DECODER")
    client.end()


ALL = 'width="512" height="8192"'
FILTERED = f'</filter><rect {ALL} filter="url(#f)"/>'
ENDLESS = {  # none of them is long, deep or large
    "a blur": '<filter id="f">' + '<feGaussianBlur stdDeviation="90"/>' * 200 + FILTERED,
    "noise": '<filter id="f"><feTurbulence baseFrequency=".9" numOctaves="9999"/>' + FILTERED,
    "masks": f'<mask id="m"><rect {ALL} fill="#fff"/></mask>' + f'<rect {ALL} mask="url(#m)"/>' * 3000,
}


@pytest.mark.attack("files and bundles", "A small drawing that takes for ever")
@pytest.mark.parametrize("case", ENDLESS)
@pytest.mark.skipif(sys.platform == "win32", reason="what the decoder took is told by `resource`")
def test_a_drawing_has_some_seconds_of_the_processor(case: str, attack: Attack) -> None:
    import resource

    client.end()
    before_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    with pytest.raises(InputError, match="processor's time") as refused:
        client.run(check, PICTURE, svg(ALL, ENDLESS[case]), "drawing", where="drawing.svg")
    assert (refused.value.code, refused.value.where) == (Code.DECODER, "drawing.svg")
    attack.got = max(0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before_s - SVG_LIMIT_S - 2)
    client.run(check, PICTURE, svg(ALL, f"<rect {ALL}/>"), "good")
    attack.noticed = "the next drawing is drawn"


@pytest.mark.skipif(sys.platform != "linux", reason="the system bounds it on Linux")
def test_memory_is_bounded() -> None:
    with pytest.raises(InputError, match="memory"):
        client.run(hoard, MEMORY_LIMIT_BYTES + (1 << 20))
    assert client.run(hoard, 1 << 20) == 1 << 20


def test_one_process_serves_one_file_after_another_and_starts_again_after_it_ended() -> None:
    client.run(sleep, 0.0)
    first = client._process
    assert first is not None
    client.run(sleep, 0.0)
    assert client._process is first
    assert client.resident_bytes() > 10 << 20
    first.terminate()
    first.wait()
    assert client.resident_bytes() == 0
    assert client.run(sleep, 0.0) == 1


def test_a_decoder_that_ends_itself_while_a_request_comes_is_started_once_more() -> None:
    with pytest.raises(InputError, match="does not start"):
        client.run(leave, 0)  # each time
    assert client.run(sleep, 0.0) == 1


def test_a_result_of_another_type_is_refused() -> None:
    with pytest.raises(InputError, match="something else"):
        client.run(wrong_type, 3)


def test_threads_wait_for_each_other() -> None:
    results: list[int] = []
    threads = [threading.Thread(target=lambda n=n: results.append(client.run(hoard, n))) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == list(range(20))


def test_the_first_file_takes_half_a_second_of_the_processor_at_most() -> None:
    client.end()
    client.run(check, PICTURE, png("RGB", 200, 200), "first")
    process = client._process
    assert process is not None
    used = psutil.Process(process.pid).cpu_times()
    assert used.user + used.system < 0.5


def test_a_frozen_program_names_its_own_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    client.end()
    with pytest.raises(HomeroomError, match="HOMEROOM_DECODER"):
        client.run(sleep, 0.0)
    monkeypatch.setenv(
        "HOMEROOM_DECODER", f'{sys.executable} -c "from homeroom.data.decoder.child import main; main()"'
    )
    assert client.run(sleep, 0.0) == 1
    client.end()


def test_no_decoder_outlives_its_program() -> None:
    source = (
        "from decoder_calls import sleep\n"
        "from homeroom.data.decoder import client\n"
        "client.run(sleep, 0.0)\n"
        "print(client._process.pid, flush=True)\n"
        "import os; os._exit(1)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, env=env, timeout=100)
    pid = int(done.stdout)
    end_s = time.monotonic() + 60
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" and time.monotonic() < end_s:
        time.sleep(0.05)
    assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"


def test_predict_decodes_a_file_from_outside_in_the_decoder_alone(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    row = next(row for row in tiny.samples(20, 1) if "picture" in row and "speech" in row)
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        expected = device.predict(Sample(**row))

        def refuse(*arguments: object, **named: object) -> None:
            raise AssertionError("decoded here")

        monkeypatch.setattr("homeroom.data.preprocess.image.decode", refuse)
        monkeypatch.setattr("homeroom.data.preprocess.audio.decode", refuse)
        assert device.predict(Sample(**row)) == expected
        device.add(Sample(**row))


FRAMES = {
    "nothing": b"",
    "noise": b"x" * 8,
    "an endless frame": (1 << 62).to_bytes(8, "big"),
    "nested arrays": (9).to_bytes(8, "big") + b"\x92" * 9,
    "nothing in it": (2).to_bytes(8, "big") + b"\x91\xc0",
    "bounds of its time for ever": ((12).to_bytes(8, "big") + b"\x93\xc0\xc0\xcb" + struct.pack(">d", 9.0)) * 9,
}


@pytest.mark.attack("files and bundles", "A decoder that was taken over sends the program what it likes")
@pytest.mark.parametrize("case", FRAMES)
def test_a_decoder_that_was_taken_over_gets_no_further(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attack: Attack
) -> None:
    script = tmp_path / "evil.py"
    script.write_text(
        f"import sys; sys.stdin.buffer.read(8); sys.stdout.buffer.write({FRAMES[case]!r}); sys.stdout.flush()"
    )
    monkeypatch.setenv("HOMEROOM_DECODER", f"{sys.executable} {script}")
    client.end()
    before = psutil.Process().memory_info().rss
    with pytest.raises(InputError) as refused:
        client.run(sleep, 0.0, limit_s=30.0)
    attack.got = max(0, psutil.Process().memory_info().rss - before - (20 << 20))
    attack.noticed = str(refused.value)
    monkeypatch.delenv("HOMEROOM_DECODER")
    client.end()
    assert client.run(sleep, 0.0) == 1


def test_a_stored_file_that_is_not_decoded_any_more_is_set_apart_and_the_others_are_learned(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an update of a library; an earlier version let the whole training fail, each time."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    rows = [row for row in tiny.samples(30, 1) if "picture" in row]
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        ids = device.add(*(Sample(**row) for row in rows), gates=False)

        def damaged(data: bytes, version: int, _: int | None) -> Image.Image:
            if data == rows[2]["picture"]:
                raise InputError("the picture is damaged: unknown chunk")
            return decode(data, version=version)

        monkeypatch.setattr("homeroom.data.preprocess.image.decode_stored", damaged)
        report = device.train(epochs=1)
        assert report.epochs
        (apart,) = device.set_aside()
        assert apart.sample_id == ids[2]
        assert "unknown chunk" in apart.aside


def test_the_decoder_counts_in_a_budget_and_ends_before_a_training(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    client.end()
    without = Budget().begin(tmp_path).peak_bytes
    client.run(sleep, 0.0)
    assert Budget().begin(tmp_path).peak_bytes - without > 15 << 20
    rows = [row for row in tiny.samples(20, 1) if "picture" in row]
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        device.add(*(Sample(**row) for row in rows))
        assert client.resident_bytes() > 0
        device.train(epochs=1)
        assert client.resident_bytes() == 0


def test_a_picture_that_a_budget_cannot_decode_is_set_apart_and_the_others_are_learned(
    tiny_bundle: tiny.Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a scan stopped every training under that budget; a photo of as many pixels is decoded at a reduced scale."""
    monkeypatch.setenv("HOMEROOM_KEYS", str(tmp_path / "keys"))
    rows = [row for row in tiny.samples(20, 1) if "picture" in row]
    scene = Image.effect_noise((60, 40), 90).convert("RGB").resize((6000, 4000), Image.Resampling.NEAREST)
    for row, kind in zip(rows[2:4], ("PNG", "JPEG"), strict=True):
        buffer = io.BytesIO()
        scene.save(buffer, kind)
        row["picture"] = buffer.getvalue()
    monkeypatch.setattr(BudgetWatch, "decode_room", lambda watch: 60 << 20)
    with Device.open(tmp_path / "device", tiny_bundle.path, tiny_bundle.root, threads=1) as device:
        ids = device.add(*(Sample(**row) for row in rows), gates=False)
        assert device.train(epochs=1).epochs
        (apart,) = device.set_aside()
        assert apart.sample_id == ids[2]
        assert "6000 x 4000 pixels would take" in apart.aside


def test_a_budget_tells_what_decoding_may_take(tmp_path: Path) -> None:
    held = hardware.resident() / 1e6
    assert hardware.cgroup_limit() or Budget().begin(tmp_path).decode_room() is None
    room = Budget(megabytes=held + 400).begin(tmp_path).decode_room()
    assert room is not None
    assert 100e6 < room < 220e6
    assert Budget(megabytes=held / 2).begin(tmp_path).decode_room() == 0


def test_a_relative_path_means_the_folder_of_this_process_though_the_decoder_started_in_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "one.zip", "w") as archive:
            archive.writestr("manifest.json", name)
            archive.writestr("signature.json", name)
        monkeypatch.chdir(tmp_path / name)  # the decoder starts in the first, or before
        assert client.run(read_signed_zip, Path("one.zip"))[0] == name.encode()
