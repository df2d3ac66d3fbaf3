"""The plain control of colorization: conditional AGE's generator and nothing but the L1 distance to the true colours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from agelib import losses, networks, sphere
from agelib.conditional import ColorGenerator, given
from agelib.training import hardware
from agelib.training.step import Step, check_config, halved

LABEL = "L1 regression"
PRIOR = "sphere"  # the law of z


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one training on mean |g(z|L) - x| alone, z drawn anew each time, so that nothing rewards its use."""

    M: int = 3  # dimensions of z
    width: int = 32  # channels of the generator's first layer
    n_blocks: int = 5  # residual blocks
    lr: float = 2e-4  # Adam
    drop_lr: int = 60  # as in age.Game
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto

    def __post_init__(self):
        least, choices = {"M": 1, "width": 1, "n_blocks": 0, "drop_lr": 0}, {"precision": hardware.PRECISIONS}
        check_config(self, above={"lr": 0}, least=least, shares=("beta1", "beta2"), choices=choices)


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g": ColorGenerator}, from torch's global RNG."""
    return {"g": ColorGenerator(cfg.M, cfg.width, cfg.n_blocks)}


def make_step(nets: dict[str, nn.Module], cfg: Config) -> Step:
    """One update of nets["g"] on images (B, 3, H, W) in [-1, 1], RGB. Logs l_x, on ab/110."""
    g = nets["g"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    opt_g = hardware.adam(g, cfg.lr, (cfg.beta1, cfg.beta2))

    def update(images: Tensor) -> dict[str, Tensor]:
        x, L = given(images)
        with hardware.autocast(device, precision):
            gx = g(sphere.sample(len(x), g.M, device=device), L)
        l_x = losses.recon_x_l1(gx, x)
        opt_g.zero_grad()
        l_x.backward()
        opt_g.step()
        return {"l_x": l_x.detach()}

    lr_at = lambda epoch, n_epochs: halved(cfg.lr, epoch, cfg.drop_lr)  # noqa: E731
    return Step(update, {"g": g}, {"g": opt_g}, lr_at, precision)
