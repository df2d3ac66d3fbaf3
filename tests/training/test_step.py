"""What a method hands to the loop, and the hardware it runs on."""

from __future__ import annotations

import platform
from dataclasses import dataclass

import fit_worker
import pytest
import torch
from torch import nn

from agelib.model import METHODS
from agelib.training import fit, hardware
from agelib.training.progress import Progress
from agelib.training.step import Averages, Step, check_config, dropped, stabiliser, stabilisers


def test_the_rate_is_set_on_every_optimizer_and_asked_for_by_epoch_and_length():
    nets = {name: nn.Linear(1, 1) for name in "ge"}
    optimizers = {name: torch.optim.Adam(net.parameters(), lr=torch.tensor(1.0)) for name, net in nets.items()}
    asked = []
    step = Step(lambda x: {}, nets, optimizers, lambda *at: asked.append(at) or 1 / (1 + at[0]))
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers.values()]
    step.set_lr(0.5, 4)
    assert asked == [(0.5, 4)] and [rate.item() for rate in rates] == pytest.approx([2 / 3] * 2)
    assert all(o.param_groups[0]["lr"] is rate for o, rate in zip(optimizers.values(), rates, strict=True))  # in place
    Step(lambda x: {}, nets, optimizers).set_lr(9, 4)
    assert rates[0].item() == pytest.approx(2 / 3)


def test_the_rate_halves_at_the_start_of_the_epoch_before_each_multiple():
    assert [dropped(1.0, epoch, 3) for epoch in (0, 1.99, 2, 4.5, 5)] == [1, 1, 0.5, 0.5, 0.25]
    assert dropped(1.0, 1000, 0) == 1.0 and dropped(1.0, 4, 2, 0.9) == pytest.approx(0.81)


def test_averages_follow_buffers_too_copy_counters_and_take_no_gradients():
    net = nn.BatchNorm1d(2)
    averages = Averages({"g": net, "e": net}, {"g": 0.75, "e": 0.0})
    assert list(averages.modules) == ["g_ema"]
    net(torch.tensor([[1.0, 2.0], [3.0, 6.0]]))  # running mean 0.1 (2, 4), one batch counted
    net.weight.data.fill_(5.0)
    averages.update()
    average = averages.modules["g_ema"]
    torch.testing.assert_close(average.running_mean, 0.25 * torch.tensor([0.2, 0.4]))
    assert average.weight.tolist() == [2.0, 2.0] and average.num_batches_tracked == 1
    assert not any(p.requires_grad for p in average.parameters())


@dataclass(frozen=True)
class Config:
    n: int = 1
    maybe: float | None = None
    extra: float = stabiliser(0.0, "extra {:g}")
    control: bool = stabiliser(True, "no control")

    def __post_init__(self):
        check_config(self, above={"maybe": 0}, least={"n": 1})


def test_whole_numbers_are_floats_and_what_is_switched_on_is_said():
    assert stabilisers(Config(extra=0, maybe=None)) == ""
    assert stabilisers(Config(extra=0.5, control=False, n=7)) == "extra 0.5, no control"
    with pytest.raises(ValueError, match=r"Config: maybe must be float \| None, is 'x'"):
        Config(maybe="x")


@pytest.mark.parametrize("method", METHODS)
def test_bf16_gives_the_losses_of_fp32(method):
    """Ten updates both ways from the same start: their mean losses agree to bf16's rounding."""
    mean = {}
    for precision in ("fp32", "bf16"):
        step = fit_worker.step(method, precision=precision)
        batches = fit.Batches(fit_worker.IMAGES, 12, seed=0, n=step.n_batches)
        torch.manual_seed(5)
        logs = [step(*batches.batch(i)) for i in range(10)]
        mean[precision] = {k: sum(row[k].item() for row in logs) / 10 for k in logs[0]}
    assert mean["bf16"] == pytest.approx(mean["fp32"], rel=0.05, abs=0.02)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_alone_has_the_precision(precision, dtype):
    layer = nn.Linear(3, 3)
    with hardware.autocast("cpu", precision):
        assert layer(torch.ones(1, 3)).dtype == dtype
    assert layer(torch.ones(1, 3)).dtype == layer.weight.dtype == torch.float32
    assert hardware.choose_precision(precision, "cpu") == precision
    assert hardware.choose_precision("auto", "cpu") == ("bf16" if hardware.bf16_in_hardware("cpu") else "fp32")
    with pytest.raises(ValueError, match="unknown precision 'fp8'; valid: auto, fp32, bf16"):
        hardware.choose_precision("fp8", "cpu")


def test_freed_activations_are_kept_with_glibc_alone(monkeypatch):
    kept = hardware.keep_activations()
    assert kept == (platform.libc_ver()[0] == "glibc")
    monkeypatch.setattr(hardware.platform, "libc_ver", lambda: ("musl", "1"))
    assert not hardware.keep_activations() and not hardware.keep_activations(False)
    monkeypatch.undo()
    assert hardware.keep_activations(False) == kept and hardware.keep_activations() == kept


def test_the_last_line_of_the_progress_is_printed_where_nobody_watches(capsys):
    progress = Progress()
    progress.show("half")
    progress.done("all")
    assert capsys.readouterr().out == "all\n"
