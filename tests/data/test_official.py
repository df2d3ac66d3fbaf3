import gzip
import hashlib
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agelib import data
from agelib.data import DataError, official


def load(name, split="train", **options):
    return data.load(name, split, download=False, **options)


@pytest.mark.parametrize(("folder", "suffix"), [("MNIST/raw", ".gz"), ("mnist", "")])
def test_mnist_files(make, root, bless, folder, suffix):
    x, y = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28), np.array([7, 0, 9], np.uint8)
    for stem, array in (("images-idx3", x), ("labels-idx1", y)):
        content = struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()
        bless(make.file(root / folder / f"t10k-{stem}-ubyte{suffix}", gzip.compress(content) if suffix else content))
    found = load("mnist", "test")
    np.testing.assert_array_equal(found.images[:, 0], x)
    assert found.labels.tolist() == [7, 0, 9] and found.labels.dtype == np.int64
    assert found.source == "official files, 3 of 10,000 official test images"
    np.testing.assert_array_equal(load("mnist", "test", channels=3).images[:, 2], x)


class _Evil:
    def __reduce__(self):
        return Path.mkdir, (Path("evil"),)


def test_cifar_archive_and_folder_whose_pickles_are_compared_before_they_are_opened(
    make, root, bless, monkeypatch, tmp_path
):
    """Seven images in the official batches: one in each training batch, two in the test batch."""
    x, y = np.random.default_rng(1).integers(0, 256, (7, 3, 32, 32), dtype=np.uint8), [5, 4, 3, 2, 1, 0, 9]
    parts = {f"data_batch_{k + 1}": slice(k, k + 1) for k in range(5)} | {"test_batch": slice(5, 7)}
    batches = {name: {"data": x[part].reshape(-1, 3072), "labels": y[part]} for name, part in parts.items()}
    members = {name: pickle.dumps(batch) for name, batch in (batches | {"batches.meta": {"label_names": ["a"]}}).items()}
    known, sums = (
        official._torchvision().CIFAR10,
        [(name, hashlib.md5(content).hexdigest()) for name, content in members.items()],
    )
    for what, value in (("train_list", sums[:5]), ("test_list", sums[5:6]), ("meta", known.meta | {"md5": sums[6][1]})):
        monkeypatch.setattr(known, what, value)
    path = root / "cifar10" / "cifar-10-python.tar.gz"
    bless(make.archive(path, {f"cifar-10-batches-py/{name}": content for name, content in members.items()}))
    found = load("cifar10")
    np.testing.assert_array_equal(found.images, x[:5])
    assert found.labels.tolist() == [5, 4, 3, 2, 1] and found.class_names[0] == "airplane"
    assert {p.name for p in path.parent.iterdir()} == {"cifar-10-batches-py", path.name, ".lock"}  # unpacked, once
    path.unlink()
    found = load("cifar10", "test")
    np.testing.assert_array_equal(found.images, x[5:])
    assert found.labels.tolist() == [0, 9]
    monkeypatch.chdir(tmp_path)
    make.file(root / "cifar10" / "cifar-10-batches-py" / "test_batch", pickle.dumps({b"data": _Evil()}))
    with pytest.raises(DataError, match="cifar-10-batches-py: not readable .*corrupted"):
        load("cifar10", "test", size=16)
    assert not (tmp_path / "evil").exists()


