"""The official data sets from their own files, placed by hand or downloaded: a set's reader is the function of its name.

Every file with a published checksum is compared with it before it is read. `bases`: the data root, into which archives are
unpacked once, then the folders of packs.
Stanford Cars are divided anew: the paper trains on "16,000 images", nearly all of the 16,185 there are, so both official
halves are joined and 185 images drawn with a fixed seed are `test`. With the training half alone every tenth image is. They
are cropped to their annotated boxes, as in the authors' code (branch cAGE).
"""

import gzip
import hashlib
import itertools
import os
import shutil
import tarfile
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import loadmat

from agelib.data.arrays import check_labels
from agelib.data.cache import aside
from agelib.data.pixels import decode, from_arrays, to_array
from agelib.data.sets import BOX_CROP, REAL, DataError, Source, plain, reading

TIMEOUT_S = 30.0  # without an answer from the server
SEED = 0  # of the cars' held-out draw, and of the order of Tiny ImageNet's training images, which the files keep by class
CARS_HELD_OUT, CARS = 185, 16_185
TEST_LABELS = "cars_test_annos_withlabels.mat"
CELEBA_SIZE, CELEBA_HEIGHT, CELEBA_TOP = 64, 78, 7  # AGE crop: resized to 64 wide x 78 high, rows 7..70 kept
CARS_CROP = (0.06, 0.16, 0.94, 0.91)  # left, upper, right, lower: what holds most cars whole where there are no boxes
MARK = ".checked"  # in a folder that was unpacked here from an archive with the right checksum

# file, its MD5 as the sets' pages and torchvision give it, the SHA-256 of the same bytes where it could be had
_SUMS = """
train-images-idx3-ubyte.gz f68b3c2dcbeaaa9fbdd348bbdeb94873 440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609
train-labels-idx1-ubyte.gz d53e105ee54ea40749a09fcbcd1e9432 3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c
t10k-images-idx3-ubyte.gz 9fb629c4189551a2d022fa330f9573f3 8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6
t10k-labels-idx1-ubyte.gz ec29112dd5afa0611ce80d1b7f02629c f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6
train-images-idx3-ubyte 6bbc9ace898e44ae57da46a324031adb
train-labels-idx1-ubyte a25bea736e30d166cdddb491f175f624
t10k-images-idx3-ubyte 2646ac647ad5339dbf082846283269ea
t10k-labels-idx1-ubyte 27ae3e4e09519cfbb04c329615203637
cifar-10-python.tar.gz c58f30108f718f92721af3b95e74349a 6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce
train_32x32.mat e26dedcc434d2e4c54c9b2d4a06d8373 435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8
test_32x32.mat eb5a983be6a315427106f1b164d9cef3 cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b
extra_32x32.mat a93ce644f1a588dc4d68dda5feec44a7 a133a4beb38a00fcdda90c9489e0c04f900b660ce8a316a5e854838379a71eb3
img_align_celeba.zip 00d2c5bc6d35e252742224ab0c1e8fcb 46fb89443c578308acf364d7d379fe1b9efb793042c0af734b6112e4fd3a8c74
list_eval_partition.txt d32c9cbf5e040fd4025c592c306e6668 fc955bcb3ef8fbdf7d5640d9a8693a8431b5f2ee291a5c1449a1549e7e073fe7
tiny-imagenet-200.zip 90528d7ca1a48142e341f4ef8d21d0de 6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821
cars_train.tgz 065e5b463ae28d29e77c1b4b166cfe61
cars_test.tgz 4ce7ebf6a94d07f1952d94dd34c4d501
car_devkit.tgz c3b158d763b6e2245038c8ad08e45376
cars_test_annos_withlabels.mat b0a2b23655a3edd16d84508592a98d10
"""
SUMS: dict[str, list[str]] = {line.split()[0]: line.split()[1:] for line in _SUMS.split("\n") if line}
URLS: dict[str, tuple[str, ...]] = {  # where a set's files lie, tried in order
    "mnist": ("https://ossci-datasets.s3.amazonaws.com/mnist", "https://storage.googleapis.com/cvdf-datasets/mnist"),
    "cifar10": ("https://www.cs.toronto.edu/~kriz",),
    "svhn": ("https://ufldl.stanford.edu/housenumbers", "http://ufldl.stanford.edu/housenumbers"),
    "tiny_imagenet": ("https://cs231n.stanford.edu", "http://cs231n.stanford.edu"),
}
# The files' names on Google Drive
DRIVE = {"img_align_celeba.zip": "0B7EVK8r0v71pZjFTYXZWM3FlRnM", "list_eval_partition.txt": "0B7EVK8r0v71pY0NSMzRuSXJEVkk"}
UNPACKS = {"cifar-10-python.tar.gz": "cifar-10-batches-py", "car_devkit.tgz": "devkit"}  # else the name without its suffix
# Folders that are searched, in this order, below the data root and then below the folders of packs.
FOLDERS = {name: (name, ".") for name in REAL} | {"mnist": ("MNIST/raw", "MNIST", "mnist/raw", "mnist")}


