"""The Inception wrapper on a file of random weights in the published format; the scores by hand and by a second source."""

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch
from torch.utils.data import ConcatDataset

from agelib.metrics import inception

original = inception._torch_fidelity("feature_extractor_inceptionv3")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """(path, sha256) of a random-weight state dict, spread so that the logits differ from image to image."""
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(original, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(original.FeatureExtractorInceptionV3, "load_state_dict", lambda *_, **__: None)
        net = original.FeatureExtractorInceptionV3("random", ["2048"])
    for layer in net.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    torch.nn.init.normal_(net.fc.weight)
    path = tmp_path_factory.mktemp("weights") / inception.FILE
    torch.save(net.state_dict(), path)
    return path, hashlib.sha256(path.read_bytes()).hexdigest()


class Danger:
    def __reduce__(self):
        return os.mkdir, (os.environ["AGELIB_TEST_DANGER"],)


def test_one_pass_gives_torch_fidelitys_numbers(weights):
    import torch_fidelity

    path, sha256 = weights
    colours = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 2, 2), dtype=np.uint8)
    a, b = colours.repeat(16, 3).repeat(16, 4)  # 32 px, four colours each
    net = inception.load(path, sha256=sha256)
    (probs, made), (_, real) = (inception.read(net, part, batch_size=3) for part in (a, b))
    inputs = {f"input{i}": ConcatDataset([torch.from_numpy(part)]) for i, part in ((1, a), (2, b))}
    quietly = {"cuda": False, "cache": False, "verbose": False, "save_cpu_ram": True, "samples_shuffle": False}
    settings = inputs | quietly | {"feature_extractor_weights_path": str(path), "batch_size": 4}
    theirs = torch_fidelity.calculate_metrics(isc=True, fid=True, isc_splits=2, **settings)
    mean, std = inception.inception_score(probs, 2)
    assert mean > 1.001, "the images must not all look alike to the random network"
    assert (mean, std) == pytest.approx((theirs["inception_score_mean"], theirs["inception_score_std"]), abs=1e-4)
    assert inception.frechet_distance(made, real) == pytest.approx(theirs["frechet_inception_distance"], rel=1e-4, abs=1e-4)
    assert probs.shape == (4, 1008) and made.shape == (4, 2048)
    grey = a[:1, :1]  # is read as colour
    assert inception.read(net, grey)[1] == pytest.approx(inception.read(net, np.repeat(grey, 3, 1))[1])


def test_the_file_is_downloaded_checked_and_found_again_or_said_what_to_put_where(weights, tmp_path, monkeypatch):
    path, sha256 = weights
    monkeypatch.setenv("AGELIB_TEST_DANGER", str(trace := tmp_path / "it ran"))
    torch.save({"fc.weight": Danger()}, tmp_path / "danger.pth")
    absent = rf"absent.pth: no such file; put {inception.FILE} from https"
    for given, said in ((path, f"expected {inception.SHA256}"), ("danger.pth", "sha256 is"), ("absent.pth", absent)):
        with pytest.raises(inception.WeightsError, match=said):
            inception.load(tmp_path / given)
    assert not trace.exists()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    nowhere, place = (tmp_path / "nothing.pth").as_uri(), tmp_path / "hub" / "checkpoints" / inception.FILE
    for url, digest in ((nowhere, sha256), (path.as_uri(), "0" * 64)):
        monkeypatch.setattr(inception, "URL", url)
        with pytest.raises(inception.WeightsError, match=rf"the download of .* failed .*; put .*sha256 {digest}.* into "):
            inception.load(sha256=digest)
        assert not place.exists()
    inception.load(sha256=sha256)
    assert place.is_file()
    monkeypatch.setattr(inception, "URL", nowhere)
    inception.load(sha256=sha256)


def test_what_was_checked_is_what_is_loaded(weights, tmp_path, monkeypatch):
    """Though the file is another one as soon as it was read."""
    content, read_bytes = weights[0].read_bytes(), Path.read_bytes
    (path := tmp_path / "w.pth").write_bytes(content)
    monkeypatch.setenv("AGELIB_TEST_DANGER", str(trace := tmp_path / "it ran"))

    def swapped(self):
        found = read_bytes(self)
        torch.save({"fc.weight": Danger()}, self)
        return found

    monkeypatch.setattr(Path, "read_bytes", swapped)
    net = inception.load(path, sha256=weights[1])
    assert path.stat().st_size < 10_000 and not trace.exists()
    assert torch.equal(net.fc.weight, torch.load(weights[0], weights_only=True)["fc.weight"])


