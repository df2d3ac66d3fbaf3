import numpy as np
import pytest
import torch

import agelib
from agelib import age, data, networks
from agelib.metrics import ais, density
from suite import mnist_likelihood as likelihood
from suite import plan as plans

SHORT = {"max_steps": 4, "n_epochs": 1, "batch_size": 16, "device": "cpu", "precision": "fp32"}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", size=28, channels=1, limit=600).images


def trained(recipe, digits, folder, **changes):
    settings = plans.recipe(recipe) | SHORT | changes
    return agelib.train(settings.pop("method", "age"), digits, folder, **settings)


def test_what_ais_sees_of_convolutional_decoders(tmp_path, digits):
    """28 px, and the released 32 px networks on digits that large: no draw of a batch moves their BatchNorm."""
    for size, changes in ((28, {"nets": "conv", "width": 8}), (32, {"nets": "released", "encoder": "mlp", "width": 4})):
        images = digits if size == 28 else data.load("digits", "train", size=32, channels=1, limit=64).images
        model = trained("age10", images, tmp_path / str(size), **changes)
        assert not any(layer.training for net in model.nets.values() for layer in net.modules())
        if size == 28:
            wider = age.build(age.Config(nets="conv", M=10, width=8, e_width=12), (1, 28, 28))["e"]
            assert [e.layers[0].out_channels for e in (model.nets["e"], wider)] == [8, 12]
        decode, h = likelihood.decoder(model), torch.randn(9, 10)
        y, before = decode(h), {name: value.clone() for name, value in model.g.state_dict().items()}
        assert y.shape == (9, size**2) and 0 <= y.min() and y.max() <= 1
        assert torch.allclose(decode(h[:2]), y[:2], atol=1e-5)
        ais.forward(decode, ais.dequantise(images[:3]), 10, 0.05, ais.AisConfig(n_chains=2, n_distributions=4))
        assert all(torch.equal(value, before[name]) for name, value in model.g.state_dict().items())
    with pytest.raises(ValueError, match=r"784 a code as the images have; .*\(3, 1024\)"):
        ais.forward(decode, ais.dequantise(digits[:3]), 10, 0.05, ais.AisConfig())


@pytest.mark.parametrize("recipe", ["age10", "age10_gaussian", "age10_lx", "ali10", "vae10", "gan10"])
def test_what_ais_sees_of_every_model(tmp_path, digits, recipe):
    """Wu et al.'s decoder; on the sphere only the direction of h counts."""
    model = trained(recipe, digits, tmp_path)
    assert networks.n_parameters(model.g) == 1_149_904
    decode, h = likelihood.decoder(model), torch.randn(5, 10)
    y = decode(h)
    assert y.shape == (5, 784) and 0 <= y.min() and y.max() <= 1
    assert torch.allclose(decode(3 * h), y, atol=1e-6) == (recipe in ("age10", "age10_lx"))
    assert not any(net.training for net in model.nets.values())
    h.requires_grad_()
    assert torch.autograd.grad(decode(h).sum(), h)[0].abs().sum() > 0


def test_settings_are_those_of_the_plan_and_of_ais():
    plan, cfg = likelihood.settings_of({"n_test": 5, "n_chains": 3}, 7, "cpu")
    assert (plan.n_test, plan.n_bdmc, cfg.n_chains, cfg.n_distributions, cfg.seed) == (5, 1000, 3, 10_000, 7)
    for bad, said in (({"n_chain": 3}, "n_chain;"), ({"n_test": 1}, "n_test"), ({"n_chains": 0}, "n_chains")):
        with pytest.raises(ValueError, match=said):
            likelihood.settings_of(bad, 0, "cpu")


