"""Five ways to train one decoder."""

import numpy as np
import pytest
import torch

from agelib import data, decoders, likelihood, networks
from agelib.metrics import ais


@pytest.fixture(scope="module")
def digits():
    return data.load("digits", "train", size=28, channels=1, limit=600).images


def test_every_model_has_the_published_decoder(digits):
    for method in decoders.NAMES:
        nets = decoders.build(method, digits)
        assert networks.n_parameters(nets["g"]) == 1_149_904, method
        black = nets["g"].layers[-1].bias.sigmoid().view(28, 28)  # the output where its input is zero: the mean image
        assert black.detach().numpy() == pytest.approx(np.clip(digits.mean((0, 1)) / 255, 0.01, 0.99), abs=1e-5)
    assert networks.n_parameters(decoders.build("age", digits)["e"]) == 1_149_130


@pytest.mark.parametrize("method", decoders.NAMES)
def test_training_resumes_from_its_folder(tmp_path, digits, method):
    about = {"n_epochs": 1, "max_steps": 4, "batch_size": 16, "lr": 1e-3}
    about |= {"recon_x": "l2", "recon_x_in_g": 30.0} if method == "age_lx" else {}
    model = decoders.train(method, digits, tmp_path, **about)
    again = decoders.train(method, digits, tmp_path, **about)
    h = torch.randn(5, 10)
    y = model.decode(h)
    assert model.status == "ok" and y.shape == (5, 784) and 0 <= y.min() and y.max() <= 1
    assert torch.equal(y, again.decode(h)) and model.history == again.history
    on_sphere = method in ("age", "age_lx")  # where only the direction counts
    assert torch.allclose(model.decode(3 * h), y, atol=1e-6) == on_sphere
    assert model.samples(3, torch.Generator().manual_seed(0)).shape == (3, 1, 28, 28)
    assert (model.reconstruct(digits[:2]) is None) == (method == "gan")
    assert (model.moments(torch.rand(2, 784)) is not None) == (method in ("ali", "vae"))


def test_moments_take_pixels_from_0_to_1(tmp_path, digits):
    model = decoders.train("vae", digits, tmp_path, n_epochs=1, max_steps=2)
    x = ais.dequantise(digits[:3])
    mean, log_sigma = model.moments(x)
    expected = model.e.net(2 * x - 1)
    assert torch.allclose(torch.cat([mean, 2 * log_sigma], 1), expected, atol=1e-6)


def test_the_convolutional_encoder_and_other_sizes(digits):
    nets = decoders.build("age", digits, 7, encoder="conv")
    e = nets["e"](torch.rand(4, 1, 28, 28))
    assert e.shape == (4, 7) and torch.allclose(e.norm(dim=1), torch.ones(4), atol=1e-6)
    wide = np.zeros((4, 3, 32, 32), np.uint8)
    assert decoders.build("age_gaussian", wide, encoder="conv")["e"](torch.rand(4, 3, 32, 32)).shape == (4, 10)
    with pytest.raises(ValueError, match="multiples of 4"):
        decoders.build("age", wide[..., :30], encoder="conv")
    with pytest.raises(ValueError, match="method is one of age"):
        decoders.build("pca", wide)
    with pytest.raises(ValueError, match="GAN-10 has no setting mu"):
        decoders.make_step("gan", decoders.build("gan", digits), {"mu": 1.0}, "fp32")
    for method, weight in (("age", 1.0), ("age_gaussian", 1.0), ("age_lx", 0.0)):
        with pytest.raises(ValueError, match="belongs to the model age_lx"):
            decoders.make_step(method, decoders.build(method, digits), {"recon_x_in_g": weight}, "fp32")


def test_a_model_that_diverges_says_so(tmp_path, digits):
    model = decoders.train("vae", digits, tmp_path, n_epochs=3, lr=1e18, precision="fp32")
    assert model.status.startswith("diverged: ") and "not finite" in model.status


def test_the_rows_name_what_keeps_them_from_the_published_protocol(tmp_path, digits):
    model = decoders.train("vae", digits, tmp_path / "m", n_epochs=1, max_steps=5)
    x = ais.dequantise(digits[:6])
    cfg = ais.AisConfig(n_chains=2, n_distributions=12)
    plan = likelihood.Plan(cfg, n_bdmc=2, kde_samples=50, iwae_samples=5)
    about = {"moments": model.moments(x[:4]), "complete": True, "folder": tmp_path / "ais"}
    rows, estimates = likelihood.evaluate(model.decode, 10, 0.05, {"test": x[:4], "train": x[4:]}, plan, **about)
    by = {row["metric"]: row for row in rows}
    test = by["log_likelihood_ais_test"]
    assert test["value"] == estimates["test"].mean and test["n"] == 4 and test["comparable"] is False
    assert test["note"] == "4 images instead of 1,000; 2 chains instead of 16; 12 distributions instead of 10,000"
    assert by["variance of the observation model"]["value"] == 0.05
    assert by["std of the kernel density estimate"]["value"] in np.arange(0.1, 0.3, 0.01).round(2)
    again, _ = likelihood.evaluate(model.decode, 10, 0.1, {"test": x[:4], "train": x[4:]}, plan, moments=about["moments"])
    assert [row["protocol"] for row in again] == [row["protocol"] for row in rows]  # seeds with other variances are averaged
    assert {"log_likelihood_ais_train", "bdmc_gap", "log_likelihood_kde_test", "log_likelihood_iwae_test"} <= by.keys()
    assert by["log_likelihood_iwae_test"]["note"] == "5 draws instead of 200,000; 4 images instead of 1,000"
    assert likelihood.differences(likelihood.PUBLISHED_AIS, 1000, 1000, complete=True) == ""
    assert likelihood.differences(likelihood.PUBLISHED_AIS, 1000, 1000, complete=False) == "other or incomplete data"
    none = likelihood.Plan(cfg, n_bdmc=0, kde_samples=0, iwae_samples=0)
    rows, _ = likelihood.evaluate(model.decode, 10, 0.05, {"test": x[:4]}, none)
    assert {row["metric"] for row in rows} == {
        "log_likelihood_ais_test", "AIS test: effective sample size", "AIS test: HMC acceptance",
        "variance of the observation model",
    }  # fmt: skip
    images = likelihood.posterior_images(model.decode, estimates["test"].z[0], (1, 28, 28))
    assert images.shape == (4, 1, 28, 28) and images.dtype == np.uint8
    values = likelihood.convergence(model.decode, 10, 0.05, x[:2], (2, 40), cfg)
    assert len(values) == 2 and values[0] < values[1]