def needed(name: str, split: str) -> tuple[str, ...]:
    """The official files of a split; the training and the test split of the cars come from all of them."""
    stem = "t10k" if split == "test" else "train"
    return {
        "mnist": (f"{stem}-images-idx3-ubyte.gz", f"{stem}-labels-idx1-ubyte.gz"),
        "cifar10": ("cifar-10-python.tar.gz",),
        "svhn": (f"{split}_32x32.mat",),
        "celeba": ("img_align_celeba.zip", "list_eval_partition.txt"),
        "tiny_imagenet": ("tiny-imagenet-200.zip",),
        "stanford_cars": ("cars_train.tgz", "car_devkit.tgz", "cars_test.tgz", TEST_LABELS),
    }[name]


def find(bases: list[Path], name: str, file: str) -> Path | None:
    """The first place below `bases` where `file`, or what is in it if it is an archive, lies; or None."""
    places = (base / folder / one for base in bases for folder in FOLDERS[name] for one in (_content(file), file))
    return next((path for path in places if path.exists()), None)


def present(name: str, split: str, bases: list[Path]) -> bool:
    """True if all the split needs is there; of the cars the training half is enough."""
    files = needed(name, split)[: 2 if name == "stanford_cars" else None]
    return all(find(bases, name, file) is not None for file in files)


def check(path: Path) -> Path:
    """Return `path` if its MD5 (and SHA-256, where known) is the official one; DataError naming both sums otherwise."""
    with reading(path), plain(path).open("rb") as f:
        for kind, expected in zip(("md5", "sha256"), SUMS[path.name], strict=False):
            f.seek(0)
            if (found := hashlib.file_digest(f, kind).hexdigest()) != expected:
                advice = f"({f.tell():,} bytes): truncated, changed or another version; fetch it again"
                raise DataError(f"{path}: {kind} {found}, expected {expected} {advice}")
    return path


def mnist(split: str, bases: list[Path]) -> Source:
    """28 x 28 grey, labels 0..9. The IDX files, gzipped or plain, need no parser once their MD5 is right."""
    paths = [check(find(bases, "mnist", file)) for file in needed("mnist", split)]
    content = [gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes() for path in paths]
    images, labels = np.frombuffer(content[0], np.uint8, offset=16), np.frombuffer(content[1], np.uint8, offset=8)
    return _from_arrays("mnist", split, images.reshape(-1, 1, 28, 28), labels)


def cifar10(split: str, bases: list[Path]) -> Source:
    """32 x 32 RGB, labels 0..9; torchvision compares the pickled batches with their MD5 before it opens them."""
    folder = _unpacked("cifar10", "cifar-10-python.tar.gz", bases, [])
    with reading(folder):
        found = _torchvision().CIFAR10(folder.parent, train=split == "train")
    return _from_arrays("cifar10", split, found.data.transpose(0, 3, 1, 2), found.targets)


def svhn(split: str, bases: list[Path]) -> Source:
    """Cropped digits (format 2): 32 x 32 RGB, labels 0..9 (the file writes the digit 0 as 10)."""
    path = check(find(bases, "svhn", f"{split}_32x32.mat"))
    with reading(path):
        found = _torchvision().SVHN(path.parent, split)
    return _from_arrays("svhn", split, found.data, found.labels)


def celeba(split: str, bases: list[Path]) -> Source:
    """The AGE crop of the official partition's images in the order of their numbers; no labels."""
    notes, code = [], {"train": "0", "validation": "1", "test": "2"}[split]
    rows = check(find(bases, "celeba", "list_eval_partition.txt")).read_text("ascii").splitlines()
    folder = _unpacked("celeba", "img_align_celeba.zip", bases, notes)
    chosen = sorted(row.split()[0] for row in rows if row.split()[1] == code)
    return _from_files("celeba", split, [folder / file for file in chosen], notes)


