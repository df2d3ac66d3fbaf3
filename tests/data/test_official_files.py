from __future__ import annotations

import os
import pickle
import tarfile

import numpy as np
import pytest
from PIL import Image

from agelib import data
from agelib.data import DataError, cars_official, celeba, cifar, files
from agelib.data.archive import check_member


def load(name, split="train", **options):
    return data.load(name, split, download=False, **options)


# ---- MNIST


@pytest.mark.parametrize("suffix", [".gz", ""])
@pytest.mark.parametrize("folder", ["MNIST/raw", "mnist"])
def test_mnist_idx_files(make, root, suffix, folder):
    x = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
    make.idx(root / folder / f"t10k-images-idx3-ubyte{suffix}", x)
    make.idx(root / folder / f"t10k-labels-idx1-ubyte{suffix}", np.array([7, 0, 9], np.uint8))
    found = load("mnist", "test")
    np.testing.assert_array_equal(found.images[:, 0], x)
    assert found.labels.tolist() == [7, 0, 9] and found.labels.dtype == np.int64
    assert found.source == "official files, 3 of 10,000 official test images"
    rgb = load("mnist", "test", channels=3)
    np.testing.assert_array_equal(rgb.images[:, 2], x)


@pytest.mark.parametrize(
    ("options", "labels", "message"),
    [
        ({"kind": 9}, [1, 2], "images-idx3-ubyte.gz: IDX type 0x09, expected 0x08"),
        ({"shape": (3, 28, 28)}, [1, 2], "images-idx3-ubyte.gz: only 1,568 bytes of data, expected 2,352"),
        ({"shape": (1, 28, 28)}, [1, 2], "images-idx3-ubyte.gz: more bytes of data, expected 784"),
        ({"shape": (2, 784)}, [1, 2], "2 dimensions, expected 3"),
        ({"shape": (0, 28, 28)}, [1, 2], "empty"),
        ({"shape": (2**32 - 1, 2**32 - 1, 28)}, [1, 2], "damaged"),
        ({}, [1], "1 labels for 2 images"),
        ({}, [1, 10], r"labels lie in 1\.\.10, expected 0\.\.9"),
    ],
)
def test_damaged_mnist_is_refused(make, root, clean, options, labels, message):
    make.idx(root / "mnist" / "train-images-idx3-ubyte.gz", np.zeros((2, 28, 28), np.uint8), **options)
    make.idx(root / "mnist" / "train-labels-idx1-ubyte.gz", np.array(labels, np.uint8))
    with pytest.raises(DataError, match=message):
        load("mnist")
    clean()


def test_truncated_and_foreign_gzip_is_refused(make, root, clean):
    noise = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    path = make.idx(root / "mnist" / "train-images-idx3-ubyte.gz", noise)
    make.idx(root / "mnist" / "train-labels-idx1-ubyte.gz", np.zeros(2, np.uint8))
    whole = path.read_bytes()
    for content in (whole[:-100], b"<html>404</html>", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match="train-images-idx3-ubyte.gz"):
            load("mnist")
        clean()


# ---- CIFAR-10


def cifar_members(make, x, labels):
    folder = "cifar-10-batches-py"
    batches = {f"{folder}/data_batch_{k + 1}": make.cifar_batch(x[k : k + 1], [labels[k]]) for k in range(5)}
    return batches | {f"{folder}/test_batch": make.cifar_batch(x[5:], labels[5:]), f"{folder}/readme.html": b"hello"}


