"""The yardstick classifier learns, repeats itself and leaves the random state alone; its readings by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from agelib.metrics import classifier


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    images = (data.images[:, None] / 16 * 255).round().astype(np.uint8)  # (1797, 1, 8, 8)
    return images, data.target


def quick(images, labels, **changes):
    return classifier.train(images, labels, 10, **{"n_steps": 200, "width": 16, "shift": 1} | changes)


def test_it_reads_digits_it_has_not_seen(digits):
    images, labels = digits
    net = quick(images[:1200], labels[:1200])
    p = classifier.probs(net, images[1200:])
    assert p.shape == (597, 10) and p.sum(1) == pytest.approx(np.ones(597), abs=1e-5)
    assert classifier.agreement(p.argmax(1), labels[1200:]) > 0.93
    assert classifier.class_spread(p)[1] > 0.05
    as_float = torch.from_numpy(images[1200:]).float() / 127.5 - 1
    assert classifier.probs(net, as_float, batch_size=100) == pytest.approx(p, abs=1e-5)


def test_it_is_a_function_of_its_seed_and_leaves_the_global_random_state(digits):
    images, labels = digits[0][:100], digits[1][:100]
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = quick(images, labels, n_steps=5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again, other = quick(images, labels, n_steps=5, seed=3), quick(images, labels, n_steps=5, seed=4)
    pairs = list(zip(first.state_dict().values(), again.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.head.weight, other.head.weight)


def test_shifts_repeat_the_edge_and_cover_all_offsets():
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    generator = torch.Generator().manual_seed(0)
    seen = {tuple(classifier._shifted(x, 1, generator).flatten().tolist()) for _ in range(200)}
    assert len(seen) == 9  # (dy, dx) from -1..1 each
    assert (0, 0, 1, 0, 0, 1, 3, 3, 4) in seen  # one down, one right
    assert classifier._shifted(x, 0, generator) is x


def test_probs_keeps_the_mode():
    net = classifier.Classifier(1, 3, width=2).train()
    classifier.probs(net, np.zeros((2, 1, 8, 8), np.uint8))
    assert net.training


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_sizes_from_8_to_64(size):
    p = classifier.probs(classifier.Classifier(3, 4, width=2), np.zeros((2, 3, size, size), np.uint8))
    assert p.shape == (2, 4)


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((4, 1, 8, 8), np.float32), np.zeros(4, int)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.zeros(3, int)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.zeros(4)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.full(4, 10)),
        (np.zeros((4, 1, 8, 8), np.uint8), np.full(4, -1)),
        (np.zeros((1, 1, 8, 8), np.uint8), np.zeros(1, int)),
    ],
)
def test_unfit_data_is_refused(images, labels):
    with pytest.raises(ValueError, match="need"):
        quick(images, labels)


def test_agreement():
    assert classifier.agreement([1, 2, 3, 4], [1, 2, 0, 4]) == 0.75
    with pytest.raises(ValueError, match="equal length"):
        classifier.agreement([1, 2], [1])


def test_confident_fraction_counts_strictly_above():
    p = np.array([[0.95, 0.05], [0.5, 0.5], [0.1, 0.9], [0.02, 0.98]])
    assert classifier.confident_fraction(p, 0.9) == 0.5


def test_class_spread():
    p = np.eye(4)[[0, 0, 1, 2]]  # shares 1/2, 1/4, 1/4, 0
    entropy, smallest = classifier.class_spread(p)
    assert entropy == pytest.approx(1.5 * math.log(2)) and smallest == 0
    assert classifier.class_spread(np.eye(4)) == pytest.approx((math.log(4), 0.25))
    assert classifier.class_spread(np.eye(4)[[1, 1]]) == (0.0, 0.0)


def test_feature_distance_is_relative_to_different_images(digits):
    images, labels = digits[0][:300], digits[1][:300]
    net = quick(images, labels, n_steps=60)
    assert classifier.feature_distance(net, images, images) == pytest.approx(np.zeros(300))
    other = classifier.feature_distance(net, images, np.roll(images, 1, 0))
    assert other.mean() == pytest.approx(1)
    noisy = np.clip(images.astype(int) + np.random.default_rng(0).integers(-20, 21, images.shape), 0, 255).astype(np.uint8)
    assert 0 < classifier.feature_distance(net, images, noisy).mean() < 0.5
    with pytest.raises(ValueError, match="two equal shapes"):
        classifier.feature_distance(net, images, images[:2])
