"""Bad input: each kind gives one line that names the file and the value, hangs nowhere and leaves nothing half-written."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from agelib import data
from agelib.data import DataError, cache
from agelib.data.sets import Source

NAN = float("nan")
GREY = np.zeros((4, 8, 8), np.uint8)


def refused(root: Path, message: str, named: str, name: str, **options) -> None:
    """`data.load` raises one line that matches and holds the file's name; nothing is left below `prepared`."""
    signal.alarm(20)  # a fifo that is opened waits for ever
    try:
        with pytest.raises((DataError, ValueError), match=message) as caught:
            data.load(name, **{"download": False} | options)
    finally:
        signal.alarm(0)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert [path for path in root.glob("prepared/*/*") if not (path / "about.json").is_file()] == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "unknown data set 'imagenet': expected one of mnist, "),
        ({"name": "folder:"}, "unknown data set 'folder:'"),
        ({"name": 3}, "unknown data set 3"),
        ({"name": "cifar10", "split": "validation"}, "cifar10 has no split 'validation': expected one of train, test"),
        ({"name": "npz:x", "split": "extra"}, "npz:x has no split 'extra'"),
        ({"name": "cifar10", "split": None}, "no split None"),
        *[({"name": "digits", "channels": bad}, re.escape(f"channels must be an integer 1 or 3, got {bad!r}"))
          for bad in (0, 2, 4, True, 3.0, "3")],
        *[({"name": "digits", "size": bad}, re.escape(f"size must be an integer from 4 to 1024 pixels, got {bad!r}"))
          for bad in (0, 3, -32, 2000, 2**80, 32.0, NAN, "32", True)],
        *[({"name": "digits", "limit": bad}, re.escape(f"limit must be an integer of at least 1, got {bad!r}"))
          for bad in (0, -1, 1.5, NAN, True, "all")],
        ({"name": "digits", "size": 16}, "digits has no size 16: expected one of 28, 32"),
    ],
)  # fmt: skip
def test_arguments(root, arguments, message):
    refused(root, message, "", **arguments)
    assert list(root.iterdir()) == [] or list(root.glob("prepared/*/*")) == []


# ---- packs: what replaces the arrays of a good part with two images, and what is said

PACKS = [
    ({"labels": np.array([0, 10])}, r"labels lie in 0\.\.10, expected 0\.\.9"),
    ({"labels": np.array([0, -1])}, r"labels lie in -1\.\.0"),
    ({"labels": np.array([0.0, NAN])}, r"`labels` is float64 \(2,\), expected kind i/u of 1 dimensions"),
    ({"labels": np.array([], np.int64)}, r"labels have shape \(0,\), expected \(2,\)"),
    ({"labels": np.array([[0, 1]])}, r"`labels` is int64 \(1, 2\)"),
    ({"labels": np.array([{"a": 1}], dtype=object)}, "cannot read `labels`.*pickled objects are refused"),
    ({"split": np.array([0], np.uint8)}, "split must hold 2 codes"),
    ({"split": np.array([0, 9], np.uint8)}, "split must hold 2 codes"),
    ({"split": np.array([0.0, 1.0])}, "`split` is float64"),
    ({"split": None}, "cannot read `split` .KeyError"),
    ({"offsets": np.array([0, 50, 20])}, "offsets must start at 0 and grow"),
    ({"offsets": np.array([-5, 0, 9])}, "offsets must start at 0 and grow"),
    ({"offsets": np.array([0, 5, 10_000_000])}, "as its offsets say"),
    ({"offsets": np.array([0])}, "holds no images"),
    ({"offsets": np.array([], np.int64)}, "holds no images"),
    ({"images": np.zeros(9, np.float32)}, "`images` is float32"),
    ({"images": np.frombuffer(b"no image", np.uint8), "offsets": np.array([0, 3, 8])}, "image 0: not a readable image"),
    ({"class_names": np.array(["a", "b"])}, "2 class names, expected 10"),
    ({"class_names": np.array([NAN] * 10)}, "`class_names` is float64"),
]


