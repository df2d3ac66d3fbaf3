import contextlib
import random

import filelock
import numpy as np
import pytest
import torch
from torch import nn

from agelib.training import checkpoint, fit
from agelib.training.step import Step

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)
LABELS = np.arange(20) % 3
NAN = float("nan")


def toy(spoil=None, bad_loss_at=None, stop=None, lr=0.1, precision="fp32"):
    """A step that adds the learning rate to a weight and logs it. At iteration `spoil` a weight becomes NaN, unseen; after
    `stop` it raises."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    seen = []

    def update(*batch):
        if len(seen) == stop:
            raise InterruptedError
        seen.append(batch[-1] if len(batch) > 1 else batch[0].flatten(1).mean(1))
        with torch.no_grad():
            net.weight += optimizer.param_groups[0]["lr"]
            net.bias += NAN if len(seen) == spoil else 0
        return {"good": torch.tensor(1.0), "weight": net.weight.detach().sum() + (NAN if len(seen) == bad_loss_at else 0)}

    step = Step(update, {"net": net}, {"net": optimizer}, precision=precision)
    step.seen = seen
    return step


def train(folder, step=None, data=IMAGES, about=None, **schedule):
    """Train the toy; returns its step and the rows of its history."""
    step = step or toy()
    about = {"lr": step.optimizers["net"].param_groups[0]["lr"]} if about is None else about
    fit.fit(step, data, folder, fit.Schedule(**{"batch_size": 4} | schedule), about=about)
    return step, fit.read_history(folder / fit.HISTORY)


def weight(folder, name=fit.MODEL):
    return checkpoint.load_model(folder / name)[0]["net.weight"].item()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_epoch_is_the_floor_of_n_over_b_and_each_image_comes_once(tmp_path):
    step, rows = train(tmp_path, n_epochs=2, batch_size=6, log_every=1)
    assert len(step.seen) == 2 * 3 and rows[-1]["epoch"] == 2  # 20 images, 3 batches of 6, 2 dropped
    first, second = torch.cat(step.seen[:3]).tolist(), torch.cat(step.seen[3:]).tolist()
    means = (IMAGES.reshape(20, -1) / 127.5 - 1).mean(1)
    assert first != second and len(set(first)) == len(set(second)) == 18
    assert all(np.abs(means - m).min() < 1e-6 for m in first + second)


def test_labels_come_with_their_images(tmp_path):
    images = np.repeat(LABELS.astype(np.uint8), 16).reshape(20, 1, 4, 4)
    batches = fit.Batches((images, LABELS), 5, seed=0)
    for i in range(4):
        x, y = batches.batch(i)
        assert y.dtype == torch.int64 and torch.equal(((x[:, 0, 0, 0] + 1) * 127.5).round().long(), y)
    assert sorted(torch.cat(train(tmp_path, data=(images, LABELS))[0].seen).tolist()) == sorted(LABELS.tolist())
    with pytest.raises(ValueError, match=r"one label for each of 20 images, got \[\(19,\)\]"):
        fit.Batches((images, LABELS[1:]), 5, seed=0)


def test_batches_scale_to_plus_minus_one_and_flip():
    images = np.zeros((4, 1, 2, 2), np.uint8)
    images[:, :, :, 1] = 255
    (plain,) = fit.Batches(images, 4, seed=0).batch(0)
    assert plain[0, 0].tolist() == [[-1, 1], [-1, 1]] and plain.is_contiguous(memory_format=torch.channels_last)
    torch.manual_seed(0)
    lefts = torch.cat([fit.Batches(images, 4, seed=0, flip=True).batch(i)[0][:, 0, 0, 0] for i in range(50)])
    assert set(lefts.tolist()) == {-1.0, 1.0} and lefts.mean().abs() < 0.3
    with pytest.raises(ValueError, match=r"uint8 \(N, C, H, W\)"):
        fit.Batches(images.astype(np.float32), 2, seed=0).batch(0)


def test_how_long_a_training_is():
    """Of 20 images: iterations, and the epochs that the learning rate's schedule counts on."""
    given = {"n_epochs": 3}, {"n_epochs": 9, "max_steps": 4}, {"n_epochs": None, "max_steps": 4}
    assert [fit.Schedule(batch_size=6, **each).length(20) for each in given] == [(9, 3), (4, 9), (4, 2)]


