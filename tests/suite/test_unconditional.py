import numpy as np
import pytest
import torch
from torch import nn

import agelib
from suite import unconditional

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)


def value(rows, model, metric):
    (row,) = [row for row in rows if row["model"] == model and row["metric"] == metric]
    return row["value"]


def test_answers_without_knowledge():
    train = np.stack([np.zeros((1, 4, 4)), np.full((1, 4, 4), 101)]).astype(np.uint8)
    gex = RNG.integers(0, 256, (3, 1, 4, 4), dtype=np.uint8)
    answers = unconditional.without_knowledge(train, gex)
    assert (answers["mean image"] == 50).all() and answers["mean image"].shape == gex.shape  # 50.5 rounds to even
    assert np.array_equal(answers["another image"][0], gex[2]) and np.array_equal(answers["another image"][1], gex[0])


def test_reconstruction_rows_and_a_lost_model():
    shifted = (X.astype(int) // 2 + 51).astype(np.uint8)
    rows = unconditional.reconstructions(X, {"A": X, "B": shifted, "C": None})
    assert value(rows, "A", "reconstruction l1") == 0 and value(rows, "A", "reconstruction ssim") == pytest.approx(1)
    expected = np.abs(X.astype(float) - shifted).mean() / 127.5
    assert value(rows, "B", "reconstruction l1") == pytest.approx(expected)
    assert {row["n"] for row in rows} == {12}
    ratio = value(rows, "B", "reconstruction sharpness") / value(rows, "A", "reconstruction sharpness")
    assert ratio == pytest.approx(0.25, rel=0.02)  # half the contrast, a quarter of the variance
    (lost,) = [row for row in rows if row["model"] == "C"]
    assert lost["value"] is None


def test_sample_rows():
    rows = unconditional.samples(X, {"A": X[:6], "collapsed": X[[0, 0, 0]], "lost": None})
    assert value(rows, "collapsed", "sample diversity") == 0
    assert value(rows, "real images", "sample diversity") == pytest.approx(85.3 / 127.5, rel=0.1)  # of uniform noise
    assert value(rows, "A", "sharpness") == pytest.approx(value(rows, "real images", "sharpness"), rel=0.3)
    assert value(rows, "lost", "sample diversity") is None


class ByBrightness(nn.Module):
    """Two classes, dark and light, certain where the mean is far from the middle; its feature is the mean."""

    def embed(self, x):
        return x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0]

    def head(self, features):
        return torch.cat([-20 * features, 20 * features], 1)

    precision = "fp32"

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))


def test_readings_by_hand():
    dark, light, grey = (np.full((4, 1, 4, 4), v, np.uint8) for v in (26, 230, 128))
    held_out, labels = np.concatenate([dark, light]), np.array([0] * 4 + [1] * 4)
    answers = {"good": held_out, "swapped": held_out[::-1], "lost": None}
    made = {"dark": dark, "half": np.concatenate([dark, grey]), "lost": None}
    rows = unconditional.read(ByBrightness(), held_out, labels, answers, made)
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
    assert all(row["protocol"] == "classifier trained on the labels, 2 classes" for row in rows)


def test_stages_and_training_rows(tmp_path):
    images = RNG.integers(0, 256, (24, 1, 32, 32), dtype=np.uint8)
    settings = {"width": 4, "batch_size": 8, "precision": "fp32", "device": "cpu"}
    vae = agelib.train("vae", images, tmp_path / "vae", M=4, n_epochs=2, snapshots=2, **settings)
    age = agelib.train("age", images, tmp_path / "age", M=4, n_epochs=1, **settings)
    lost = agelib.train("age", images, tmp_path / "lost", M=4, n_epochs=1, **settings | {"lr": 1e30})
    stages = unconditional.stages("VAE", vae)
    assert list(stages) == ["VAE, 3 iterations", "VAE"] and stages["VAE, 3 iterations"].n_steps == 3
    models = {"AGE": age, "lost": lost} | stages
    rows = unconditional.training(models)
    assert value(rows, "VAE, 3 iterations", "training seconds") < value(rows, "VAE", "training seconds")
    assert value(rows, "lost", "training seconds") is None
    last = age.history[-1]
    assert value(rows, "AGE", "KL fake - KL real") == pytest.approx(last["kl_fake"] - last["kl_real"])
    answers = unconditional.answers(models, images[:4])
    assert answers["lost"] is None and answers["VAE"].shape == (4, 1, 32, 32)
    assert unconditional.told("VAE", vae).startswith("VAE: 2 epochs, 6 iterations")
    assert unconditional.told("lost", lost).startswith("lost diverged: ")


def test_verdict_says_what_the_numbers_say():
    def row(model, metric, value):
        return {"model": model, "metric": metric, "value": value}

    l1 = {"AGE": 0.1, "mean image": 0.3, "another image": 0.4}
    rows = [row(model, "reconstruction l1", value) for model, value in l1.items()]
    said = unconditional.verdict([*rows, row("AGE", "KL fake - KL real", 0.5)])
    assert "Reconstructions show their image" in said and "+0.50 at the end: the generator is behind" in said
    rows[0]["value"] = 0.35
    assert "do NOT show" in unconditional.verdict(rows)