@pytest.mark.parametrize(("change", "message"), PACKS)
def test_a_damaged_pack(make, root, change, message):
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(2), [0, 0], **{"labels": [0, 1]} | change)
    refused(root, message, "cifar10-part1.npz", "cifar10")


@pytest.mark.parametrize(
    ("names", "same", "message"),
    [
        (("part1", "part01"), False, "part01.npz: not a part's name"),
        (("part1", "part-2"), False, "part-2.npz: not a part's name"),
        (("part1", "part3"), False, "cifar10-part2.npz is missing"),
        (("part2",), False, "cifar10-part1.npz is missing"),
        (("part1", "part2"), True, r"part2\.npz: 10 of its 10 images are in .*part1\.npz too"),
    ],
)
def test_parts_that_do_not_belong_together(make, root, names, same, message):
    x = make.colours(20)
    for k, name in enumerate(names):
        mine = x[:10] if same or k == 0 else x[10:]
        make.pack(root / "packs" / f"cifar10-{name}.npz", mine, [0] * 10, [0] * 10)
    refused(root, message, "cifar10-part", "cifar10")


def test_parts_with_other_labels_and_other_splits(make, root):
    x = make.colours(2)
    make.pack(root / "packs" / "cifar10-part1.npz", x[:1], [1], [0])
    make.pack(root / "packs" / "cifar10-part2.npz", x[1:], [0])
    refused(root, "its labels or class names differ from those of cifar10-part1.npz", "part2", "cifar10")


# ---- arrays of one's own

NPZ = [
    ({"images": GREY.astype(np.float32)}, "`images` are float32, expected uint8"),
    ({"images": GREY.astype(np.int64)}, "`images` are int64, expected uint8"),
    ({"images": GREY[0]}, r"`images` have shape \(8, 8\)"),
    ({"images": GREY[..., None].repeat(4, 3)}, r"have shape \(4, 8, 8, 4\)"),
    ({"images": GREY[:0]}, r"have shape \(0, 8, 8\)"),
    ({"images": np.array(["a"])}, "`images` is <U1"),
    ({"pictures": GREY}, "cannot read `images`"),
    ({"images": GREY, "labels": np.zeros(3, int)}, r"labels have shape \(3,\), expected \(4,\)"),
    ({"images": GREY, "labels": np.zeros(0, int)}, r"labels have shape \(0,\), expected \(4,\)"),
    ({"images": GREY, "labels": np.full(4, NAN)}, "labels are float64, expected integers"),
    ({"images": GREY, "labels": np.array([0, 1, 2, -1])}, r"labels lie in -1\.\.2"),
    ({"images": GREY, "labels": np.array([0, 1, 2, 2**40])}, rf"labels lie in 0\.\.{2**40}, expected 0\.\.65535"),
    ({"images": GREY, "labels": np.array([0, 1, 2, 2]), "class_names": np.array(["a", "b"])}, r"expected 0\.\.1"),
    ({"images": GREY, "labels": np.zeros(4, int), "class_names": np.array([], str)}, "`class_names` is empty"),
    ({"images": GREY, "labels": np.array([None] * 4, dtype=object)}, "pickled objects are refused"),
    ({"images": GREY, "split": np.array([0, 1, 2, 0])}, r"`split`: labels lie in 0\.\.2"),
    ({"images": GREY, "split": np.ones(4, int)}, "`split` has no train images"),
]


@pytest.mark.parametrize(("arrays", "message"), NPZ)
def test_npz_that_does_not_fit(root, tmp_path, arrays, message):
    np.savez(tmp_path / "c.npz", **arrays)
    refused(root, message, "c.npz", f"npz:{tmp_path / 'c.npz'}")


def lies(path: Path, shape: tuple) -> None:
    """An .npz whose array claims another shape than it stores."""
    with zipfile.ZipFile(path, "w") as zf, zf.open("images.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
        f.write(bytes(64))


def bomb(path: Path, monkeypatch) -> None:
    np.savez_compressed(path, images=np.zeros((1000, 64, 64), np.uint8))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**6}))