def test_the_history_holds_means_over_the_window_and_the_metadata_how_it_went(tmp_path):
    _, rows = train(tmp_path, log_every=2)
    assert [r["step"] for r in rows] == [2, 4, 5] and [r["epoch"] for r in rows] == [0.4, 0.8, 1.0]
    assert [r["weight"] for r in rows] == pytest.approx([0.15, 0.35, 0.5])  # means of .1 .2 | .3 .4 | .5
    _, about, facts = checkpoint.load_model(tmp_path / fit.MODEL)
    assert (about["lr"], about["n_steps"], about["n_images"], about["data"]) == (0.1, 5, 20, fit.fingerprint(IMAGES))
    assert (facts["step"], facts["epoch"], facts["device"], facts["threads"]) == (5, 1.0, "cpu", 1)
    assert facts["seconds"] == pytest.approx(rows[-1]["seconds"], abs=0.05)


def test_a_done_training_is_not_trained_again_also_without_its_step_files(tmp_path):
    for expected in (5, 0, 0):
        before = content(tmp_path)
        step, rows = train(tmp_path)
        assert len(step.seen) == expected and weight(tmp_path) == pytest.approx(0.5) and rows[-1]["step"] == 5
        assert expected or content(tmp_path) == before
        for path in checkpoint.list_files(tmp_path) if not expected else []:
            path.unlink()


def test_the_learning_rate_follows_the_epoch_also_after_a_resume(tmp_path):
    schedule = {"n_epochs": 9, "max_steps": 6, "batch_size": 10, "checkpoint_every_s": 0.0}
    for stop, outcome in ((3, pytest.raises(InterruptedError)), (None, contextlib.nullcontext())):
        step = toy(lr=0.0, stop=stop)
        step.lr_at = lambda epoch, n_epochs: 10.0**epoch if epoch == int(epoch) else n_epochs / 9
        with outcome:
            train(tmp_path, step, about={}, **schedule)
    assert len(step.seen) == 3
    assert weight(tmp_path) == pytest.approx(1 + 1 + 10 + 1 + 100 + 1)  # two iterations in each of three epochs of nine


def test_a_loss_that_is_not_finite_stops_with_its_name_and_keeps_the_last_good(tmp_path):
    with pytest.raises(fit.Diverged, match=r"train: not finite at step 4: weight; last good checkpoint: step-000000003"):
        train(tmp_path, toy(bad_loss_at=4), checkpoint_every_s=0.0)
    state, _ = checkpoint.read_latest(tmp_path)
    assert state["step"] == 3 and not (tmp_path / fit.MODEL).exists()


@pytest.mark.parametrize(("spoil", "kept"), [(5, 4), (3, 2), (1, 0)])
def test_weights_that_are_not_finite_are_never_kept(tmp_path, spoil, kept):
    """No loss shows it: after the last update, or on the way."""
    with pytest.raises(fit.Diverged, match=rf"not finite at step {spoil}: weights net.bias; (last good|no checkpoint)"):
        train(tmp_path, toy(spoil=spoil), checkpoint_every_s=0.0, snapshots=5)
    assert [path.name[:14] for path in checkpoint.list_files(tmp_path)][-1:] == [f"step-{kept:09d}"] * bool(kept)
    assert len(list((tmp_path / fit.SNAPSHOTS).glob("*"))) == kept and not (tmp_path / fit.MODEL).exists()
    with pytest.raises(fit.Diverged, match="no checkpoint yet"):
        train(tmp_path / "rarely saved", toy(spoil=spoil))
    assert [path.name for path in (tmp_path / "rarely saved").iterdir()] == [".lock"]


OTHER_IMAGES = IMAGES[::-1].copy()
OTHERS = {
    "lr was 0.1, is 0.2": {"step": lambda: toy(lr=0.2)},
    "seed was 0, is 7": {"seed": 7},
    "n_steps was 5, is 10; n_epochs was 1, is 2": {"n_epochs": 2},
    "batch_size was 4, is 5": {"batch_size": 5, "max_steps": 5, "n_epochs": None},
    "flip was False, is True": {"flip": True},
    "data was '[0-9a-f]{16}', is '[0-9a-f]{16}'": {"data": OTHER_IMAGES},
    "precision was 'fp32', is 'bf16'": {"step": lambda: toy(precision="bf16")},
    "prior was None, is 'gaussian'": {"about": {"lr": 0.1, "prior": "gaussian"}},
    "config.M was None, is 3": {"about": {"lr": 0.1, "config": {"M": 3}}},
}


