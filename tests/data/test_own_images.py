import os

import numpy as np
import pytest
from PIL import Image

from agelib import data
from agelib.data.pixels import to_array


def both(path, **options):
    return data.load(f"folder:{path}", "train", **options), data.load(f"folder:{path}", "test", **options)


def colour(image):
    """Of a (C, H, W) image of one colour."""
    return tuple(image[:, 0, 0].tolist())


def test_folder_holds_out_a_fixed_tenth_and_counts_what_it_leaves_out(make, root, tmp_path):
    x, base = make.colours(20, 10), tmp_path / "mine"
    for i in range(20):
        make.file(base / f"{i:02}.{('png', 'tif', 'bmp')[i % 3]}", x[i])
    make.file(base / "notes.txt", "not an image, and not called one")
    make.file(base / "._00.png", "hidden")
    (base / "linked").symlink_to(tmp_path)
    (base / "broken.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(base / "pipe.png")
    train, test = both(base)
    assert train.images.shape == (18, 3, 32, 32) and test.images.shape == (2, 3, 32, 32)
    assert train.labels is None and train.class_names is None and train.stand_in_for is None and train.caption == "mine"
    assert {colour(i) for i in [*train.images, *test.images]} == {tuple(i[0, 0].tolist()) for i in x}
    assert "18 of its 20 images" in train.source and "a fixed tenth (seed 0) is held out as test" in test.source
    assert train.source.endswith("left out: 1 .txt, 1 broken links, 1 hidden, 1 links to folders, 1 not plain files")
    stamp = (base / "02.bmp").stat()
    make.file(base / "02.bmp", np.full((10, 10, 3), 7, np.uint8))
    os.utime(
        base / "02.bmp", ns=(stamp.st_atime_ns, stamp.st_mtime_ns)
    )  # as tools do that keep times; the size is the same too
    assert (7, 7, 7) in {colour(i) for found in both(base) for i in found.images}  # a changed folder is prepared anew


def test_folder_classes_are_subfolders(make, root, tmp_path):
    x, base = make.colours(12, 10), tmp_path / "pets"
    for i in range(12):
        make.file(base / ("cat", "dog")[i % 2] / "deep" / f"{i}.bmp", x[i])
    train, test = both(base, size=8)
    label_of = {tuple(x[i][0, 0].tolist()): i % 2 for i in range(12)}
    for found in (train, test):
        assert found.class_names == ("cat", "dog")
        assert [label_of[colour(image)] for image in found.images] == found.labels.tolist()
    make.file(base / "stray.png", x[0])
    without = data.load(f"folder:{base}", size=8)
    assert without.labels is None and without.source.endswith("no labels, since 1 images lie outside the class folders")


@pytest.mark.parametrize(
    ("test_folder", "more", "left_out"),
    [
        ("test", (), ""),
        ("test", ("val/a/0.png", "val/a/1.png", "c/2.png", "stray.png"), "1 beside train/, 1 in c/, 2 in val/"),
        ("val", ("train/a/linked.png",), "1 in train/ and in val/"),
        ("Validation", ("stray.png",), "1 beside train/"),
    ],
)
def test_images_of_a_test_folder_never_train(make, root, tmp_path, test_folder, more, left_out):
    x, base = make.colours(3, 10), tmp_path / "f"
    for name, image in zip(("train/b/0.png", "train/a/1.png", f"{test_folder}/b/2.png"), x, strict=True):
        make.file(base / name, image)
    for name in more:
        if name.startswith("train"):
            (base / name).symlink_to(base / test_folder / "b" / "2.png")
        else:
            make.file(base / name, x[2])
    train, test = both(base)
    assert sorted(train.labels.tolist()) == [0, 1] and test.labels.tolist() == [1]
    assert train.class_names == test.class_names == ("a", "b")
    assert {colour(i) for i in train.images} == {tuple(i[0, 0].tolist()) for i in x[:2]}
    assert colour(test.images[0]) == tuple(x[2][0, 0].tolist()) and "held out" not in test.source
    assert train.source.partition("; left out: ")[2] == left_out and (left_out or "left" not in train.source)


def test_modes_become_grey_or_rgb():
    def pixel(image, channels=3):
        return to_array(image, 1, channels)[:, 0, 0].tolist()

    assert pixel(Image.new("RGBA", (1, 1), (200, 100, 0, 0))) == pixel(Image.new("1", (1, 1), 1)) == [255, 255, 255]
    half = pixel(Image.new("RGBA", (1, 1), (200, 100, 0, 128)))  # over white: 200 * 128/255 + 255 * 127/255 = 227.4, ...
    np.testing.assert_allclose(half, [227, 177, 127], atol=1)
    assert pixel(Image.new("LA", (1, 1), (40, 255))) == [40, 40, 40]
    assert pixel(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [255, 0, 0]
    assert pixel(Image.new("RGB", (1, 1), (255, 0, 0)), 1) == [76]  # 0.299 * 255
    assert pixel(Image.fromarray(np.array([[0x1234]], np.uint16)), 1) == [0x12]
    assert pixel(Image.fromarray(np.array([[65535]], np.int32)), 1) == [255]
    with pytest.raises(ValueError, match="do not fit 16 bits"):
        pixel(Image.fromarray(np.array([[70000]], np.int32)))
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert pixel(palette) == [9, 8, 7]
    palette.info["transparency"] = 1
    assert pixel(palette) == [255, 255, 255]


def test_one_image_of_any_kind_and_what_was_changed_is_said_in_one_line(make, tmp_path):
    rgb = np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3)
    kinds = {
        "plain.png": (Image.fromarray(rgb), None),
        "plain.webp": (Image.fromarray(rgb), None),
        "clear.png": (Image.new("RGBA", (8, 8), (255, 0, 0, 0)), "clear.png: transparency laid over white"),
        "deep.png": (Image.fromarray(np.full((8, 8), 0x8040, np.uint16)), "deep.png: 16 bits cut to 8; grey: it has"),
        "grey.jpg": (Image.fromarray(rgb[..., 0]), "grey.jpg: grey: it has lightness but no colours"),
        "print.JPEG": (Image.fromarray(rgb).convert("CMYK"), "print.JPEG: CMYK turned into RGB"),
        "few.gif": (Image.new("RGB", (8, 8), (0, 0, 255)).convert("P"), "few.gif: palette turned into RGB"),
        "wide.tif": (Image.fromarray(np.zeros((40, 10_000, 3), np.uint8)), "wide.tif: 10000 x 40 squashed to 8 x 8"),
    }
    for name, (image, line) in kinds.items():
        path, said = make.file(tmp_path / name, image), []
        x = data.read_image(path, 8, 3, say=said.append)
        assert x.shape == (3, 8, 8) and x.dtype == np.uint8
        assert (said == []) if line is None else (len(said) == 1 and said[0].startswith(line)), name
        assert np.array_equal(x, data.read_image(path.read_bytes(), 8, 3, name=name))
    data.read_image(tmp_path / "plain.png", 8, 1, say=said.append)
    assert said[1:] == ["plain.png: colours dropped"]
    photo, exif = np.zeros((8, 8, 3), np.uint8), Image.Exif()
    photo[:4], exif[0x0112] = 255, 3  # bright above; orientation 3 turns it upside down
    for suffix in ("png", "jpg", "tif"):
        turned = data.read_image(make.file(tmp_path / f"photo.{suffix}", photo, exif=exif), 8, 3)
        assert turned[0, 0, 0] < 9 and turned[0, 7, 0] > 246


def test_npz_with_labels_and_with_a_split_of_its_own(make, root, tmp_path):
    x, colours = np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((30, 32, 32), np.uint8), make.colours(5, 20)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(30) % 3, class_names=np.array(["p", "q", "r"]))
    train, test = (data.load(f"npz:{tmp_path / 'a.npz'}", split) for split in ("train", "test"))
    assert train.images.shape == (27, 1, 32, 32) and test.images.shape == (3, 1, 32, 32)
    for found in (train, test):
        np.testing.assert_array_equal(found.images[:, 0, 0, 0] % 3, found.labels)
    assert sorted([*train.images[:, 0, 0, 0], *test.images[:, 0, 0, 0]]) == list(range(30))
    assert train.class_names == ("p", "q", "r") and "27 of its 30 images" in train.source and train.caption == "a.npz"
    np.savez_compressed(tmp_path / "b.npz", images=np.asfortranarray(colours), split=np.array([1, 0, 0, 1, 0], np.uint8))
    train, test = (data.load(f"npz:{tmp_path / 'b.npz'}", split, size=20) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, colours[[1, 2, 4]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images, colours[[0, 3]].transpose(0, 3, 1, 2))
    assert train.labels is None and "held out" not in train.source
