import numpy as np
import pytest
import torch
from scipy.io import savemat

from agelib import apply, data, features, models, networks
from agelib.baselines import ali, gan
from agelib.data.files import OFFICIAL
from agelib.metrics import svm_features

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def age():
    torch.manual_seed(0)
    return models.reestimate(networks.build(32, 64)["e"], np.concatenate([IMAGES] * 4), batch_size=10)


def test_dimensions_of_the_published_networks(age):
    assert features.of_age(age, pool=None)(IMAGES).shape == (5, 28_736)
    assert features.of_age(age)(IMAGES).shape == (5, 7_232)
    assert features.of_age(age, layers=())(IMAGES).shape == (5, 64)
    assert features.of_ali(ali.build("svhn", 32)["e"].eval())(IMAGES).shape == (5, 5_376)
    assert features.of_gan(gan.build(32)["d"].eval())(IMAGES).shape == (5, 7_168)
    assert features.pixels(IMAGES).shape == (5, 3_072)


def test_age_features_by_hand(age):
    x = apply.to_float(IMAGES)
    with torch.no_grad():
        one = torch.nn.functional.leaky_relu(age.layers[0](x), 0.2)  # (5, 64, 16, 16)
        normed = age.layers[3](age.layers[2](one))  # (5, 128, 8, 8)
        code = age(x)
    found = features.of_age(age)(IMAGES)
    assert found[:, :1024] == pytest.approx(one.unfold(2, 4, 4).unfold(3, 4, 4).amax((4, 5)).flatten(1).numpy(), abs=1e-5)
    assert found[:, -64:] == pytest.approx(code.numpy(), abs=1e-6)
    before = features.of_age(age, layers=(2,), pool=None, code=False, moment="before")(IMAGES)
    assert before == pytest.approx(normed.flatten(1).numpy(), abs=1e-5)
    after = features.of_age(age, layers=(2,), pool=None, code=False)(IMAGES)
    assert after == pytest.approx(np.where(before > 0, before, 0.2 * before), abs=1e-5)


def test_ali_features_end_in_the_mean_of_the_code():
    torch.manual_seed(0)
    e = ali.build("svhn", 32, width=0.1, M=6)["e"].eval()
    found = features.of_ali(e)(IMAGES)
    assert found[:, -6:] == pytest.approx(e.moments(apply.to_float(IMAGES))[0].detach().numpy(), abs=1e-6)
    assert (features.of_ali(e)(IMAGES) == found).all()  # no draw in it


def test_principal_components_are_ordered_and_uncorrelated():
    x = np.random.default_rng(1).integers(0, 256, (400, 1, 6, 6), dtype=np.uint8)
    found = features.principal(x, 10)(x)
    assert np.cov(found, rowvar=False) == pytest.approx(np.diag(found.var(0, ddof=1)), abs=1e-4)
    assert (np.diff(found.var(0)) <= 0).all() and abs(found.mean()) < 1e-4
    with pytest.raises(ValueError, match="1 <= n < 36"):
        features.principal(x, 36)


def test_wrong_layers_are_refused(age):
    with pytest.raises(ValueError, match="layers are from 1 to 3"):
        features.of_age(age, layers=(4,))
    with pytest.raises(ValueError, match="code must be True"):
        features.of_age(age, layers=(), code=False)
    with pytest.raises(ValueError, match="moment is before or after"):
        features.hidden_layers(age, "during")


def test_the_protocol_runs_on_files_in_svhns_format(age, tmp_path, monkeypatch):
    """Tiny .mat files, (H, W, C, N) and the digit 0 written as 10, through the loader and the whole protocol."""
    rng = np.random.default_rng(0)
    digits = {}
    for split, n in (("train", 120), ("test", 40)):
        digits[split] = np.arange(n) % 10
        x = rng.integers(0, 60, (32, 32, 3, n))
        x[digits[split] * 3, :, 0, np.arange(n)] = 255  # a red line whose height is the digit
        written = np.where(digits[split] == 0, 10, digits[split])
        file = tmp_path / "svhn" / f"{split}_32x32.mat"
        file.parent.mkdir(exist_ok=True)
        savemat(file, {"X": x.astype(np.uint8), "y": written[:, None].astype(np.uint8)})
        monkeypatch.setitem(OFFICIAL, file.name, _same_file(file))
    train, test = (data.load("svhn", s, root=tmp_path, packs=[], download=False) for s in ("train", "test"))
    assert (train.labels == digits["train"]).all() and train.images[7, 0, 21].min() == 255
    cfg = svm_features.SvmConfig(per_class=5, n_valid=40, n_draws=3, Cs=(0.01, 1.0))
    found = svm_features.evaluate(features.of_age(age), train.images, train.labels, test.images, test.labels, cfg)
    assert found.dims == 7_232 and found.errors.mean() < 0.2


def _same_file(file):
    """The entry of an official file with the checksum of this one."""
    import hashlib
    from dataclasses import replace

    return replace(OFFICIAL[file.name], md5=hashlib.md5(file.read_bytes()).hexdigest())