def test_the_rows_name_what_keeps_them_from_the_published_protocol(tmp_path, digits, monkeypatch):
    asked, iwae = [], density.iwae
    monkeypatch.setattr(density, "iwae", lambda *given, **more: asked.append(given) or iwae(*given, **more))
    model = trained("vae10", digits, tmp_path / "m")
    pixels = ais.dequantise(digits[:8])
    x = {"test": pixels[:4], "train": pixels[4:6], "validation": pixels[6:]}
    plan, cfg = likelihood.Plan(n_bdmc=2, kde_samples=50, iwae_samples=5), ais.AisConfig(n_chains=2, n_distributions=12)
    rows, estimates = likelihood.evaluate("VAE-10", model, 0.05, x, plan, cfg, complete=True, folder=tmp_path / "ais")
    by = {row["metric"]: row for row in rows}
    test = by["log_likelihood_ais_test"]
    assert test["value"] == estimates["test"].mean and test["n"] == 4 and test["comparable"] is False
    assert test["note"] == "4 images instead of 1,000; 2 chains instead of 16; 12 distributions instead of 10,000"
    assert by["variance of the observation model"]["value"] == 0.05
    assert by["std of the kernel density estimate"]["value"] in np.arange(0.1, 0.3, 0.01).round(2)
    again, _ = likelihood.evaluate("A", model, 0.1, x, plan, cfg)
    assert [row["protocol"] for row in again] == [row["protocol"] for row in rows]  # seeds with other variances are averaged
    assert {"log_likelihood_ais_train", "bdmc_gap", "log_likelihood_kde_test", "log_likelihood_iwae_test"} <= by.keys()
    assert by["log_likelihood_iwae_test"]["note"] == "5 draws instead of 200,000; 4 images instead of 1,000"
    _, mean, log_sigma, *_ = asked[0]  # of the encoder, which takes pixels from -1 to 1
    assert torch.allclose(torch.cat([mean, 2 * log_sigma], 1), model.e.net(2 * x["test"] - 1), atol=1e-6)
    for complete, note in ((True, ""), (False, "other or incomplete data")):
        found = likelihood.remarks(complete, (1001, 1000, "images"), cfg=ais.AisConfig())  # more is no remark
        assert found == {"comparable": complete, "note": note}
    none = likelihood.Plan(n_bdmc=0, kde_samples=0, iwae_samples=0)
    few = {row["metric"] for row in likelihood.evaluate("A", model, 0.05, {"test": pixels[:4]}, none, cfg)[0]}
    kept = {"AIS test: effective sample size", "AIS test: HMC acceptance", "variance of the observation model"}
    kept |= {"least squared error", likelihood.LIMIT, likelihood.ABOVE}
    assert few == kept | {"log_likelihood_ais_test"}
    m = likelihood.least_error(model, x["test"], estimates["test"])
    assert by["least squared error"]["value"] == m.mean() and by[likelihood.ABOVE]["value"] == 0
    assert m.mean() < ((likelihood.decoder(model)(model.e(2 * x["test"].view(-1, 1, 28, 28) - 1)) - x["test"]) ** 2).mean()
    most = by[likelihood.LIMIT]["value"]
    assert test["value"] < most == pytest.approx(ais.bound(784, 0.05, m.mean()))  # linear in m
    images = likelihood.posterior_images(model, estimates["test"].z[0])
    assert images.shape == (4, 1, 28, 28) and images.dtype == np.uint8
    said = likelihood.verdict(rows)
    assert said.startswith(f"Test log-likelihood, nats: VAE-10 {test['value']:.0f} ± ")
    assert "No estimate exceeds what the least error of its decoder allows." in said
    short = [row | {"value": 0.25} if row["metric"] == likelihood.ABOVE else row for row in rows]
    assert "more than the least known error allows (VAE-10 on 25% of the images): there" in likelihood.verdict(short)


def test_an_estimate_above_what_the_least_error_allows_is_found(tmp_path, digits, monkeypatch):
    """The search is cut off at its start, a code that explains nothing; chains at a small variance find better ones."""
    model, pixels = trained("vae10", digits, tmp_path / "m"), ais.dequantise(digits[:4])
    monkeypatch.setattr(likelihood, "least_error", lambda model, x, found: np.full(len(x), 0.5))
    plan = likelihood.Plan(n_bdmc=0, kde_samples=0, iwae_samples=0)
    cfg = ais.AisConfig(n_chains=2, n_distributions=20)
    by = {row["metric"]: row["value"] for row in likelihood.evaluate("A", model, 0.05, {"test": pixels}, plan, cfg)[0]}
    assert by[likelihood.ABOVE] == 1 and by[likelihood.LIMIT] == pytest.approx(ais.bound(784, 0.05, 0.5))


def test_32_px_are_never_mixed_with_28(tmp_path):
    images = data.load("digits", "train", size=32, channels=1, limit=64).images
    model = trained("age10", images, tmp_path, nets="released", encoder="mlp", width=4)
    plan = likelihood.Plan(n_bdmc=2, kde_samples=0, iwae_samples=0)
    x = {"test": ais.dequantise(images[:2])}
    rows, _ = likelihood.evaluate("A", model, 0.05, x, plan, ais.AisConfig(n_chains=2, n_distributions=4), complete=True)
    of = {row["metric"]: row for row in rows}
    for metric in ("log_likelihood_ais_test", "bdmc_gap"):
        assert "images of 1,024 pixels" in of[metric]["protocol"] and not of[metric]["comparable"]
        assert of[metric]["note"].startswith("32x32, the released code's MNIST; ")
    rows, _ = likelihood.evaluate("A", model, 0.05, x, plan, ais.AisConfig(n_chains=2, n_distributions=4))  # another set
    assert rows[0]["note"].startswith("other or incomplete data; ")