def test_cifar_archive_and_extracted_folder(make, root, bless):
    x = np.random.default_rng(1).integers(0, 256, (7, 32, 32, 3), dtype=np.uint8)
    members = cifar_members(make, x, [5, 4, 3, 2, 1, 0, 9])
    archive = bless(make.tar(root / "cifar10" / "cifar-10-python.tar.gz", members))
    found = load("cifar10")
    np.testing.assert_array_equal(found.images, x[:5].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [5, 4, 3, 2, 1]
    archive.unlink()
    for name, content in members.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    found = load("cifar10", "test")
    np.testing.assert_array_equal(found.images, x[5:].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [0, 9]
    (root / "cifar-10-batches-py" / "data_batch_4").unlink()
    with pytest.raises(DataError, match="data_batch_4: missing"):
        load("cifar10", size=16)


def test_cifar_archive_with_another_md5_is_refused(make, root, clean):
    make.tar(root / "cifar10" / "cifar-10-python.tar.gz", {"a": b"b"})
    with pytest.raises(
        DataError, match=r"cifar-10-python.tar.gz: md5 \w{32}, expected c58f30108f718f92721af3b95e74349a"
    ):
        load("cifar10")
    clean()


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("evil",)


def test_cifar_pickle_can_call_nothing(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for protocol in (0, 2, 4):
        with pytest.raises(DataError, match=r"batch: .*(posix|nt)\.mkdir.*refused"):
            cifar.parse_batch(pickle.dumps({b"data": _Evil()}, protocol=protocol), "batch")
    with pytest.raises(DataError, match=r"batch: .*builtins\.getattr|batch: .*refused"):
        cifar.parse_batch(b"cbuiltins\ngetattr\n.", "batch")
    assert list(tmp_path.iterdir()) == []


def test_cifar_batches_as_python_2_wrote_them():
    # protocol 2 with numpy.core.multiarray and byte strings (opcode U), as in the official files
    pixels = bytes(range(256)) * 12
    official = (
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tb\x89T\x00\x0c\x00\x00" + pixels + b"tbU\x06labels]K\x06au."
    )
    x, y = cifar.parse_batch(official, "batch")
    assert x.shape == (1, 3, 32, 32) and y.tolist() == [6]
    assert x[0, 1, 0, 5] == 1029 % 256  # channel 1 starts at byte 1024


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({b"data": np.zeros((2, 3072), np.float32), b"labels": [0, 0]}, r"`data` is float32 \(2, 3072\)"),
        ({b"data": np.zeros((2, 3000), np.uint8), b"labels": [0, 0]}, r"`data` is uint8 \(2, 3000\)"),
        ({b"labels": [0, 0]}, "`data` is NoneType"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0]}, r"labels have shape \(1,\)"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 10]}, r"labels lie in 0\.\.10"),
        ({b"data": np.zeros((2, 3072), np.uint8), b"labels": "ab"}, "must be a list of integers"),
        ([1, 2], "holds a list"),
    ],
)
def test_damaged_cifar_batches(batch, message):
    with pytest.raises(DataError, match=message):
        cifar.parse_batch(pickle.dumps(batch, protocol=2), "batch")
    with pytest.raises(DataError, match="not a readable batch"):
        cifar.parse_batch(pickle.dumps(batch, protocol=2)[:-9], "batch")


# ---- SVHN


def test_svhn_mat(make, root, bless):
    x = np.random.default_rng(2).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    path = root / "svhn" / "extra_32x32.mat"
    path.parent.mkdir()
    path.write_bytes(make.mat(X=x.transpose(1, 2, 3, 0), y=np.array([[1], [10], [9]], np.uint8)))
    bless(path)
    found = load("svhn", "extra")
    np.testing.assert_array_equal(found.images, x.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [1, 0, 9]
    assert found.source == "official files, 3 of 531,131 official extra images"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"X": np.zeros((32, 32, 3, 2)), "y": [[1], [2]]}, "X is float64"),
        ({"X": np.zeros((2, 32, 32, 3), np.uint8), "y": [[1], [2]]}, "expected uint8 (32, 32, 3, N)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[0], [2]]}, "a label is 0"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1], [11]]}, "labels lie in 1..11"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8), "y": [[1]]}, "labels have shape (1,)"),
        ({"X": np.zeros((32, 32, 3, 2), np.uint8)}, "has no variable y"),
    ],
)
def test_damaged_svhn(make, root, bless, clean, variables, message):
    path = root / "train_32x32.mat"
    path.write_bytes(make.mat(**variables))
    bless(path)
    with pytest.raises(DataError) as caught:
        load("svhn")
    assert message in str(caught.value) and "train_32x32.mat" in str(caught.value)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(DataError, match="train_32x32.mat: md5"):
        load("svhn")
    bless(path)
    with pytest.raises(DataError, match=r"train_32x32.mat: (not a readable|has no variable)"):
        load("svhn")
    clean()


# ---- CelebA


def celeba_pictures():
    """Three 218 x 178 pictures: a vertical ramp, then noise."""
    ramp = np.broadcast_to(np.arange(218, dtype=np.uint8)[:, None, None], (218, 178, 3))
    noise = np.random.default_rng(3).integers(0, 256, (2, 218, 178, 3), dtype=np.uint8)
    return [np.ascontiguousarray(ramp), *noise]


