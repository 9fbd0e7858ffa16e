"""`homeroom bundle pull`: a bundle from a folder, an address or a model hub."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from homeroom.cli.inspect import KIND_WIDTH
from homeroom.cli.options import as_json, hint, print_record, progress, say
from homeroom.cli.parameters import PATH
from homeroom.errors import InputError
from homeroom.system.installation import quoted

if TYPE_CHECKING:
    from homeroom.pull.pull import Pulled, PulledFile

PROGRESS_BYTES = 1 << 20


@click.command()
@click.argument("source")
@click.argument("out", type=PATH, default=".")
@click.option("--root", help="Fingerprint of the root key that must vouch for it.")
@click.option("--sha256", default="", metavar="HEX", help="Of the file, where you were given it by another way.")
@click.option("--float32", is_flag=True, help="Also its second file, for devices that need float32 backbones.")
@click.option("--endpoint", metavar="URL", help="Of the hub, in place of HF_ENDPOINT or https://huggingface.co.")
@as_json
def pull(source: str, out: Path, root: str | None, sha256: str, float32: bool, endpoint: str | None) -> None:
    """Fetch the bundle at SOURCE and put it in OUT (a folder, by default this one, or a file) once it is verified.

    SOURCE is a file, a folder, an http or https address, or hf:OWNER/NAME[@REVISION][/FILE] on a model hub. Its
    SHA-256 is compared with the published one, its signature and every file are checked. What a broken connection
    cut is kept beside and goes on the next time.
    """
    from homeroom.pull.pull import pull as pull_bundle

    if sha256 and not re.fullmatch("[0-9a-fA-F]{64}", sha256):
        raise InputError("is no SHA-256: 64 hexadecimal digits", where="--sha256")
    shown = -PROGRESS_BYTES

    def tell(size: int) -> None:
        nonlocal shown
        if not 0 <= size - shown < PROGRESS_BYTES:
            shown = size
            progress(f"{size / 1e6:.0f} MB are here")

    pulled = pull_bundle(source, out, root=root, sha256=sha256, endpoint=endpoint, float32=float32, tell=tell)
    progress("", done=True)
    manifest = pulled.manifest
    state = "was here already" if pulled.file.was_here else "is here"
    say(f"{manifest.name} version {manifest.version} {state}: {pulled.file.path}")
    for kind, text in _facts(pulled, root):
        say(f"{kind:{KIND_WIDTH}}{text}")
    print_record(_record(pulled))
    if manifest.fallback_files and not float32:
        hint("some processors need its float32 backbones too: --float32 pulls them")
    hint(f"make a device:  homeroom device init classroom --bundle {quoted(pulled.file.path)} --root {pulled.root}")


def _facts(pulled: Pulled, root: str | None) -> Iterator[tuple[str, str]]:
    manifest = pulled.manifest
    at = f", commit {pulled.revision}" if pulled.revision else ""
    yield "from", f"{pulled.source}{at}"
    yield "bundle", pulled.bundle_id
    trusted = "the one that you named" if root else "nobody vouched for it but the bundle: compare it"
    yield "root", f"{pulled.root} ({trusted})"
    yield "signed by", pulled.signed_by
    yield from _file(pulled.file)
    for task in manifest.tasks:
        title = "" if task.said == task.name else f" ({task.said})"
        yield "task", f"{task.name}{title}: {task.described}"
    for modality in manifest.modalities:
        if modality.name == "text":
            yield "languages", ", ".join(modality.known_languages) or "of texts: not said"
    for licence in manifest.licences:
        yield "licence", f"{licence.subject}: {licence.name}"
    if not manifest.licences:
        yield "licence", "none is named: ask whoever made it"
    if pulled.second is not None:
        yield "second file", str(pulled.second.path)
        yield from _file(pulled.second)
    if (card := pulled.card) is not None:
        said = [f"licence {card.licence}" if card.licence else "", f"languages {', '.join(card.languages)}"]
        said = [said[0], said[1] if card.languages else "", f"tags {', '.join(card.tags)}" if card.tags else ""]
        words = "; ".join(filter(None, said))
        yield "card", f"{card.address}{f' says: {words}' if words else ''} (nobody verified it)"


def _file(file: PulledFile) -> Iterator[tuple[str, str]]:
    compared = f"as {file.compared_with} says" if file.compared_with else "no hash was published beside it"
    yield "sha256", f"{file.sha256} ({compared})"
    yield "size", f"{file.bytes / 1e6:.1f} MB"


def _record(pulled: Pulled) -> dict[str, Any]:
    """What `--json` prints: the bundle's own words in place of its whole manifest, which `bundle inspect` prints."""
    manifest = pulled.manifest
    return {
        "name": manifest.name,
        "version": manifest.version,
        "bundle_id": pulled.bundle_id,
        "root": pulled.root,
        "signed_by": pulled.signed_by,
        "source": pulled.source,
        "revision": pulled.revision,
        "file": pulled.file,
        "second": pulled.second,
        "tasks": {task.name: task.described for task in manifest.tasks},
        "languages": {m.name: m.known_languages for m in manifest.modalities if m.name == "text"},
        "licences": {licence.subject: licence.name for licence in manifest.licences},
        "card": pulled.card,
    }
