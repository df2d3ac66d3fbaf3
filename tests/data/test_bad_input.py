"""Bad input: each kind gives one line that names the file and the value, hangs nowhere and leaves nothing half-written."""

import io
import json
import os
import re
import signal
import tarfile
import zipfile
from functools import partial
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
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


@pytest.fixture(autouse=True)
def alarm():
    """A fifo that is opened waits for ever."""
    signal.alarm(20)
    yield
    signal.alarm(0)


def refused(root: Path, message: str, name: str, **options) -> None:
    """`data.load` raises one line that matches; nothing is left below `prepared`."""
    with pytest.raises((DataError, ValueError), match=message) as caught:
        data.load(name, **{"download": False} | options)
    assert "\n" not in str(caught.value)
    assert [path for path in root.glob("prepared/*/[!.]*") if not (path / "about.json").is_file()] == []


NUMBERS = {
    "channels": ("(1, 3)", [0, 2, True, 3.0, "3"]),
    "size": ("range(4, 1025)", [3, -32, 2**80, 32.0, NAN, "32", True]),
    "limit": ("range(1, ", [0, 1.5, NAN, True, "all"]),
}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("imagenet", {}, "unknown data set 'imagenet': expected one of mnist, "),
        ("folder:", {}, "unknown data set 'folder:'"),
        (3, {}, "unknown data set 3"),
        ("cifar10", {"split": "validation"}, "cifar10 has no split 'validation': expected one of train, test"),
        ("npz:x", {"split": "extra"}, "npz:x has no split 'extra'"),
        ("cifar10", {"split": None}, "no split None"),
        *[("digits", {what: bad}, rf"{what} must be an integer in {re.escape(wanted)}.*, got {re.escape(repr(bad))}")
          for what, (wanted, values) in NUMBERS.items() for bad in values],
        ("digits", {"size": 16}, "digits has no size 16: expected one of 28, 32"),
    ],
)  # fmt: skip
def test_arguments(root, name, options, message):
    refused(root, message, name, **options)


# ---- files, each below the data root: what is put there, and what is said

PACKS = [  # what replaces the arrays of a good part with two images
    ({"labels": np.array([0, 10])}, r"labels \(2,\) lie in 0\.\.10, expected \(2,\), one an image, in 0\.\.9"),
    ({"labels": np.array([0.0, NAN])}, r"`labels` is float64 \(2,\), expected kind i/u of 1 dimensions"),
    ({"labels": np.array([[0, 1]])}, r"`labels` is int64 \(1, 2\)"),
    ({"labels": np.array([{"a": 1}], dtype=object)}, "`labels`: not readable .*Object arrays cannot be"),
    *[({"split": np.array(bad, np.uint8)}, "split must hold 2 codes") for bad in ([0], [0, 9])],
    ({"split": None}, "`split`: not readable .KeyError"),
    *[({"offsets": np.array(bad, np.int64)}, "offsets must start at 0 and grow with every image, of which")
      for bad in ([0, 50, 20], [-5, 0, 9], [0], [])],
    ({"offsets": np.array([0, 5, 10_000_000])}, "as its offsets say"),
    ({"images": np.frombuffer(b"no image", "u1"), "offsets": np.array([0, 3, 8])}, "image 0: not a readable image"),
    ({"class_names": np.array(["a", "b"])}, "2 class names, expected 10"),
]  # fmt: skip


def lies(path: Path, shape: tuple) -> None:
    """Its array claims another shape than it stores."""
    with zipfile.ZipFile(path, "w") as zf, zf.open("images.npy", "w") as f:
        np.lib.format.write_array_header_1_0(f, {"descr": "|u1", "fortran_order": False, "shape": shape})
        f.write(bytes(64))


def damaged(path: Path, cut: int | None = None) -> None:
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8))
    whole = bytearray(path.read_bytes())
    whole[3000] ^= 255  # inside the pixels: the zip's CRC is wrong
    path.write_bytes(bytes(whole)[:cut])


