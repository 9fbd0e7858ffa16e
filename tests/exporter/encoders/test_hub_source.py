"""`hf:NAME`: a folder, the cache or the hub; what is none of them is said at once, in one sentence."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest

from exporter import models
from homeroom.errors import ExportError
from homeroom_exporter.encoders import hub, hub_source
from homeroom_exporter.encoders.spec import EncoderSpec


def named(source: str) -> EncoderSpec:
    return EncoderSpec(modality="text", source=f"hf:{source}", taps=(1,), dim=8, buckets=(8,))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the hub is asked, which cannot be reached; a library that waits to ask again fails."""
    asked = []

    def head(url: str, **_: Any) -> Any:
        asked.append(url)
        raise OSError("no network")

    def sleep(seconds: float) -> None:
        raise AssertionError(f"waits {seconds} s")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    return asked


def test_a_name_that_is_no_folder_is_asked_for_once_without_a_network(
    asked: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ExportError, match=r"the hub cannot be reached \(connect to the network once") as refused:
        hub.load_model(named("nobody/no-such-model"))
    assert len(str(refused.value)) < 250
    assert len(asked) == 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("path", ["./absent", "/absent/model", "a/b/c", "../up"])
def test_what_can_only_be_a_folder_is_never_asked_for(path: str, asked: list[str]) -> None:
    with pytest.raises(ExportError, match="there is no such folder"):
        hub.load_model(named(path))
    assert asked == []


def test_a_file_is_no_folder(tmp_path: Path, asked: list[str]) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ExportError, match="is a file, no folder"):
        hub.load_model(named(str(tmp_path / "model.safetensors")))


@pytest.mark.parametrize(("code", "says"), [("RepoNotFound", "no such model"), ("RevisionNotFound", "no revision v9")])
def test_what_the_hub_says_is_one_sentence(code: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = SimpleNamespace(headers={"X-Error-Code": code})
    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=lambda url, **_: answer))
    with pytest.raises(ExportError, match=says):
        hub_source.locate(named(f"someone/{code}@v9"))


def test_what_is_cached_is_read_without_a_network(
    tmp_path: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.TRANSFORMERS_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.HF_HUB_CACHE", str(tmp_path), raising=False)
    model = tmp_path / "models--someone--cached"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    shutil.copytree(models.bert(tmp_path / "made"), model / "snapshots" / ("0" * 40))
    assert hub_source.locate(named("someone/cached")) == ("someone/cached", {"local_files_only": True})
    made = hub.load(named("someone/cached"), tmp_path)
    assert made.taps == ("layer.1",)
    assert made.licences[0].source == "someone/cached"
    assert len(asked) == 1