def tiny_imagenet(split: str, bases: list[Path]) -> Source:
    """64 x 64 RGB, 200 classes, index = rank of the WordNet id. `test` is the validation split, since the test images carry
    no labels; the training images are in a fixed random order."""
    notes: list[str] = []
    folder = _unpacked("tiny_imagenet", "tiny-imagenet-200.zip", bases, notes)
    with reading(path := folder / "wnids.txt"):
        ids = sorted(set(path.read_text("ascii").split()))
        if len(ids) != REAL["tiny_imagenet"].n_classes:
            raise ValueError(f"{len(ids)} WordNet ids, expected 200")
    index = {wnid: i for i, wnid in enumerate(ids)}
    if split == "train":
        found = _torchvision().folder.make_dataset(folder / "train", index, ".jpeg", allow_empty=True)
        found = [found[i] for i in np.random.default_rng(SEED).permutation(len(found))]
    else:
        with reading(path := folder / "val" / "val_annotations.txt"):
            rows = [line.split("\t") for line in path.read_text("ascii").splitlines()]
            found = [(folder / "val" / "images" / row[0], index[row[1]]) for row in rows]
    labels = np.array([label for _, label in found], np.int64)
    return _from_files("tiny_imagenet", split, [Path(path) for path, _ in found], notes, labels, tuple(ids))


def stanford_cars(split: str, bases: list[Path]) -> Source:
    """One split of the pooled images: 64 x 64 RGB by default, 196 classes; grey images are converted and counted."""
    notes: list[str] = [BOX_CROP]
    devkit = _unpacked("stanford_cars", "car_devkit.tgz", bases, [])
    halves = {"cars_train.tgz": devkit / "cars_train_annos.mat"}
    if (pooled := find(bases, "stanford_cars", "cars_test.tgz")) is not None:
        if (annotations := find(bases, "stanford_cars", TEST_LABELS)) is None:
            raise DataError(f"{pooled}: its labels are missing: put {TEST_LABELS} (md5 {SUMS[TEST_LABELS][0]}) beside it")
        halves["cars_test.tgz"] = check(annotations)
    paths, classes, boxes, class_names = [], [], [], tuple(map(str, _mat(devkit / "cars_meta.mat", "class_names")))
    for archive, annotations in halves.items():
        table, folder = _mat(annotations, "annotations"), _unpacked("stanford_cars", archive, bases, notes)
        with reading(annotations):  # a row an image, classes from 1
            paths += [folder / Path(str(file)).name for file in table["fname"]]
            classes += map(int, table["class"])
            sides = [table[f"bbox_{side}"].astype(int) for side in ("x1", "y1", "x2", "y2")]
            boxes += (np.stack(sides, 1) - [1, 1, 0, 0]).tolist()  # pixels count from 1
    n, chosen = len(paths), divide(len(paths), split, pooled is not None)
    labels = check_labels(np.array(classes) - 1, n, len(class_names), f"{devkit}, classes less 1")[chosen]
    if pooled is None:
        line = f"official files, {len(chosen):,} of 8,144 official training images"
        notes.append("only the official training half is there, so every tenth image is held out as test")
    else:
        line = f"official files, {len(chosen):,} {split} images of {n:,}, officially {CARS:,}"
        notes.append(f"{min(CARS_HELD_OUT, n // 10)} held out of the pooled halves, seed {SEED}")
    cropped = [paths[i] for i in chosen], notes, labels, class_names, [boxes[i] for i in chosen]
    source = _from_files("stanford_cars", split, *cropped)
    return replace(source, line=line, official=len(chosen) if n == CARS else None)