NPZ = [
    *[({"images": bad}, rf"`images` is {re.escape(f'{bad.dtype} {bad.shape}')}, expected (uint8 \(N|kind u of 3 or 4)")
      for bad in (GREY.astype(np.float32), GREY[0], GREY[..., None].repeat(4, 3), GREY[:0], np.array(["a"]))],
    ({"pictures": GREY}, "`images`: not readable .KeyError"),
    ({"images": GREY, "labels": np.zeros(3, int)}, r"labels \(3,\) lie in 0\.\.0, expected \(4,\)"),
    ({"images": GREY, "labels": np.array([0, 1, 2, -1])}, r"lie in -1\.\.2"),
    ({"images": GREY, "labels": np.array([0, 1, 2, 2**40])}, rf"lie in 0\.\.{2**40}, expected .* 0\.\.65535"),
    ({"images": GREY, "labels": np.array([0, 1, 2, 2]), "class_names": np.array(["a", "b"])}, r"in 0\.\.1$"),
    ({"images": GREY, "labels": np.zeros(4, int), "class_names": np.array([], str)}, r"0\.\.0, .* in 0\.\.-1$"),
    ({"images": GREY, "split": np.array([0, 1, 2, 0])}, r"`split`: labels .* lie in 0\.\.2"),
    ({"images": GREY, "split": np.ones(4, int)}, "`split` has no train images"),
    (Path, "not readable .*No such file"),
    (Path.mkdir, "is not a plain file"),
    (os.mkfifo, "is not a plain file"),
    (damaged, "Bad CRC-32"),
    (partial(damaged, cut=-40), "not a zip file"),
    (partial(lies, shape=(9, 8, 8)), "EOF: reading array data, expected 576 bytes got 64"),
    (partial(lies, shape=(2**40, 8, 8)), "`images`: not readable"),
    ({"images": np.zeros((1000, 64, 64), np.uint8)}, "would unpack to 4,096,128 bytes, 1,000,000 bytes of memory are free"),
]  # fmt: skip


