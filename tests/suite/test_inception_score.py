import numpy as np
import pytest

import agelib
from suite import inception_score
from suite.inception_score import Ruler
from suite.rows import make

RNG = np.random.default_rng(0)
CERTAIN = np.eye(4)[np.arange(40) % 4]
FEATURES = RNG.normal(size=(40, 5))
IMAGES = RNG.integers(0, 256, (8, 1, 32, 32), dtype=np.uint8)


def ruler(prefix="classifier", splits=2, **settings):
    return Ruler(prefix, "a test", lambda x: (CERTAIN[: len(x)], FEATURES[: len(x)]), splits, FEATURES, **settings)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder with a model AGE, kept after 2 and 4 iterations."""
    folder = tmp_path_factory.mktemp("run")
    settings = {"width": 2, "M": 3, "lr": 0.05, "batch_size": 4, "n_epochs": 2, "snapshots": 2, "device": "cpu"}
    return folder, agelib.train("age", IMAGES, folder / "models" / "AGE", **settings)


def test_rows_of_one_set():
    score, frechet, kernel, precision, recall = ruler().rows("A", (CERTAIN, FEATURES + 3))
    assert (score["metric"], score["value"], score["n"]) == ("classifier_score", pytest.approx(4), 40)
    assert "2 splits, a test" in score["protocol"] and score["comparable"] is False
    assert (frechet["metric"], frechet["value"]) == ("classifier frechet distance", pytest.approx(45))  # 3 apart in 5 dims
    assert (kernel["metric"], precision["metric"]) == ("classifier kernel distance", "classifier precision")
    assert kernel["std"] is not None and recall["std"] is None and recall["metric"] == "classifier recall"
    assert all(row["model"] == "A" and row["protocol"] for row in (score, frechet, kernel, precision, recall))
    (row,) = ruler().over_trainings("A", [2.0, 4.0])  # whose spread is the sample deviation
    assert (row["metric"], row["value"], row["std"], row["n"]) == (
        "classifier_score_over_trainings", 3, pytest.approx(2**0.5), 2,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("n", "splits", "same_data", "differences"),
    [
        (50_000, 10, True, ""),
        (50_000, 5, False, "other or incomplete data; 5 splits instead of 10"),
        (40, 10, True, "40 images instead of 50,000"),
    ],
)
def test_only_the_published_protocol_is_comparable(n, splits, same_data, differences):
    yard = ruler("inception", splits, published=(50_000, 10), same_data=same_data)
    row = yard.rows("A", (np.full((n, 2), 0.5), FEATURES))[0]
    assert (row["metric"], row["value"]) == ("inception_score", pytest.approx(1))
    assert (row["comparable"], row["note"]) == (not differences, differences)


def test_against_time_asks_each_kept_state_once(trained):
    _, model = trained
    seen = []
    yard = Ruler("classifier", "a test", lambda x: (seen.append(x), CERTAIN[: len(x)], FEATURES)[1:], 2, FEATURES)
    seconds, means, stds = yard.against_time(model, 8, 0)
    assert seconds == (model.at(2).seconds, model.seconds)
    assert means == pytest.approx((4, 4)) and stds == pytest.approx((0, 0))
    assert np.array_equal(seen[0], model.at(2).generate(8, 0)) and np.array_equal(seen[1], model.generate(8, 0))
    assert not np.array_equal(*seen)
    seconds, _, _ = yard.against_time(model.at(2), 8, 0)  # which has no snapshots itself
    assert seconds == (model.at(2).seconds,) and np.array_equal(seen[2], seen[0])


def test_by_class_sorts_by_confidence_and_fills_up():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    shown = inception_score.by_class(images, probs, 3)
    assert shown.ravel().tolist() == [0, 3, 1, 4, 255, 255]  # ranks 0, 2 (of 1.5) and 3
    assert inception_score.by_class(images, probs, 4).ravel().tolist() == [0, 2, 3, 1, 4, 255, 255, 255]


@pytest.mark.parametrize(
    ("source", "shape", "error", "message"),
    [
        ("cifar", (1, 32, 32), ValueError, "from_runs.AGE: 'cifar' is none of the runs that came first: cifar10"),
        ("cifar10: VAE", (1, 32, 32), FileNotFoundError, "models/VAE/model.safetensors: there is no trained model"),
        ("cifar10: ../AGE", (1, 32, 32), ValueError, "is no label"),
        ("cifar10", (3, 32, 32), ValueError, r"is of images \(1, 32, 32\), the data set's are \(3, 32, 32\)"),
    ],
)
def test_an_earlier_model_is_taken_as_it_is_and_refused_where_it_does_not_fit(trained, source, shape, error, message):
    folder, model = trained
    for good, label in (("cifar10", "AGE"), ("cifar10: AGE", "AGE of that run")):
        found = inception_score.earlier(good, label, {"cifar10": str(folder)}, (1, 32, 32), "cpu")
        assert np.array_equal(found.generate(2), model.generate(2)) and found.seconds == model.seconds
    with pytest.raises(error, match=message):
        inception_score.earlier(source, "AGE", {"cifar10": str(folder)}, shape, "cpu")


def test_inception_is_left_out_with_a_reason(tmp_path):
    assert inception_score.network(None) == (None, 0, "not asked for (inception = None)")
    net, n, reason = inception_score.network({"weights": str(tmp_path / "none.pth")})
    assert (net, n) == (None, 0) and "none.pth: no such file" in reason
    with pytest.raises(ValueError, match="inception has no setting images; valid: n, weights"):
        inception_score.network({"images": 5})


def scored(values, metric="classifier_score", **also):
    return [row for name, value in values.items() for row in make(name, {metric: (value, 0.1)}, **also)]


def test_the_verdict_reads_this_runs_rows():
    good = {"real test images": 7.0, "AGE": 3.0, "AGE, batch statistics": 3.2, "ALI": 2.0}
    said = inception_score.verdict(scored(good))
    assert "real test images stand above all samples, as they must: 7.00 ± 0.10; best: AGE, batch statistics, 3.20" in said
    assert "AGE is above ALI, as in the paper: 3.00 ± 0.10 against 2.00 ± 0.10." in said
    assert "AGE: 3.00 ± 0.10 with running statistics, 3.20 ± 0.10 with those of each batch." in said
    assert "nothing stands: no Inception Score of AGE" in said
    bad = inception_score.verdict(scored({"real test images": 1.0, "AGE": 1.5, "ALI": 2.0}))
    assert "NOT above all samples" in bad and "AGE is NOT above ALI" in bad
    assert inception_score.verdict(scored({"real test images": 1.0})).count("\n") == 0  # all games were lost
    for note, told in (("", "stands 5.80 ± 0.10."), ("5 splits", "nothing stands: 5 splits.")):
        rows = scored(good) + scored({"AGE": 5.8}, "inception_score", note=note)
        assert inception_score.verdict(rows).endswith(f"Beside the paper's 5.90 ± 0.04 {told}")
