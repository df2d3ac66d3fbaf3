"""Pictures of images: what is drawn where, to the pixel where it matters."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.ImageColor import getrgb

from agelib.plot import images
from agelib.plot.figure import BLUE, DPI, MARGIN, ORANGE

RNG = np.random.default_rng(0)


def pixels(figure) -> np.ndarray:
    """The saved page; "tight" must not shift images off the pixel grid."""
    figure.savefig(buffer := io.BytesIO(), format="png", dpi=DPI, bbox_inches="tight")
    return np.asarray(Image.open(buffer).convert("RGB"))


def flat(*levels: int, size: int = 8) -> np.ndarray:
    return np.stack([np.full((1, size, size), level, np.uint8) for level in levels])


def coloured(n: int, *colour: int) -> np.ndarray:
    return np.broadcast_to(np.array(colour, np.uint8).reshape(1, 3, 1, 1), (n, 3, 32, 32))


def area(page: np.ndarray, *colour: int) -> float:
    """The pixels of one colour, in images at factor 3 of 32 x 32."""
    return (page == colour).all(-1).sum() / (3 * 32) ** 2


def test_floats_of_any_type_cover_the_byte_range_and_grey_becomes_three_channels():
    x = torch.tensor([-1.0, -0.5, 0.0, 1.0]).reshape(1, 1, 2, 2)
    for given in (x.numpy(), x.double().numpy(), x.bfloat16(), x.requires_grad_()):
        out = images.to_rgb8(given)
        assert out.shape == (1, 2, 2, 3) and (out == out[..., :1]).all()
        assert out[0, ..., 0].ravel().tolist() == [0, 64, 128, 255]  # (v + 1) * 127.5 = 0, 63.75, 127.5, 255


def test_every_image_pixel_is_a_square_of_file_pixels():
    x = (np.arange(4 * 64).reshape(4, 1, 8, 8) % 64 * 4).astype(np.uint8)
    page = pixels(images.grid(x, ncols=2))
    zoom, gap = 12, 2  # 8 px images: 100 // 8 = 12
    for i in range(4):
        top, left = MARGIN + (i // 2) * (8 * zoom + gap), MARGIN + (i % 2) * (8 * zoom + gap)
        block = page[top : top + 8 * zoom, left : left + 8 * zoom, 0]
        assert (block == x[i, 0].repeat(zoom, 0).repeat(zoom, 1)).all()


def test_pairs_alternate_and_frames_say_which_is_which():
    page = pixels(images.real_reconstruction(flat(0, 40), flat(200, 240)))
    tile, legend = 8 * 12 + 2 * 2, 28
    lefts = [MARGIN, MARGIN + tile + 1, MARGIN + 2 * (tile + 1) + 6, MARGIN + 3 * (tile + 1) + 6]
    row = page[MARGIN + legend + tile // 2]
    assert [row[left + tile // 2, 0] for left in lefts] == [0, 200, 40, 240]
    assert [tuple(row[left + 1]) for left in lefts] == [getrgb(BLUE), getrgb(ORANGE)] * 2


def test_figure2_has_three_named_panels_of_one_height():
    figure = images.figure2(flat(*range(9)), flat(*range(6)), flat(*range(6)), flat(*range(40)), nrows=2)
    names = [text.get_text() for text in figure.texts]
    assert names == ["(a) real images", "(b) samples g(z)", "(c) x and g(e(x)) in turn"]
    assert len({round(ax.get_position().height * figure.bbox.height) for ax in figure.axes}) == 1
    edges = [text.get_window_extent(figure.canvas.get_renderer()) for text in figure.texts]
    assert edges[0].x1 < edges[1].x0 and edges[1].x1 < edges[2].x0 and edges[2].x1 < figure.bbox.width


def test_figure3_has_a_column_for_each_model():
    x = RNG.integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    black, white = np.zeros_like(x), np.full_like(x, 255)
    figure = images.figure3(x, {"AGE": black, "ALI": white}, {"AGE": black, "GAN": white})
    headings = [text.get_text() for text in figure.texts]
    blocks = headings.count("x")
    assert blocks >= 2 and headings.count("AGE") == headings.count("ALI") == blocks
    assert [t for t in headings if t.startswith("samples")] == ["samples: AGE", "samples: GAN"]
    columns = [ax.images[0].get_array() for ax in figure.axes]
    for row in range(6):  # first block: x, black, white; the tiles lie inside a frame of 2 pixels
        y = 2 + row * (32 * 2 + 5)
        tile = columns[0][y : y + 64, 2:66]
        assert np.abs(tile[::2, ::2].astype(int) - x[row].transpose(1, 2, 0)).max() <= 3
        assert (columns[1][y : y + 64, 2:66] == 0).all() and (columns[2][y : y + 64, 2:66] >= 252).all()
    assert images.figure3(x[:1], {"AGE": black[:1]})


def test_figure4a_has_a_row_a_model_and_shows_each_picture_once():
    inputs = coloured(2, 100, 100, 100)[:, :1]
    rows = {"AGE": np.stack([coloured(3, 200, 0, 0)] * 2), "other": np.stack([coloured(3, 0, 0, 200)] * 2)}
    page = pixels(figure := images.figure4a(inputs, rows))
    assert area(page, 200, 0, 0) == area(page, 0, 0, 200) == 6
    assert area(page, 100, 100, 100) == pytest.approx(4, abs=0.05)  # letters have some
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["input to AGE", "input to other"]
    framed = [tuple(page[-MARGIN - 50 - i * (32 * 3 + 7), MARGIN + 1]) for i in range(4)]  # from below
    assert framed == [getrgb(ORANGE), getrgb(BLUE)] * 2


def test_figure4b_is_a_matrix_with_its_margins():
    inside = np.stack([coloured(3, 200, 0, 0)] * 2)
    page = pixels(images.figure4b(coloured(3, 0, 200, 0), coloured(2, 100, 100, 100), inside))
    assert (area(page, 200, 0, 0), area(page, 0, 200, 0)) == (6, 3)
    assert area(page, 100, 100, 100) == pytest.approx(2, abs=0.05)


def test_interpolations_frame_the_ends_and_neighbours_stand_below_their_sample():
    row = pixels(images.interpolations([flat(0, 100, 200)]))[-MARGIN - 50]
    assert sum(tuple(pixel) == getrgb(BLUE) for pixel in row) == 8  # two columns on either side of two tiles
    page, tile = pixels(images.neighbours(flat(0, 40), flat(80, 120))), 8 * 12 + 4 + 3
    shown = [[int(page[-MARGIN - 50 - r * tile, MARGIN + 50 + c * (tile - 2), 0]) for c in range(2)] for r in (1, 0)]
    assert shown == [[0, 40], [80, 120]]


X, BLOCK = flat(0, 1), coloured(6, 1, 2, 3).reshape(2, 3, 3, 32, 32)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: images.grid(np.zeros((1, 2, 8, 8), np.uint8)), "C 1 or 3"),
        (lambda: images.grid(X[:0]), "nothing empty"),
        (lambda: images.grid(X.astype(int)), "int64"),
        (lambda: images.grid(np.full((1, 1, 8, 8), np.nan)), "nan"),
        (lambda: images.real_reconstruction(X, X[:1]), "same shape"),
        (lambda: images.figure3(X, {"a": X[:1]}), "same shape"),
        (lambda: images.figure4a(BLOCK[:, 0], {"a": BLOCK, "b": BLOCK[:, :2]}), "same shape"),
        (lambda: images.figure4a(BLOCK[:1, 0], {"a": BLOCK}), "has size 1 and .* has size 2"),
        (lambda: images.figure4a(BLOCK[:, 0], {str(i): BLOCK for i in range(7)}), "at most 6 models, got 7"),
        (lambda: images.figure4b(BLOCK[0], BLOCK[:, 0], BLOCK[:, :2]), "must match"),
        (lambda: images.interpolations([X, X[:1]]), "same shape"),
        (lambda: images.neighbours(X, flat(0, 1, 2)), "same shape"),
    ],
)
def test_what_is_no_image_or_does_not_belong_together_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_titles_are_wrapped_inside_the_figure():
    long = "Held-out images of a stand-in data set and what the generator makes of their codes"
    figure = images.grid(flat(0), title=long)
    figure.draw_without_rendering()
    assert len(figure.texts) > 1 and " ".join(line.get_text() for line in figure.texts) == long
    assert max(line.get_window_extent().x1 for line in figure.texts) <= figure.bbox.width


def test_notebooks_get_a_png_or_for_large_photographs_a_jpeg():
    small = images.grid(flat(0))._repr_mimebundle_()
    assert list(small) == ["image/png"] and small["image/png"].startswith(b"\x89PNG")
    large = images.grid(RNG.integers(0, 256, (64, 3, 32, 32), np.uint8))._repr_mimebundle_()
    assert list(large) == ["image/jpeg"] and large["image/jpeg"].startswith(b"\xff\xd8")
