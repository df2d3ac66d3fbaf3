"""agelib.train, agelib.load and Model over every method, and what they refuse."""

import copy
import dataclasses
import math
import re
import shutil

import numpy as np
import pytest
import torch
from fit_worker import IMAGES, TINY, train

import agelib
from agelib import age
from agelib import model as models
from agelib.model import METHODS
from agelib.rivals import ali
from agelib.training import fit
from agelib.training.step import Step

COLOURS = [method for method in METHODS if hasattr(METHODS[method], "given")]
STEPS = {"max_steps": 4, "snapshots": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """method -> its model after four iterations, with snapshots after two and four."""
    folder = tmp_path_factory.mktemp("trained")
    return {method: train(method, folder / method, **STEPS) for method in METHODS}


def same(a, b):
    """Whether two models have the same networks, bit for bit."""
    a, b = (torch.nn.ModuleDict(model.nets).state_dict() for model in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def decoded(model, *given):
    torch.manual_seed(0)  # pix2pix draws in evaluation mode too
    return model.decode(*given)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_trained_once_and_does_what_it_can(method, trained, monkeypatch):
    model = trained[method]
    assert model.ok and model.status == "ok" and (model.method, model.label) == (method, METHODS[method].LABEL)
    assert (model.n_steps, model.n_epochs, model.steps, model.shape) == (4, pytest.approx(4 / 6), [2, 4], (3, 32, 32))
    assert [row["step"] for row in model.history] == [4] and model.seconds > 0 and model.stabilisers == ""
    assert (model.trained_on, str(model.device), model.precision) == ("cpu", "cpu", "fp32")
    assert model.config == METHODS[method].Config(**TINY[method], precision="fp32")
    assert model.about["config"].keys() == {f.name for f in dataclasses.fields(model.config)}  # which a resume compares
    z = model.codes(5)
    assert z.shape == (5, model.M) and torch.equal(z, model.codes(5, torch.Generator().manual_seed(0)))
    assert (model.codes(1000).norm(dim=1).std() < 1e-5) == (model.prior == "sphere")
    assert not torch.equal(z, model.codes(5, 1))
    given = (IMAGES[:5],) if method in COLOURS else ()
    made = decoded(model, z, *given)
    assert made.shape == (5, 3, 32, 32) and made.dtype == np.uint8
    with pytest.raises(ValueError, match="takes codes and images" if given else "takes codes alone"):
        model.decode(z, *(() if given else (IMAGES[:5],)))
    if not given:
        assert np.array_equal(made, model.generate(5))
    if model.e is None:
        assert model.reconstruct(IMAGES) is None
        with pytest.raises(ValueError, match=rf"{METHODS[method].LABEL.replace('+', '.')} has no encoder"):
            model.encode(IMAGES)
    else:
        assert model.encode(IMAGES).shape == (24, model.M) and model.reconstruct(IMAGES[:5]).shape == (5, 3, 32, 32)
    if hasattr(METHODS[method], "features"):
        assert model.features()(IMAGES[:2]).shape[0] == 2
    else:
        with pytest.raises(ValueError, match="has no features"):
            model.features()
    with monkeypatch.context() as patch:
        patch.setattr(Step, "__call__", lambda *_: pytest.fail("trained again"))
        again = train(method, model.folder, **STEPS)
    assert same(again, model) and again.history == model.history and again.seconds == model.seconds
    assert np.array_equal(decoded(again, z, *given), made)


def test_a_file_is_a_model_and_evaluations_take_its_averages(tmp_path):
    made = train("age, stabilised", tmp_path / "made", **STEPS)
    model = agelib.load(shutil.copy(made.folder / fit.MODEL, tmp_path / "elsewhere.safetensors"), "cpu")
    assert same(model, made) and model.config == made.config and model.stabilisers == made.stabilisers
    assert np.array_equal(model.generate(3), made.generate(3))
    assert np.array_equal(model.reconstruct(IMAGES), made.reconstruct(IMAGES))
    assert (model.history, model.steps, model.folder) == ([], [], None)
    assert not any(p.requires_grad for net in model.nets.values() for p in net.parameters())
    for name in "ge":
        average, raw = model.nets[f"{name}_ema"], model.nets[name]
        assert getattr(model, name) is average
        assert any(not torch.equal(a, b) for a, b in zip(average.parameters(), raw.parameters(), strict=True))
    early, last = made.at(2), made.at(4)
    assert same(last, made) and not same(early, made) and early.seconds < last.seconds
    assert (early.n_steps, early.config, early.label) == (2, made.config, "AGE")
    with pytest.raises(ValueError, match=r"no snapshot after 3 iterations; there are \[2, 4\]"):
        made.at(3)


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (age.Config(margin=0.5, ema=0.99), "margin 0.5, averaged generator 0.99"),
        (age.Config(M=3, lam=7.0, lr=1.0, nets="decoder"), ""),
        (age.Config(recon_x="l2", adversarial=False), "l2 for L_X, no divergences"),
        (age.Config(mean_bias=True, noisy_code=0.5), "last bias at the data's mean, noise 0.5 on the code"),
        (METHODS["conditional"].Config(adaptive=1.05, kl_fake_weight=1.0, ema_e=0.9),
         "KL fake weight 1, adaptive KL fake weight, threshold 1.05, averaged encoder 0.9"),
        (ali.Config(d_lr=2.5e-4, noise=0.2, dropout=0, init="he", ema=0.995),
         "discriminator's lr 0.00025, noise 0.2 on what the discriminator sees, dropout 0, he initial weights, "
         "averaged networks 0.995"),
        *((module.Config(), "") for module in METHODS.values()),
    ],
)  # fmt: skip
def test_what_the_paper_does_not_have_is_named(config, says):
    method = next(name for name, module in METHODS.items() if type(config) is module.Config)
    assert models.Model(method, config, (3, 32, 32), {}).stabilisers == says


