"""Pictures and sounds from outside: checked and prepared in the decoder.

`check`, `prepared` and `decoded` run there. The last file stays decoded, since one that is added is read three times.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from homeroom.contract.manifest import AudioPreprocess, ImagePreprocess, Modality, Preprocess
from homeroom.data.decoder import client
from homeroom.data.preprocess import prepare
from homeroom.data.preprocess.prepared import Prepared

KEPT_BYTES = 64 << 20  # of a decoded file, between requests

_last: tuple[tuple[bytes, object], Any] | None = None


def is_media(preprocess: Preprocess) -> bool:
    """Whether inputs are files, pictures or sounds."""
    return isinstance(preprocess, ImagePreprocess | AudioPreprocess)


def prepare_outside(modality: Modality, value: Any, bundle_file: Callable[[str], Path]) -> Prepared:
    """Prepares an input as `preprocess.prepare`, a file from outside in the decoder."""
    if is_media(modality.preprocess):
        return client.run(prepared, modality, value)
    return prepare(modality, value, bundle_file)


def check(preprocess: Preprocess, data: bytes, where: str) -> str:
    """Decodes a file, so that a bad one is refused when it is added; returns what a person must know of it, or ""."""
    content = decoded(preprocess, data, where)
    if isinstance(preprocess, AudioPreprocess):
        from homeroom.data.preprocess.recordings import length_note

        return length_note(data, where)
    from homeroom.data.preprocess.colours import NOTE
    from homeroom.data.preprocess.image import holds_several

    notes = [content.info.get(NOTE, ""), "holds several pictures, of which the first is seen" * holds_several(data)]
    return "; ".join(f"{where}: {note}" for note in filter(None, notes))


def prepared(modality: Modality, data: bytes) -> Prepared:
    """Prepares a file that was checked."""
    spec, tokens = modality.preprocess, modality.buckets[-1]
    if isinstance(spec, AudioPreprocess):
        from homeroom.data.preprocess import audio

        wave, rate = decoded(spec, data)
        return audio.prepare(spec, wave, rate, tokens)
    from homeroom.data.preprocess import image

    assert isinstance(spec, ImagePreprocess)
    return image.prepare(spec, decoded(spec, data), tokens)


def heard_s(preprocess: AudioPreprocess, data: bytes) -> tuple[float, float, float]:
    """Where what the model hears of a sound begins and ends, and the sound's length, in seconds; in the decoder."""
    from homeroom.data.preprocess import audio

    wave, rate = decoded(preprocess, data)
    start, end = audio.window(preprocess, wave, rate)
    return start / rate, end / rate, len(wave) / rate


def decoded(preprocess: Preprocess, data: bytes, where: str = "") -> Any:
    """A picture, or a sound's wave and rate; that of the same file as before is not decoded again."""
    global _last
    assert isinstance(preprocess, ImagePreprocess | AudioPreprocess)
    key = sha256(data).digest(), preprocess.version
    if _last is not None and _last[0] == key:
        return _last[1]
    _last = None  # before the next takes its memory
    content: Any
    if isinstance(preprocess, AudioPreprocess):
        from homeroom.data.preprocess import audio

        content = audio.decode(data, where or "sound", version=preprocess.version)
        size_bytes = content[0].nbytes
    else:
        from homeroom.data.preprocess import image

        content = image.decode(data, where or "picture", version=preprocess.version)
        size_bytes = 4 * content.width * content.height
    if size_bytes <= KEPT_BYTES:
        _last = key, content
    return content
