"""The classifier learns, repeats itself and leaves the random state alone; its readings by hand."""

import math

import numpy as np
import pytest
import torch

from agelib.metrics import classifier
from agelib.metrics.classifier import Classifier
from agelib.training import fit as training
from agelib.training.fit import ConfigMismatch


def bars(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8 (n, 1, 16, 16) with a bright bar at a random place, noisy; class: level, upright or one of both diagonals."""
    rng = np.random.default_rng(seed)
    y, (rows, columns) = np.arange(n) % 4, np.indices((16, 16))
    lines = np.stack([rows, columns, (rows + columns) % 16, (rows - columns) % 16])[y]  # (n, 16, 16)
    at = rng.integers(4, 12, n)[:, None, None]
    return (60 + 120 * (np.abs(lines - at) < 2) + rng.integers(-60, 61, lines.shape)).astype(np.uint8)[:, None], y


def test_it_learns_in_seconds_and_its_folder_gives_it_again(tmp_path):
    (x, y), (test_x, test_y) = bars(600, 0), bars(200, 1)
    settings = {"n_epochs": 4, "width": 4, "batch_size": 50}
    before = torch.get_rng_state()
    net = classifier.train(x, y, tmp_path, **settings)
    assert torch.equal(torch.get_rng_state(), before) and not net.training
    probs, features = classifier.read(net, test_x)
    assert (probs.argmax(1) == test_y).mean() > 0.9
    assert features.shape == (200, 16) and probs.dtype == features.dtype == np.float32
    written = (tmp_path / training.MODEL).stat().st_mtime_ns
    again = classifier.train(x, y, tmp_path, **settings)
    assert (classifier.read(again, test_x)[0] == probs).all()
    assert (tmp_path / training.MODEL).stat().st_mtime_ns == written
    with pytest.raises(ConfigMismatch, match="width was 4, is 6"):
        classifier.train(x, y, tmp_path, **settings | {"width": 6})
    other = classifier.train(x, y, tmp_path / "other", **settings, seed=1)
    assert (classifier.read(other, test_x)[0] != probs).any()


def test_answers_that_are_not_finite_are_no_numbers():
    net = Classifier(1, 4, 2)
    torch.nn.init.constant_(net.head.weight, math.inf)
    with pytest.raises(ValueError, match="the classifier's answers to 8 images are not all finite"):
        classifier.read(net, X)


@pytest.mark.parametrize("size", [16, 28, 32, 64])
def test_reading_in_parts_is_reading_at_once_and_keeps_the_mode(size):
    x = np.random.default_rng(0).integers(0, 256, (8, 3, size, size), np.uint8)
    net = Classifier(3, 7, 2).train()
    probs, features = classifier.read(net, x, batch_size=3)
    assert net.training and probs.shape == (8, 7)
    floats = torch.from_numpy(x) / 127.5 - 1
    assert probs == pytest.approx(net.eval()(floats).softmax(1).detach().numpy(), abs=1e-6)
    assert features == pytest.approx(net.embed(floats).detach().numpy(), abs=1e-5)


def test_the_learning_rate_is_a_triangle_and_whitened_patches_are_uncorrelated():
    net, x = Classifier(1, 10, 4), torch.from_numpy(bars(200, 0)[0]) / 127.5 - 1
    step = classifier.make_step(net, classifier.Config(lr=0.4))
    assert [step.lr_at(epoch, 8) for epoch in (0, 1, 2, 5, 8)] == pytest.approx([0.008, 0.208, 0.4, 0.2, 0])
    net.set_whitening(x, eps=0.0)
    out = net.whiten(x)[:, :4]  # the other four are their negatives
    assert torch.cov(out.transpose(0, 1).flatten(1)).numpy() == pytest.approx(np.eye(4), abs=1e-2)
    assert torch.equal(net.whiten.weight[4:], -net.whiten.weight[:4])


def test_moves_cover_all_offsets_and_mirror_the_edge():
    x = torch.arange(9.0).reshape(1, 1, 3, 3).repeat(200, 1, 1, 1)
    seen = {tuple(image.flatten().tolist()) for image in classifier.moved(x, 1)}
    assert len(seen) == 9  # (dy, dx) from -1..1 each
    assert (4, 3, 4, 1, 0, 1, 4, 3, 4) in seen  # one down, one right
    assert classifier.moved(x, 0) is x


X, Y = bars(8, 0)


@pytest.mark.parametrize(
    ("images", "labels", "settings", "message"),
    [
        (X / 255, Y, {}, "need uint8"),
        (X, Y.astype(float), {}, "whole"),
        (X, Y - 1, {}, "labels in 0..2, got .* labels -1 to 2"),
        (X, Y, {"n_classes": 3}, "labels in 0..2, got .* labels 0 to 3"),
        (X[:, :, :8], Y, {}, "images of >= 16 x 16 px .* got .8, 1, 8, 16."),
        (X, Y, {"batch_size": 1}, "batch_size >= 2 .* batch_size 1, labels"),
        (X, Y, {"precision": "half"}, "unknown precision 'half'"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(images, labels, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        classifier.train(images, labels, tmp_path / "new", **{"batch_size": 4} | settings)
    assert not (tmp_path / "new").exists()


# ---- readings ----
def test_readings_by_hand():
    entropy, smallest = classifier.class_spread(np.eye(4)[[0, 0, 1, 2]])  # shares 1/2, 1/4, 1/4, 0
    assert entropy == pytest.approx(1.5 * math.log(2)) and smallest == 0
    assert classifier.class_spread(np.eye(4)) == pytest.approx((math.log(4), 0.25))
    assert classifier.class_spread(np.eye(4)[[1, 1]]) == (0.0, 0.0)
    x, gex = np.array([[0.0, 0], [3, 4], [0, 0]]), np.array([[0.0, 0], [3, 4], [0, 1]])  # neighbours 0, 5 and 5 apart
    assert classifier.feature_distance(x, gex) == pytest.approx([0, 0, 0.3])
    assert classifier.feature_distance(x, np.roll(x, 1, 0)).mean() == pytest.approx(1)