def test_a_model_in_half_precision_is_half_as_large_and_nearly_the_same(trained, tmp_path):
    model = agelib.load(trained["conditional"].folder, "cpu")
    model.save(tmp_path / "small.safetensors")
    small = agelib.load(tmp_path / "small.safetensors", "cpu")
    assert (tmp_path / "small.safetensors").stat().st_size < 0.7 * (model.folder / fit.MODEL).stat().st_size
    facts = ("method", "config", "shape", "n_steps", "n_epochs", "seconds", "trained_on", "precision")
    assert [getattr(small, name) for name in facts] == [getattr(model, name) for name in facts]
    assert next(small.g.parameters()).dtype == torch.float32
    torch.testing.assert_close(small.encode(IMAGES), model.encode(IMAGES), atol=0.01, rtol=0)
    with torch.no_grad():
        next(model.g.parameters()).fill_(1e6)
    with pytest.raises(ValueError, match=r"small\.safetensors: half precision can't hold g\.layers\.0\.weight"):
        model.save(tmp_path / "small.safetensors")


def test_fine_tuning_begins_from_the_weights_and_its_history_goes_on(trained, tmp_path):
    first = trained["age"]
    model = train("age", tmp_path, start=first, **STEPS)
    assert [(row["stage"], row["step"]) for row in model.history] == [("train", 4), ("finetune", 8)]
    assert model.n_steps == 8 and model.n_epochs == pytest.approx(8 / 6, abs=1e-4) and model.steps == [2, 4]
    assert model.seconds > first.seconds and model.history[1]["seconds"] >= model.history[0]["seconds"]
    assert same(train("age", tmp_path, start=first.folder, **STEPS), model)
    still = train("age", tmp_path / "still", start=first, **STEPS | {"max_steps": 1}, seed=9)
    largest = max((a - b).abs().max() for a, b in zip(still.g.parameters(), first.g.parameters(), strict=True))
    assert 0 < largest < 1.1 * 2 * TINY["age"]["lr"]  # Adam's first two steps from there, whatever the seed
    other = train("age", tmp_path / "first", seed=4, **STEPS)
    with pytest.raises(fit.ConfigMismatch, match="start was '[0-9a-f]{16}', is '[0-9a-f]{16}'"):
        train("age", tmp_path, start=other, **STEPS)
    for start in (trained["vae"], trained["regression"]):
        with pytest.raises(ValueError, match=f"start: {start.label} in .*: its networks are not those of age"):
            train("age", tmp_path / "none", start=start, **STEPS)
    assert not (tmp_path / "none").exists()


