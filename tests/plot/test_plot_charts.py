"""Charts: every number given is drawn, in its place, under its name, with no text over it."""

import io

import numpy as np
import pytest
from matplotlib.text import Text

from agelib.plot import charts, images

RNG = np.random.default_rng(0)
KEYS = ("stage", "step", "seconds", "kl_real", "kl_fake", "l_x", "l_z")
ROWS = ("train", 50, 1, 5.0, 6.0, 0.5, 0.9), ("train", 100, 2, 4.5, 5.0, 0.4, 0.8), ("tune", 150, 3, 4.4, 4.75, 0.3, 0.7)
HISTORY = [dict(zip(KEYS, row, strict=True)) for row in ROWS]


def lines(ax) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in ax.lines}


def headings(figure) -> list[str]:
    return [ax.get_title(loc="left") for ax in figure.axes]


def texts(labels) -> list[str]:
    return [label.get_text() for label in labels]


def legend(ax) -> list[str]:
    return texts(ax.get_legend().get_texts())


def test_curves_show_both_divergences_their_gap_and_both_reconstructions():
    bound = (4.38, "uniform")
    floors = {"kl_real": bound, "kl_fake": bound, "var_real": (0, "none")}
    figure = charts.learning_curves(HISTORY, floors=floors, ceilings={"l_z": (2, "worst")})
    divergences, gap, l_x, l_z = figure.axes
    # one line for two equal floors, and none for a column that isn't there
    assert legend(divergences) == ["real: KL(e(x) ‖ Z)", "fake: KL(e(g(z)) ‖ Z)", "uniform 4.38", "tune"]
    assert lines(divergences)["uniform 4.38"] == [4.38, 4.38] and lines(l_z)["worst 2"] == [2, 2]
    assert lines(gap)["kl_fake - kl_real"] == pytest.approx([1.0, 0.5, 0.35])
    assert lines(l_x)["g(e(x)) against x"] == [0.5, 0.4, 0.3] and lines(l_z)["e(g(z)) against z"] == [0.9, 0.8, 0.7]
    assert divergences.get_ylim()[0] < 4.38 and l_z.get_ylim()[1] > 2
    for ax in figure.axes:  # the second stage begins after step 100
        assert {line.get_label(): list(line.get_xdata()) for line in ax.lines}["tune"] == [100, 100]


def test_a_column_may_begin_late_and_a_late_explosion_stays_in_view_but_not_the_start():
    *_, variance, _, _ = charts.learning_curves([*HISTORY[:2], HISTORY[2] | {"var_real": 0.01}]).axes
    assert np.isnan(lines(variance)["real: e(x)"]).tolist() == [True, True, False] and variance.get_ylim()[0] < 0.01
    rows = [{"step": i, "l_x": 1000.0 if i == 0 else 50.0 if i == 99 else 1.0} for i in range(100)]
    low, high = charts.learning_curves(rows).axes[0].get_ylim()
    assert low < 1 and 50 < high < 100


def test_curves_of_the_rivals():
    row = dict.fromkeys(("d_loss", "g_loss", "p_real", "neg_elbo", "nll", "kl", "l_1", "loss"), 1.0)
    figure = charts.learning_curves([{"step": i} | row for i in range(3)])
    assert dict(zip(headings(figure), map(legend, figure.axes), strict=True)) == {
        "Adversarial losses, nats": ["discriminator", "generator"],
        "Bound of the likelihood": ["negative ELBO, nats an image"],
        "Further losses": ["l_1", "loss"],
    }


def test_lines_have_names_scales_and_spreads():
    here = {"a": ((1, 10), (2.0, 3.0), (0.1, 0.2)), "b": ((5,), (1.0,))}
    (ax,) = charts.curves({"": here}, xlabel="x", ylabel="y", log_x=True).axes
    assert (ax.get_xscale(), ax.get_yscale(), ax.get_xlabel(), ax.get_ylabel()) == ("log", "linear", "x", "y")
    assert legend(ax) == ["a", "b"] and lines(ax)["a"] == [2, 3]
    (whiskers,) = ax.containers[0].lines[2]
    assert [s[:, 1].tolist() for s in whiskers.get_segments()] == [pytest.approx([1.9, 2.1]), pytest.approx([2.8, 3.2])]


def test_a_logarithmic_axis_is_marked_where_it_was_measured_if_that_is_the_same_for_all_lines():
    (ax,) = charts.curves({"AIS": {"a": ((30, 100, 300), (1, 2, 3))}}, xlabel="T", log_x=True).axes
    assert texts(ax.get_xticklabels()) == ["30", "100", "300"]
    figure = charts.curves({"": {"a": ((40, 70), (1, 2)), "b": ((60, 90), (1000, 2))}}, xlabel="s", log_x=True, log_y=True)
    figure.draw_without_rendering()
    (ax,) = figure.axes
    shown = {*texts(ax.get_xticklabels(which="both")), *texts(ax.get_yticklabels(which="both"))} - {""}
    assert {"50", "80", "10", "100"} <= shown and all(float(text) > 0 for text in shown)


def test_six_lines_differ_and_their_legend_lies_over_none():
    here = {f"a model with a long name {i}": ((1, 2, 3), (i, 9 - i, 5)) for i in range(6)}
    figure = charts.curves({"one": here, "two": here}, xlabel="x")
    figure.draw_without_rendering()
    for ax in figure.axes:
        assert len({line.get_color() for line in ax.lines}) == len({line.get_marker() for line in ax.lines}) == 6
        drawn, heading = ax.get_legend().get_window_extent(), ax._left_title.get_window_extent()
        assert ax.get_window_extent().y1 <= drawn.y0 and drawn.y1 <= heading.y0 + 2 and drawn.x1 <= figure.bbox.width


