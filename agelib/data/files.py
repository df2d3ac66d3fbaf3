"""The official files: their checksums, where they are looked for, where they can be downloaded from.

Checksums (MD5) are those the data sets' pages and torchvision give. Archives and .mat files are checked before they
are read; loose text, IDX files and extracted folders are checked by their structure.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agelib.data.imageset import DataError


@dataclass(frozen=True)
class Official:
    """md5: hex digest, None if nobody publishes one.  urls: tried in order.  drive_id: Google Drive file id."""

    md5: str | None
    urls: tuple[str, ...] = ()
    drive_id: str | None = None


def _mnist(name: str, md5: str) -> Official:
    hosts = ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/")
    return Official(md5, tuple(host + name for host in hosts))


def _svhn(split: str, md5: str) -> Official:
    return Official(md5, (f"http://ufldl.stanford.edu/housenumbers/{split}_32x32.mat",))


OFFICIAL: dict[str, Official] = {
    "train-images-idx3-ubyte.gz": _mnist("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "train-labels-idx1-ubyte.gz": _mnist("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    "t10k-images-idx3-ubyte.gz": _mnist("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    "t10k-labels-idx1-ubyte.gz": _mnist("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
    "cifar-10-python.tar.gz": Official(
        "c58f30108f718f92721af3b95e74349a", ("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",)
    ),
    "train_32x32.mat": _svhn("train", "e26dedcc434d2e4c54c9b2d4a06d8373"),
    "test_32x32.mat": _svhn("test", "eb5a983be6a315427106f1b164d9cef3"),
    "extra_32x32.mat": _svhn("extra", "a93ce644f1a588dc4d68dda5feec44a7"),
    "img_align_celeba.zip": Official("00d2c5bc6d35e252742224ab0c1e8fcb", drive_id="0B7EVK8r0v71pZjFTYXZWM3FlRnM"),
    "list_eval_partition.txt": Official("d32c9cbf5e040fd4025c592c306e6668", drive_id="0B7EVK8r0v71pY0NSMzRuSXJEVkk"),
    "tiny-imagenet-200.zip": Official(
        "90528d7ca1a48142e341f4ef8d21d0de", ("http://cs231n.stanford.edu/tiny-imagenet-200.zip",)
    ),
    "cars_train.tgz": Official("065e5b463ae28d29e77c1b4b166cfe61"),
    "cars_test.tgz": Official("4ce7ebf6a94d07f1952d94dd34c4d501"),
    "car_devkit.tgz": Official("c3b158d763b6e2245038c8ad08e45376"),
    "cars_test_annos_withlabels.mat": Official("b0a2b23655a3edd16d84508592a98d10"),
    "car_ims.tgz": Official("d5c8f0aa497503f355e17dc7886c3f14"),
    "cars_annos.mat": Official(None),
}

# Folders below the data root that are searched, in this order; a download goes into the first.
FOLDERS: dict[str, tuple[str, ...]] = {
    "mnist": ("MNIST/raw", "MNIST", "mnist/raw", "mnist"),
    "cifar10": ("cifar10", "CIFAR10", "."),
    "svhn": ("svhn", "SVHN", "."),
    "celeba": ("celeba", "CelebA", "."),
    "tiny_imagenet": ("tiny_imagenet", "."),
    "stanford_cars": ("stanford_cars", "."),
}


def find(root: Path, name: str, file: str) -> Path | None:
    """The first place where the file or folder `file` of data set `name` lies, or None."""
    for folder in FOLDERS[name]:
        path = root / folder / file
        if path.exists():
            return path
    return None


def check_md5(path: Path) -> Path:
    """Return `path` if its MD5 is the official one (or none is known); DataError naming both sums otherwise."""
    expected = OFFICIAL[path.name].md5
    if expected is not None:
        with path.open("rb") as f:
            found = hashlib.file_digest(f, "md5").hexdigest()
        if found != expected:
            size = path.stat().st_size
            raise DataError(
                f"{path}: md5 {found}, expected {expected} ({size:,} bytes): truncated, changed or another version; "
                "fetch it again"
            )
    return path
