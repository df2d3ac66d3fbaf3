"""Figures: what is drawn where, to the pixel where it matters."""

import csv
import io

import numpy as np
import pytest
import torch
from PIL import Image

from agelib import decoders, plotting, plotting_theory
from agelib.plotting import DPI


def pixels(figure, **kwargs) -> np.ndarray:
    """The figure as (H, W, 3) uint8, as savefig writes it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, **kwargs)
    return np.asarray(Image.open(buffer).convert("RGB"))


def rgb(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5))


def flat(*levels: int, channels: int = 1, size: int = 8) -> np.ndarray:
    """One uint8 image of a single level each, (N, channels, size, size)."""
    return np.stack([np.full((channels, size, size), level, np.uint8) for level in levels])


def test_floats_cover_the_byte_range_and_grey_becomes_three_channels():
    x = np.array([-1.0, -0.5, 0.0, 1.0], np.float32).reshape(1, 1, 2, 2)
    out = plotting.to_rgb8(x)
    assert out.shape == (1, 2, 2, 3)
    # (v + 1) * 127.5 = 0, 63.75, 127.5, 255
    assert out[0, ..., 0].ravel().tolist() == [0, 64, 128, 255]
    assert (out == out[..., :1]).all()


def test_tensors_of_any_float_type_are_images_too():
    x = torch.tensor([-1.0, 1.0, 1.0, -1.0]).reshape(1, 1, 2, 2)
    for tensor in (x, x.bfloat16(), x.requires_grad_()):
        assert plotting.to_rgb8(tensor)[0, ..., 0].ravel().tolist() == [0, 255, 255, 0]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((3, 8, 8), np.uint8), r"\(N, C, H, W\)"),
        (np.zeros((1, 2, 8, 8), np.uint8), "C 1 or 3"),
        (np.zeros((0, 1, 8, 8), np.uint8), "nothing empty"),
        (np.zeros((1, 1, 8, 8), np.int64), "int64"),
        (np.full((1, 1, 8, 8), 2.0), r"\[-1, 1\], got \[2, 2\]"),
        (np.full((1, 1, 8, 8), np.nan), "not finite"),
    ],
)
def test_what_is_no_image_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        plotting.grid(images)


def test_every_image_pixel_is_a_square_of_file_pixels():
    x = (np.arange(4 * 64).reshape(4, 1, 8, 8) % 64 * 4).astype(np.uint8)
    page = pixels(plotting.grid(x, ncols=2))
    zoom, margin, gap = 12, 14, 2  # 8 px images: 100 // 8 = 12
    for i in range(4):
        top, left = margin + (i // 2) * (8 * zoom + gap), margin + (i % 2) * (8 * zoom + gap)
        block = page[top : top + 8 * zoom, left : left + 8 * zoom, 0]
        assert (block == x[i, 0].repeat(zoom, 0).repeat(zoom, 1)).all()


def test_a_tight_bounding_box_changes_nothing():
    x = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8), np.uint8)
    figure = plotting.grid(x, ncols=3, title="six")
    assert np.array_equal(pixels(figure), pixels(figure, bbox_inches="tight"))


def test_pairs_alternate_and_frames_say_which_is_which():
    real, made = flat(0, 40), flat(200, 240)
    page = pixels(plotting.real_reconstruction(real, made))
    zoom, margin, border, legend = 12, 14, 2, 28
    tile = 8 * zoom + 2 * border
    lefts = [margin, margin + tile + 1, margin + 2 * (tile + 1) + 6, margin + 3 * (tile + 1) + 6]
    row = page[margin + legend + tile // 2]
    assert [row[left + tile // 2, 0] for left in lefts] == [0, 200, 40, 240]
    blue, orange = rgb(plotting.REAL_COLOUR), rgb(plotting.MADE_COLOUR)
    assert [tuple(int(v) for v in row[left + 1]) for left in lefts] == [blue, orange, blue, orange]


def test_pairs_must_match():
    with pytest.raises(ValueError, match="reconstructions are"):
        plotting.real_reconstruction(flat(0, 1), flat(0))
    with pytest.raises(ValueError, match="even number"):
        plotting.real_reconstruction(flat(0), flat(0), ncols=3)


def test_figure2_has_three_named_panels_of_one_height():
    figure = plotting.figure2(flat(*range(9)), flat(1, 2, 3), flat(1, 2, 3), flat(*range(40)), ncols=2, nrows=2)
    names = [text.get_text() for text in figure.texts]
    assert [name for name in names if name.startswith("(")] == [
        "(a) real images", "(b) samples g(z)", "(c) x and g(e(x)) in turn",
    ]  # fmt: skip
    assert len({round(ax.get_position().height * figure.bbox.height) for ax in figure.axes}) == 1
    with pytest.raises(ValueError, match="differ in size"):
        plotting.figure2(flat(0, size=9), flat(1), flat(1), flat(0))


def test_titles_are_wrapped_inside_the_figure():
    long = "Held-out images of a stand-in data set and what the generator makes of their codes after many steps"
    figure = plotting.grid(flat(0), title=long)
    figure.draw_without_rendering()
    lines = [text for text in figure.texts if text.get_text()]
    assert len(lines) > 1 and " ".join(line.get_text() for line in lines) == long
    assert max(line.get_window_extent().x1 for line in lines) <= figure.bbox.width


def test_interpolations_frame_the_ends():
    page = pixels(plotting.interpolations([flat(0, 100, 200)], title=None))
    row = page[14 + 28 + 50, :, :]
    blue = rgb(plotting.BLUE)
    framed = [x for x in range(len(row)) if tuple(int(v) for v in row[x]) == blue]
    assert len(framed) == 8  # two columns on either side of two tiles
    with pytest.raises(ValueError, match="equal shape"):
        plotting.interpolations([flat(0, 1), flat(0, 1, 2)])


def test_neighbours_stand_below_their_sample():
    samples, nearest = flat(0, 40), np.stack([flat(80, 120), flat(160, 200)])
    page = pixels(plotting.neighbours(samples, nearest, title=None))
    tile, top, left = 8 * 12 + 4 + 1, 14 + 28 + 50, 14 + 50
    shown = [[int(page[top + r * tile, left + c * tile, 0]) for c in range(2)] for r in range(3)]
    assert shown == [[0, 40], [80, 160], [120, 200]]
    with pytest.raises(ValueError, match="neighbours of 2 samples"):
        plotting.neighbours(samples, flat(0, 1, 2))


HISTORY = {
    "step": [50, 100, 150],
    "seconds": [1.0, 2.0, 3.0],
    "kl_real": [5.0, 4.5, 4.4],
    "kl_fake": [6.0, 5.0, 4.75],
    "l_x": [0.5, 0.4, 0.3],
    "l_z": [0.9, 0.8, 0.7],
}


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def test_curves_show_both_divergences_their_gap_and_both_reconstructions():
    floors = {"kl_real": 4.38, "kl_fake": 4.38}
    figure = plotting.learning_curves(HISTORY, floors=floors, ceilings={"l_z": (2, "worst")})
    divergences, gap, l_x, l_z = figure.axes
    drawn = lines(divergences)
    assert [4.38, 4.38] in drawn.values()
    assert sum(values == [4.38, 4.38] for values in drawn.values()) == 1  # one line for two equal floors
    assert [text.get_text() for text in divergences.texts] == ["floor 4.38"]
    assert lines(gap)["kl_fake - kl_real"] == pytest.approx([1.0, 0.5, 0.35])
    assert HISTORY["l_x"] in lines(l_x).values() and HISTORY["l_z"] in lines(l_z).values()
    assert [text.get_text() for text in l_z.texts] == ["worst 2"]
    assert divergences.get_ylim()[0] < 4.38 and l_z.get_ylim()[1] > 2


def test_curves_read_mappings_rows_and_files_alike(tmp_path):
    rows = [dict(zip(HISTORY, values, strict=True)) for values in zip(*HISTORY.values(), strict=True)]
    path = tmp_path / "history.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, HISTORY)
        writer.writeheader()
        writer.writerows(rows)
    want = [lines(ax) for ax in plotting.learning_curves(HISTORY).axes]
    for history in (rows, path, str(path)):
        assert [lines(ax) for ax in plotting.learning_curves(history).axes] == want


def test_curves_say_where_a_loss_stopped_being_finite():
    history = HISTORY | {"l_x": [0.5, float("nan"), float("inf")]}
    panel = plotting.learning_curves(history).axes[2]
    assert [text.get_text() for text in panel.texts] == ["not finite at step 100"]


def test_curves_keep_a_late_explosion_in_view_but_not_the_start():
    step = np.arange(100)
    values = np.where(step == 0, 1000.0, np.where(step == 99, 50.0, 1.0))
    low, high = plotting.learning_curves({"step": step, "l_x": values}).axes[0].get_ylim()
    assert low < 1 and 50 < high < 100


def test_a_history_without_losses_is_refused():
    with pytest.raises(ValueError, match="nothing to draw"):
        plotting.learning_curves({"step": [1, 2], "seconds": [1, 2]})
    with pytest.raises(ValueError, match="column 'step'"):
        plotting.learning_curves({"l_x": [1, 2]})


def test_points_put_ours_and_paper_on_one_line():
    row = {"experiment": "inception_score", "model": "AGE", "dataset": "cifar10", "metric": "inception_score"}
    rows = [row | {"paper": 5.9, "ours": 5.5, "std": 0.1, "comparable": True},
            row | {"model": "ALI", "paper": float("nan"), "ours": 5.0, "std": None, "comparable": None},
            row | {"metric": "lost", "paper": 1.0, "ours": float("nan"), "std": None, "comparable": False}]  # fmt: skip
    figure = plotting.points(rows)
    (panel,) = figure.axes
    assert [label.get_text() for label in panel.get_yticklabels()] == ["AGE, cifar10", "ALI, cifar10"]
    marks = [(line.get_xdata()[0], line.get_ydata()[0], line.get_marker()) for line in panel.lines]
    assert (5.5, 0, "o") in marks and (5.9, 0, "D") in marks and (5.0, 1, "o") in marks
    assert len([m for m in marks if m[2] == "D"]) == 1
    with pytest.raises(ValueError, match="no row"):
        plotting.points(rows[2:])


def test_notebooks_get_a_png_or_for_large_photographs_a_jpeg():
    small = plotting.grid(flat(0))._repr_mimebundle_()
    assert list(small) == ["image/png"] and small["image/png"].startswith(b"\x89PNG")
    noise = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), np.uint8)
    large = plotting.grid(noise)._repr_mimebundle_()
    assert list(large) == ["image/jpeg"] and large["image/jpeg"].startswith(b"\xff\xd8")


def test_figure3_has_a_column_for_each_model_and_refuses_other_shapes():
    x = np.random.default_rng(0).integers(0, 256, (12, 3, 32, 32), dtype=np.uint8)
    black, white = np.zeros_like(x), np.full_like(x, 255)
    figure = plotting.figure3(x, {"AGE": black, "ALI": white}, {"AGE": black, "GAN": white}, nrows=3)
    headings = [text.get_text() for text in figure.texts]
    blocks = headings.count("x")
    assert blocks >= 2 and headings.count("AGE") == headings.count("ALI") == blocks
    assert [t for t in headings if t.startswith("samples")] == ["samples: AGE", "samples: GAN"]
    columns = [ax.images[0].get_array() for ax in figure.axes]
    zoom = 2
    for row in range(3):  # first block: x, black, white; the tiles lie inside a frame of 2 pixels
        y = 2 + row * (32 * zoom + 5)
        tile = columns[0][y : y + 64, 2:66]
        assert np.abs(tile[::2, ::2].astype(int) - x[row].transpose(1, 2, 0)).max() <= 3
        assert (columns[1][y : y + 64, 2:66] == 0).all() and (columns[2][y : y + 64, 2:66] >= 252).all()
    with pytest.raises(ValueError, match="differ in shape"):
        plotting.figure3(x, {"AGE": black[:5]})
    assert plotting.figure3(x[:1], {"AGE": black[:1]}, nrows=6)


def test_curves_of_the_rivals():
    rows = [{"step": i, "d_loss": 1.0 + i, "g_loss": 2.0, "p_real": 0.5} for i in range(3)]
    figure = plotting.learning_curves(rows)
    (ax,) = [ax for ax in figure.axes if ax.axison]
    assert [line.get_label() for line in ax.lines[:2]] == ["discriminator", "generator"]
    bound = plotting.learning_curves([{"step": i, "neg_elbo": 5.0 - i, "nll": 1.0, "kl": 2.0} for i in range(3)])
    assert len([ax for ax in bound.axes if ax.axison]) == 1


def test_a_logarithmic_axis_is_marked_where_it_was_measured():
    lines = {"a": ((30, 100, 300), (1, 2, 3))}
    figure = plotting_theory.curves({"AIS": lines}, xlabel="number of distributions", log_x=True)
    (ax,) = figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["30", "100", "300"] and ax.get_xscale() == "log"


def test_every_model_of_the_likelihood_has_a_line_of_its_own():
    lines = {name: ((1, 2), (i, i)) for i, name in enumerate(decoders.NAMES.values())}
    (ax,) = plotting_theory.curves({"AIS": lines}, xlabel="T").axes
    assert len({line.get_color() for line in ax.lines}) == len(lines) == 6
    with pytest.raises(ValueError, match="at most 6 lines, got 7"):
        plotting_theory.curves({"AIS": lines | {"one more": ((1, 2), (0, 0))}}, xlabel="T")