def damaged(path: Path, content) -> None:
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8))
    whole = bytearray(path.read_bytes())
    whole[3000] ^= 255  # inside the pixels: the zip's CRC is wrong
    path.write_bytes(bytes(whole) if content is None else bytes(whole[:-40]) if content == "cut" else content)


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda path, patch: None, "not readable .No such file"),
        (lambda path, patch: path.mkdir(), "not a plain file"),
        (lambda path, patch: os.mkfifo(path), "not a plain file"),
        (lambda path, patch: damaged(path, None), "Bad CRC-32"),
        (lambda path, patch: damaged(path, "cut"), "not a zip file"),
        (lambda path, patch: damaged(path, b""), "not a zip file"),
        (lambda path, patch: damaged(path, b"PK\3\4"), "not a zip file"),
        (lambda path, patch: lies(path, (9, 8, 8)), r"uint8 \(9, 8, 8\), 576 bytes, but another number is stored"),
        (lambda path, patch: lies(path, (2**40, 8, 8)), "would unpack to .* bytes of memory are free"),
        (lambda path, patch: bomb(path, patch), "would unpack to 4,096,000 bytes, 1,000,000 bytes of memory are free"),
    ],
)
def test_npz_damaged_absent_or_too_large(root, tmp_path, monkeypatch, put, message):
    put(tmp_path / "d.npz", monkeypatch)
    refused(root, message, "d.npz", f"npz:{tmp_path / 'd.npz'}")


# ---- folders of images


