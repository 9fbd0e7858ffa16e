"""The benchmark of storage counts what is decrypted and hashed, in either code."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
COUNT = """
import storage
storage.count_bytes()
import hashlib
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
cipher = ChaCha20Poly1305(ChaCha20Poly1305.generate_key())
assert cipher.decrypt(bytes(12), cipher.encrypt(bytes(12), b"12345", None), None) == b"12345"
assert hashlib.sha256(b"abc").hexdigest().startswith("ba7816bf")
assert storage.COUNTED == {"decrypted": 21, "hashed": 3}
"""


def test_bytes_are_counted_and_nothing_else_changes() -> None:
    subprocess.run([sys.executable, "-c", COUNT], cwd=BENCHMARKS, check=True)


@pytest.mark.slow
@pytest.mark.extra
def test_media_are_read_once_today_and_many_times_by_the_release_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import storage

    with zipfile.ZipFile(next(storage.DATA.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "release")
    times = {}
    for code in (tmp_path / "release", storage.ROOT / "sdk"):
        (tmp_path / f"read-{code.name}").mkdir()
        times[code.name] = storage.read_often(code, tmp_path / f"read-{code.name}", 12, 400)
    assert times["release"]["first: decrypted"] > 5
    for name, most in (("first: decrypted", 1.1), ("first: hashed", 0.1), ("second, memory budget: decrypted", 0.1)):
        assert times["sdk"][name] < most
