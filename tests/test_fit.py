import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import agelib
from agelib import checkpoint, fit
from agelib.run import Run
from agelib.step import Step

HERE = Path(__file__).parent
IMAGES = np.random.default_rng(0).integers(0, 256, (20, 1, 4, 4), dtype=np.uint8)


def start(out_dir, *args):
    env = os.environ | {"PYTHONPATH": str(Path(agelib.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, HERE / "fit_worker.py", out_dir, *args], env=env)


def weights(folder):
    return {p.name: checkpoint.load_weights(p) for p in sorted((folder / "checkpoints" / "train").glob("*.safetensors"))}


def toy(fail_at=None, lr=0.1, **config):
    """A step that adds lr to a weight and logs it; not finite at call `fail_at`."""
    net = nn.Linear(1, 1)
    nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
    optimizer = torch.optim.SGD(net.parameters(), lr=lr)
    seen = []

    def update(x):
        seen.append(x.flatten(1).mean(1))
        with torch.no_grad():
            net.weight += optimizer.param_groups[0]["lr"]
        value = float("nan") if fail_at is not None and len(seen) > fail_at else net.weight.item()
        return {"good": torch.tensor(1.0), "weight": torch.tensor(value)}

    return Step(update, {"net": net}, {"net": optimizer}, config={"lr": lr} | config), seen


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_killed_runs_end_with_the_same_weights_bit_for_bit(tmp_path, precision):
    assert start(tmp_path / "whole", precision).wait() == 0
    chance = random.Random(precision)
    folder = tmp_path / "killed" / "checkpoints" / "train"
    killed_at = []
    for _ in range(3):
        process = start(tmp_path / "killed", precision)
        target = (killed_at[-1] if killed_at else 0) + chance.randint(4, 15)
        while process.poll() is None:
            files = checkpoint.list_files(folder)
            if files and int(files[-1].name[5:14]) >= target:
                time.sleep(chance.random() * 0.05)
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.002)
        process.wait()
        killed_at.append(int(checkpoint.list_files(folder)[-1].name[5:14]))
    assert killed_at[0] < 60, "the run ended before it could be killed"
    assert start(tmp_path / "killed", precision).wait() == 0
    whole, resumed = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert set(whole) == {"g.safetensors", "e.safetensors", "g_ema.safetensors"}
    for name, tensors in whole.items():
        for key, value in tensors.items():
            assert torch.equal(value, resumed[name][key]), (name, key)
    histories = [list(csv.DictReader(open(tmp_path / d / "history.csv"))) for d in ("whole", "killed")]
    for a, b in zip(*histories, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}


def test_second_process_on_a_run_is_refused(tmp_path):
    process = start(tmp_path / "run", "fp32", "100000")
    folder = tmp_path / "run" / "checkpoints" / "train"
    try:
        deadline = time.monotonic() + 60
        while not checkpoint.list_files(folder):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.05)
        step, _ = toy()
        with pytest.raises(fit.Busy, match="another process is training here"):
            fit.fit(step, IMAGES, run=Run(tmp_path / "run", {}, seed=0), n_epochs=1, batch_size=5, seed=0)
    finally:
        process.kill()
        process.wait()


def test_epoch_is_the_floor_of_n_over_b_and_each_image_comes_once(tmp_path):
    step, seen = toy()
    rows = fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=2, batch_size=6, seed=0, log_every=1)
    assert len(seen) == 2 * 3 and rows[-1]["epoch"] == 2  # 20 images, 3 batches of 6, 2 dropped
    first, second = torch.cat(seen[:3]).tolist(), torch.cat(seen[3:]).tolist()
    means = (IMAGES.reshape(20, -1) / 127.5 - 1).mean(1)
    for epoch in (first, second):
        assert len(set(epoch)) == 18 and all(np.abs(means - m).min() < 1e-6 for m in epoch)
    assert first != second


def test_history_holds_means_over_the_window(tmp_path):
    step, _ = toy()
    rows = fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=1, batch_size=4, seed=0, log_every=2)
    assert [r["step"] for r in rows] == [2, 4, 5]
    assert [r["weight"] for r in rows] == pytest.approx([0.15, 0.35, 0.5])  # means of .1 .2 | .3 .4 | .5
    on_disk = list(csv.DictReader(open(tmp_path / "history.csv")))
    assert [float(r["weight"]) for r in on_disk] == pytest.approx([0.15, 0.35, 0.5])


