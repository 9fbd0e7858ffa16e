"""HEIC pictures of telephones, through pillow-heif (extra `heic`)."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from homeroom.data.preprocess.file_kind import HEIC_KIND, file_kind
from homeroom.errors import InputError
from homeroom.system.installation import how_to_install

HEIC_SUFFIXES = (".heic", ".heif")


def reads_heic() -> bool:
    """Whether the extra is installed."""
    return find_spec("pillow_heif") is not None


def how_to_read_heic() -> str:
    """What to do where the extra is missing."""
    return f"{how_to_install('heic')}, or save it as JPEG"


def heic_formats(data: bytes, where: str) -> tuple[str, ...]:
    """Pillow's format of a HEIC picture; none of another file. InputError where the extra is missing."""
    if file_kind(data) != HEIC_KIND:
        return ()
    if not reads_heic():
        raise InputError("is a HEIC picture, which the extra `heic` reads", where=where, remedy=how_to_read_heic())
    _register()
    return ("HEIF",)


@lru_cache(maxsize=1)
def _register() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
