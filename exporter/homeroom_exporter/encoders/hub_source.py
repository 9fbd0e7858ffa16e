"""Where a Hugging Face model is: a folder, the cache, or the hub, which is asked once before its library is.

That library asks again for half a minute, for each file, and prints every failure.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path
from typing import Any

from homeroom.errors import ExportError
from homeroom_exporter.encoders.spec import EncoderSpec

CONFIG_FILE = "config.json"
CONNECT_S = 5.0
LOCAL = "local_files_only"  # transformers' keyword
ERROR_HEADER = "X-Error-Code"  # of the hub's answers
FOLDER_REMEDY = "give a folder with config.json and model.safetensors, or a hub name like owner/name"


def locate(spec: EncoderSpec) -> tuple[str, dict[str, Any]]:
    """Folder or hub name of `hf:<source>[@revision]`, and transformers' keywords: the revision, whether to stay local.

    ExportError where it is neither, the hub lacks it, or it is not cached and the hub cannot be reached.
    """
    utils = importlib.import_module("huggingface_hub.utils")
    source, _, revision = spec.source.removeprefix("hf:").partition("@")
    where = {"revision": revision} if revision else {}
    if Path(source).is_dir():
        return source, where
    if Path(source).exists():
        raise ExportError("is a file, no folder", where=spec.source, remedy=FOLDER_REMEDY)
    try:
        utils.validate_repo_id(source)
    except utils.HFValidationError:
        raise ExportError("there is no such folder", where=spec.source, remedy=FOLDER_REMEDY) from None
    return source, {**where, **({LOCAL: True} if _stays_local(source, revision, spec.source) else {})}


@cache
def _stays_local(source: str, revision: str, where: str) -> bool:
    """Whether the cache has the model and the hub cannot be reached; ExportError where neither gives it."""
    from huggingface_hub import hf_hub_url, try_to_load_from_cache

    utils = importlib.import_module("huggingface_hub.utils")
    cached = isinstance(try_to_load_from_cache(source, CONFIG_FILE, revision=revision or None), str)
    try:
        url = hf_hub_url(source, CONFIG_FILE, revision=revision or None)
        answer = utils.get_session().head(url, headers=utils.build_hf_headers(), timeout=CONNECT_S)
    except Exception:  # of requests or httpx, whichever the hub's library has
        if cached:
            return True
        fault = "is no folder here, not in the cache, and the hub cannot be reached"
        remedy = "connect to the network once (HTTPS_PROXY names a proxy), or give a directory"
        raise ExportError(fault, where=where, remedy=remedy) from None
    match answer.headers.get(ERROR_HEADER):
        case "RepoNotFound":
            fault = "is no folder here, and the hub has no such model, or shows it to its members only"
            raise ExportError(fault, where=where, remedy=FOLDER_REMEDY)
        case "RevisionNotFound":
            raise ExportError(f"the hub has no revision {revision} of it", where=where, remedy="name another, or none")
    return False
