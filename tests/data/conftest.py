"""Tiny files in each official format, made by the tests themselves."""

from __future__ import annotations

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from agelib.data import files


def colours(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """n images of one colour each, uint8 (n, size, size, 3): they survive JPEG and resizing nearly unchanged."""
    rgb = np.random.default_rng(seed).integers(0, 256, (n, 1, 1, 3), dtype=np.uint8)
    return np.broadcast_to(rgb, (n, size, size, 3)).copy()


def encode(x: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(x).save(buffer, kind, **options)
    return buffer.getvalue()


def pack(path: Path, pictures: np.ndarray, splits: list[int], kind: str = "PNG", **arrays) -> Path:
    """A pack part; arrays given by keyword (labels, ...) are added or replace these, one given as None is left out."""
    encoded = [encode(x, kind) for x in pictures]
    content = {
        "images": np.frombuffer(b"".join(encoded), np.uint8),
        "offsets": np.cumsum([0, *map(len, encoded)]).astype(np.int64),
        "split": np.array(splits, np.uint8),
    }
    content |= arrays
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{k: v for k, v in content.items() if v is not None})
    return path


def idx(path: Path, array: np.ndarray, kind: int = 8, shape: tuple | None = None) -> Path:
    """An IDX file, gzipped if the path ends in .gz; `shape` overrides what its header says."""
    shape = array.shape if shape is None else shape
    data = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def cifar_batch(images: np.ndarray, labels: list[int], protocol: int = 2) -> bytes:
    """A pickled batch of images (n, 32, 32, 3), with bytes keys as the official ones."""
    data = images.transpose(0, 3, 1, 2).reshape(len(images), 3072)
    return pickle.dumps({b"data": data, b"labels": labels, b"batch_label": b"a test"}, protocol=protocol)


def tar(path: Path, members: dict[str, bytes | tarfile.TarInfo]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
            else:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def make_zip(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def mat(**variables) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, variables, do_compression=True)
    return buffer.getvalue()


@pytest.fixture
def make() -> SimpleNamespace:
    return SimpleNamespace(
        colours=colours, encode=encode, pack=pack, idx=idx, cifar_batch=cifar_batch, tar=tar, zip=make_zip, mat=mat
    )


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    """An empty data root; no packs from the environment."""
    monkeypatch.setenv("AGELIB_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("AGELIB_PACKS", raising=False)
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def bless(monkeypatch):
    """Declare the checksum of a file made here to be the official one."""

    def declare(path: Path) -> Path:
        known = files.OFFICIAL[path.name]
        md5 = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        monkeypatch.setitem(files.OFFICIAL, path.name, files.Official(md5, known.urls, known.drive_id))
        return path

    return declare


@pytest.fixture
def clean(root):
    """Call it after a failure: no image file, no temporary folder may be left below the data root."""

    def check() -> None:
        left = [p for p in root.glob("prepared/**/*") if not p.name.endswith(".lock")]
        assert left == []

    return check