def test_a_lost_game_is_a_model_that_says_so_and_refuses_all_use(tmp_path, monkeypatch):
    make_step = METHODS["vae"].make_step

    def broken(nets, cfg):
        step = make_step(nets, cfg)
        update = step.update
        step.update = lambda x: update(x) | {"neg_elbo": torch.tensor(math.nan)}
        return step

    monkeypatch.setattr(METHODS["vae"], "make_step", broken)
    for _ in range(2):
        model = train("vae", tmp_path, max_steps=4)
        assert not model.ok and model.status.startswith("diverged: ") and "step 1: neg_elbo" in model.status
        assert (model.label, model.n_steps, model.history) == ("VAE", 0, [])
    uses = (lambda: model.generate(2), lambda: model.reconstruct(IMAGES), lambda: model.encode(IMAGES), lambda: model.g)
    for use in (*uses, model.features if hasattr(METHODS["vae"], "features") else uses[0]):
        with pytest.raises(fit.Diverged, match="lost in training: diverged"):
            use()
    with pytest.raises(fit.Diverged, match="start: .*that model was lost"):
        train("vae", tmp_path / "second", start=model)
    with pytest.raises(FileNotFoundError, match="there is no trained model; a training that was not finished"):
        agelib.load(tmp_path)


def test_the_global_random_state_is_left_alone_and_an_image_set_taken_for_its_images(trained, tmp_path):
    data = dataclasses.make_dataclass("Set", ["images"])(np.broadcast_to(IMAGES, IMAGES.shape))  # read-only, as a map is
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert same(train("ali", tmp_path, images=data, **STEPS), trained["ali"])
    agelib.load(tmp_path).generate(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_batch_statistics_normalise_by_the_batch_of_100_and_leave_the_model_as_it_is(trained):
    model = trained["age"]
    running, training = model.generate(120), copy.deepcopy(model.g).train()
    with torch.no_grad():
        by_batch = np.concatenate([models.images.to_uint8(training(z)) for z in model.codes(120).split(100)])
    assert np.array_equal(model.generate(120, batch_statistics=True), by_batch) and (by_batch != running).any()
    assert (model.generate(120) == running).all() and (model.generate(120, 1) != running).any()


def test_reestimated_statistics_are_those_of_the_images(trained):
    e = age.build(age.Config(M=6, width=4), (3, 32, 32))["e"]
    real = models.reestimate(e, IMAGES, batch_size=12)
    first = e.layers[:3](models.images.to_float(IMAGES))  # the input of the first BatchNorm
    torch.testing.assert_close(real.layers[3].running_mean, first.mean((0, 2, 3)).detach())
    assert torch.equal(e.layers[3].running_mean, torch.zeros(8)) and not real.training


NAN, INF = math.nan, math.inf
WRONG = {  # what a value must be: method, setting, value
    "finite": [(method, "lr", NAN) for method in METHODS] + [("age", name, NAN) for name in ("lam", "margin", "ema")]
    + [("age", "lr", INF), ("age", "mu", -INF), ("ali", "width", INF), ("gan", "checkpoint_every_s", NAN)],
    "above 0": [(method, "lr", value) for method in METHODS for value in (0, -1e-3)]
    + [("vae", "sigma2", 0.0)],
    "above 1": [("age", "adaptive", 1.0)],
    "at least 1": [("age", name, 0) for name in ("M", "width", "e_width")]
    + [("gan", name, 0) for name in ("batch_size", "n_epochs", "max_steps", "log_every")],
    "at least 0": [("age", name, -1) for name in ("lam", "kl_fake_weight", "noisy_code")]
    + [("conditional", "n_blocks", -1), ("ali", "noise", -0.1), ("pix2pix", "l1", -1), ("gan", "seed", -1)]
    + [("gan", "snapshots", -1)],
    "at least 0 and below 1": [("age", "ema", 1.0), ("age", "ema_e", -0.1), ("regression", "beta2", 1)],
    "below 2**32": [("gan", "seed", 2**80), ("gan", "M", 2**40)],
    "int": [("age", "M", 2.5), ("age", "M", True), ("age", "M", None), ("gan", "seed", 1.0)],
    "float": [("age", "lam", "60")],
    "bool": [("age", "adversarial", 1), ("gan", "flip", "yes")],
}
BAD_SETTINGS = [
    *((method, {name: value}, f"(Config|Schedule): {name} must be {re.escape(what)}, is {value!r}")
      for what, cases in WRONG.items() for method, name, value in cases),
    *(("age", {name: "x"}, f"unknown {name} 'x'; valid: ")
      for name in ("objective", "divergence", "prior", "recon_x", "precision", "nets", "encoder")),
    ("age", {"lamda": 1.0}, "age has no setting lamda; valid: M, .*lam"),
    ("gan", {"prior": "gaussian", "lam": 1.0}, "gan has no setting lam, prior; valid: M, "),
    ("ali", {"init": "xavier"}, "unknown init 'xavier'; valid: released, he"),
    ("ali", {"nets": "mnist"}, "unknown nets 'mnist'; valid: released, svhn"),
    ("gan", {"batch_size": 25}, "batch_size 25 is more than the 24 images there are"),
    ("age", {"divergence": "full", "M": 8, "batch_size": 8}, "divergence full: batch_size 8 is not above M, 8"),
    ("gan", {"n_epochs": None, "max_steps": None}, "n_epochs and max_steps are both None"),
    ("gan", {"device": "gpu0"}, "unknown device 'gpu0'"),
    ("gan", {"device": "cuda:99"}, "device 'cuda:99': PyTorch finds [0-9]+ CUDA devices here"),
    ("dcgan", {}, "unknown method 'dcgan'; valid: age, conditional"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "settings", "message"), BAD_SETTINGS, ids=lambda value: str(value)[:40])
def test_a_bad_setting_is_one_line_that_names_it_and_nothing_is_written(method, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message) as error:
        agelib.train(method, IMAGES, tmp_path / "new", **{"device": "cpu"} | settings)
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("method", "images", "message"),
    [
        ("age", IMAGES.astype(np.float32), r"images must be uint8 \(N, C, H, W\), N >= 1; got float32 \(24, 3, 32, 32\)"),
        ("age", IMAGES[0], r"got uint8 \(3, 32, 32\)"),
        ("age", IMAGES[:0], r"got uint8 \(0, 3, 32, 32\)"),
        ("age", [[1, 2]], r"got int64 \(1, 2\)"),
        ("age", np.zeros((8, 3, 32, 64), np.uint8), "square images, got 32x64"),
        ("age", np.zeros((8, 2, 32, 32), np.uint8), "1 or 3 channels, got 2"),
        *((method, np.zeros((8, 3, 48, 48), np.uint8), "for 48(x48| px)")
          for method in METHODS if method != "regression"),
        *((method, IMAGES[:, :1], r"\(B, 3, H, W\), got \(\d+, 1, 32, 32\)") for method in COLOURS),
    ],
)  # fmt: skip
def test_images_that_a_method_can_not_take_are_refused(method, images, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        agelib.train(method, images, tmp_path / "new", device="cpu", batch_size=4, **TINY[method])
    assert not list(tmp_path.rglob("*.pt")) and not list(tmp_path.rglob("*.safetensors"))