def huge_png() -> bytes:
    """The head of a PNG of 20,000 x 20,000 pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\0IEND"


PICTURE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
FOLDERS = [
    *[({"a.png": bad, "b.png": bad}, r"[ab]\.png: not a readable image", ".png")
      for bad in (b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50)],
    ({"a.png": huge_png(), "b.png": huge_png()}, "20000 x 20000 pixels, at most 67,108,864|exceeds limit", ".png"),
    ({"a.tif": Image.new("F", (8, 8)), "b.tif": Image.new("F", (8, 8))}, "floats has no defined range", ".tif"),
    ({"cut.jpg": "cut", "cut2.jpg": "cut"}, "not a readable image", ".jpg"),
    ({}, "holds no images", "f"),
    ({"a.heic": b"x", "b.txt": b"x"}, r"holds no images .*; left out: 1 \.heic, 1 \.txt", "f"),
    ({"pipe.png": "fifo"}, "holds no images .*; left out: 1 not plain files", "f"),
    ({"test/a/0.png": PICTURE, "b/1.png": PICTURE}, "holds test/ but no train/", "f"),
    ({"val/a/0.png": PICTURE, "train/notes.txt": b"x"}, "holds val/ but no train/", "f"),
    ({"x/train/0.png": PICTURE, "x/Test/0.png": PICTURE}, "x/train lies beside a test folder; give folder:.*f/x", "f"),
    ({"train/a/0.png": PICTURE, "train/b/0.png": PICTURE}, "holds nothing but train/; give folder:.*train", "f"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "message", "named"), FOLDERS)
def test_folders(make, root, tmp_path, files, message, named):
    (tmp_path / "f").mkdir()
    for name, content in files.items():
        path = tmp_path / "f" / name
        if isinstance(content, str) and content == "fifo":
            os.mkfifo(path)
        elif isinstance(content, str):
            make.file(path, PICTURE)
            path.write_bytes(path.read_bytes()[:1000])
        else:
            make.file(path, content)
    refused(root, message, named, f"folder:{tmp_path / 'f'}")


def test_a_folder_that_is_absent_unreadable_or_of_one_image(make, root, tmp_path, monkeypatch):
    refused(root, "no such folder", "nowhere", f"folder:{tmp_path / 'nowhere'}")
    make.file(tmp_path / "one" / "x.png", PICTURE)
    refused(root, "1 image is too few to hold one out", "one", f"folder:{tmp_path / 'one'}", split="test")
    (tmp_path / "one" / "locked").mkdir()
    scandir = os.scandir

    def locked(path):
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    refused(root, "locked: not readable .Permission denied", "locked", f"folder:{tmp_path / 'one'}")


@pytest.mark.parametrize("content", ["missing", "fifo", b"text", b"", huge_png()])
def test_one_picture(tmp_path, content):
    path = tmp_path / "picture.png"
    if content == "fifo":
        os.mkfifo(path)
    elif content != "missing":
        path.write_bytes(content)
    signal.alarm(20)
    with pytest.raises(DataError, match=r"picture\.png: not a readable image"):
        data.read_image(path, 28, 1)
    signal.alarm(0)


# ---- official files


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("mnist", {"mnist/train-images-idx3-ubyte.gz": b"<html>404</html>", "mnist/train-labels-idx1-ubyte.gz": b""}, "md5"),
        ("mnist", {"mnist/train-images-idx3-ubyte": b"", "mnist/train-labels-idx1-ubyte": b""}, "md5"),
        ("cifar10", {"cifar10/cifar-10-python.tar.gz": b"x"}, "tar.gz: md5 .*, expected c58f30108f718f92721af3b95e74349a"),
        ("cifar10", {"cifar-10-batches-py/data_batch_1": b"x"}, "data_batch_1: md5"),
        ("svhn", {"train_32x32.mat": b"x"}, "train_32x32.mat: md5"),
        ("celeba", {"img_align_celeba/1.jpg": b"x", "list_eval_partition.txt": b"1.jpg 0"}, "partition.txt: md5"),
        ("tiny_imagenet", {"tiny-imagenet-200.zip": b"PK"}, r"zip: md5 \w*, expected 90528d7ca1a48142e341f4ef8d21d0de"),
        ("tiny_imagenet", {"tiny-imagenet-200/x": b""}, "wnids.txt: not readable"),
        ("tiny_imagenet", {"tiny-imagenet-200/wnids.txt": b"n1"}, "wnids.txt: 1 WordNet ids, expected 200"),
        ("stanford_cars", {"cars_train/1.jpg": b"", "devkit/x": b""}, "cars_meta.mat: not readable"),
        ("stanford_cars", {"cars_train/1.jpg": b"", "devkit/cars_meta.mat": b"x"}, "cars_meta.mat: not readable"),
        ("stanford_cars", {"cars_train/1.jpg": b"", "devkit/cars_meta.mat": "mat"}, "meta.mat: 2 classes of cars"),
    ],
)
def test_official_files_that_are_not(make, root, name, files, message):
    for file, content in files.items():
        make.file(root / file, make.mat(class_names=["a", "b"]) if content == "mat" else content)
    refused(root, message, "", name)


def test_archives_that_unpack_to_something_else(make, root, bless):
    """With the right checksum there is none; here it is declared to be right."""
    bless(make.archive(root / "cifar-10-python.tar.gz", {"../outside": b"x"}))
    refused(root, "cifar-10-python.tar.gz: not readable .OutsideDestinationError", "", "cifar10")
    bless(make.archive(root / "tiny-imagenet-200.zip", {"../outside": b"x"}))
    refused(root, "tiny-imagenet-200.zip: not readable .FileNotFoundError", "", "tiny_imagenet")
    assert not (root.parent / "outside").exists() and not (root / "outside").exists()
    assert [list((root / name).iterdir()) for name in ("cifar10", "tiny_imagenet")] == [[], []]


@pytest.mark.parametrize(
    ("annotations", "message"),
    [
        (b"val_0.JPEG\tn77\t0\n", "val_0.JPEG: of a class that wnids.txt does not name"),
        (b"../../val_0.JPEG\tn00000003\n", "1 of 1 images missing, first ../../val_0.JPEG"),
        (b"val_7.JPEG\tn00000003\n", "1 of 1 images missing, first val_7.JPEG"),
        (b"val_0.JPEG\n", "val_annotations.txt: not readable"),
        (b"", "names no image, or one twice"),
        (None, "val_annotations.txt: not readable"),
    ],
)
def test_tiny_imagenets_list(make, root, annotations, message):
    base = root / "tiny-imagenet-200"
    make.file(base / "wnids.txt", "\n".join(f"n{k:08}" for k in range(200)))
    make.file(base / "val" / "images" / "val_0.JPEG", make.encode(PICTURE))
    if annotations is not None:
        make.file(base / "val" / "val_annotations.txt", annotations)
    refused(root, message, str(base), "tiny_imagenet", split="test")


# ---- the prepared cache


def rewrite(folder: Path, **changes) -> None:
    about = json.loads((folder / "about.json").read_text()) | changes
    (folder / "about.json").write_text(json.dumps({k: v for k, v in about.items() if v != "gone"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "images.npy").write_bytes((d / "images.npy").read_bytes()[:-1]), "images.npy: damaged"),
        (lambda d: (d / "images.npy").write_bytes(b""), "images.npy: damaged"),
        (lambda d: (d / "images.npy").unlink(), "images.npy: missing"),
        (lambda d: (d / "labels.npy").unlink(), "labels.npy: missing"),
        (lambda d: (d / "about.json").unlink(), "about.json: missing"),
        (lambda d: np.save(d / "labels.npy", np.zeros(3)), r"labels.npy: damaged \(float64 \(3,\), expected int64"),
        (lambda d: np.save(d / "labels.npy", np.zeros(3, int)), "images.npy: damaged .the sha256"),
        (lambda d: np.save(d / "images.npy", np.zeros((3, 32, 3, 32), "u1")), r"damaged \(uint8 \(3, 32, 3, 32\), expected"),
        (lambda d: (d / "about.json").write_text('{"format": 1,'), "about.json: damaged"),
        (lambda d: (d / "about.json").write_text("[1]"), "about.json: damaged"),
        (lambda d: (d / "about.json").write_bytes(b"\xff\xfe\0"), "about.json: damaged"),
        (lambda d: rewrite(d, shape="gone"), "damaged .has no 'shape'"),
        (lambda d: rewrite(d, shape=3), "damaged .uint8 .3, 3, 32, 32., expected uint8 3"),
        (lambda d: rewrite(d, sha256=None), "about.json: damaged .sha256 is None"),
        (lambda d: rewrite(d, class_names=7), "about.json: damaged .class_names is 7"),
        (lambda d: rewrite(d, official="all"), "about.json: damaged .official is 'all'"),
    ],
)  # fmt: skip
def test_a_damaged_cache(make, root, damage, message):
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(3), [0, 0, 0], [2, 0, 1])
    data.load("cifar10", download=False)
    folder = root / "prepared" / "cifar10-3x32" / "train"
    damage(folder)
    with pytest.raises(DataError, match=message) as caught:
        data.load("cifar10", download=False)
    assert f"delete {folder} to prepare it anew" in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_of_another_version_is_prepared_anew(make, root):
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(3), [0, 0, 0], [2, 0, 1])
    first = data.load("cifar10", download=False)
    for change in ({"format": 1}, {"recipe": "0"}):
        rewrite(root / "prepared" / "cifar10-3x32" / "train", **change)
        assert data.load("cifar10", download=False).sha256 == first.sha256


@pytest.mark.parametrize(
    ("n", "blocks", "message"),
    [
        (4, [np.zeros((3, 8, 8), np.uint8), np.zeros((2, 3, 8, 8), np.uint8)], "gave 3 images, 4 were announced"),
        (2, [np.zeros((3, 3, 8, 8), np.uint8)], "gave 3 images, 2 were announced"),
        (0, [], "no images"),
        (1, [np.zeros((3, 8, 8))], "an image is float64"),
        (1, [np.zeros((3, 8, 9), np.uint8)], r"\(3, 8, 9\), expected uint8 \(3, 8, 8\)"),
    ],
)
def test_a_source_that_lies_leaves_nothing_behind(root, n, blocks, message):
    source = Source(n, lambda size, channels: iter(blocks), None, None, "a source")
    with pytest.raises(DataError, match=f"a source: .*{message}"):
        cache.write(root / "prepared" / "x" / "train", "1", source, 8, 3)
    assert list(root.glob("prepared/*/*")) == []
