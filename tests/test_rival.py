import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from agelib import fit, rival
from agelib.baselines import ali, vae

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
SET = SimpleNamespace(name="house_numbers", images=IMAGES)
TINY = {"ali": {"width": 0.125, "M": 6}, "vae": {"width": 4, "M": 6}, "gan": {"width": 4, "M": 6}}


@pytest.mark.parametrize("method", rival.METHODS)
def test_a_rival_is_trained_once_and_then_taken_from_its_folder(tmp_path, method, monkeypatch):
    settings = TINY[method] | {"n_epochs": 1, "more_epochs": 2, "batch_size": 8, "seed": 3, "precision": "fp32"}
    first, longer = rival.train(method, SET, tmp_path, **settings)
    assert (first.name, longer.name) == (rival.LABELS[method], f"{rival.LABELS[method]} longer")
    assert (first.n_epochs, longer.n_epochs, first.n_steps, longer.n_steps) == (1, 3, 3, 9)
    assert longer.seconds > first.seconds > 0 and first.status == "ok"
    moved = [not torch.equal(a, b) for a, b in zip(first.g.parameters(), longer.g.parameters(), strict=True)]
    assert all(moved)  # the first was kept as it was
    whole = fit._Loop.train
    monkeypatch.setattr(fit._Loop, "train", lambda loop, every: whole(loop, every) if loop.done >= loop.n_steps else 1 / 0)
    again, again_longer = rival.train(method, SET, tmp_path, **settings)
    z = torch.Generator().manual_seed(0)
    made = longer.generate(4, z)
    assert made.shape == (4, 3, 32, 32) and made.dtype == np.uint8
    assert np.array_equal(made, again_longer.generate(4, torch.Generator().manual_seed(0)))
    assert again.row() == first.row()
    if method == "gan":
        assert first.reconstruct(SET.images) is None
    else:
        assert first.reconstruct(SET.images[:5]).shape == (5, 3, 32, 32)


def test_a_diverged_rival_is_reported_not_lost(tmp_path, monkeypatch):
    def broken(nets, cfg):
        step = vae.make_step(nets, cfg)
        update = step.update
        step.update = lambda x: update(x) | {"neg_elbo": torch.tensor(math.nan)}
        return step

    monkeypatch.setitem(rival.MODULES, "vae", (SimpleNamespace(make_step=broken), vae.VaeConfig))
    found = rival.train("vae", SET, tmp_path, width=4, M=6, n_epochs=1, more_epochs=1, batch_size=8)
    assert len(found) == 1 and found[0].status.startswith("diverged: ") and "neg_elbo" in found[0].status
    assert found[0].generate(4, torch.Generator()) is None and found[0].reconstruct(SET.images) is None
    row = found[0].row()
    assert row["value"] is None and row["note"] == found[0].status and "VAE diverged" in found[0].label


def test_ali_starts_at_the_mean_image():
    nets = rival.build("ali", "faces", SET.images, width=0.125, M=4, device="cpu")
    with torch.no_grad():
        bias = nets["g"].layers[-1].bias
    torch.testing.assert_close(2 * torch.sigmoid(bias) - 1, torch.from_numpy(SET.images.mean(0) / 127.5 - 1).float())
    assert ali.spec_for("faces", 32) == ali.SPECS["svhn"]


@pytest.mark.parametrize(
    ("method", "size", "message"),
    [
        ("ali", 48, "ALI has no networks for house_numbers at 48 px; it has: svhn"),
        ("vae", 48, "no network for 48x48 images; there are 32x32, 64x64"),
        ("gan", 48, "networks for 32 and 64 px and 1 or 3 channels, not for 48 px"),
        ("pix2pix", 32, "unknown rival 'pix2pix'; valid: ali, vae, gan"),
    ],
)
def test_what_there_are_no_networks_for_stops_at_once(tmp_path, method, size, message):
    images = np.zeros((8, 3, size, size), np.uint8)
    with pytest.raises(ValueError, match=message):
        rival.train(method, SimpleNamespace(name="house_numbers", images=images), tmp_path, n_epochs=1, batch_size=4)


def test_ali_alone_is_built_with_a_dropout_and_an_init():
    nets = rival.build("ali", "faces", SET.images, width=0.125, M=4, dropout=0.0, init="he", device="cpu")
    assert {m.p for m in nets["d"].modules() if isinstance(m, torch.nn.Dropout)} == {0}
    assert nets["d"].z_layers[1].weight.std().item() == pytest.approx((2 / 4) ** 0.5, rel=0.2)
    with pytest.raises(ValueError, match="VAE has no setting dropout, init"):
        rival.build("vae", "faces", SET.images, width=4, M=4, dropout=0.0, init="he", device="cpu")


def test_settings_reach_the_method_and_others_are_refused():
    nets = rival.build("ali", "house_numbers", IMAGES, width=0.125, M=4, device="cpu")
    step = rival.make_step("ali", nets, "fp32", lr=1e-3, d_lr=2e-4, noise=0.1, ema=0.9)
    assert [step.config[k] for k in ("lr", "d_lr", "noise", "ema", "precision")] == [1e-3, 2e-4, 0.1, 0.9, "fp32"]
    assert rival.make_step("ali", nets, "fp32", lr=None, d_lr=None).config["lr"] == ali.AliConfig.lr
    with pytest.raises(ValueError, match="VAE has no setting d_lr, noise"):
        rival.make_step("vae", vae.build(32, 4, width=4), "fp32", d_lr=1e-4, noise=0.1)
