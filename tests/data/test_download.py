"""Downloads from a server on this machine; nothing here leaves it."""

from __future__ import annotations

import hashlib
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

import agelib
from agelib import data
from agelib.data import DataError, files


@pytest.fixture
def server(monkeypatch):
    """Serves the bytes put into `served[path]`; answers 404 otherwise."""
    served, asked = {}, []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            content = served.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *args):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    monkeypatch.setenv("NO_PROXY", "*")
    http.served, http.asked, http.url = served, asked, f"http://127.0.0.1:{http.server_address[1]}"
    yield http
    http.shutdown()
    thread.join()
    http.server_close()


def offer(server, monkeypatch, name, content, md5=None):
    """Make `name` an official file found at two addresses, of which only the second answers."""
    md5 = md5 or hashlib.md5(content, usedforsecurity=False).hexdigest()
    urls = (f"{server.url}/gone/{name}", f"{server.url}/{name}")
    monkeypatch.setitem(files.OFFICIAL, name, files.Official(md5, urls))
    server.served[f"/{name}"] = content


def test_svhn_is_downloaded_once_checked_and_prepared(make, root, server, monkeypatch):
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    content = make.mat(X=x.transpose(1, 2, 3, 0), y=np.array([[10], [4]], np.uint8))
    offer(server, monkeypatch, "test_32x32.mat", content)
    found = data.load("svhn", "test")
    np.testing.assert_array_equal(found.images, x.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 4]
    assert server.asked == ["/gone/test_32x32.mat", "/test_32x32.mat"]
    assert (root / "svhn" / "test_32x32.mat").read_bytes() == content
    data.load("svhn", "test", size=16)
    assert len(server.asked) == 2


def test_a_download_with_another_checksum_is_thrown_away(root, server, monkeypatch):
    offer(server, monkeypatch, "test_32x32.mat", b"not what was promised", md5="0" * 32)
    with pytest.raises(DataError) as caught:
        data.load("svhn", "test")
    text = str(caught.value)
    assert "the download of test_32x32.mat failed" in text and "404" in text
    assert f"test_32x32.mat (md5 {'0' * 32}" in text and str(root / "svhn") in text
    assert [p for p in root.rglob("*") if p.is_file()] == []


def test_without_a_server_the_error_says_what_to_do(root, server, monkeypatch):
    offer(server, monkeypatch, "cifar-10-python.tar.gz", b"x")
    server.served.clear()
    with pytest.raises(
        DataError, match=r"(?s)the download of cifar-10-python.tar.gz failed.*Put the official files into"
    ):
        data.load("cifar10")


def test_download_false_asks_nobody(root, server, monkeypatch):
    offer(server, monkeypatch, "test_32x32.mat", b"x")
    with pytest.raises(DataError, match="download=False"):
        data.load("svhn", "test", download=False)
    assert server.asked == []


@pytest.fixture
def drive(monkeypatch):
    """Stands for torchvision's Google Drive helper: writes drive[id], or fails as gdown does."""
    content: dict[str, bytes] = {}

    def fetch(file_id, root, filename):
        if file_id not in content:
            raise Exception("Cannot retrieve the public link of the file.\nmore lines")
        (Path(root) / filename).write_bytes(content[file_id])

    utils = ModuleType("torchvision.datasets.utils")
    utils.download_file_from_google_drive = fetch
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, utils.__name__, utils)
    shim = SimpleNamespace(import_torchvision=lambda: None)
    monkeypatch.setitem(sys.modules, "agelib.tv", shim)
    monkeypatch.setattr(agelib, "tv", shim, raising=False)
    return content


def test_celeba_comes_from_google_drive(make, root, drive, monkeypatch, tmp_path):
    picture = make.colours(1, 178)[0]
    archive = make.zip(tmp_path / "made.zip", {"img_align_celeba/000001.jpg": make.encode(picture)}).read_bytes()
    for name, content in (("img_align_celeba.zip", archive), ("list_eval_partition.txt", b"000001.jpg 0\n")):
        md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
        monkeypatch.setitem(files.OFFICIAL, name, files.Official(md5, drive_id=name))
        drive[name] = content
    whole, drive["img_align_celeba.zip"] = drive["img_align_celeba.zip"], b"Quota exceeded"
    with pytest.raises(DataError, match=r"download of img_align_celeba.zip failed \(Google Drive: .*expected"):
        data.load("celeba")
    del drive["img_align_celeba.zip"]
    with pytest.raises(DataError, match=r"Exception: Cannot retrieve the public link of the file\.\)"):
        data.load("celeba")
    assert [p for p in root.rglob("*") if p.is_file()] == []
    drive["img_align_celeba.zip"] = whole
    assert (data.load("celeba").images[0].transpose(1, 2, 0) == picture[0, 0]).all()
