"""HEIC pictures of telephones, through pillow-heif (extra `heic`)."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from homeroom.data.preprocess.file_kind import HEIC_KIND, file_kind
from homeroom.errors import InputError

HEIC_SUFFIXES = (".heic", ".heif")
HOW_TO_READ_HEIC = "pip install 'homeroom[heic]', or save it as JPEG"


def reads_heic() -> bool:
    """Whether the extra is installed."""
    return find_spec("pillow_heif") is not None


def heic_formats(data: bytes, where: str) -> tuple[str, ...]:
    """Pillow's format of a HEIC picture; none of another file. InputError where the extra is missing."""
    if file_kind(data) != HEIC_KIND:
        return ()
    if not reads_heic():
        raise InputError("is a HEIC picture, which the extra `heic` reads", where=where, remedy=HOW_TO_READ_HEIC)
    _register()
    return ("HEIF",)


@lru_cache(maxsize=1)
def _register() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
