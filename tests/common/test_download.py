"""A file is fetched once, checked, and kept in the user's cache."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading

import pytest
import torch

from common.download import cached_download
from common.errors import InputError

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "cache"))
    return tmp_path / "cache/checkpoints"


@pytest.fixture
def address(tmp_path):
    """A server of one file on this machine."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "w.onnx").write_bytes(CONTENT)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/w.onnx"
        server.shutdown()


def test_a_file_is_fetched_once(cache, address, tmp_path):
    path = cached_download(address, SHA256)
    assert path == cache / "w.onnx"
    assert path.read_bytes() == CONTENT
    (tmp_path / "served/w.onnx").unlink()
    assert cached_download(address, SHA256) == path


def test_a_damaged_copy_is_fetched_again(cache, address):
    cache.mkdir(parents=True)
    (cache / "w.onnx").write_bytes(b"half")
    assert cached_download(address, SHA256).read_bytes() == CONTENT


def test_another_content_is_refused_and_not_kept(cache, address):
    with pytest.raises(InputError, match=r"cannot be downloaded .*invalid hash"):
        cached_download(address, "0" * 64)
    assert list(cache.iterdir()) == []


def test_without_a_network_the_message_says_where_to_put_the_file(cache):
    with pytest.raises(InputError, match=f"cannot be downloaded.*save it as {cache / 'w.onnx'}"):
        cached_download("http://127.0.0.1:9/w.onnx", SHA256)
