import numpy as np
import pytest
import torch
from torch import nn

from agelib import scores

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)


def value(rows, model, metric):
    (row,) = [row for row in rows if row["model"] == model and row["metric"] == metric]
    return row["value"]


def test_answers_without_knowledge():
    train = np.stack([np.zeros((1, 4, 4)), np.full((1, 4, 4), 101)]).astype(np.uint8)
    gex = RNG.integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    answers = scores.without_knowledge(train, gex)
    assert (answers["mean image"] == 50).all() and answers["mean image"].shape == gex.shape  # 50.5 rounds to even
    assert np.array_equal(answers["another image"][0], gex[2]) and np.array_equal(answers["another image"][1], gex[0])


def test_reconstruction_rows_and_a_lost_model():
    shifted = (X.astype(int) // 2 + 51).astype(np.uint8)
    rows = scores.reconstructions(X, {"A": X, "B": shifted, "C": None})
    assert value(rows, "A", "reconstruction l1") == 0 and value(rows, "A", "reconstruction ssim") == pytest.approx(1)
    expected = np.abs(X.astype(float) - shifted).mean() / 127.5
    assert value(rows, "B", "reconstruction l1") == pytest.approx(expected)
    assert {row["n"] for row in rows} == {12}
    ratio = value(rows, "B", "reconstruction sharpness") / value(rows, "A", "reconstruction sharpness")
    assert ratio == pytest.approx(0.25, rel=0.02)  # half the contrast, a quarter of the variance
    (lost,) = [row for row in rows if row["model"] == "C"]
    assert lost["value"] is None and lost["note"] == "diverged"


def test_sample_rows():
    rows = scores.samples(X, {"A": X[:6], "collapsed": X[[0, 0, 0]], "lost": None})
    assert value(rows, "collapsed", "sample diversity") == 0
    assert value(rows, "real images", "sample diversity") == pytest.approx(85.3 / 127.5, rel=0.1)  # of uniform noise
    assert value(rows, "A", "sharpness") == pytest.approx(value(rows, "real images", "sharpness"), rel=0.3)
    assert value(rows, "lost", "sample diversity") is None


class ByBrightness(nn.Module):
    """Two classes, dark and light, certain where the mean is far from the middle; its feature is the mean."""

    def embed(self, x):
        return x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0]

    def forward(self, x):
        return torch.cat([-20 * self.embed(x), 20 * self.embed(x)], 1)

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))


def test_readings_by_hand():
    dark, light, grey = (np.full((4, 1, 4, 4), v, np.uint8) for v in (26, 230, 128))
    held_out, labels = np.concatenate([dark, light]), np.array([0] * 4 + [1] * 4)
    answers = {"good": held_out, "swapped": held_out[::-1], "lost": None}
    made = {"dark": dark, "half": np.concatenate([dark, grey]), "lost": None}
    rows = scores.read(ByBrightness(), held_out, labels, answers, made)
    assert value(rows, "real images", "classifier accuracy on held-out images") == 1
    assert value(rows, "good", "reconstructions read as the label") == 1
    assert value(rows, "swapped", "reconstructions read as the label") == 0
    assert value(rows, "good", "feature distance") == 0
    # neighbours in the roll differ in two of eight places by 1.6; swapped answers all do
    assert value(rows, "swapped", "feature distance") == pytest.approx(4)
    assert value(rows, "dark", "samples read with confidence > 0.9") == 1
    assert value(rows, "dark", "class entropy / log K") == 0 and value(rows, "dark", "share of the rarest class") == 0
    assert value(rows, "half", "samples read with confidence > 0.9") == 0.5
    assert not [row for row in rows if row["model"] == "lost"]
    assert all(row["protocol"] == "small CNN trained on the labels, 2 classes" for row in rows)
