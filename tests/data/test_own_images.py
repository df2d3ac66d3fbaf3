from __future__ import annotations

import os

import numpy as np
import pytest
from PIL import Image

from agelib import data
from agelib.data import DataError
from agelib.data.pixels import flatten, to_array


def save(path, x, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    (x if isinstance(x, Image.Image) else Image.fromarray(x)).save(path, **options)


def both(name, **options):
    return data.load(name, "train", **options), data.load(name, "test", **options)


def test_folder_holds_out_a_fixed_tenth(make, root, tmp_path):
    x = make.colours(20, 10)
    for i in range(20):
        save(tmp_path / "mine" / f"{i:02}.png", x[i])
    (tmp_path / "mine" / "notes.txt").write_text("not an image, and not called one")
    (tmp_path / "mine" / "._00.png").write_text("hidden")
    train, test = both(f"folder:{tmp_path / 'mine'}")
    assert train.images.shape == (18, 3, 32, 32) and test.images.shape == (2, 3, 32, 32)
    assert train.labels is None and train.class_names is None and train.stand_in_for is None
    colours = {tuple(i[:, 0, 0]) for i in [*train.images, *test.images]}
    assert colours == {tuple(i[0, 0]) for i in x}
    assert "18 of its 20 images" in train.source and "a fixed tenth (seed 0) is held out as test" in test.source
    again = data.load(f"folder:{tmp_path / 'mine'}", "test")
    assert again.sha256 == test.sha256


def test_folder_classes_are_subfolders(make, root, tmp_path):
    base = tmp_path / "pets"
    x = make.colours(12, 10)
    for i in range(12):
        save(base / ("cat", "dog")[i % 2] / "deep" / f"{i}.bmp", x[i])
    train, test = both(f"folder:{base}", size=8)
    assert train.class_names == test.class_names == ("cat", "dog")
    for found in (train, test):
        for image, label in zip(found.images, found.labels, strict=True):
            i = next(i for i in range(12) if (x[i][0, 0] == image[:, 0, 0]).all())
            assert label == i % 2
    save(base / "stray.png", x[0])
    assert data.load(f"folder:{base}", size=8).labels is None


def test_folder_with_train_and_test(make, root, tmp_path):
    x = make.colours(3, 10)
    save(tmp_path / "f" / "train" / "b" / "0.png", x[0])
    save(tmp_path / "f" / "train" / "a" / "1.png", x[1])
    save(tmp_path / "f" / "test" / "b" / "2.png", x[2])
    train, test = both(f"folder:{tmp_path / 'f'}")
    assert sorted(train.labels.tolist()) == [0, 1] and test.labels.tolist() == [1]
    assert train.class_names == test.class_names == ("a", "b")
    assert (test.images[0].transpose(1, 2, 0) == x[2][0, 0]).all() and "held out" not in test.source


def test_a_changed_folder_is_prepared_anew(make, root, tmp_path):
    path = tmp_path / "f" / "a.png"
    for name in ("a", "b"):
        save(tmp_path / "f" / f"{name}.png", np.full((4, 4, 3), 10, np.uint8))
    before = np.concatenate([s.images for s in both(f"folder:{tmp_path / 'f'}")])
    assert (before == 10).all()
    save(path, np.full((4, 4, 3), 200, np.uint8))
    os.utime(path, (1, 1))
    after = np.concatenate([s.images for s in both(f"folder:{tmp_path / 'f'}")])
    assert sorted(after[:, 0, 0, 0].tolist()) == [10, 200]


def test_every_suffix_is_read(root, tmp_path):
    for suffix in ("png", "jpg", "JPEG", "bmp", "webp", "gif"):
        save(tmp_path / "f" / f"x.{suffix}", Image.new("RGB", (9, 5), (255, 255, 255)))
    train, test = both(f"folder:{tmp_path / 'f'}")
    assert len(train) + len(test) == 6
    assert train.images.min() >= 253


def test_modes_become_grey_or_rgb():
    def pixel(im, channels=3):
        return to_array(im, 1, channels)[:, 0, 0].tolist()

    assert pixel(Image.new("RGBA", (1, 1), (200, 100, 0, 0))) == [255, 255, 255]
    # half-transparent over white: 200 * 128/255 + 255 * 127/255 = 227.4, 100 -> 177.2, 0 -> 127
    np.testing.assert_allclose(pixel(Image.new("RGBA", (1, 1), (200, 100, 0, 128))), [227, 177, 127], atol=1)
    assert pixel(Image.new("LA", (1, 1), (40, 255))) == [40, 40, 40]
    assert pixel(Image.new("1", (1, 1), 1)) == [255, 255, 255]
    assert pixel(Image.new("CMYK", (1, 1), (0, 255, 255, 0))) == [255, 0, 0]
    assert pixel(Image.fromarray(np.array([[0x1234]], np.uint16)), 1) == [0x12]
    assert pixel(Image.fromarray(np.array([[65535]], np.int32)), 1) == [255]
    palette = Image.new("P", (1, 1), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    assert pixel(palette) == [9, 8, 7]
    palette.info["transparency"] = 1
    assert pixel(palette) == [255, 255, 255]
    assert pixel(Image.new("L", (1, 1), 77), 1) == [77]
    assert pixel(Image.new("RGB", (1, 1), (255, 0, 0)), 1) == [76]  # 0.299 * 255
    with pytest.raises(ValueError, match="floats"):
        flatten(Image.new("F", (1, 1)))
    with pytest.raises(ValueError, match="do not fit 16 bits"):
        flatten(Image.fromarray(np.array([[70000]], np.int32)))


def test_16_bit_png_and_rotated_photo_in_a_folder(root, tmp_path):
    save(tmp_path / "f" / "deep.png", np.full((4, 4), 0x8000, np.uint16))
    photo = np.zeros((8, 8, 3), np.uint8)
    photo[:4] = 255  # bright above; orientation 3 turns it upside down
    exif = Image.Exif()
    exif[0x0112] = 3
    save(tmp_path / "f" / "photo.png", Image.fromarray(photo), exif=exif)
    images = np.concatenate([s.images for s in both(f"folder:{tmp_path / 'f'}", size=8)])
    deep, turned = sorted(images, key=lambda x: x[0, 0, 0] == 0)
    assert (deep == 0x80).all()
    assert turned[0, 0, 0] == 0 and turned[0, 7, 0] == 255


@pytest.mark.parametrize("content", [b"", b"text", b"\x89PNG\r\n\x1a\n" + b"\0" * 50])
def test_a_file_that_is_no_image_is_named(root, clean, tmp_path, content):
    save(tmp_path / "f" / "good.png", np.zeros((4, 4, 3), np.uint8))
    (tmp_path / "f" / "bad.png").write_bytes(content)
    with pytest.raises(DataError, match=r"bad\.png: not a readable image"):
        both(f"folder:{tmp_path / 'f'}")


def test_truncated_image_is_named(root, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name in ("a.jpg", "b.jpg"):
        save(tmp_path / "f" / name, noise)
        content = (tmp_path / "f" / name).read_bytes()
        (tmp_path / "f" / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"[ab]\.jpg: not a readable image"):
        data.load(f"folder:{tmp_path / 'f'}")


def test_folders_without_images(root, clean, tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        data.load(f"folder:{tmp_path / 'nowhere'}")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: holds no images"):
        data.load(f"folder:{tmp_path / 'empty'}")
    save(tmp_path / "one" / "x.png", np.zeros((4, 4, 3), np.uint8))
    assert len(data.load(f"folder:{tmp_path / 'one'}")) == 1
    with pytest.raises(DataError, match="too few to hold one out"):
        data.load(f"folder:{tmp_path / 'one'}", "test")


# ---- npz


def test_npz_grey_with_labels(root, tmp_path):
    x = np.arange(30, dtype=np.uint8)[:, None, None] * np.ones((30, 32, 32), np.uint8)
    np.savez(tmp_path / "a.npz", images=x, labels=np.arange(30) % 3, class_names=np.array(["p", "q", "r"]))
    train, test = both(f"npz:{tmp_path / 'a.npz'}")
    assert train.images.shape == (27, 1, 32, 32) and test.images.shape == (3, 1, 32, 32)
    for found in (train, test):
        np.testing.assert_array_equal(found.images[:, 0, 0, 0] % 3, found.labels)
    values = [*train.images[:, 0, 0, 0], *test.images[:, 0, 0, 0]]
    assert sorted(values) == list(range(30)) and train.class_names == ("p", "q", "r")
    assert "27 of its 30 images" in train.source


def test_npz_colour_with_a_split_of_its_own(make, root, tmp_path):
    x = make.colours(5, 20)
    np.savez_compressed(tmp_path / "b.npz", images=x, split=np.array([1, 0, 0, 1, 0], np.uint8))
    train, test = both(f"npz:{tmp_path / 'b.npz'}", size=20)
    np.testing.assert_array_equal(train.images, x[[1, 2, 4]].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(test.images, x[[0, 3]].transpose(0, 3, 1, 2))
    assert train.labels is None and "held out" not in train.source


GREY = np.zeros((4, 8, 8), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY.astype(np.float32)}, "`images` are float32, expected uint8"),
        ({"images": GREY.astype(np.int64)}, "`images` are int64, expected uint8"),
        ({"images": GREY[0]}, r"`images` have shape \(8, 8\)"),
        ({"images": GREY[..., None].repeat(4, 3)}, r"have shape \(4, 8, 8, 4\)"),
        ({"images": GREY[:0]}, "`images` are empty"),
        ({"pictures": GREY}, "not an .npz with an array `images`"),
        ({"images": GREY, "labels": np.zeros(3, int)}, r"labels have shape \(3,\), expected \(4,\)"),
        ({"images": GREY, "labels": np.zeros(4)}, "labels are float64, expected integers"),
        ({"images": GREY, "labels": np.array([0, 1, 2, -1])}, r"labels lie in -1\.\.2"),
        ({"images": GREY, "labels": np.array([0, 1, 2, 2]), "class_names": np.array(["a", "b"])}, r"expected 0\.\.1"),
        ({"images": GREY, "split": np.array([0, 1, 2, 0])}, r"`split`: labels lie in 0\.\.2"),
        ({"images": GREY, "split": np.ones(4, int)}, "no train images"),
        ({"images": GREY, "labels": np.array([None] * 4, dtype=object)}, "not readable"),
    ],
)
def test_npz_that_does_not_fit_is_named(root, clean, tmp_path, arrays, message):
    np.savez(tmp_path / "c.npz", **arrays)
    with pytest.raises(DataError, match=message) as caught:
        data.load(f"npz:{tmp_path / 'c.npz'}")
    assert "c.npz" in str(caught.value)
    clean()


def test_npz_damaged_or_absent(root, clean, tmp_path):
    path = tmp_path / "d.npz"
    with pytest.raises(DataError, match=r"d\.npz: no such file"):
        data.load(f"npz:{path}")
    np.savez(path, images=np.random.default_rng(0).integers(0, 256, (9, 32, 32), dtype=np.uint8))
    whole = bytearray(path.read_bytes())
    whole[3000] ^= 255  # inside the pixels: the zip's CRC is wrong
    for content in (bytes(whole), bytes(whole[:-40]), b"", b"PK\3\4"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"d\.npz"):
            data.load(f"npz:{path}")
        clean()


def test_one_image_file_of_any_kind(tmp_path):
    """A 16-bit grey, a palette, a half transparent and a wide picture; and a text file called .jpg."""
    grey = np.full((40, 30), 0x8040, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert (data.read_image(tmp_path / "deep.png", 28, 1) == 0x80).all()
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    assert (data.read_image(tmp_path / "clear.png", 8, 3) == 255).all()
    Image.new("RGB", (20, 20), (0, 0, 255)).convert("P").save(tmp_path / "palette.gif")
    assert data.read_image(tmp_path / "palette.gif", 8, 3)[:, 0, 0].tolist() == [0, 0, 255]
    Image.new("RGB", (900, 10), (9, 9, 9)).save(tmp_path / "wide.bmp")
    assert data.read_image(tmp_path / "wide.bmp", 16, 1).shape == (1, 16, 16)
    (tmp_path / "text.jpg").write_text("not an image")
    for name in ("text.jpg", "missing.png"):
        with pytest.raises(data.DataError, match=name):
            data.read_image(tmp_path / name, 28, 1)


def test_what_was_changed_in_an_image_is_said_in_one_line(tmp_path):
    rgb = np.arange(3 * 64, dtype=np.uint8).reshape(8, 8, 3)
    kinds = {
        "plain.png": (Image.fromarray(rgb), None),
        "clear.png": (Image.fromarray(np.dstack([rgb, rgb[..., :1]])), "clear.png: transparency laid over white"),
        "deep.png": (Image.fromarray(np.full((8, 8), 0x1234, np.uint16)), "deep.png: 16 bits cut to 8; grey: it has"),
        "grey.jpg": (Image.fromarray(rgb[..., 0]), "grey.jpg: grey: it has lightness but no colours"),
        "print.jpg": (Image.fromarray(rgb).convert("CMYK"), "print.jpg: CMYK turned into RGB"),
        "few.gif": (Image.fromarray(rgb).quantize(4), "few.gif: palette turned into RGB"),
        "wide.png": (Image.fromarray(np.zeros((40, 10_000, 3), np.uint8)), "wide.png: 10000 x 40 squashed to 8 x 8"),
    }
    for name, (image, line) in kinds.items():
        image.save(tmp_path / name)
        said = []
        x = data.read_image(tmp_path / name, 8, 3, say=said.append)
        assert x.shape == (3, 8, 8) and x.dtype == np.uint8
        assert (said == []) if line is None else (len(said) == 1 and said[0].startswith(line)), name
        assert np.array_equal(x, data.decode_image((tmp_path / name).read_bytes(), name, 8, 3))
    said = []
    data.read_image(tmp_path / "plain.png", 8, 1, say=said.append)
    assert said == ["plain.png: colours dropped"]
    with pytest.raises(data.DataError, match="notes.jpg: not a readable image"):
        data.decode_image(b"no picture", "notes.jpg", 8, 3)