PICTURE.save(jpeg := io.BytesIO(), "JPEG")
FOLDERS = [
    *[({f"train/a{suffix}": bad, "test/b.png": PICTURE}, rf"train/a\{suffix}: not a readable image{why}")
      for suffix, bad, why in (
          (".png", b"", ""), (".png", b"\x89PNG\r\n\x1a\n" + b"\0" * 50, ""), (".jpg", jpeg.getvalue()[:999], ""),
          (".png", Image.new("1", (8193, 8192)), ".*8193 x 8192 pixels, at most 67,108,864"),
          (".tif", Image.new("F", (8, 8)), ".*floats has no defined range"))],
    ({"a.heic": b"x", "b.txt": b"x"}, r"f: holds no images .*; left out: 1 \.heic, 1 \.txt"),
    ({"": Path.mkdir, "pipe.png": os.mkfifo}, "f: holds no images .*; left out: 1 not plain files"),
    ({"test/a/0.png": PICTURE, "b/1.png": PICTURE}, "f: holds test/ alone; give the folder that holds train/ and test/"),
    ({"x/train/0.png": PICTURE, "x/Test/0.png": PICTURE}, "f: x/ in it is divided; give the folder"),
    ({"train/a/0.png": PICTURE, "train/b/0.png": PICTURE}, "f: holds train/ alone"),
    ({}, "f: not readable .*No such file"),
]  # fmt: skip
TINY = {"wnids.txt": "\n".join(f"n{k:08}" for k in range(200)), "val/images/val_0.JPEG": PICTURE}
TINY = {f"tiny-imagenet-200/{name}": content for name, content in TINY.items()}
OFFICIAL = [
    ("mnist", {"mnist/train-images-idx3-ubyte.gz": b"<html>", "mnist/train-labels-idx1-ubyte.gz": b""}, r"ubyte\.gz: md5"),
    ("mnist", {"mnist/train-images-idx3-ubyte": b"", "mnist/train-labels-idx1-ubyte": b""}, "ubyte: md5"),
    ("cifar10", {"cifar10/cifar-10-python.tar.gz": b"x"}, "tar.gz: md5 .*, expected c58f30108f718f92721af3b95e74349a"),
    ("cifar10", {"cifar-10-batches-py/data_batch_1": b"x"}, "batches-py: not readable .RuntimeError: .* corrupted"),
    ("svhn", {"train_32x32.mat": b"x"}, "train_32x32.mat: md5"),
    ("celeba", {"img_align_celeba/1.jpg": b"x", "list_eval_partition.txt": b"1.jpg 0"}, "partition.txt: md5"),
    ("tiny_imagenet", {"tiny-imagenet-200.zip": b"PK"}, r"zip: md5 \w*, expected 90528d7ca1a48142e341f4ef8d21d0de"),
    ("tiny_imagenet", {"tiny-imagenet-200/x": b""}, "wnids.txt: not readable"),
    ("tiny_imagenet", {"tiny-imagenet-200/wnids.txt": b"n1"}, "wnids.txt: .* 1 WordNet ids, expected 200"),
    ("tiny_imagenet", TINY, "official files, 0 of 100,000 .*: gave 0 images"),
    *[("tiny_imagenet test", TINY | {"tiny-imagenet-200/val/val_annotations.txt": bad}, message)
      for bad, message in (
          (b"val_0.JPEG\tn77\t0\n", "val_annotations.txt: not readable .KeyError: 'n77'"),
          (b"val_7.JPEG\tn00000003\n", "images/val_7.JPEG: not a readable image .FileNotFoundError"),
          (b"val_0.JPEG\n", "val_annotations.txt: not readable"))],
    ("stanford_cars", {"cars_train/1.jpg": b"", "devkit/cars_meta.mat": b"x"}, "cars_meta.mat: not readable"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        *[("cifar10", {"packs/cifar10-part1.npz": change}, rf"part1\.npz.*{message}") for change, message in PACKS],
        *[("npz:c.npz", {"c.npz": content}, rf"c\.npz.*{message}") for content, message in NPZ],
        *[("folder:f", {f"f/{k}": v for k, v in files.items()}, f"/{message}") for files, message in FOLDERS],
        *[(name, files, f"/.*{message}") for name, files, message in OFFICIAL],
    ],
)
def test_files(make, root, monkeypatch, name, files, message):
    for file, content in files.items():
        path = root / file
        if callable(content):
            content(path)
        elif isinstance(content, dict) and name == "cifar10":
            make.pack(path, make.colours(2), [0, 0], **{"labels": [0, 1]} | content)
        elif isinstance(content, dict):
            np.savez_compressed(path, **content)
        else:
            make.file(path, content)
    if "bytes of memory" in message:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 10**6}))
    (kind, _, own), split = name.split()[0].partition(":"), "test" if name.endswith(" test") else "train"
    refused(root, message, f"{kind}:{root / own}" if own else kind, split=split)


@pytest.mark.parametrize(
    ("names", "same", "message"),
    [
        (("packs/cifar10-part1", "packs/cifar10-part01"), False, "part01.npz: not a part's name"),
        (("packs/cifar10-part1", "packs/cifar10-part-2"), False, "part-2.npz: not a part's name"),
        (("packs/cifar10-part1", "packs/cifar10-part3"), False, "cifar10-part2.npz is missing"),
        (("packs/cifar10-part2",), False, "cifar10-part1.npz is missing"),
        (("packs/cifar10-part1", "packs/cifar10-part2"), True, r"part2\.npz: 10 of its 10 images are in .*part1\.npz too"),
        (("packs/cifar10-part1", "more/cifar10-part1"), False, "more/cifar10-part1.npz: another content than .*part1.npz"),
        (("packs/cifar10-part1", "packs/cifar10-part2"), None, "part2.npz: its labels or class names differ from those of"),
    ],
)
def test_parts_that_do_not_belong_together(make, root, monkeypatch, names, same, message):
    """same: the second part holds the images of the first; None: it has no labels."""
    monkeypatch.setenv("AGELIB_PACKS", str(root / "more"))
    x = make.colours(20)
    for k, name in enumerate(names):
        labels = None if same is None and k else [0] * 10
        make.pack(root / f"{name}.npz", x[:10] if same or k == 0 else x[10:], [0] * 10, labels)
    refused(root, message, "cifar10")


