import numpy as np
import pytest

from agelib import plotting_colors

RNG = np.random.default_rng(0)


def flat(n: int, *colours: int) -> np.ndarray:
    """n pictures (n, 3, 32, 32) of one colour."""
    return np.broadcast_to(np.array(colours, np.uint8).reshape(1, 3, 1, 1), (n, 3, 32, 32))


def pixels(figure) -> np.ndarray:
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())[..., :3]


def count(picture: np.ndarray, *colour: int) -> int:
    return int((picture == colour).all(-1).sum())


def test_figure4a_has_a_row_a_model_and_shows_each_picture_once():
    inputs = flat(2, 100, 100, 100)[:, :1]
    rows = {"AGE": np.stack([flat(3, 200, 0, 0)] * 2), "other": np.stack([flat(3, 0, 0, 200)] * 2)}
    picture = pixels(plotting_colors.figure4a(inputs, rows, title="t"))
    red, blue, grey = count(picture, 200, 0, 0), count(picture, 0, 0, 200), count(picture, 100, 100, 100)
    assert red == blue and red % (6 * 32 * 32) == 0 and grey == pytest.approx(red * 2 / 3, rel=0.01)  # letters have some
    with pytest.raises(ValueError, match="differ in shape"):
        plotting_colors.figure4a(inputs, {"a": rows["AGE"], "b": rows["other"][:, :2]})
    with pytest.raises(ValueError, match="for N = 2"):
        plotting_colors.figure4a(inputs, {"a": rows["AGE"][:1]})


def test_figure4b_is_a_matrix_with_its_margins():
    inside = np.stack([flat(3, 200, 0, 0)] * 2)
    picture = pixels(plotting_colors.figure4b(flat(3, 0, 200, 0), flat(2, 100, 100, 100), inside))
    red, green, grey = count(picture, 200, 0, 0), count(picture, 0, 200, 0), count(picture, 100, 100, 100)
    assert red == 2 * green > 0 and grey == pytest.approx(red / 3, rel=0.01)  # letters have grey edges too
    with pytest.raises(ValueError, match="need 3 colours on each of 2 targets"):
        plotting_colors.figure4b(flat(3, 0, 200, 0), flat(2, 100, 100, 100), inside[:, :2])


def test_the_sphere_is_drawn_by_its_angles():
    theta, phi = np.linspace(0, np.pi, 3), np.linspace(0, 2 * np.pi, 4)
    rgb = np.zeros((3, 4, 3), np.uint8)
    rgb[1, 2] = (0, 200, 0)
    figure = plotting_colors.sphere_map(theta, phi, RNG.normal(size=(3, 4, 2)), rgb)
    assert [ax.get_title() for ax in figure.axes[:3]] == ["colour", "mean a", "mean b"]
    image = figure.axes[0].get_images()[0]
    assert np.array_equal(image.get_array(), rgb) and tuple(image.get_extent()) == (0, 360, 180, 0)
    with pytest.raises(ValueError, match="3 x 4 codes"):
        plotting_colors.sphere_map(theta, phi, np.zeros((4, 3, 2)), rgb)


def test_the_plane_holds_every_colour_and_rings_the_modes():
    clouds = {"a": RNG.normal(size=(7, 2)), "b": RNG.normal(size=(5, 2))}
    figure = plotting_colors.colour_plane(clouds, [[1, 2], [3, 4]])
    assert [ax.get_title() for ax in figure.axes] == ["a", "b"]
    lines = figure.axes[1].get_lines()
    assert np.array_equal(lines[0].get_xydata(), clouds["b"])
    assert [tuple(line.get_xydata()[0]) for line in lines[1:]] == [(1, 2), (3, 4)]
    assert len(plotting_colors.colour_plane({"a": clouds["a"]}).axes[0].get_lines()) == 1
