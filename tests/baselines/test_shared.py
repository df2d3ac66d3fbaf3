"""What the loop gives every method: resuming bit for bit, bf16, and the same data order."""

import numpy as np
import pytest
import torch

from agelib import checkpoint, fit
from agelib.baselines import ali, gan, vae
from agelib.run import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
METHODS = {
    "ali": (lambda: ali.build("house_numbers", 32, width=0.125, M=8), ali.make_step, ali.AliConfig),
    "ali, maxout": (lambda: ali.build("cifar10", 32, width=0.125), ali.make_step, ali.AliConfig),
    "vae": (lambda: vae.build(32, 8, width=4), vae.make_step, vae.VaeConfig),
    "gan": (lambda: gan.build(32, 8, width=4), gan.make_step, gan.GanConfig),
}


class Stop(Exception):
    pass


def train(folder, method, precision, stop_at=None):
    build, make_step, config = METHODS[method]
    run = Run(folder, {}, seed=5)
    step = make_step(build(), config(precision=precision))
    update, calls = step.update, []

    def counted(x):
        calls.append(1)
        if len(calls) == stop_at:
            raise Stop
        return update(x)

    step.update = counted
    rows = fit.fit(
        step, IMAGES, run=run, n_epochs=2, batch_size=4, seed=5, log_every=3, checkpoint_every_s=0 if stop_at else 1e9
    )
    weights = {p.name: checkpoint.load_weights(p) for p in (folder / "checkpoints/train").glob("*.safetensors")}
    return rows, weights


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_a_stopped_run_ends_with_the_same_weights(tmp_path, method, precision):
    rows, weights = train(tmp_path / "whole", method, precision)
    with pytest.raises(Stop):
        train(tmp_path / "stopped", method, precision, stop_at=8)
    again, resumed = train(tmp_path / "stopped", method, precision)
    assert weights.keys() == resumed.keys() and len(weights) >= 2
    for name, tensors in weights.items():
        assert all(torch.equal(tensors[k], resumed[name][k]) for k in tensors), name
    losses = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    assert losses == [{k: v for k, v in row.items() if k != "seconds"} for row in again]


@pytest.mark.parametrize("method", ["ali", "vae", "gan"])
def test_bf16_gives_the_same_losses(method):
    """Ten updates in both precisions from one seed: the mean losses agree within 5 %."""
    build, make_step, config = METHODS[method]
    mean = {}
    for precision in ("fp32", "bf16"):
        torch.manual_seed(0)
        step = make_step(build(), config(precision=precision))
        data = fit.Batches(IMAGES, 12, seed=0)
        logs = [step(data.batch(i)) for i in range(10)]
        mean[precision] = {k: float(np.mean([row[k].item() for row in logs])) for k in logs[0]}
    assert mean["bf16"] == pytest.approx(mean["fp32"], rel=0.05)