def divide(n: int, split: str, pooled: bool) -> np.ndarray:
    """Indices of a split of n cars. pooled: the seeded draw, its order random; else every tenth image is test."""
    if not pooled:
        return np.flatnonzero((np.arange(n) % 10 == 9) == (split == "test"))
    order, held_out = np.random.default_rng(SEED).permutation(n), min(CARS_HELD_OUT, n // 10)
    return order[n - held_out :] if split == "test" else order[: n - held_out]


def age_crop(im: Image.Image, size: int = CELEBA_SIZE) -> Image.Image:
    """The AGE crop (Lanczos, as in ALI) of an aligned 178 x 218 image: RGB, 64 x 64, or size x size if that is larger."""
    im = im.convert("RGB")
    if size > CELEBA_SIZE:
        return im.resize((size, size), Image.Resampling.LANCZOS, box=celeba_box(im))
    whole = im.resize((CELEBA_SIZE, CELEBA_HEIGHT), Image.Resampling.LANCZOS)
    return whole.crop((0, CELEBA_TOP, CELEBA_SIZE, CELEBA_TOP + CELEBA_SIZE))


def celeba_box(im: Image.Image) -> tuple[float, float, float, float]:
    """The region of the AGE crop in pixels of `im`, an aligned image or one that was squashed to another shape."""
    w, h = im.size
    return 0.0, CELEBA_TOP / CELEBA_HEIGHT * h, 1.0 * w, (CELEBA_TOP + CELEBA_SIZE) / CELEBA_HEIGHT * h


def fetch(name: str, split: str, bases: list[Path]) -> str:
    """Download what is not at hand of a split into the data root: written aside, checked, renamed. Returns what failed."""
    if name == "stanford_cars":
        return "they cannot be downloaded (the official host is gone)"
    failures = []
    for file, place in itertools.product(needed(name, split), URLS.get(name, ("Google Drive",))):
        target = bases[0] / FOLDERS[name][0] / file
        try:
            with reading(f"{place}/{file}", "not fetched"), aside(target) as beside:
                if find(bases, name, file) is None:
                    _download(f"{place}/{file}", beside / file)
                    os.replace(check(beside / file), target)
        except DataError as err:
            failures.append(str(err))
    return f"the download failed ({'; '.join(failures)})"


def _download(url: str, path: Path) -> None:
    if path.name in DRIVE:
        _torchvision().utils.download_file_from_google_drive(DRIVE[path.name], path.parent, path.name)
        return
    request = urllib.request.Request(url, headers={"User-Agent": "agelib"})
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer, path.open("wb") as f:
        shutil.copyfileobj(answer, f)


def _from_arrays(name: str, split: str, images: np.ndarray, labels: np.ndarray | list[int]) -> Source:
    """images: uint8 (N, C, H, W).  labels: as in files whose checksums are right."""
    return REAL[name].source(
        "official files", split, len(images), [], partial(from_arrays, images), np.array(labels, np.int64)
    )


def _from_files(name: str, split: str, paths: list[Path], notes: list[str], labels=None, names=None, boxes=None) -> Source:
    def images(size: int, channels: int) -> Iterator[np.ndarray]:
        grey = 0
        for path, box in zip(paths, boxes or itertools.repeat(None)):  # noqa: B905
            im = decode(path, str(path), ("JPEG", "PNG"))
            grey += im.mode in ("1", "L", "LA")
            if box and not (0 <= box[0] < box[2] <= im.width and 0 <= box[1] < box[3] <= im.height):
                raise DataError(f"{path}: its annotated box {box} is empty or not inside its {im.width} x {im.height} px")
            yield to_array(age_crop(im, size) if name == "celeba" else im, size, channels, box)
        if grey and name == "stanford_cars":
            notes.append(f"{grey} grey images converted to RGB")

    return REAL[name].source("official files", split, len(paths), notes, images, labels, names)


def _content(file: str) -> str:
    """The folder (of MNIST the file) that an archive holds; another file's own name."""
    return UNPACKS.get(file, file.rpartition(".")[0]) if file.endswith((".zip", ".tgz", ".gz")) else file


def _unpacked(name: str, archive: str, bases: list[Path], notes: list[str]) -> Path:
    """The folder that an archive holds, unpacked into the data root where it is not there yet; noted if that was by hand."""
    path = find(bases, name, archive)
    if path.name == archive:
        target = bases[0] / FOLDERS[name][0] / _content(archive)
        with reading(path), aside(target) as beside:
            if not target.exists():
                known = hasattr(tarfile, "data_filter") and not archive.endswith(".zip")  # from Python 3.11.4
                shutil.unpack_archive(check(path), beside, **({"filter": "data"} if known else {}))
                (beside / target.name / MARK).write_text(SUMS[archive][0] + "\n")
                os.rename(beside / target.name, target)
        path = target
    if not (path / MARK).is_file():
        notes.append(f"{path.name} was unpacked by hand, so its files were compared with no checksum")
    return path


def _mat(path: Path, key: str) -> np.ndarray:
    with reading(path):
        return np.atleast_1d(loadmat(path, variable_names=[key], squeeze_me=True)[key])


def _torchvision():
    from agelib.tv import import_torchvision

    return import_torchvision().datasets
