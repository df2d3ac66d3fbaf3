import numpy as np
import pytest
import torch

from agelib import checkpoint, data, judge
from agelib.judge import Judge, JudgeConfig
from agelib.metrics.classifier import probs as plain_probs

SMALL = JudgeConfig(n_epochs=2, width=4, batch_size=50, flip=False, precision="fp32")


@pytest.fixture(scope="module")
def sets():
    train, test = data.load("digits", "train", size=32), data.load("digits", "test", size=32)
    return train.images[:1000], train.labels[:1000], test.images[:300], test.labels[:300]


def test_it_learns_embedded_digits_in_seconds_and_the_folder_keeps_it(sets, tmp_path):
    x, y, test_x, test_y = sets
    cfg = JudgeConfig(n_epochs=4, width=8, batch_size=50, flip=False)
    before = torch.get_rng_state()
    net = judge.train(x, y, 10, cfg, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    probs, features = judge.read(net, test_x)
    assert (probs.argmax(1) == test_y).mean() > 0.85
    assert probs.shape == (300, 10) and probs.sum(1) == pytest.approx(np.ones(300), abs=1e-5)
    assert features.shape == (300, 32)
    again = judge.train(x, y, 10, cfg, folder=tmp_path)  # at once, from the folder
    assert judge.read(again, test_x)[0] == pytest.approx(probs)
    assert judge.seconds(tmp_path) > 0
    weights = checkpoint.load_weights(tmp_path / "judge.safetensors")
    assert torch.equal(weights["head.weight"], net.head.weight)


def test_reading_in_parts_and_in_one_pass_are_the_same(sets):
    x = sets[0][:40]
    torch.manual_seed(0)
    net = Judge(1, 10, 4).eval()
    probs, features = judge.read(net, x, batch_size=7, precision="fp32")
    assert probs == pytest.approx(plain_probs(net, x), abs=1e-6)
    assert features == pytest.approx(net.embed(torch.from_numpy(x.copy()) / 127.5 - 1).detach().numpy(), abs=1e-5)


def test_a_killed_training_goes_on_from_its_last_epoch(sets, tmp_path, monkeypatch):
    x, y = sets[0][:300], sets[1][:300]
    whole = judge.train(x, y, 10, SMALL, folder=tmp_path / "whole")
    save, seen = checkpoint.save, []

    def save_and_die(*args, **kwargs):
        seen.append(save(*args, **kwargs))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            judge.train(x, y, 10, SMALL, folder=tmp_path / "killed")
    assert len(seen) == 1
    resumed = judge.train(x, y, 10, SMALL, folder=tmp_path / "killed")
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_whitened_patches_are_uncorrelated(sets):
    net = Judge(1, 10, 4)
    x = torch.from_numpy(sets[0][:200].copy()) / 127.5 - 1
    net.set_whitening(x, eps=0.0)
    out = net.whiten(x)[:, :4]  # the other four are their negatives
    flat = out.transpose(0, 1).flatten(1)
    assert torch.cov(flat).numpy() == pytest.approx(np.eye(4), abs=1e-2)
    assert torch.equal(net.whiten.weight[4:], -net.whiten.weight[:4])


def test_moves_and_mirrors_stay_within_their_bounds():
    x = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8).repeat(40, 1, 1, 1)
    y = torch.arange(40)
    still = JudgeConfig(batch_size=40, shift=0, flip=False)
    ((batch, target),) = judge._batches(x, y, still, 0)
    assert sorted(target.tolist()) == list(range(40))
    assert torch.equal(batch, (x.float() / 127.5 - 1))
    mirrored = JudgeConfig(batch_size=40, shift=0, flip=True)
    ((batch, _),) = judge._batches(x, y, mirrored, 0)
    plain, turned = x[0].float() / 127.5 - 1, x[0].flip(2).float() / 127.5 - 1
    kinds = [torch.equal(image, plain) for image in batch]
    assert all(one or torch.equal(image, turned) for one, image in zip(kinds, batch, strict=True))
    assert 5 < sum(kinds) < 35
    moved = JudgeConfig(batch_size=40, shift=1, flip=False)
    ((batch, _),) = judge._batches(x, y, moved, 0)
    corners = {round(float((image[0, 4, 4] + 1) * 127.5)) - 36 for image in batch}  # pixel (4, 4) holds 36
    assert corners == {dy * 8 + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)}


@pytest.mark.parametrize("size", [28, 32, 64])
def test_other_sizes(size):
    assert Judge(3, 7, 2)(torch.zeros(2, 3, size, size)).shape == (2, 7)


def test_bad_input_is_refused(sets, tmp_path):
    x, y = sets[0][:100], sets[1][:100]
    with pytest.raises(ValueError, match="need uint8"):
        judge.train(x / 255, y, 10, SMALL, folder=tmp_path)
    with pytest.raises(ValueError, match=r"labels in 0..4"):
        judge.train(x, y, 5, SMALL, folder=tmp_path)
    with pytest.raises(ValueError, match=">= 50 images"):
        judge.train(x[:40], y[:40], 10, SMALL, folder=tmp_path)
    with pytest.raises(ValueError, match="batch_size >= 2"):
        JudgeConfig(batch_size=1)
    judge.train(x, y, 10, SMALL, folder=tmp_path)
    with pytest.raises(ValueError, match=r"trained with other settings \(width\); take another folder"):
        judge.train(x, y, 10, JudgeConfig(**{**SMALL.__dict__, "width": 6}), folder=tmp_path)
