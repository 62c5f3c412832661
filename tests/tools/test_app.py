"""tools.app: what it finds in a photo; the page itself where gradio and a browser are installed.

    pip install -r requirements-app.txt playwright; apt install chromium

Pillow then is that of gradio, so an environment of its own is best.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from common.errors import InputError
from datasets import RAFDB
from networks import DAN
from tests.support.patches import find_patches, patch, save_checkpoint, scene
from tests.support.scripts import ROOT, script_environment
from tools import app

CORNER = (150, 50)  # of the face, pixels
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
needs_gradio = pytest.mark.skipif(
    importlib.util.find_spec("gradio") is None, reason="gradio is not installed"
)
needs_browser = pytest.mark.skipif(
    importlib.util.find_spec("playwright") is None or CHROMIUM is None,
    reason="playwright or chromium is not installed",
)
#: The page with the detector of the tests.
PROGRAM = """
import sys
from types import SimpleNamespace
from common.cli import call_main
from tests.support.patches import find_patches
from tools import app

app.make_detector = lambda *_, **__: SimpleNamespace(batch=find_patches)
call_main(lambda: app.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("models") / "dan.pth", arch=DAN)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A photo, one without a face, and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    scene([(patch(1), CORNER)]).save(folder / "photo.png")
    scene([]).save(folder / "empty.png")
    (folder / "broken.png").write_bytes((folder / "photo.png").read_bytes()[:900])
    return folder


@pytest.fixture
def analyse(monkeypatch):
    """`make_analysis` with a checkpoint."""
    detector = SimpleNamespace(batch=find_patches)
    monkeypatch.setattr(app, "make_detector", lambda *_, **__: detector)
    return lambda path: app.make_analysis(app.parse_arguments(["--checkpoint", str(path)]))


# ---- without gradio


def test_a_photo_gives_boxes_bars_and_the_maps_of_the_heads(analyse, checkpoint, files):
    drawn, html = analyse(checkpoint)(files / "photo.png")
    picture = np.asarray(Image.open(files / "photo.png"), dtype=int)
    changed = np.abs(np.asarray(drawn, dtype=int) - picture).max(axis=2)
    assert changed[CORNER[1] + 5, CORNER[0]] > 50
    assert re.findall(r'<th scope="row">(\w+)</th>', html) == list(RAFDB.classes)
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", html)]
    assert sum(widths) == pytest.approx(100, abs=0.5)
    assert "photo.png" in html
    assert html.count("data:image/") == 1 + 2  # the crop, and a map per head


def test_a_network_without_heads_has_no_maps(analyse, tmp_path, files):
    _, html = analyse(save_checkpoint(tmp_path / "x.pth"))(files / "photo.png")
    assert html.count("data:image/") == 1


def test_a_photo_without_faces_is_shown_as_it_is(analyse, checkpoint, files):
    drawn, html = analyse(checkpoint)(files / "empty.png")
    assert np.array_equal(np.asarray(drawn), np.asarray(Image.open(files / "empty.png")))
    assert "No face was found" in html


def test_names_from_a_file_are_text_on_the_page(analyse, tmp_path, files):
    names = ["<script>1</script>", *"bcdefg"]
    path = save_checkpoint(tmp_path / "x.pth", class_names=names)
    _, html = analyse(path)(files / "photo.png")
    assert "&lt;script&gt;" in html
    assert "<script" not in html


def test_only_this_machine_can_reach_the_page_unless_told_otherwise():
    assert app.parse_arguments([]).host == "127.0.0.1"
    assert app.parse_arguments(["--host", "0.0.0.0"]).host == "0.0.0.0"


def test_without_gradio_the_message_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"gradio; pip install -r requirements-app\.txt"):
        app.main([])


# ---- the page


@pytest.fixture(scope="module")
def address(checkpoint, tmp_path_factory) -> Iterator[str]:
    """The page, served until the last test; then nothing of the photos is left."""
    folder = tmp_path_factory.mktemp("server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--checkpoint", str(checkpoint), "--port", str(port)],
        cwd=ROOT,
        env={**script_environment(), "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        line = server.stdout.readline()
        assert line.startswith("open http://127.0.0.1:"), line
        yield line.split()[1]
        assert list(folder.rglob("photo.png"))  # while it runs
        os.kill(server.pid, signal.SIGTERM)
        server.wait(60)
        assert list(folder.iterdir()) == []
    finally:
        server.kill()


@needs_gradio
@pytest.mark.slow
def test_over_http_a_photo_goes_in_and_names_and_bars_come_out(address, files):
    from gradio_client import Client, handle_file  # noqa: PLC0415 - an extra

    client = Client(address, verbose=False)
    drawn, html = client.predict(handle_file(files / "photo.png"), api_name="/predict")
    assert Image.open(drawn).size == (400, 200)
    assert re.findall(r'<th scope="row">(\w+)</th>', html) == list(RAFDB.classes)
    nothing, html = client.predict(handle_file(files / "broken.png"), api_name="/predict")
    assert nothing is None
    assert "image broken.png cannot be decoded" in html


@needs_gradio
@pytest.mark.slow
def test_large_uploads_are_refused(address):
    import httpx  # noqa: PLC0415 - comes with gradio

    for megabytes, status in ((19, 200), (21, 413)):
        upload = {"files": ("photo.png", bytes(megabytes * 2**20))}
        assert httpx.post(f"{address}gradio_api/upload", files=upload).status_code == status


@needs_gradio
@pytest.mark.slow
def test_files_of_the_server_are_not_shown(address, files):
    import httpx  # noqa: PLC0415 - comes with gradio

    def answer(path: str) -> str:
        data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
        calls = f"{address}gradio_api/call/predict"
        event = httpx.post(calls, json={"data": data}).json()["event_id"]
        return httpx.get(f"{calls}/{event}", timeout=60).text

    content = (files / "photo.png").read_bytes()
    upload = {"files": ("photo.png", content)}
    (path,) = httpx.post(f"{address}gradio_api/upload", files=upload).json()
    assert "event: complete" in answer(path)
    refused = answer(str(files / "photo.png"))
    assert "event: error" in refused
    assert "data:image/" not in refused


@needs_gradio
@needs_browser
@pytest.mark.slow
def test_in_a_browser_a_photo_goes_in_and_names_and_bars_come_out(address, files):
    from playwright.sync_api import expect, sync_playwright  # noqa: PLC0415 - an extra

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page()
        asked = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(address)
        expect(tab.get_by_text("It is not what the person feels")).to_be_visible(timeout=30_000)
        given = tab.locator("input[type=file]")
        given.set_input_files(files / "broken.png")
        alert = tab.get_by_role("alert")
        expect(alert).to_contain_text("image broken.png cannot be decoded", timeout=30_000)
        given.set_input_files(files / "photo.png")
        expect(tab.locator(".face h2")).to_have_text("photo.png", timeout=30_000)
        expect(alert).to_have_count(0)
        assert tab.locator(".face th").all_inner_texts() == list(RAFDB.classes)
        bars = [bar.bounding_box()["width"] for bar in tab.locator(".face .bar").all()]
        filled = [bar.bounding_box()["width"] for bar in tab.locator(".face .bar > span").all()]
        assert sum(filled) == pytest.approx(bars[0], rel=0.02)
        assert tab.locator(".face .maps img").count() == 2
        browser.close()
    # Nothing is fetched from elsewhere.
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
