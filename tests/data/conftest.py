"""Tiny files in each official format, made by the tests themselves."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from agelib.data import official


def colours(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """n images of one colour each, uint8 (n, size, size, 3): they survive JPEG and resizing nearly unchanged."""
    rgb = np.random.default_rng(seed).integers(0, 256, (n, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(rgb, (n, size, size, 3)).copy()


def encode(x: np.ndarray, kind: str = "PNG") -> bytes:
    Image.fromarray(x).save(buffer := io.BytesIO(), kind)
    return buffer.getvalue()


def file(path: Path, content: bytes | str | np.ndarray | Image.Image, **options) -> Path:
    """Write a file, its folder too: bytes, text, or a picture saved by its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes | str):
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    else:
        (content if isinstance(content, Image.Image) else Image.fromarray(content)).save(path, **options)
    return path


def pack(path: Path, pictures: np.ndarray, splits: list[int], labels=None, kind: str = "PNG", **arrays) -> None:
    """A pack part; arrays given by keyword are added or replace these, one given as None is left out."""
    encoded = [encode(x, kind) for x in pictures]
    content = {
        "images": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]).astype(np.int64),
        "split": np.array(splits, np.uint8),
        "labels": None if labels is None else np.asarray(labels),
    } | arrays
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v for k, v in content.items() if v is not None})


def archive(path: Path, members: dict[str, bytes]) -> Path:
    """A .zip, .tgz or .tar.gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") if path.suffix == ".zip" else tarfile.open(path, "w:gz") as out:
        for name, content in members.items():
            if path.suffix == ".zip":
                out.writestr(name, content)
            else:
                (info := tarfile.TarInfo(name)).size = len(content)
                out.addfile(info, io.BytesIO(content))
    return path


def mat(**variables) -> bytes:
    savemat(buffer := io.BytesIO(), variables, do_compression=True)
    return buffer.getvalue()


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(**{maker.__name__: maker for maker in (colours, encode, file, pack, archive, mat)})


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root; no packs from the environment."""
    monkeypatch.setenv("AGELIB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("AGELIB_PACKS", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def bless(monkeypatch):
    """Declare the checksums of a file made here to be the official ones."""

    def declare(path: Path) -> Path:
        sums = [hashlib.new(kind, path.read_bytes()).hexdigest() for kind in ("md5", "sha256")]
        monkeypatch.setitem(official.SUMS, path.name, sums)
        return path

    return declare
