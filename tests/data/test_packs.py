from __future__ import annotations

import numpy as np
import pytest

from agelib import data
from agelib.data import DataError


def two_parts(make, folder, x, y):
    """CIFAR-10 packs: part 1 holds training images 0..2, part 2 training image 3 and the test images 4, 5."""
    make.pack(folder / "cifar10-part1.npz", x[:3], [0, 0, 0], labels=np.array(y[:3], np.int16))
    make.pack(folder / "cifar10-part2.npz", x[3:], [1, 0, 1], labels=np.array(y[3:], np.int16))


def test_parts_are_joined_in_order_and_divided_by_split(make, root):
    x, y = make.colours(6), [3, 1, 4, 1, 5, 9]
    two_parts(make, root / "packs", x, y)
    train = data.load("cifar10", "train", download=False)
    assert train.images.shape == (4, 3, 32, 32) and train.images.dtype == np.uint8
    np.testing.assert_array_equal(train.images, x[[0, 1, 2, 4]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(train.labels, [3, 1, 4, 5])
    assert train.labels.dtype == np.int64
    assert train.class_names[9] == "truck"
    assert train.source == "pack, 4 of 50,000 official training images"
    assert not train.complete and train.stand_in_for is None
    np.testing.assert_array_equal(data.load("cifar10", "test", download=False).labels, [1, 9])


def test_part_ten_comes_after_part_nine(make, root):
    x = make.colours(10)
    for k in range(1, 11):
        make.pack(root / "packs" / f"cifar10-part{k}.npz", x[k - 1 : k], [0], labels=np.array([k - 1], np.int16))
    np.testing.assert_array_equal(data.load("cifar10", download=False).labels, np.arange(10))


def test_parts_may_lie_in_several_folders_of_the_environment(make, root, tmp_path, monkeypatch):
    x, y = make.colours(6), [3, 1, 4, 1, 5, 9]
    two_parts(make, tmp_path / "a", x, y)
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "cifar10-part2.npz").rename(tmp_path / "b" / "cifar10-part2.npz")
    monkeypatch.setenv("AGELIB_PACKS", f"{tmp_path / 'a'}:{tmp_path / 'b'}")
    assert data.available()["cifar10"] == "pack"
    assert len(data.load("cifar10", download=False)) == 4


def test_missing_part_is_named(make, root):
    make.pack(root / "packs" / "cifar10-part3.npz", make.colours(1), [0], labels=np.array([0], np.int16))
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(1), [0], labels=np.array([0], np.int16))
    with pytest.raises(DataError, match="cifar10-part2.npz is missing"):
        data.load("cifar10", download=False)
    assert "cifar10-part2.npz" in data.available()["cifar10"]
    assert data.available()["cifar10"].startswith("missing: ")


def test_jpeg_pack_of_a_lossless_set_says_so(make, root):
    x = make.colours(2)
    make.pack(root / "packs" / "cifar10-part1.npz", x, [0, 0], "JPEG", labels=np.array([0, 1], np.int16))
    found = data.load("cifar10", download=False)
    assert found.source.endswith("; JPEG-coded, so not bit for bit the official pixels")
    assert np.abs(found.images.astype(int) - x.transpose(0, 3, 1, 2)).max() <= 3


def test_celeba_pack_is_cropped_as_in_age(make, root):
    # Row r of the squashed 64 x 64 image has grey 4 r: the crop spans rows 5.744 .. 58.256, so crop row i looks at
    # source row 5.744 + (i + 0.5) * 52.513 / 64 - 0.5, and columns stay as they are.
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, axis=1).repeat(3, axis=2)
    make.pack(root / "packs" / "celeba64-part1.npz", ramp[None].repeat(3, 0), [0, 1, 2], ids=np.arange(3, dtype="i4"))
    found = data.load("celeba", "validation", download=False)
    assert found.labels is None and found.class_names is None
    expected = 4 * (7 * 64 / 78 + (np.arange(64) + 0.5) * (64 * 64 / 78) / 64 - 0.5)
    np.testing.assert_allclose(found.images[0, 0, 1:-1, 10], expected[1:-1], atol=1.0)
    assert found.source.startswith("pack, 1 of 19,867 official validation images")
    small = data.load("celeba", "test", size=32, download=False)
    assert small.images.shape == (1, 3, 32, 32)
    pairs = expected.reshape(32, 2).mean(1)
    np.testing.assert_allclose(small.images[0, 0, 1:-1, 10], pairs[1:-1], atol=1.5)


