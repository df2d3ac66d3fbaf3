import json

import numpy as np
import pytest
import torch

from agelib import apply, checkpoint, features, models, networks

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 3, 32, 32), dtype=np.uint8)
SMALL = {"n_steps": 4, "batch_size": 8, "precision": "fp32"}
OF = {"age": {"width": 4, "M": 6}, "ali": {"width": 0.05, "M": 4}, "vae": {"width": 4, "M": 6}, "gan": {"width": 4, "M": 6}}


@pytest.mark.parametrize("method", models.METHODS)
def test_every_method_is_trained_kept_and_generates(method, tmp_path, monkeypatch):
    model = models.train(method, "none", IMAGES, tmp_path, snapshots=2, **SMALL, **OF[method])
    assert (model.status, model.n_steps, sorted(model.snapshots)) == ("ok", 4, [2, 4])
    made = model.generate(10, 0)
    assert made.shape == (10, 3, 32, 32) and made.dtype == np.uint8
    assert (model.generate(10, 0, weights=model.snapshots[4]) == made).all()
    early, last = (models.with_weights(model.nets["g"], model.snapshots[n]) for n in (2, 4))
    same = [torch.equal(a, b) for a, b in zip(early.parameters(), last.parameters(), strict=True)]
    assert not any(same) and torch.equal(next(last.parameters()), next(model.nets["g"].parameters()))
    with monkeypatch.context() as patch:
        patch.setattr(apply, "generate", lambda g, z, batch_size: z)
        assert not torch.equal(model.generate(10, 0), model.generate(10, 1))
        lengths = model.generate(1000, 0).norm(dim=1)
        assert float(lengths.std()) < 1e-5 if method == "age" else float(lengths.std()) > 0.5
    again = models.train(method, "none", IMAGES, tmp_path, snapshots=2, **SMALL, **OF[method])
    assert (again.generate(10, 0) == made).all()


def test_averaged_networks_are_the_model(tmp_path):
    model = models.train("ali", "none", IMAGES, tmp_path, ema=0.9, **SMALL, **OF["ali"])
    for name in "ge":
        paths = (tmp_path / f"checkpoints/train/{name}{which}.safetensors" for which in ("_ema", ""))
        kept, last = map(checkpoint.load_weights, paths)
        state = model.nets[name].state_dict()
        assert all(torch.equal(state[key], kept[key]) for key in kept)
        assert any(not torch.equal(state[key], last[key]) for key in last)


def test_batch_statistics_normalise_by_the_batch():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).eval()
    x = torch.tensor([[1.0, 10], [3, 30]])
    assert net(x).detach().numpy() == pytest.approx(x.numpy(), rel=1e-4)  # running mean 0, variance 1
    models.use_batch_statistics(net)
    assert net(x).detach().numpy() == pytest.approx(np.array([[-1.0, -1], [1, 1]]), abs=1e-4)


def test_batch_statistics_leave_the_model_as_it_is(tmp_path):
    model = models.train("age", "none", IMAGES, tmp_path, **SMALL, **OF["age"])
    running = model.generate(20, 0)
    assert (model.generate(20, 0, batch_statistics=True) != running).any()
    assert (model.generate(20, 0) == running).all()


def test_reestimated_statistics_are_those_of_the_images():
    torch.manual_seed(0)
    e = networks.build(32, 6, width=4)["e"]
    real = models.reestimate(e, IMAGES, batch_size=32)
    first = e.layers[:3](apply.to_float(IMAGES))  # the input of the first BatchNorm
    norm = real.layers[3]
    assert norm.running_mean.numpy() == pytest.approx(first.mean((0, 2, 3)).detach().numpy(), abs=1e-5)
    assert torch.equal(e.layers[3].running_mean, torch.zeros(8)) and not real.training


def test_a_stochastic_code_is_noisy_in_training_alone():
    torch.manual_seed(0)
    e = models.build("age", "none", IMAGES, width=4, M=6, noisy_code=0.5)["e"]
    x = apply.to_float(IMAGES[:8])
    a, b = e.train()(x), e.train()(x)
    assert not torch.allclose(a, b, atol=1e-3)
    assert a.norm(dim=1).detach().numpy() == pytest.approx(np.ones(8), abs=1e-5)
    assert torch.equal(e.eval()(x), e(x)) and torch.equal(e(x), e.net(x))
    assert features.of_age(e)(IMAGES[:2]).shape == (2, 16 * (4 + 8 + 16) + 6)


def test_the_prior_of_a_gaussian_age_is_normal(tmp_path):
    model = models.train("age", "none", IMAGES, tmp_path, prior="gaussian", **SMALL, **OF["age"])
    assert model.prior == "gaussian" and model.nets["e"].prior == "gaussian"


def test_an_age_of_another_run_is_taken_as_it_is(tmp_path):
    config = {"width": 4, "e_width": None, "M": 6, "size": 32, "prior": "sphere", "spectral_norm": False}
    config |= {"in_bias": False, "mean_bias": True}
    torch.manual_seed(3)
    nets = networks.build(32, 6, width=4, out_bias=True)
    with pytest.raises(FileNotFoundError, match=r"config.json: not there; train it with 01_unconditional"):
        models.from_run(tmp_path, IMAGES)
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name, net in nets.items():
        checkpoint.save_weights(tmp_path / "checkpoints/train" / f"{name}.safetensors", net.state_dict(), {})
    found = models.from_run(tmp_path, IMAGES)
    x = apply.to_float(IMAGES[:4])
    assert torch.equal(found.nets["e"](x), nets["e"].eval()(x))
    assert found.generate(3, 0).shape == (3, 3, 32, 32)
    nets["g"].layers[0].weight.data.add_(1)
    checkpoint.save_weights(tmp_path / "checkpoints/train/g_ema.safetensors", nets["g"].state_dict(), {})
    averaged = models.from_run(tmp_path, IMAGES).nets
    assert torch.equal(averaged["g"].layers[0].weight, nets["g"].layers[0].weight)
    nets["e"].layers[0].weight.data.add_(1)
    checkpoint.save_weights(tmp_path / "checkpoints/train/e_ema.safetensors", nets["e"].state_dict(), {})
    assert torch.equal(models.from_run(tmp_path, IMAGES).nets["e"].layers[0].weight, nets["e"].layers[0].weight)


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("gan", {"prior": "gaussian"}, "gan has no setting prior"),
        ("age", {"d_lr": 1.0}, "age has no setting d_lr"),
        ("age", {"init": "he"}, "age has no setting init"),
        ("gan", {"dropout": 0.1, "mean_bias": True}, "gan has no setting dropout, mean_bias"),
        ("ali", {"in_bias": True}, "ali has no setting in_bias"),
        ("gan", {"lam": 1.0}, "GAN has no setting lam"),
        ("pix", {}, "unknown rival 'pix'"),
    ],
)
def test_settings_that_a_method_lacks_are_refused(method, settings, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        models.train(method, "none", IMAGES, tmp_path, **SMALL, **settings)


def test_a_training_that_diverges_says_so(tmp_path):
    model = models.train("gan", "none", IMAGES, tmp_path, lr=1e30, **{**SMALL, "n_steps": 20}, **OF["gan"])
    assert model.status.startswith("diverged: ")
