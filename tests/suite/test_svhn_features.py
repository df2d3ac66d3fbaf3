from types import SimpleNamespace

import numpy as np
import pytest
import torch

import agelib
from agelib.metrics import svm
from agelib.metrics.svm import SvmConfig, SvmResult
from agelib.model import METHODS
from suite import svhn_features
from suite.rows import make

RNG = np.random.default_rng(0)
LABELS = np.arange(120) % 3
CFG = SvmConfig(per_class=4, n_valid=30, n_draws=3, Cs=(0.1, 1.0), patience=1)
PICTURES = RNG.integers(0, 256, (60, 3, 32, 32), dtype=np.uint8)
TINY = {"width": 4, "M": 6, "batch_size": 10, "n_epochs": None, "max_steps": 3, "device": "cpu"}


@pytest.fixture(scope="module")
def train():
    x = RNG.integers(0, 200, (120, 1, 3, 3))
    x[np.arange(120), 0, LABELS] += 50
    return SimpleNamespace(images=x.astype(np.uint8), labels=LABELS)


@pytest.fixture(scope="module")
def age(tmp_path_factory):
    return agelib.train("age", PICTURES, tmp_path_factory.mktemp("age"), **TINY, in_bias=True, seed=5)


def test_a_row_says_its_protocol_and_what_is_not_published(train):
    rows, results = svhn_features.evaluate({"raw": svm.pixels}, train, train, CFG)
    (row,), found = rows, results["raw"]
    assert row["value"] == pytest.approx(100 * found.errors.mean()) and row["std"] == pytest.approx(100 * found.errors.std())
    assert "9 dimensions, 12 labels" in row["protocol"] and row["comparable"] is False
    assert row["note"].startswith("other or incomplete data; 4 labels a class instead of 100; 30 validation images")
    valid = SimpleNamespace(images=train.images[-30:], labels=train.labels[-30:])
    (row,), _ = svhn_features.evaluate({"raw": svm.pixels}, train, valid, CFG)
    assert svhn_features.on_validation(svm.pixels, train, CFG, "raw") == (row["value"], row["std"])
    assert svhn_features.differences(SvmConfig(), True) == ""
    assert svhn_features.differences(SvmConfig(Cs=(1.0,), patience=2), True).startswith("another grid for C; larger C left")
    # The label efficiency takes the whole pool once.
    curve = svhn_features.label_efficiency({"raw": svm.pixels}, train, [2, 30], CFG)["raw"]
    assert list(curve) == [6, 90] and curve[90][1] == 0 < curve[6][1]  # one draw


def test_the_study_judges_features_once_for_all_their_questions(train, monkeypatch):
    asked = []
    monkeypatch.setattr(svhn_features, "on_validation", lambda f, train, cfg, label: asked.append(label) or (f(1), 0.0))
    a, b = lambda x: x + 1.0, lambda x: x + 2.0
    panels = svhn_features.study({"q": {"1": a, "2": b}, "r": {"base": a}}, train, CFG)
    assert panels == {"q": {"1": (2.0, 0.0), "2": (3.0, 0.0)}, "r": {"base": (2.0, 0.0)}} and asked == ["q 1", "q 2"]


@pytest.mark.parametrize(
    ("question", "answers", "order"),
    [
        ("M", ["16", "2"], ["2", "6", "16"]),
        ("mu", ["100", "1"], ["1", "10", "100"]),
        ("objective", ["paper"], ["released", "paper"]),
        ("stochastic code", ["0.5", "1"], ["base", "0.5", "1"]),
        ("M", ["6"], ["6"]),
    ],
)
def test_the_base_stands_among_the_answers(age, question, answers, order):
    found = svhn_features.with_base(dict.fromkeys(answers, "another"), question, age)
    assert list(found) == order and [answer for answer, model in found.items() if model is age] == [
        answer for answer in order if answer not in answers or len(order) == 1
    ]