@pytest.mark.parametrize("differs", OTHERS)
@pytest.mark.parametrize("state", ["done", "on the way"])
def test_other_settings_or_data_are_refused_by_name_and_change_nothing(tmp_path, differs, state):
    train(tmp_path, checkpoint_every_s=0.0)
    if state == "on the way":
        (tmp_path / fit.MODEL).unlink()
    before, other = content(tmp_path), dict(OTHERS[differs])
    step = other.pop("step", toy)()
    remedy = "take another folder for it, or remove this one to train anew"
    with pytest.raises(fit.ConfigMismatch, match=rf"{tmp_path}.*: made with other settings: .*{differs}.*; {remedy}"):
        train(tmp_path, step, **other)
    assert content(tmp_path) == before and not step.seen


def test_an_older_files_missing_setting_counts_as_its_default(tmp_path):
    train(tmp_path)
    given = (toy(), IMAGES, tmp_path, fit.Schedule(batch_size=4))
    fit.fit(*given, about={"lr": 0.1, "config": {"new": 1}}, defaults={"config": {"new": 1}})
    with pytest.raises(fit.ConfigMismatch, match="config.new was 1, is 2"):
        fit.fit(*given, about={"lr": 0.1, "config": {"new": 2}}, defaults={"config": {"new": 1}})


def test_leftovers_of_killed_writers_go_at_the_next_start_but_not_at_a_refused_one(tmp_path):
    left = [tmp_path / ".model.safetensors.123.part", tmp_path / fit.SNAPSHOTS / ".000000001.safetensors.7.part"]
    left[1].parent.mkdir()
    for path in left:
        path.write_bytes(b"half")
    with filelock.FileLock(tmp_path / ".lock"):
        before = content(tmp_path)
        with pytest.raises(fit.Busy, match=f"{tmp_path}: another process is training here; wait for it, or stop it"):
            train(tmp_path)
        assert content(tmp_path) == before
    train(tmp_path)
    assert not any(path.exists() for path in left) and (tmp_path / fit.MODEL).exists()


def test_another_number_of_threads_is_said_at_a_resume(tmp_path, monkeypatch):
    train(tmp_path, checkpoint_every_s=0.0)
    (tmp_path / fit.MODEL).unlink()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.warns(UserWarning, match=r"step-000000005.*: made with 1 threads, now 2: last bits may differ"):
        train(tmp_path)


def test_snapshots_come_at_equal_intervals_with_the_weights_of_their_step(tmp_path):
    train(tmp_path, n_epochs=2, snapshots=5)
    names = sorted(path.name for path in (tmp_path / fit.SNAPSHOTS).iterdir())
    assert names == [f"{n:09d}.safetensors" for n in (2, 4, 6, 8, 10)]
    assert [weight(tmp_path / fit.SNAPSHOTS, name) for name in names] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_the_global_random_state_is_left_alone(tmp_path):
    def drawn_after(act):
        torch.manual_seed(1), np.random.seed(1), random.seed(1)
        with contextlib.suppress(fit.ConfigMismatch):
            act()
        return torch.rand(1).item(), np.random.rand(), random.random()

    expected, step = drawn_after(lambda: None), toy()
    for data in (IMAGES, IMAGES, OTHER_IMAGES):  # trains, finds it done, is refused
        assert drawn_after(lambda data=data: train(tmp_path, step, data, flip=True)) == expected


def test_the_fingerprint_sees_shape_kind_and_content(monkeypatch):
    whole = fit.fingerprint(IMAGES)
    assert whole == fit.fingerprint(torch.from_numpy(IMAGES.copy())) == fit.fingerprint(np.asfortranarray(IMAGES))
    one = IMAGES.copy()
    one[7, 0, 2, 2] ^= 1
    others = [one, OTHER_IMAGES, IMAGES.reshape(20, 1, 2, 8), IMAGES.view(np.int8), IMAGES[:19]]
    assert len({whole, fit.fingerprint(IMAGES, LABELS), *map(fit.fingerprint, others)}) == 7
    monkeypatch.setattr(fit, "_HASHED", 4096)  # of larger arrays 1,024 pieces are read
    large = np.zeros(100_000, np.uint8)
    sampled = fit.fingerprint(large)
    large[50_000:50_100] = 1
    assert fit.fingerprint(large) != sampled


def test_a_history_of_stages_with_other_losses_has_the_union_of_columns(tmp_path):
    rows = [{"stage": "train", "step": 1, "a": 0.5}, {"stage": "finetune", "step": 2, "epoch": 1, "seconds": 3, "b": 1.5}]
    fit.write_history(tmp_path / "h.csv", rows)
    assert fit.read_history(tmp_path / "h.csv") == rows and fit.read_history(tmp_path / "none.csv") == []
