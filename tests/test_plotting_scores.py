import numpy as np
import pytest

from agelib import plotting_scores


def test_bars_stand_in_the_order_given_with_their_numbers():
    figure = plotting_scores.bars(
        {"a": (2.0, 0.5), "b": (3.0, 0.0)}, xlabel="x", title="t", marked=("b",), reference=(1, "r")
    )
    (ax,) = figure.axes
    assert [patch.get_width() for patch in ax.patches] == [2, 3]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert {text.get_text() for text in ax.texts} == {"2.00", "3.00", "r"}
    low, high = ax.get_ylim()
    assert low > high  # the first on top
    assert ax.patches[0].get_facecolor() != ax.patches[1].get_facecolor()


def test_a_study_has_a_panel_a_question_and_hides_empty_ones():
    panels = {name: {"1": (10.0, 1.0), "a longer answer": (20.0, 2.0)} for name in "abcde"}
    figure = plotting_scores.study(panels, ylabel="error", title="t", base=(15.0, "base"))
    assert [ax.get_title(loc="left") for ax in figure.axes[:5]] == list("abcde")
    assert [ax.axison for ax in figure.axes] == [True] * 5 + [False] * 3
    line = figure.axes[0].lines[0]
    assert line.get_ydata().tolist() == [10, 20]
    assert "base" in figure.get_suptitle()


def test_lines_have_names_and_scales():
    curves = {"a": ((1, 10), (2.0, 3.0), (0.1, 0.2)), "b": ((5,), (1.0,), (0.0,))}
    figure = plotting_scores.lines(curves, xlabel="x", ylabel="y", title="t", log_x=True, reference=(4.0, "ref"))
    (ax,) = figure.axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "linear")
    assert {text.get_text() for text in ax.get_legend().get_texts()} == {"a", "b", "ref"}
    with pytest.raises(ValueError, match="at most 6 curves, got 7"):
        plotting_scores.lines({str(i): ((1,), (1,), (0,)) for i in range(7)}, xlabel="", ylabel="", title="")


def test_a_confusion_matrix_in_percent():
    figure = plotting_scores.confusion(np.array([[0.9, 0.1], [0.25, 0.75]]), ["a", "b"], "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["90", "10", "25", "75"]
    with pytest.raises(ValueError, match="for 3 names"):
        plotting_scores.confusion(np.eye(2), list("abc"), "t")
