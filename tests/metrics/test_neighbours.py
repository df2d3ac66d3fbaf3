"""Nearest neighbours by hand and by brute force; the memorisation report on generators that copy and that do not."""

import numpy as np
import pytest
import torch

from agelib.metrics import neighbours


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, 3, 8, 8), np.uint8)


def test_distances_of_constant_images():
    # 2 x 2 pixels: levels 0, 51, 255 are 0, 0.2, 1 on [0, 1]; distance = |difference| * sqrt(4)
    train = np.stack([np.full((1, 2, 2), level, np.uint8) for level in (255, 51, 0)])
    query = np.full((1, 1, 2, 2), 102, np.uint8)  # 0.4
    d, i = neighbours.nearest(query, train, k=3)
    assert i.tolist() == [[1, 2, 0]]
    assert d == pytest.approx(np.array([[0.4, 0.8, 1.2]]))


def test_floats_are_on_the_same_scale():
    train = np.stack([np.full((1, 2, 2), level, np.uint8) for level in (0, 255)])
    d, i = neighbours.nearest(torch.full((1, 1, 2, 2), -0.5), train)  # 0.25 on [0, 1]
    assert i.tolist() == [[0]] and d[0, 0] == pytest.approx(0.5)


@pytest.mark.parametrize("budget", [64 * 2**20, 4 * 192 * 7])
def test_blocks_agree_with_brute_force(monkeypatch, budget):
    monkeypatch.setattr(neighbours, "_BUDGET", budget)
    queries, train = noise(9, 0), noise(50, 1)
    full = np.sqrt((((queries[:, None].astype(float) - train[None]) / 255) ** 2).sum((2, 3, 4)))
    d, i = neighbours.nearest(queries, train, k=4)
    assert (i == full.argsort(1)[:, :4]).all()
    assert d == pytest.approx(np.sort(full, 1)[:, :4])


def test_a_copy_is_at_distance_zero_and_ties_go_to_the_first():
    train = noise(30, 2)
    train[7] = train[3]
    d, i = neighbours.nearest(train[3:4], train, k=2)
    assert d.tolist() == [[0.0, 0.0]] and i.tolist() == [[3, 7]]


def test_a_read_only_memory_map_is_enough(tmp_path):
    np.save(tmp_path / "x.npy", noise(20, 3))
    train = np.load(tmp_path / "x.npy", mmap_mode="r")
    assert neighbours.nearest(train[5:6], train)[1].tolist() == [[5]]


@pytest.mark.parametrize("k", [0, 4])
def test_k_must_fit(k):
    with pytest.raises(ValueError, match="from 1 to the number of training images, 3"):
        neighbours.nearest(noise(1, 0), noise(3, 1), k)


def test_shapes_must_match():
    with pytest.raises(ValueError, match="need"):
        neighbours.nearest(noise(1, 0), noise(3, 1)[:, :1])


def test_copies_are_found_and_new_images_are_not():
    train, unseen, new = noise(60, 4), noise(40, 5), noise(40, 6)
    copied = neighbours.memorisation(train[:20], unseen, train)
    assert copied["sample_distance"] == 0 and copied["ratio"] == 0
    assert copied["share_copied"] == 1 and copied["share_close"] == 1
    fresh = neighbours.memorisation(new, unseen, train)
    assert fresh["ratio"] == pytest.approx(1, abs=0.05) and fresh["share_copied"] == 0
    assert fresh["held_out_distance"] == copied["held_out_distance"]


def test_blur_brings_images_closer_but_is_no_copy():
    train, unseen = noise(60, 4), noise(40, 5)
    grey = np.full((10, 3, 8, 8), 127, np.uint8)
    report = neighbours.memorisation(grey, unseen, train)
    assert report["ratio"] < 0.85 and report["share_close"] == 1 and report["share_copied"] == 0