@pytest.mark.parametrize("by_hand", [True, False])
def test_celeba(make, root, bless, by_hand):
    """Three 218 x 178 pictures: a vertical ramp, then noise."""
    ramp = np.ascontiguousarray(np.broadcast_to(np.arange(218, dtype=np.uint8)[:, None, None], (218, 178, 3)))
    pictures = [ramp, *np.random.default_rng(3).integers(0, 256, (2, 218, 178, 3), dtype=np.uint8)]
    encoded = {f"img_align_celeba/{i + 1:06}.jpg": make.encode(x) for i, x in enumerate(pictures)}
    path = bless(make.archive(root / "celeba" / "img_align_celeba.zip", encoded))
    if by_hand:
        shutil.unpack_archive(path, path.parent)
    bless(make.file(root / "celeba" / "list_eval_partition.txt", "000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n"))
    # row i of the crop is row i + 7 of 78: centre (i + 7.5) * 218 / 78 - 0.5 of the ramp
    found, large = load("celeba"), load("celeba", size=128)
    np.testing.assert_allclose(found.images[0, 0, :, 30], (np.arange(64) + 7.5) * 218 / 78 - 0.5, atol=0.75)
    np.testing.assert_allclose(large.images[0, 0, 1:-1, 9], (np.arange(1, 127) + 14.5) * 218 / 156 - 0.5, atol=0.75)
    assert found.labels is None and found.source.startswith("official files, 1 of 162,770 official training images")
    assert found.source.endswith("compared with no checksum") == by_hand
    crops = [Image.fromarray(x).resize((64, 78), Image.Resampling.LANCZOS).crop((0, 7, 64, 71)) for x in pictures]
    np.testing.assert_array_equal(load("celeba", "test").images[0], np.asarray(crops[1]).transpose(2, 0, 1))
    half = np.asarray(crops[2].resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    np.testing.assert_array_equal(load("celeba", "validation", size=32).images[0], half)
    (root / "celeba" / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(DataError, match=r"img_align_celeba/000002\.jpg: not a readable image .FileNotFound"):
        load("celeba", "test", size=32)


def test_tiny_imagenet(make, root, bless):
    """A training image of six classes and two validation images, the first grey."""
    ids, x = [f"n{k:08}" for k in range(200)], make.colours(8, 64, seed=4)
    files = {f"train/{ids[k]}/images/{ids[k]}_0.JPEG": make.encode(x[k]) for k in range(6)}
    files |= {"val/images/val_0.JPEG": make.encode(x[6][..., 0]), "val/images/val_1.JPEG": make.encode(x[7])}
    files["val/val_annotations.txt"] = f"val_0.JPEG\t{ids[199]}\t0\t0\t9\t9\nval_1.JPEG\t{ids[3]}\t0\t0\t9\t9\n".encode()
    files |= {"test/images/test_0.JPEG": make.encode(x[0]), "wnids.txt": "\n".join(reversed(ids)).encode()}
    bless(make.archive(root / "tiny-imagenet-200.zip", {f"tiny-imagenet-200/{name}": x for name, x in files.items()}))
    train, test = load("tiny_imagenet"), load("tiny_imagenet", "test", size=32)
    assert train.labels.tolist() == np.random.default_rng(0).permutation(6).tolist() and train.class_names == tuple(ids)
    np.testing.assert_array_equal(train.images, x[train.labels].transpose(0, 3, 1, 2))
    assert test.labels.tolist() == [199, 3] and (test.images[0] == x[6][0, 0, 0]).all()
    assert test.source.startswith("official files, 2 of 10,000 official validation images")


def put_cars(make, root, bless, halves):
    """halves: stem -> images; those of the training half are annotated 1, 2, 3, ..., of the other 101, 102, ..."""

    def annotations(labels):
        out = np.empty((1, len(labels)), dtype=[("bbox_x1", object), ("class", object), ("fname", object)])
        out["bbox_x1"], out["class"][0], out["fname"][0] = 1, labels, [f"{i + 1:05}.jpg" for i in range(len(labels))]
        return make.mat(annotations=out)

    names, base = np.array([[f"car {k}" for k in range(1, 197)]], dtype=object), root / "stanford_cars"
    devkit = {"devkit/cars_meta.mat": make.mat(class_names=names)}
    devkit["devkit/cars_train_annos.mat"] = annotations(range(1, len(halves["cars_train"]) + 1))
    bless(make.archive(base / "car_devkit.tgz", devkit))
    for stem, pictures in halves.items():
        members = {f"{stem}/{i + 1:05}.jpg": make.encode(x) for i, x in enumerate(pictures)}
        bless(make.archive(base / f"{stem}.tgz", members))
    if "cars_test" in halves:
        bless(make.file(base / official.TEST_LABELS, annotations(range(101, 101 + len(halves["cars_test"])))))
    return base


def test_cars_pool_both_halves(make, root, bless):
    x = list(make.colours(21, 40, seed=5))
    x[4] = x[4][..., 0]  # a grey image
    put_cars(make, root, bless, {"cars_train": x[:11], "cars_test": x[11:]})
    train, test = load("stanford_cars"), load("stanford_cars", "test")
    label = [*range(11), *range(100, 110)]  # of picture i, from 0
    order = np.random.default_rng(0).permutation(21)
    assert train.labels.tolist() == [label[i] for i in order[:19]] and test.labels.tolist() == [label[i] for i in order[19:]]
    for position, i in enumerate(order[:19]):
        assert (train.images[position].transpose(1, 2, 0) == x[i][0, 0]).all()
    assert f"{train.source} {test.source}".count("1 grey images converted to RGB") == 1
    assert "2 test images of 21, officially 16,185" in test.source and not test.complete
    assert test.source.endswith("; 2 held out of the pooled halves, seed 0") and test.class_names[0] == "car 1"
    train, test = (official.divide(16_185, split, pooled=True) for split in ("train", "test"))  # as in the paper
    assert len(train) == 16_000 and len(test) == 185 and sorted([*train, *test]) == list(range(16_185))


def test_cars_training_half_alone_and_what_may_lack(make, root, bless):
    base = put_cars(make, root, bless, {"cars_train": make.colours(20, 16)})
    assert load("stanford_cars", "test").labels.tolist() == [9, 19]
    assert "only the official training half" in load("stanford_cars").source
    (base / "cars_test").mkdir()
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels\.mat \(md5 \w{32}\)"):
        load("stanford_cars", size=8)


def test_svhn_is_downloaded_once_checked_and_prepared(make, root, bless, monkeypatch, tmp_path):
    """From two addresses, the first of which has nothing."""
    x = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    content = make.mat(X=x.transpose(1, 2, 3, 0), y=np.array([[10], [4]], np.uint8))
    path = bless(make.file(tmp_path / "test_32x32.mat", content))
    known = official._torchvision().SVHN.split_list
    monkeypatch.setitem(known, "test", ["", path.name, hashlib.md5(content).hexdigest()])
    monkeypatch.setitem(official.URLS, "svhn", (f"{tmp_path.as_uri()}/gone", tmp_path.as_uri()))
    path.write_bytes(content[:-1])
    with pytest.raises(DataError) as caught:
        data.load("svhn", "test")
    for part in (
        "the download failed (file:",
        "No such file",
        ", expected ",
        str(root / "svhn"),
        f"(md5 {known['test'][2]}",
    ):
        assert part in str(caught.value)
    assert {p.name for p in root.rglob("*") if p.is_file()} == {".lock"}
    path.write_bytes(content)
    with pytest.raises(DataError, match="download=False"):
        load("svhn", "test")
    found = data.load("svhn", "test")
    np.testing.assert_array_equal(found.images, x.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 4] and found.source == "official files, 2 of 26,032 official test images"
    assert (root / "svhn" / "test_32x32.mat").read_bytes() == content
    path.unlink()
    assert len(data.load("svhn", "test", size=16)) == 2


def test_celeba_comes_from_google_drive(make, root, bless, monkeypatch, tmp_path):
    """torchvision's helper is replaced by one that writes drive[id], or fails as gdown does."""
    picture, drive = make.colours(1, 178)[0], {}
    made = [make.archive(tmp_path / "img_align_celeba.zip", {"img_align_celeba/000001.jpg": make.encode(picture)})]
    made.append(make.file(tmp_path / "list_eval_partition.txt", "000001.jpg 0"))

    def helper(file_id, folder, filename):
        if file_id not in drive:
            raise Exception("Cannot retrieve the public link.\nmore lines")
        (Path(folder) / filename).write_bytes(drive[file_id])

    monkeypatch.setattr(official._torchvision().utils, "download_file_from_google_drive", helper)
    drive[official.DRIVE["img_align_celeba.zip"]] = b"Quota exceeded"
    with pytest.raises(
        DataError, match=r"zip: md5 .*expected.*Google Drive.*Exception: Cannot retrieve the public link\. more l"
    ):
        data.load("celeba")
    assert {p.name for p in root.rglob("*") if p.is_file()} == {".lock"}
    drive |= {official.DRIVE[path.name]: bless(path).read_bytes() for path in made}
    assert (data.load("celeba").images[0].transpose(1, 2, 0) == picture[0, 0]).all()
