"""The page that `homeroom quickstart` opens at its end, until Ctrl-C."""

from __future__ import annotations

import signal
import threading
import webbrowser
from pathlib import Path

import httpx
import pytest
import tiny

from homeroom import Device
from homeroom.agent.page import find_page
from homeroom.cli import quickstart


@pytest.mark.parametrize("screen", [True, False])
def test_the_page_is_served_until_ctrl_c_and_opened_where_there_is_a_screen(
    screen: bool,
    tiny_bundle: tiny.Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory, opened, pages = tmp_path / "classroom", list[str](), list[httpx.Response]()
    Device.open(directory, bundle=tiny_bundle.path, threads=1).close()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", ":0" if screen else "")
    monkeypatch.setattr(webbrowser, "open", opened.append)

    def visit() -> None:
        while (found := find_page(directory)) is None:
            threading.Event().wait(0.05)
        try:
            pages.append(httpx.get(found.url, follow_redirects=True, timeout=60))
        finally:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)  # wakes it wherever it waits

    visitor = threading.Thread(target=visit)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        visitor.start()
        quickstart._show_page(directory)
    finally:
        signal.signal(signal.SIGINT, before)
    visitor.join()
    assert [page.status_code for page in pages] == [200]
    assert bool(opened) is screen
    said = capsys.readouterr().out
    assert "its page, until Ctrl-C: http://127.0.0.1:" in said
    assert "the page is closed" in said
    assert find_page(directory) is None