def test_bars_stand_in_the_order_given():
    (ax,) = charts.bars({"a": (2.0, 0.5), "b": (3.0, np.nan)}, xlabel="x", marked=("b",)).axes
    assert [patch.get_width() for patch in ax.patches] == [2, 3]
    assert texts(ax.get_yticklabels()) == ["a", "b"] and texts(ax.texts) == ["2.00", "3.00"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_a_study_has_a_panel_a_question_and_a_confusion_matrix_percents():
    answers = {name: {"1": (10.0, 1.0), "a longer answer": (20.0, 2.0)} for name in "abcde"}
    figure = charts.study(answers, ylabel="error", title="t", base=(15.0, "base"))
    assert headings(figure) == list("abcde") and figure.texts[0].get_text() == "t; dashed: base"
    assert figure.axes[0].lines[0].get_ydata().tolist() == [10, 20]
    assert [ax.get_ylabel() for ax in figure.axes] == ["error", "", "", "", "error"]
    (ax,) = charts.confusion(np.array([[0.9, 0.1], [0.25, 0.75]]), ["a", "b"]).axes
    assert texts(ax.texts) == ["90", "10", "25", "75"]


ROW = {"experiment": "inception_score", "model": "AGE", "dataset": "cifar10", "metric": "inception_score", "ours": 5.5}
ROW |= {"paper": np.nan, "std": np.nan, "comparable": None}


def test_points_put_ours_and_paper_on_one_line():
    rows = ROW | {"paper": 5.9, "std": 0.1, "comparable": True}, ROW | {"model": "ALI", "ours": 5.0}
    figure = charts.points([*rows, ROW | {"metric": "lost", "paper": 1.0, "ours": np.nan}])
    (panel,) = figure.axes
    assert headings(figure) == ["inception score (inception score)"]
    assert texts(panel.get_yticklabels()) == ["AGE, cifar10", "ALI, cifar10"]
    marks = [(x, y, line.get_marker()) for line in panel.lines for x, y in line.get_xydata() if np.isfinite(x)]
    assert {(5.5, 0, "o"), (5.9, 0, "D"), (5.0, 1, "o")} <= set(marks) and [m[2] for m in marks].count("D") == 1


def test_surfaces_share_one_scale_and_the_sphere_is_drawn_by_its_angles():
    x, y = np.linspace(0, 1, 3), np.linspace(2, 4, 2)
    figure = charts.surfaces({"a": np.ones((2, 3)), "b": np.full((2, 3), 5)}, x, y, xlabel="x", ylabel="y", marks=[(1, 3)])
    assert headings(figure)[:2] == ["a", "b"]
    for ax in figure.axes[:2]:
        assert ax.images[0].get_clim() == (0, 5) and list(ax.images[0].get_extent()) == [0, 1, 2, 4]
        assert ax.lines[0].get_xydata().tolist() == [[1, 3]]
    rgb = np.zeros((3, 4, 3), np.uint8)
    rgb[1, 2] = (0, 200, 0)
    theta, phi = np.linspace(0, np.pi, 3), np.linspace(0, 2 * np.pi, 4)
    figure = charts.sphere_map(theta, phi, RNG.normal(size=(3, 4, 2)), rgb)
    assert headings(figure)[:3] == ["colour", "mean a", "mean b"]
    image = figure.axes[0].get_images()[0]
    assert np.array_equal(image.get_array(), rgb) and tuple(image.get_extent()) == (0, 360, 180, 0)


def test_clouds_hold_every_point_and_ring_the_modes():
    points = {"a": RNG.normal(size=(7, 2)), "b": RNG.normal(size=(5, 2))}
    figure = charts.clouds(points, [[1, 2], [3, 4]], span=1.1)
    assert headings(figure) == ["a", "b"] and figure.axes[0].get_xlim() == (-1.1, 1.1)
    drawn, rings = figure.axes[1].get_lines()
    assert np.array_equal(drawn.get_xydata(), points["b"]) and rings.get_xydata().tolist() == [[1, 2], [3, 4]]


SEVEN, ZEROS = {str(i): ((1, 2), (i, i)) for i in range(7)}, np.zeros((4, 3, 2))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: charts.learning_curves([{"step": 1, "seconds": 1}]), "nothing to draw"),
        (lambda: charts.learning_curves([{"l_x": 1.0}]), "nothing to draw"),
        (lambda: charts.curves({"AIS": SEVEN}, xlabel="T"), "at most 6 lines in 'AIS', got 7"),
        (lambda: charts.confusion(np.eye(2), list("abc")), "number of"),
        (lambda: charts.points([ROW | {"ours": np.nan}]), "no row"),
        (lambda: charts.surfaces({"a": ZEROS}, [0] * 3, [0] * 2, xlabel="", ylabel=""), r"\(2, 3\), got a: \(4, 3, 2\)"),
        (lambda: charts.sphere_map(range(3), range(4), ZEROS, ZEROS), "3 x 4 codes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


def test_a_dollar_sign_is_a_plain_sign():
    sign = "costs $5, \\bad{$"  # matplotlib refuses it as mathematics
    x, classes = np.zeros((1, 1, 8, 8)), [sign, "$a$", "a_b^c"]
    for figure in (
        charts.curves({sign: {sign: ((1, 2), (1, 2))}}, xlabel=sign, title=sign),
        charts.bars(dict.fromkeys(classes, (1, 0)), xlabel=sign),
        charts.confusion(np.eye(3), classes, title=sign),
        images.figure3(x, {sign: x}, title=f"folder:/{sign}"),
        images.figure4a(x, {sign: np.zeros((1, 1, 3, 8, 8))}),
    ):
        figure.savefig(io.BytesIO())
        assert not any(text.get_parse_math() for text in figure.findobj(Text) if "$" in text.get_text())
