from types import SimpleNamespace

import numpy as np
import pytest

from agelib import feature_table, score_table
from agelib.metrics.svm_features import SvmConfig, SvmResult
from agelib.score_table import Reading, Ruler

RNG = np.random.default_rng(0)
CERTAIN = np.eye(4)[np.arange(40) % 4]
FEATURES = RNG.normal(size=(40, 5))


def test_rows_of_one_set():
    ruler = Ruler("classifier", "a test", 2, FEATURES)
    rows = {row["metric"]: row for row in score_table.rows("A", Reading(CERTAIN, FEATURES + 3), ruler)}
    assert set(rows) == {"classifier_score", *(f"classifier {x}" for x in
                         ("frechet distance", "kernel distance", "precision", "recall"))}  # fmt: skip
    assert (rows["classifier_score"]["value"], rows["classifier_score"]["n"]) == (pytest.approx(4), 40)
    assert "2 splits, a test" in rows["classifier_score"]["protocol"] and rows["classifier_score"]["comparable"] is False
    assert rows["classifier frechet distance"]["value"] == pytest.approx(45)  # means 3 apart in 5 dimensions
    assert all(row["model"] == "A" and row["protocol"] for row in rows.values())


def test_only_the_published_protocol_is_comparable():
    whole, few = Reading(np.full((50_000, 2), 0.5), FEATURES), Reading(CERTAIN, FEATURES)
    yard = Ruler("inception", "a test", 10, FEATURES, (50_000, 10), same_data=True)
    assert score_table.rows("A", whole, yard)[0] | {"value": 1} == score_table.rows("A", whole, yard)[0] | {
        "value": 1, "comparable": True, "note": "", "metric": "inception_score"}  # fmt: skip
    row = score_table.rows("A", few, yard)[0]
    assert row["comparable"] is False and row["note"] == "40 images instead of 50,000"
    assert Ruler("inception", "", 5, FEATURES, (50_000, 10)).differences(50_000) == (
        "other or incomplete data; 5 splits instead of 10"
    )


def test_the_spread_over_trainings_is_the_sample_deviation():
    row = score_table.over_trainings("A", [2.0, 4.0], Ruler("classifier", "a test", 2, FEATURES))
    assert (row["value"], row["std"], row["n"]) == (3, pytest.approx(2**0.5), 2)
    assert row["metric"] == "classifier_score_over_trainings"


def test_against_time_asks_for_each_snapshot():
    asked = []

    def generate(n, seed, weights):
        asked.append(weights)
        return np.zeros(n)

    ruler = Ruler("classifier", "a test", 2, FEATURES)
    model = SimpleNamespace(n_steps=10, seconds=5.0, snapshots={5: "a", 10: "b"}, generate=generate)
    seconds, means, stds = score_table.against_time(model, lambda x: (CERTAIN[: len(x)], FEATURES[: len(x)]), 8, 0, ruler)
    assert (seconds, asked, means, stds) == ((2.5, 5.0), ["a", "b"], pytest.approx((4, 4)), pytest.approx((0, 0)))
    model.snapshots = {}
    assert score_table.against_time(model, lambda x: (CERTAIN[: len(x)], FEATURES[: len(x)]), 8, 0, ruler)[0] == (5.0,)
    assert asked[-1] is None


def test_by_class_sorts_by_confidence_and_fills_up():
    probs = np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3], [0.2, 0.8]])
    images = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
    assert score_table.by_class(images, probs, 3).ravel().tolist() == [0, 3, 1, 4, 255, 255]  # ranks 0, 2 (of 1.5) and 3
    assert score_table.by_class(images, probs, 4).ravel().tolist() == [0, 2, 3, 1, 4, 255, 255, 255]


LABELS = np.arange(120) % 3


def pixels(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32) / 255


@pytest.fixture(scope="module")
def sets():
    x = RNG.integers(0, 200, (120, 1, 3, 3))
    x[np.arange(120), 0, LABELS] += 50
    return (x.astype(np.uint8), LABELS)


CFG = SvmConfig(per_class=4, n_valid=30, n_draws=3, Cs=(0.1, 1.0), patience=1)


def test_a_row_says_its_protocol_and_what_is_not_published(sets):
    rows, results = feature_table.evaluate({"raw": pixels}, sets, sets, CFG)
    (row,), found = rows, results["raw"]
    assert row["value"] == pytest.approx(100 * found.errors.mean()) and row["std"] == pytest.approx(100 * found.errors.std())
    assert "9 dimensions, 12 labels" in row["protocol"] and row["comparable"] is False
    assert row["note"].startswith("other or incomplete data; 4 labels a class instead of 100; 30 validation images")
    assert feature_table.differences(SvmConfig(), True) == ""


def test_validation_errors_are_those_of_the_validation_images(sets):
    images, labels = sets
    seen = []

    def watched(x: np.ndarray) -> np.ndarray:
        seen.append(x)
        return pixels(x)

    mean, std = feature_table.on_validation("raw", watched, sets, CFG)
    (row,), _ = feature_table.evaluate({"raw": pixels}, sets, (images[-30:], labels[-30:]), CFG)
    assert (mean, std) == (pytest.approx(row["value"]), pytest.approx(row["std"]))
    assert feature_table.answers("asked", {"raw": pixels}, sets, CFG) == {"raw": (mean, std)}


def test_answers_are_shown_by_size_or_after_base():
    assert list(feature_table.in_order({"16": 1, "256": 2, "64": 3})) == ["16", "64", "256"]
    assert list(feature_table.in_order({"0.5": 1, "1": 2, "base": 3})) == ["base", "0.5", "1"]


def test_label_efficiency_takes_the_whole_pool_once(sets):
    curve = feature_table.label_efficiency({"raw": pixels}, sets, [2, 30], CFG)["raw"]
    assert list(curve) == [6, 90] and curve[90][1] == 0  # one draw


def test_confusion_and_the_images_that_are_always_wrong():
    predictions = np.array([[0, 0, 1, 1], [0, 1, 1, 2]])
    result = SvmResult(1.0, np.zeros(1), np.zeros((2, 1)), predictions, np.zeros(2), 1, 0)
    labels = np.array([0, 0, 0, 2])
    matrix = feature_table.confusion(result, np.array([0, 0, 1, 2]))
    assert matrix == pytest.approx(np.array([[3 / 4, 1 / 4, 0], [0, 1, 0], [0, 0.5, 0.5]]))
    ids, votes = feature_table.always_wrong(result, labels)
    assert (ids.tolist(), votes.tolist()) == ([2], [1])