def test_done_run_returns_at_once_and_is_not_trained_again(tmp_path):
    for expected in (5, 0):
        step, seen = toy()
        rows = fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=1, batch_size=4, seed=0)
        assert len(seen) == expected
        assert step.modules["net"].weight.item() == pytest.approx(0.5) and rows[-1]["step"] == 5
        run = Run(tmp_path, {}, seed=0)
        assert run.training_seconds() == (0 if expected else pytest.approx(rows[-1]["seconds"], abs=0.01))


def test_learning_rate_follows_the_epoch_after_a_resume(tmp_path):
    for n in (3, 6):
        step, _ = toy()
        step.lr_at = lambda epoch: 10.0**epoch
        folder = tmp_path / "checkpoints" / "train"
        if n == 6:  # the same run asked for more steps: pretend that it was from the start
            state, path = checkpoint.read_latest(folder)
            state["config"]["n_steps"] = 6
            path.unlink()
            checkpoint.save(folder, state["step"], state)
        fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=9, max_steps=n, batch_size=10, seed=0)
    assert step.modules["net"].weight.item() == pytest.approx(2 * (1 + 10 + 100))  # two steps in each of three epochs


def test_not_finite_stops_names_and_keeps_the_last_good(tmp_path):
    step, _ = toy(fail_at=3)
    run = Run(tmp_path, {}, seed=0)
    with pytest.raises(fit.Diverged, match=r"step 4: weight; last good checkpoint: step-000000003"):
        fit.fit(step, IMAGES, run=run, n_epochs=1, batch_size=4, seed=0, checkpoint_every_s=0.0)
    state, _ = checkpoint.read_latest(run.checkpoints / "train")
    assert state["step"] == 3
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["status"] == "diverged" and "weight" in metrics["reason"] and "step 4" in metrics["reason"]


def test_other_settings_are_refused_by_name(tmp_path):
    step, _ = toy()
    fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=1, batch_size=4, seed=0)
    step, _ = toy(lr=0.2)
    with pytest.raises(fit.ConfigMismatch, match=r"lr was 0.1, is 0.2; seed was 0, is 7"):
        fit.fit(step, IMAGES, run=Run(tmp_path, {}, seed=0), n_epochs=1, batch_size=4, seed=7)


def test_stages_keep_their_own_checkpoints(tmp_path):
    run = Run(tmp_path, {}, seed=0)
    step, _ = toy()
    rows = fit.fit(step, IMAGES, run=run, n_epochs=1, batch_size=4, seed=0)
    step, seen = toy(lr=0.5)
    rows = fit.fit(step, IMAGES, run=run, n_epochs=1, batch_size=10, seed=0, stage="finetune", history=rows)
    assert len(seen) == 2 and [(r["stage"], r["step"], r["epoch"]) for r in rows] == [("train", 5, 1), ("finetune", 7, 2)]
    assert (tmp_path / "checkpoints" / "finetune" / "net.safetensors").exists()


def test_batches_scale_to_plus_minus_one_and_flip():
    images = np.zeros((4, 1, 2, 2), np.uint8)
    images[:, :, :, 1] = 255
    plain = fit.Batches(images, 4, seed=0).batch(0)
    assert plain[0, 0].tolist() == [[-1, 1], [-1, 1]]
    torch.manual_seed(0)
    lefts = torch.cat([fit.Batches(images, 4, seed=0, flip=True).batch(i)[:, 0, 0, 0] for i in range(50)])
    assert set(lefts.tolist()) == {-1.0, 1.0} and lefts.mean().abs() < 0.3


@pytest.mark.parametrize("bad", [np.zeros((4, 1, 2, 2), np.float32), np.zeros((4, 2, 2), np.uint8)])
def test_wrong_images_are_refused(bad):
    with pytest.raises(ValueError, match=r"uint8 \(N, C, H, W\)"):
        fit.Batches(bad, 2, seed=0)


def test_batch_larger_than_the_set_is_refused():
    with pytest.raises(ValueError, match="number of images, 20; got 21"):
        fit.Batches(IMAGES, 21, seed=0)