PARTITION = "000001.jpg 0\n000002.jpg 2\n000003.jpg 1\n"


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_celeba(make, root, bless, layout):
    pictures = celeba_pictures()
    encoded = {f"img_align_celeba/{i + 1:06}.jpg": make.encode(x) for i, x in enumerate(pictures)}
    if layout == "zip":
        bless(make.zip(root / "celeba" / "img_align_celeba.zip", encoded))
    else:
        (root / "celeba" / "img_align_celeba").mkdir(parents=True)
        for name, content in encoded.items():
            (root / "celeba" / name).write_bytes(content)
    (root / "celeba" / "list_eval_partition.txt").write_text(PARTITION)
    # row i of the crop is row i + 7 of 78: centre (i + 7.5) * 218 / 78 - 0.5 of the ramp
    found = load("celeba")
    expected = (np.arange(64) + 7.5) * 218 / 78 - 0.5
    np.testing.assert_allclose(found.images[0, 0, :, 30], expected, atol=0.75)
    assert found.labels is None and found.source == "official files, 1 of 162,770 official training images"
    test = load("celeba", "test")
    resized = np.asarray(Image.fromarray(pictures[1]).resize((64, 78), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(test.images[0], resized[7:71].transpose(2, 0, 1))
    small = load("celeba", "validation", size=32)
    crop = Image.fromarray(pictures[2]).resize((64, 78), Image.Resampling.LANCZOS).crop((0, 7, 64, 71))
    half = np.asarray(crop.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(small.images[0], half.transpose(2, 0, 1))
    large = load("celeba", size=128)
    np.testing.assert_allclose(large.images[0, 0, 1:-1, 9], (np.arange(1, 127) + 14.5) * 218 / 156 - 0.5, atol=0.75)


def test_celeba_lacking_or_broken_images(make, root, bless, clean):
    (root / "celeba").mkdir()
    (root / "celeba" / "list_eval_partition.txt").write_text(PARTITION)
    bless(make.zip(root / "celeba" / "img_align_celeba.zip", {"img_align_celeba/000001.jpg": b"\xff\xd8nothing"}))
    with pytest.raises(DataError, match=r"1 of 1 images missing, first 000002\.jpg"):
        load("celeba", "test")
    with pytest.raises(DataError, match=r"img_align_celeba\.zip, 000001\.jpg: not a readable image"):
        load("celeba")
    (root / "celeba" / "list_eval_partition.txt").write_text("000001.jpg 0\n../../x.jpg 0\n")
    with pytest.raises(DataError, match="list_eval_partition.txt: line 2"):
        load("celeba")
    clean()


def test_age_crop_is_rows_7_to_70_of_64_by_78():
    x = np.zeros((78, 64, 3), np.uint8)
    x[:] = np.arange(78, dtype=np.uint8)[:, None, None]
    assert np.asarray(celeba.age_crop(Image.fromarray(x)))[:, 0, 0].tolist() == list(range(7, 71))


# ---- Tiny ImageNet


def tiny_members(make):
    ids = [f"n{k:08}" for k in range(200)]
    x = make.colours(8, 64, seed=4)
    members = {"wnids.txt": "\n".join(reversed(ids)).encode()}
    for k in range(6):
        members[f"train/{ids[k]}/images/{ids[k]}_0.JPEG"] = make.encode(x[k])
    grey = x[6][..., 0]
    members |= {"val/images/val_0.JPEG": make.encode(grey), "val/images/val_1.JPEG": make.encode(x[7])}
    members["val/val_annotations.txt"] = (
        f"val_0.JPEG\t{ids[199]}\t0\t0\t9\t9\nval_1.JPEG\t{ids[3]}\t0\t0\t9\t9\n".encode()
    )
    members["test/images/test_0.JPEG"] = make.encode(x[0])
    return ids, x, {f"tiny-imagenet-200/{name}": content for name, content in members.items()}


@pytest.mark.parametrize("layout", ["zip", "folder"])
def test_tiny_imagenet(make, root, bless, layout):
    ids, x, members = tiny_members(make)
    if layout == "zip":
        bless(make.zip(root / "tiny-imagenet-200.zip", members))
    else:
        for name, content in members.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    train = load("tiny_imagenet")
    assert sorted(train.labels.tolist()) == list(range(6)) and train.labels.tolist() != list(range(6))
    np.testing.assert_array_equal(train.images, x[train.labels].transpose(0, 3, 1, 2))
    assert train.class_names == tuple(ids)
    test = load("tiny_imagenet", "test", size=32)
    assert test.labels.tolist() == [199, 3]
    assert (test.images[0] == x[6][0, 0, 0]).all()
    assert test.source == "official files, 2 of 10,000 official validation images"


def test_damaged_tiny_imagenet(make, root, bless, clean):
    _, _, members = tiny_members(make)
    path = root / "tiny-imagenet-200.zip"

    def fails(changed, message, split="test"):
        bless(make.zip(path, changed))
        with pytest.raises(DataError, match=message):
            load("tiny_imagenet", split)
        clean()

    annotations = "tiny-imagenet-200/val/val_annotations.txt"
    fails(members | {annotations: b"val_0.JPEG\tn77\t0\n"}, "does not name an image and one of the 200 classes")
    fails(members | {annotations: b"../../val_0.JPEG\tn00000003\n"}, "does not name an image")
    fails(members | {annotations: b"val_7.JPEG\tn00000003\n"}, "1 of 1 images missing, first val/images/val_7.JPEG")
    fails({k: v for k, v in members.items() if k != annotations}, "has no member")
    fails(members | {"tiny-imagenet-200/wnids.txt": b"n00000001\n"}, "1 WordNet ids, expected 200")
    fails(members | {"../outside.txt": b""}, "tiny-imagenet-200.zip: member '../outside.txt' points outside", "train")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    bless(path)
    with pytest.raises(DataError, match="tiny-imagenet-200.zip: not a readable zip archive"):
        load("tiny_imagenet")
    clean()


# ---- Stanford Cars


CAR_NAMES = np.array([f"car {k}" for k in range(1, 197)], dtype=object)


def annotations(labels, prefix="", digits=5, field="fname"):
    names = np.array([f"{prefix}{i + 1:0{digits}}.jpg" for i in range(len(labels))], dtype=object)
    dtype = [("bbox_x1", object), ("class", object), (field, object)]
    out = np.empty((1, len(labels)), dtype=dtype)
    out["bbox_x1"][0], out["class"][0], out[field][0] = [1] * len(labels), labels, names
    return out


def put_cars(make, root, bless, halves, archives):
    """halves: stem -> images. Each annotated with labels 1, 2, 3, ... in order."""
    base = root / "stanford_cars"
    base.mkdir()
    meta = make.mat(class_names=CAR_NAMES[None])
    train = make.mat(annotations=annotations(list(range(1, len(halves["cars_train"]) + 1))))
    if archives:
        bless(make.tar(base / "car_devkit.tgz", {"devkit/cars_meta.mat": meta, "devkit/cars_train_annos.mat": train}))
    else:
        (base / "devkit").mkdir()
        (base / "devkit" / "cars_meta.mat").write_bytes(meta)
        (base / "devkit" / "cars_train_annos.mat").write_bytes(train)
    for stem, pictures in halves.items():
        # last image first: an archive need not be sorted
        encoded = {f"{stem}/{i + 1:05}.jpg": make.encode(x) for i, x in reversed(list(enumerate(pictures)))}
        if archives:
            bless(make.tar(base / f"{stem}.tgz", encoded))
        else:
            (base / stem).mkdir()
            for name, content in encoded.items():
                (base / name).write_bytes(content)
    if "cars_test" in halves:
        path = base / "cars_test_annos_withlabels.mat"
        path.write_bytes(make.mat(annotations=annotations(list(range(101, 101 + len(halves["cars_test"]))))))
        bless(path)
    return base


@pytest.mark.parametrize("archives", [True, False])
def test_cars_pool_both_halves(make, root, bless, archives):
    x = list(make.colours(21, 40, seed=5))
    x[4] = x[4][..., 0]  # a grey image
    put_cars(make, root, bless, {"cars_train": x[:11], "cars_test": x[11:]}, archives)
    train, test = load("stanford_cars"), load("stanford_cars", "test")
    assert len(train) == 19 and len(test) == 2
    label = [*range(11), *range(100, 110)]  # of picture i, from 0
    order = np.random.default_rng(0).permutation(21)
    assert train.labels.tolist() == [label[i] for i in order[:19]]
    assert test.labels.tolist() == [label[i] for i in order[19:]]
    for position, i in enumerate(order[:19]):
        assert (train.images[position].transpose(1, 2, 0) == x[i][0, 0]).all()
    whole = f"{train.source} {test.source}"
    assert whole.count("1 grey images converted to RGB") == 1
    assert "19 train / 2 held out of the pooled halves, seed 0" in test.source
    assert test.class_names[0] == "car 1" and not test.complete


def test_the_official_number_of_cars_is_divided_as_in_the_paper():
    train, test = (cars_official.divide(16_185, split, pooled=True) for split in ("train", "test"))
    assert len(train) == 16_000 and len(test) == 185
    assert sorted([*train, *test]) == list(range(16_185))


def test_cars_training_half_alone(make, root, bless):
    put_cars(make, root, bless, {"cars_train": make.colours(20, 16)}, archives=False)
    assert load("stanford_cars", "test").labels.tolist() == [9, 19]
    assert "only the official training half" in load("stanford_cars").source


def test_combined_cars_archive(make, root, bless):
    x = make.colours(10, 16, seed=6)
    bless(make.tar(root / "car_ims.tgz", {f"car_ims/{i + 1:06}.jpg": make.encode(x[i]) for i in range(10)}))
    annos = annotations(list(range(1, 11)), "car_ims/", 6, "relative_im_path")
    (root / "cars_annos.mat").write_bytes(make.mat(annotations=annos, class_names=CAR_NAMES[None]))
    train = load("stanford_cars")
    assert sorted([*train.labels, *load("stanford_cars", "test").labels]) == list(range(10))
    assert (train.images[0].transpose(1, 2, 0) == x[train.labels[0]][0, 0]).all()


def test_damaged_cars(make, root, bless, clean):
    base = put_cars(make, root, bless, {"cars_train": make.colours(10, 8), "cars_test": make.colours(10, 8)}, False)
    (base / "cars_train" / "00007.jpg").unlink()
    with pytest.raises(DataError, match=r"cars_train: 1 annotated images missing, first 00007\.jpg"):
        load("stanford_cars")
    (base / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(DataError, match=r"cars_test_annos_withlabels\.mat \(md5 \w{32}\)"):
        load("stanford_cars")
    bad = make.mat(annotations=annotations([1, 197]))
    (base / "devkit" / "cars_train_annos.mat").write_bytes(bad)
    with pytest.raises(DataError, match=r"cars_train_annos\.mat: classes lie in 1\.\.197"):
        load("stanford_cars")
    (base / "devkit" / "cars_meta.mat").unlink()
    with pytest.raises(DataError, match=r"cars_meta\.mat: missing"):
        load("stanford_cars")
    clean()


# ---- archives


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x", "..\\x", "C:/x", "C:\\x"])
def test_members_that_point_outside_are_refused(make, root, bless, clean, name):
    bless(make.tar(root / "cifar-10-python.tar.gz", {name: b"x"}))
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: member .* points outside"):
        load("cifar10")
    clean()


@pytest.mark.parametrize(
    ("kind", "word"), [(tarfile.SYMTYPE, "link"), (tarfile.LNKTYPE, "link"), (tarfile.FIFOTYPE, "neither")]
)
def test_links_and_devices_are_refused(make, root, bless, clean, kind, word):
    info = tarfile.TarInfo("cifar-10-batches-py/data_batch_1")
    info.type, info.linkname = kind, "/etc/passwd"
    bless(make.tar(root / "cifar-10-python.tar.gz", {info.name: info}))
    with pytest.raises(DataError, match=f"data_batch_1' is .*{word}"):
        load("cifar10")
    clean()


def test_plain_members_pass(tmp_path):
    for name in ("a/b.jpg", "a..b/c", "./a"):
        check_member(tmp_path, name, link=False, regular=True)


def test_oversized_member_is_refused(make, root, bless, clean, monkeypatch):
    monkeypatch.setattr("agelib.data.archive.MAX_MEMBER_BYTES", 2000)
    bless(make.tar(root / "cifar-10-python.tar.gz", {"cifar-10-batches-py/data_batch_1": b"x" * 3000}))
    with pytest.raises(DataError, match="would unpack to 3,000 bytes"):
        load("cifar10")
    clean()


def test_every_needed_file_has_an_entry():
    from agelib.data.search import OFFICIAL

    for name, reader in OFFICIAL.items():
        for split in data.names.splits(name):
            assert set(reader.needed(split)) <= set(files.OFFICIAL)