def test_confusion_and_the_images_that_are_always_wrong():
    predictions = np.array([[0, 0, 1, 1], [0, 1, 1, 2]])
    result = SvmResult(1.0, np.zeros(1), np.zeros((2, 1)), predictions, np.zeros(2), 1, 0)
    matrix = svhn_features.confusion(result, np.array([0, 0, 1, 2]))
    assert matrix == pytest.approx(np.array([[3 / 4, 1 / 4, 0], [0, 1, 0], [0, 0.5, 0.5]]))
    ids, votes = svhn_features.always_wrong(result, np.array([0, 0, 0, 2]))
    assert (ids.tolist(), votes.tolist()) == ([2], [1])


def test_untrained_is_the_encoder_before_the_first_iteration(age):
    train = SimpleNamespace(images=np.concatenate([PICTURES] * 5))
    torch.manual_seed(5)
    first = METHODS["age"].build(age.config, age.shape)["e"]
    for model, weights in ((svhn_features.untrained(age, train), first), (svhn_features.real_statistics(age, train), age.e)):
        assert all(torch.equal(a, b) for a, b in zip(model.e.parameters(), weights.parameters(), strict=True))
        look, norm = model.features(layers=(2,), pool=None, code=False, moment="before"), model.e.layers[3]
        found = look(train.images[:250])
        shift, scale = (p.detach().numpy()[:, None] for p in (norm.bias, norm.weight))
        maps = (found.reshape(250, len(scale), -1) - shift) / scale
        std = (norm.running_var / (norm.running_var + norm.eps)).sqrt().numpy()  # nearly 1
        assert maps.mean((0, 2)) == pytest.approx(0, abs=1e-4) and maps.std((0, 2)) == pytest.approx(std, rel=1e-3)
    assert not torch.equal(first.layers[0].weight, age.e.layers[0].weight)  # three iterations have changed it


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: svhn_features.protocol({"draws": 3}, 0), "svm has no setting draws; valid: Cs, chunk, max_iter, n_draws"),
        (lambda: svhn_features.check({"ALI": {"method": "ali"}}), "models needs an AGE with that label, got ALI"),
        (lambda: svhn_features.check({"AGE": {"method": "gan"}}), "models needs an AGE with that label, got AGE"),
        (lambda: svhn_features.check({"AGE": {}, "B": {"method": "vae"}}), "models.B: 'vae' has no features; these have: "),
    ],
)
def test_bad_parameters_are_refused_before_the_training(call, message):
    with pytest.raises(ValueError, match=message):
        call()
    assert svhn_features.protocol({"n_draws": 3}, 7) == SvmConfig(n_draws=3, seed=7)


def test_the_verdict_reads_this_runs_rows():
    values = {"AGE": 8.0, "ALI": 7.0, "DCGAN": 3.0, "untrained encoder": 28.0, "PCA": 74.0, "raw pixels": 73.0}
    note = "10 draws instead of 100"
    rows = [row for name, v in values.items() for row in make(name, {"test_error_percent": (v, 0.5)}, note=note)]
    panels = {"mu": {"1": (30.0, 0.1), "10": (25.0, 0.1)}, "M": {"16": (37.0, 0.1), "64": (25.0, 0.1)}}
    said = svhn_features.verdict(rows, panels).split("\n")
    assert said[0].endswith("are better than the best control, untrained encoder: 8.00 ± 0.50 % against 28.00 ± 0.50 %.")
    assert said[1] == "ALI is ahead of AGE, as in the paper: 7.00 ± 0.50 %."
    assert said[2] == "DCGAN is NOT between the two (in the paper it is): 3.00 ± 0.50 %."
    assert said[3].endswith("in points: M 12.0, mu 5.0.") and said[4].endswith("nothing stands: 10 draws instead of 100.")
    rows[0] |= {"value": 30.0, "note": ""}
    said = svhn_features.verdict(rows[:1] + rows[3:], panels)  # ALI and DCGAN were lost
    assert "NOT better" in said and "ALI is" not in said and said.endswith("stands 30.00 ± 0.50 % (AGE).")
