import shutil

import numpy as np
import pytest

from agelib import data
from agelib.data import DataError


def load(name, split="train", **options):
    return data.load(name, split, download=False, **options)


def test_parts_are_joined_in_order_and_divided_by_split(make, root, tmp_path, monkeypatch):
    """The parts lie in two folders, the second named by the environment; one is in both; part 10 comes after part 9."""
    x, y = make.colours(11), [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]
    for k in range(1, 11):
        last = 11 if k == 10 else k
        make.pack(tmp_path / "b" / f"cifar10-part{k}.npz", x[k - 1 : last], [0, 1][: last - k + 1], y[k - 1 : last])
    (root / "packs").mkdir()
    shutil.copy(tmp_path / "b" / "cifar10-part1.npz", root / "packs")
    monkeypatch.setenv("AGELIB_PACKS", f"{tmp_path / 'nowhere'}:{tmp_path / 'b'}")
    assert data.available()["cifar10"] == "pack"
    train, test = load("cifar10"), load("cifar10", "test")
    assert train.images.dtype == np.uint8 and train.labels.dtype == np.int64
    np.testing.assert_array_equal(train.images, x[:10].transpose(0, 3, 1, 2))
    assert train.labels.tolist() == y[:10] and test.labels.tolist() == y[10:]
    assert train.class_names[9] == "truck" and train.caption == "cifar10"
    assert train.source == "pack, 10 of 50,000 official training images"
    assert not train.complete and train.stand_in_for is None


def test_jpeg_pack_of_a_lossless_set_says_so_and_parts_may_share_a_few_images(make, root):
    """Real sets hold a few images twice; a copied part is in test_bad_input.py."""
    x = make.colours(21)
    make.pack(root / "packs" / "svhn-part1.npz", x[:11], [0] * 11, [7] * 11, "JPEG")
    make.pack(root / "packs" / "svhn-part2.npz", x[10:], [0] * 11, [0] * 11, "JPEG")
    found = load("svhn")
    assert found.source.endswith("; JPEG-coded, so not bit for bit the official pixels") and len(found) == 22
    assert np.abs(found.images[:11].astype(int) - x[:11].transpose(0, 3, 1, 2)).max() <= 3
    with pytest.raises(DataError, match="extra_32x32.mat"):  # a split the pack lacks is looked for elsewhere
        load("svhn", "extra")


def test_celeba_pack_is_cropped_as_in_age(make, root):
    # Row r of the squashed 64 x 64 image has grey 4 r: the crop spans rows 5.744 .. 58.256, so crop row i looks at
    # source row 5.744 + (i + 0.5) * 52.513 / 64 - 0.5, and columns stay as they are.
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None] * 4, 64, axis=1).repeat(3, axis=2)
    make.pack(root / "packs" / "celeba64-part1.npz", ramp[None].repeat(3, 0), [0, 1, 2], ids=np.arange(3, dtype="i4"))
    found, small = load("celeba", "validation"), load("celeba", "test", size=32)
    assert found.labels is None and found.class_names is None and small.images.shape == (1, 3, 32, 32)
    expected = 4 * (7 * 64 / 78 + (np.arange(64) + 0.5) * (64 * 64 / 78) / 64 - 0.5)
    np.testing.assert_allclose(found.images[0, 0, 1:-1, 10], expected[1:-1], atol=1.0)
    np.testing.assert_allclose(small.images[0, 0, 1:-1, 10], expected.reshape(32, 2).mean(1)[1:-1], atol=1.5)
    assert found.source.startswith("pack, 1 of 19,867 official validation images")


def test_cars_pack_without_test_images_holds_out_every_tenth(make, root):
    names = np.array([f"car {k}" for k in range(196)])
    make.pack(root / "packs" / "cars64-part1.npz", make.colours(21), [0] * 21, range(21), class_names=names)
    test = load("stanford_cars", "test")
    assert test.labels.tolist() == [9, 19] and test.images.shape == (2, 3, 64, 64) and test.class_names[19] == "car 19"
    assert test.source.startswith("pack, 2 of 8,144 official training images; ") and not test.complete
    assert test.source.endswith("every tenth image is held out as test")
    assert load("stanford_cars").labels.tolist() == [*range(9), *range(10, 19), 20]