# ---- the scores ----
# The last by hand: p(y) = (1/2, 1/2); KL of (3/4, 1/4) to it: 3/4 log(3/2) + 1/4 log(1/2) = 0.130812
@pytest.mark.parametrize(
    ("probs", "splits", "score"),
    [
        (np.tile([0.7, 0.2, 0.1], (30, 1)), 10, 1),
        (np.eye(7)[np.arange(70) % 7], 10, 7),  # balanced and certain: the number of classes
        (np.repeat(np.eye(7), 10, axis=0), 7, 1),  # in blocks: each split sees one class
        (np.array([[0.75, 0.25], [0.25, 0.75]]), 1, np.exp(0.130812)),
    ],
)
def test_scores_by_hand(probs, splits, score):
    assert inception.inception_score(probs, splits) == pytest.approx((score, 0), rel=1e-6)


def test_the_score_is_the_formula_of_salimans_et_al_in_uneven_splits():
    p, scores = np.random.default_rng(0).dirichlet(np.full(20, 0.1), 103), []
    for i in range(4):
        part = p[i * 103 // 4 : (i + 1) * 103 // 4]
        scores.append(np.exp((part * (np.log(part.clip(1e-300)) - np.log(part.mean(0)))).sum(1).mean()))
    expected = np.mean(scores), np.std(scores)
    assert inception.inception_score(p, 4) == pytest.approx(expected, rel=1e-9)
    assert inception.inception_score(p.astype(np.float32), 4) == pytest.approx(expected, rel=1e-5)


def test_frechet_distances_by_hand_and_by_the_symmetric_root():
    # Means 1 and 4, variances 1 and 4 (unbiased): 9 + 1 + 4 - 2 sqrt(4) = 10; the second dimension is constant
    a, b = np.array([[0.0, 0], [1, 0], [2, 0]]), np.array([[2.0, 0], [4, 0], [6, 0]])
    assert inception.frechet_distance(a, b) == pytest.approx(10)
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(24, 24))
    a, b = rng.normal(size=(400, 24)) @ mix, rng.normal(size=(300, 24)) @ mix[::-1] + 0.5
    assert inception.frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    S_a, S_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(S_a).real
    cross = np.sqrt(np.linalg.eigvalsh(root @ S_b @ root)).sum()  # those of S_a S_b are the same
    expected = np.square(a.mean(0) - b.mean(0)).sum() + np.trace(S_a) + np.trace(S_b) - 2 * cross
    assert inception.frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_kernel_distance_precision_and_recall_point_the_right_way():
    rng = np.random.default_rng(0)
    real, same, apart = rng.normal(size=(300, 8)), rng.normal(size=(300, 8)), rng.normal(size=(300, 8)) + 6
    near, far = (inception.kernel_distance(x, real, subsets=20)[0] for x in (same, apart))
    assert abs(near) < 0.05 and far > 10
    assert min(inception.precision_recall(same, real)) > 0.8 and inception.precision_recall(apart, real) == (0, 0)
    narrow = 0.05 * rng.normal(size=(300, 8))  # a collapsed generator: likely images, few kinds
    precision, recall = inception.precision_recall(narrow, real)
    assert precision > 0.95 and recall < 0.05


GOOD = np.random.default_rng(0).normal(size=(5, 3))


@pytest.mark.parametrize(
    ("call", "args", "message"),
    [
        (inception.inception_score, (np.full((4, 2), 0.5), 5), "1 to N splits, got .4, 2. and 5"),
        (inception.inception_score, (np.array([[0.5, 0.5], [np.nan, 0.5]]), 1), "the least value is nan"),
        (inception.inception_score, (np.full((4, 2), 0.6), 1), "sums are 1.2"),
        (inception.inception_score, (np.array([[1.5, -0.5]]), 1), "the least value is -0.5"),
        (inception.frechet_distance, (GOOD, GOOD[:, :2]), r"got \(5, 3\) and \(5, 2\)"),
        (inception.frechet_distance, (GOOD[:1], GOOD), "of >= 2 images"),
        (inception.kernel_distance, (GOOD * np.nan, GOOD), "not finite"),
        (inception.precision_recall, (GOOD[:3], GOOD), "of >= 4 images"),
    ],
)
def test_bad_input_is_refused(call, args, message):
    with pytest.raises(ValueError, match=message):
        call(*args)
