import numpy as np
import pytest
import torch
from torch import nn

import agelib
from suite import unconditional
from suite.rows import make, values

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (12, 1, 16, 16), dtype=np.uint8)


def test_reconstruction_rows_and_a_lost_model():
    shifted = (X.astype(int) // 2 + 51).astype(np.uint8)
    rows = unconditional.reconstructions(X, {"A": X, "B": shifted, "C": None})
    l1, sharp = values(rows, "reconstruction l1"), values(rows, "reconstruction sharpness")
    assert l1 == {"A": 0, "B": pytest.approx(np.abs(X.astype(float) - shifted).mean() / 127.5)}
    assert values(rows, "reconstruction ssim")["A"] == pytest.approx(1) and {row["n"] for row in rows} == {12}
    assert sharp["B"] / sharp["A"] == pytest.approx(0.25, rel=0.02)  # half the contrast, a quarter of the variance
    assert [row["value"] for row in rows if row["model"] == "C"] == [None]


def test_sample_rows():
    rows = unconditional.samples(X, {"A": X[:6], "collapsed": X[[0, 0, 0]], "lost": None})
    diversity, sharp = values(rows, "sample diversity"), values(rows, "sharpness")
    assert diversity["collapsed"] == 0 and diversity["real images"] == pytest.approx(85.3 / 127.5, rel=0.1)  # of noise
    assert sharp["A"] == pytest.approx(sharp["real images"], rel=0.3)
    assert [row["value"] for row in rows if row["model"] == "lost"] == [None]


def test_novelty_says_how_many_images_there_were():
    ratio, copies = unconditional.novelty(X[:5], X[5:12], X[:4])
    assert (ratio["n"], copies["n"], copies["value"]) == (5, 5, 0.8)
    assert "samples over 7 held-out images" in ratio["protocol"]


class ByBrightness(nn.Module):
    """Two classes, dark and light, certain where the mean is far from the middle; its feature is the mean."""

    precision = "fp32"

    def __init__(self):
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))

    def embed(self, x):
        return x.mean((1, 2, 3), keepdim=True)[:, :, 0, 0]

    def head(self, features):
        return torch.cat([-20 * features, 20 * features], 1)


def test_readings_by_hand():
    dark, light, grey = (np.full((4, 1, 4, 4), v, np.uint8) for v in (26, 230, 128))
    held_out, labels = np.concatenate([dark, light]), np.array([0] * 4 + [1] * 4)
    answers = {"good": held_out, "swapped": held_out[::-1], "lost": None}
    made = {"dark": dark, "half": np.concatenate([dark, grey]), "lost": None}
    rows = unconditional.read(ByBrightness(), held_out, labels, answers, made)
    assert values(rows, "classifier accuracy on held-out images") == {"real images": 1}
    assert values(rows, "reconstructions read as the label") == {"good": 1, "swapped": 0}
    # neighbours in the roll differ in two of eight places by 1.6; swapped answers all do
    assert values(rows, "feature distance") == {"good": 0, "swapped": pytest.approx(4)}
    assert values(rows, "samples read with confidence > 0.9") == {"dark": 1, "half": 0.5}
    assert values(rows, "class entropy / log K")["dark"] == values(rows, "share of the rarest class")["dark"] == 0
    assert all(row["protocol"] == "classifier trained on the labels, 2 classes" for row in rows)


def test_answers_and_training_rows_of_models_and_of_a_lost_one(tmp_path):
    images = RNG.integers(0, 256, (24, 1, 32, 32), dtype=np.uint8)
    settings = {"M": 4, "n_epochs": 1, "width": 4, "batch_size": 8, "precision": "fp32", "device": "cpu"}
    vae = agelib.train("vae", images, tmp_path / "vae", **settings | {"n_epochs": 2})
    age = agelib.train("age", images, tmp_path / "age", **settings)
    lost = agelib.train("age", images, tmp_path / "lost", **settings, lr=1e30)
    models = {"AGE": age, "lost": lost, "VAE": vae}
    rows, last = unconditional.training(models), age.history[-1]
    assert values(rows, "training seconds") == {"AGE": age.seconds, "VAE": vae.seconds}
    assert [row["protocol"] for row in rows if row["value"] is None] == ["lost"]
    assert values(rows, "KL fake - KL real") == {"AGE": pytest.approx(last["kl_fake"] - last["kl_real"])}
    answers = unconditional.answers(models, images[:4])
    assert answers["lost"] is None and answers["VAE"].shape == (4, 1, 32, 32)
    assert unconditional.told("VAE", vae).startswith("VAE: 2 epochs, 6 iterations")
    assert unconditional.told("lost", lost).startswith("lost diverged: ")


def test_verdict_says_what_the_numbers_say():
    l1 = {"AGE": 0.1, "mean image": 0.3, "another image": 0.4}
    rows = [row for model, value in l1.items() for row in make(model, {"reconstruction l1": value})]
    said = unconditional.verdict([*rows, *make("AGE", {"KL fake - KL real": 0.5})])
    assert "Reconstructions show their image" in said and "+0.50 at the end: the generator is behind" in said
    rows[0]["value"] = 0.35
    assert "do NOT show" in unconditional.verdict(rows)