def test_a_folder_of_one_image_or_unreadable_and_a_picture_that_is_none(make, root, tmp_path, monkeypatch):
    make.file(tmp_path / "one" / "x.png", PICTURE)
    refused(root, "one: 1 image is too few to hold one out", f"folder:{tmp_path / 'one'}", split="test")
    os.mkfifo(tmp_path / "pipe.png")
    for name in ("none", "pipe"):
        with pytest.raises(DataError, match=rf"{name}\.png: not a readable image"):
            data.read_image(tmp_path / f"{name}.png", 28, 1)
    monkeypatch.setattr(os, "scandir", lambda path: os.open(path / "locked", os.O_RDONLY))  # fails, as without rights
    refused(root, "one: not readable .FileNotFoundError.*locked", f"folder:{tmp_path / 'one'}")


def test_archives_that_unpack_to_something_else(make, root, bless):
    """With the right checksum there is none; here it is declared to be right."""
    tars = [("cifar10", "cifar-10-python.tar.gz")] if hasattr(tarfile, "data_filter") else []  # from Python 3.11.4
    for name, archive in [*tars, ("tiny_imagenet", "tiny-imagenet-200.zip")]:
        bless(make.archive(root / archive, {"../outside": b"x"}))
        refused(root, f"{archive}: not readable .(OutsideDestination|FileNotFound)Error", name)
        assert not list(root.parent.rglob("outside")) and [path.name for path in (root / name).iterdir()] == [".lock"]


# ---- the prepared cache


def rewrite(folder: Path, **changes) -> None:
    about = json.loads((folder / "about.json").read_text()) | changes
    (folder / "about.json").write_text(json.dumps({k: v for k, v in about.items() if v != "gone"}))


@pytest.fixture
def prepared(make, root):
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(3), [0, 0, 0], [2, 0, 1])
    data.load("cifar10", download=False)
    return root / "prepared" / "cifar10-3x32" / "train"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images.npy", lambda f: f.write_bytes(f.read_bytes()[:-1]), "images.npy: damaged"),
        ("images.npy", Path.unlink, "images.npy: damaged .FileNotFoundError"),
        ("labels.npy", Path.unlink, "labels.npy: damaged .FileNotFoundError"),
        ("about.json", Path.unlink, "about.json: damaged .FileNotFoundError"),
        ("labels.npy", lambda f: np.save(f, np.zeros(3, int)), "images.npy: damaged .the sha256"),
        ("images.npy", lambda f: f.write_bytes(f.read_bytes()[:-1] + b"x"), "images.npy: damaged .the sha256"),
        ("about.json", lambda f: f.write_text('{"format": 1,'), "about.json: damaged"),
        ("about.json", lambda f: rewrite(f.parent, official="gone"), "about.json: damaged .KeyError: 'official'"),
    ],
)
def test_a_damaged_cache(root, prepared, file, damage, message):
    damage(prepared / file)
    with pytest.raises(DataError, match=message) as caught:
        data.load("cifar10", download=False)
    assert f"delete {prepared} to prepare it anew" in str(caught.value) and "\n" not in str(caught.value)


def test_a_cache_of_another_version_is_prepared_anew(root, prepared):
    """One of another recipe is in test_load.py."""
    before = (prepared / "about.json").read_text()
    rewrite(prepared, format=1)
    data.load("cifar10", download=False)
    assert (prepared / "about.json").read_text() == before


@pytest.mark.parametrize(("announced", "given"), [(4, 3), (2, 3), (0, 0)])
def test_a_source_that_lies_leaves_nothing_behind(root, announced, given):
    source = Source(announced, lambda size, channels: iter([np.zeros((3, 8, 8), np.uint8)] * given), None, None, "a source")
    with pytest.raises(DataError, match=f"x/train: a source: gave {given} images, {announced} were announced"):
        cache.write(root / "prepared" / "x" / "train", "1", source, 8, 3)
    assert [path.name for path in root.glob("prepared/*/*")] == [".lock"]