def test_cars_pack_without_test_images_holds_out_every_tenth(make, root):
    names = np.array([f"car {k}" for k in range(196)])
    labels = np.arange(21).astype(np.int16)
    make.pack(root / "packs" / "cars64-part1.npz", make.colours(21), [0] * 21, labels=labels, class_names=names)
    test = data.load("stanford_cars", "test", download=False)
    np.testing.assert_array_equal(test.labels, [9, 19])
    assert test.images.shape == (2, 3, 64, 64)
    assert "every tenth image is held out as test" in test.source and not test.complete
    assert test.source.startswith("pack, 2 of 8,144 official training images")
    assert test.class_names[19] == "car 19"
    train = data.load("stanford_cars", "train", download=False)
    np.testing.assert_array_equal(train.labels, [*range(9), *range(10, 19), 20])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 10], np.int16)}, r"labels lie in 0\.\.10, expected 0\.\.9"),
        ({"labels": np.array([0, -1], np.int16)}, r"labels lie in -1\.\.0"),
        ({"labels": np.array([0.0, 1.0])}, "`labels` is float64"),
        ({"labels": np.array([0], np.int16)}, r"labels have shape \(1,\), expected \(2,\)"),
        ({"split": np.array([0], np.uint8)}, "split must hold 2 codes"),
        ({"split": np.array([0, 9], np.uint8)}, "split must hold 2 codes"),
        ({"split": None}, "cannot read `split`"),
        ({"offsets": np.array([0, 50, 20], np.int64)}, "offsets must start at 0 and grow"),
        ({"offsets": np.array([0, 5, 10_000_000], np.int64)}, "as its offsets say"),
        ({"offsets": np.array([0], np.int64)}, "holds no images"),
        ({"images": np.zeros(9, np.float32)}, "`images` is float32"),
        ({"class_names": np.array(["a", "b"])}, "2 class names, expected 10"),
    ],
)
def test_damaged_pack_is_refused_and_named(make, root, clean, change, message):
    arrays = {"labels": np.array([0, 1], np.int16)} | change
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(2), [0, 0], **arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load("cifar10", download=False)
    assert "cifar10-part1.npz" in str(caught.value)
    clean()


def test_truncated_pack_and_broken_image_are_named(make, root, clean):
    path = make.pack(root / "packs" / "cifar10-part1.npz", make.colours(40), [0] * 40, labels=np.zeros(40, np.int16))
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(DataError, match="cifar10-part1.npz"):
        data.load("cifar10", download=False)
    junk = np.frombuffer(b"no image at all", np.uint8)
    labels = np.array([0], np.int16)
    make.pack(path, make.colours(1), [0], labels=labels, images=junk, offsets=np.array([0, 15], np.int64))
    with pytest.raises(DataError, match=r"cifar10-part1\.npz, image 0: not a readable image"):
        data.load("cifar10", download=False)
    clean()


def test_pack_with_pickled_objects_is_refused(make, root, clean):
    labels = np.array([{"a": 1}], dtype=object)
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(1), [0], labels=labels)
    with pytest.raises(DataError, match="cannot read `labels`"):
        data.load("cifar10", download=False)
    clean()


def test_a_split_the_pack_lacks_is_looked_for_elsewhere(make, root):
    make.pack(root / "packs" / "svhn-part1.npz", make.colours(1), [0], labels=np.array([7], np.int16))
    assert data.load("svhn", download=False).labels.tolist() == [7]
    with pytest.raises(DataError, match="extra_32x32.mat"):
        data.load("svhn", "extra", download=False)
