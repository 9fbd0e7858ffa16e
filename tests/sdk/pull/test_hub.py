"""`bundle pull` from a server with the conventions of the Hugging Face Hub."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from homeroom.cli.main import main
from homeroom.errors import BundleError, InputError, NetworkError
from homeroom.pull.hub import read_address
from homeroom.pull.pull import Pulled, pull
from sdk.pull.servers import COMMIT, Files, as_hub, left, serving, sha256

REPOSITORY = "our-district/lesson"
CARD = {"license": "apache-2.0", "language": ["en"], "tags": ["homeroom"]}


@pytest.fixture
def hub(files: Files, packed: Path) -> Files:
    inside = {"README.md": b"# A lesson\n", "lesson.homeroom": packed.read_bytes()}
    as_hub(files, REPOSITORY, inside, card=CARD)
    return files


def from_hub(hub: Files, out: Path, address: str = f"hf:{REPOSITORY}", **options: Any) -> Pulled:
    return pull(address, out, endpoint=hub.address, **options)


def test_a_hub_names_commit_card_and_hash(
    hub: Files, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["bundle", "pull", f"hf:{REPOSITORY}@v2", str(tmp_path), "--endpoint", hub.address])
    said = capsys.readouterr().out
    assert f"commit {COMMIT}" in said
    assert f"{sha256(packed)} (as the hub says)" in said
    assert "licence apache-2.0; languages en; tags homeroom" in said
    assert f"/{REPOSITORY}/resolve/{COMMIT}/lesson.homeroom" in [path for path, _ in hub.asked], "at the commit"
    assert sha256(tmp_path / "lesson.homeroom") == sha256(packed)


def test_the_hubs_own_library_reads_this_server(hub: Files, packed: Path, tmp_path: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi(endpoint=hub.address, token=False).model_info(REPOSITORY, revision="v2", files_metadata=True)
    pulled = from_hub(hub, tmp_path, f"hf:{REPOSITORY}@v2")
    assert info.sha == pulled.revision
    (bundle,) = (file for file in info.siblings or () if file.rfilename == "lesson.homeroom")
    assert bundle.lfs is not None
    assert bundle.lfs.sha256 == pulled.file.sha256
    assert pulled.card is not None
    assert info.tags == list(pulled.card.tags)
    folder = tmp_path / "library"
    path = hf_hub_download(
        REPOSITORY, "lesson.homeroom", revision="v2", endpoint=hub.address, local_dir=folder, token=False
    )
    assert sha256(Path(path)) == pulled.file.sha256


def test_a_hub_file_with_another_hash_is_refused(hub: Files, packed: Path, tmp_path: Path) -> None:
    body = packed.read_bytes()
    hub.content[f"/store/{sha256(packed)}"] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(BundleError, match="the hub says"):
        from_hub(hub, tmp_path)
    assert left(tmp_path) == []


def test_a_hub_that_keeps_it_in_git_names_it_by_gits_hash(files: Files, packed: Path, tmp_path: Path) -> None:
    body = packed.read_bytes()
    as_hub(files, REPOSITORY, {"lesson.homeroom": body}, card={}, lfs=False)
    assert from_hub(files, tmp_path).file.compared_with == "the hub"
    (tmp_path / "lesson.homeroom").unlink()
    files.content[f"/store/{sha256(packed)}"] = body[:-1] + bytes([body[-1] ^ 1])
    with pytest.raises(BundleError, match="names by"):
        from_hub(files, tmp_path)


def test_what_a_hub_lacks_is_said(hub: Files, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no such repository"):
        from_hub(hub, tmp_path, "hf:our-district/none")
    path = f"/api/models/{REPOSITORY}/revision/v9"
    hub.headers[path] = {"x-error-code": "RevisionNotFound"}
    with pytest.raises(NetworkError, match="no such branch, tag or commit"):
        from_hub(hub, tmp_path, f"hf:{REPOSITORY}@v9")
    with pytest.raises(NetworkError, match=r"no file other.homeroom"):
        from_hub(hub, tmp_path, f"hf:{REPOSITORY}/other.homeroom")
    as_hub(hub, "a/none", {"README.md": b""}, card={})
    with pytest.raises(NetworkError, match="holds no bundle"):
        from_hub(hub, tmp_path, "hf:a/none")
    as_hub(hub, "a/two", {"x/b.homeroom": packed.read_bytes(), "c.homeroom": b"", "c.float32.homeroom": b""}, card={})
    with pytest.raises(InputError, match=r"2 bundles: x/b.homeroom, c.homeroom"):
        from_hub(hub, tmp_path, "hf:a/two")
    assert from_hub(hub, tmp_path, "hf:a/two@main/x/b.homeroom").file.path == tmp_path / "b.homeroom"
    hub.content["/api/models/a/odd/revision/main"] = b'{"sha": 3}'
    with pytest.raises(NetworkError, match="does not answer as a hub does"):
        from_hub(hub, tmp_path, "hf:a/odd")


@pytest.mark.parametrize("address", ["hf:lesson", "hf:a/b/c", "hf:a/../b", "hf:a/b@", "hf:a/b@x/../y.homeroom", "hf:"])
def test_what_is_no_address_on_a_hub(address: str) -> None:
    with pytest.raises(InputError):
        read_address(address)


def test_addresses_on_a_hub() -> None:
    at = read_address("hf:a/b@refs/pr/3/x/y.homeroom")
    assert (at.repository, at.revision, at.file) == ("a/b", "refs/pr/3", "x/y.homeroom")
    at = read_address("hf://a/b")
    assert (at.repository, at.revision, at.file) == ("a/b", "main", "")


def test_a_token_stays_with_its_hub(hub: Files, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with serving(Files({f"/store/{sha256(packed)}": packed.read_bytes()})) as store:
        path = f"/{REPOSITORY}/resolve/{COMMIT}/lesson.homeroom"
        hub.redirects[path] = f"{store.address}/store/{sha256(packed)}"
        from_hub(hub, tmp_path)
        assert {token for _, token in hub.tokens} == {"Bearer hf_secret"}
        assert {token for _, token in store.tokens} == {""}, "where the hub keeps its files"


def test_a_hub_of_the_environment(hub: Files, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "homeroom", "bundle", "pull", f"hf:{REPOSITORY}", str(tmp_path)]
    environment = {**os.environ, "HF_ENDPOINT": hub.address}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == 0, done.stderr
    assert left(tmp_path) == ["lesson.homeroom"]


def test_a_hub_that_is_not_to_be_asked_is_not(hub: Files, tmp_path: Path, hub_offline: None) -> None:
    with pytest.raises(NetworkError, match="HF_HUB_OFFLINE is set"):
        from_hub(hub, tmp_path)
    assert hub.asked == []
