"""Adversarial Generator-Encoder Networks: the two updates of one training iteration, on one screen.

Symbols, as in the paper: x image batch (B, C, H, W) in [-1, 1]; z ~ prior, (B, M); g, e networks; ex = e(x), gz = g(z),
egz = e(g(z)), gex = g(e(x)); KL the divergence of a batch of codes to the prior (eq. 7); mu weighs L_X (eq. 3) in the
encoder's update (eq. 6), lam weighs L_Z (eq. 4) in the generator's (eq. 5). L_X never trains g and L_Z never trains e,
unless `recon_x_in_g` or `recon_z_in_e` ask for the experiment that shows why.

    encoder:    minimise  KL(ex) - w KL(egz) + mu L_X      gz from a generator that receives no gradient
    generator:  minimise  KL(egz) + lam L_Z                n_g_steps times, fresh z each

w, `kl_fake_weight`, is 1 in the paper.

Weights. mu and lam are the *released* numbers (mu 10, lambda 500 to 2000), where L_X is a mean over all pixels and L_Z is
2 - cos/M. On the squared distance |z - egz|^2 of one code lam counts lam/(2M). objective="paper" trains eq. 7 and the
printed losses with the weights that keep this balance: its KL is half as steep, so lam/(4M) and mu/2 on the pixel mean
(mu/(2D) on the printed sum over D pixels).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from agelib import losses, networks, sphere
from agelib.training import hardware
from agelib.training.step import Averages, Step, check_config, dropped, stabiliser

LABEL = "AGE"
OBJECTIVES = ("released", "paper")
NETS = ("released", "decoder", "conv")


@dataclass(frozen=True, kw_only=True)
class Game:
    """The settings of the game and its optimiser; the defaults are the released CIFAR-10 command's."""

    M: int = 128  # dimensions of z
    prior: str = "sphere"  # law of z: sphere | gaussian
    objective: str = "released"  # released: kl_released, cosine L_Z | paper: eq. 7, squared L2 (module docstring)
    divergence: str = "gaussian"  # of losses.DIVERGENCES: a fitted gaussian with diagonal covariance | full | nearest
    lam: float = 1000.0  # released scale; lam_per_sample is its weight on |z - egz|^2
    mu: float = 10.0  # on the mean absolute (recon_x l2: squared) pixel difference, pixels in [-1, 1]
    n_g_steps: int = 2  # generator updates per encoder update
    lr: float = 2e-4  # Adam, both networks
    lr_g: float | None = stabiliser(None, "lr {:g} in g")  # where the generator's differs
    lr_e: float | None = stabiliser(None, "lr {:g} in e")  # where the encoder's does
    drop_lr: int = 40  # multiply lr by lr_factor when epoch % drop_lr == drop_lr - 1, 0-based; 0: never
    lr_factor: float = 0.5
    beta1: float = 0.5
    beta2: float = 0.999
    precision: str = "auto"  # fp32 | bf16 | auto: bf16 where the processor multiplies it natively
    recon_x: str = stabiliser("l1", "{} for L_X")  # l1: mean absolute difference, eq. 3 | l2: mean squared
    recon_x_in_g: float = stabiliser(0.0, "L_X in g with weight {:g}")  # weight of L_X in the generator's loss
    recon_z_in_e: float = stabiliser(0.0, "L_Z in e with weight {:g}")  # weight of L_Z, as lam's, in the encoder's loss
    adversarial: bool = stabiliser(True, "no divergences")  # False leaves both out of the losses: a control
    margin: float | None = stabiliser(None, "margin {}")  # the encoder's KL(ex) - KL(egz) stops counting below -margin
    kl_fake_weight: float = stabiliser(1.0, "KL fake weight {:g}")  # w, of KL(egz) in the encoder's loss
    adaptive: float | None = stabiliser(None, "adaptive KL fake weight, threshold {:g}")  # see `adapt`; above 1
    ema: float = stabiliser(0.0, "averaged generator {:g}")  # share of an averaged g, for samples, that a step keeps
    ema_e: float = stabiliser(0.0, "averaged encoder {:g}")  # of an averaged e, for reconstructions

    def __post_init__(self):
        choices = {"objective": OBJECTIVES, "divergence": losses.DIVERGENCES, "prior": sphere.PRIORS}
        choices |= {"recon_x": losses.RECON_X, "precision": hardware.PRECISIONS}
        above = {"lr": 0, "lr_g": 0, "lr_e": 0, "lr_factor": 0, "adaptive": 1}
        weights = ("lam", "mu", "recon_x_in_g", "recon_z_in_e", "kl_fake_weight")
        least = {"M": 1, "n_g_steps": 1, "drop_lr": 0} | dict.fromkeys(weights, 0)
        check_config(self, above=above, least=least, shares=("beta1", "beta2", "ema", "ema_e"), choices=choices)
        game = self.prior, self.objective, self.divergence
        if self.adaptive is not None and game != ("sphere", "released", "gaussian"):
            raise ValueError(f"Config: adaptive wants sphere, released and gaussian; got {', '.join(game)}")

    @property
    def lam_per_sample(self) -> float:
        """Weight of the squared distance |z - e(g(z))|^2 of one code: lam/(2M) as released, lam/(4M) beside eq. 7."""
        return self.lam * self._per_sample

    @property
    def _per_sample(self) -> float:
        return 1 / (2 * self.M) / (2 if self.objective == "paper" else 1)

    @property
    def lr_at(self) -> Callable[[float, float], dict[str, float]]:
        """(0-based epoch, their number) -> network -> learning rate."""
        lrs = {"g": self.lr_g or self.lr, "e": self.lr_e or self.lr}
        return lambda epoch, _: {name: dropped(lr, epoch, self.drop_lr, self.lr_factor) for name, lr in lrs.items()}

    @property
    def mu_per_pixel_mean(self) -> float:
        """Weight of the mean pixel difference of L_X: mu as released, mu/2 beside eq. 7."""
        return self.mu / (2 if self.objective == "paper" else 1)

    def floor(self, B: int) -> float | None:
        """What KL(ex) and KL(egz) of batches of B codes are for the uniform sphere, the least there; None where unknown."""
        if self.prior != "sphere" or self.divergence != "gaussian":
            return None
        released = self.objective == "released"
        least = (losses.kl_released_minimum if released else losses.kl_eq7_minimum)(self.M)
        return least + losses.kl_batch_bias(B, released)


@dataclass(frozen=True, kw_only=True)
class Config(Game):
    """Settings of one AGE training: the game's, and the networks'; the defaults are the released CIFAR-10 command's."""

    nets: str = "released"  # released: 32 or 64 px | decoder: Wu et al.'s fully connected one, any size | conv: 28 px
    width: int = 64  # channels of the narrowest layer of convolutional networks
    e_width: int | None = stabiliser(None, "encoder of width {}")  # of the encoder's, if it shall differ
    encoder: str = "mlp"  # beside the fully connected decoder: mlp | conv
    in_bias: bool = stabiliser(False, "bias in the encoder's first layer")  # lets it see brightness and contrast
    mean_bias: bool = stabiliser(False, "last bias at the data's mean")  # as ALI starts
    spectral_norm: bool = stabiliser(False, "spectral norm")  # in the encoder
    noisy_code: float = stabiliser(0.0, "noise {:g} on the code")  # see networks.NoisyCode

    def __post_init__(self):
        super().__post_init__()
        choices = {"nets": NETS, "encoder": ("mlp", "conv")}
        check_config(self, least={"width": 1, "e_width": 1, "noisy_code": 0}, choices=choices)


def build(cfg: Config, shape: tuple[int, int, int], mean: networks.Mean | None = None) -> dict[str, nn.Module]:
    """{"g", "e"} for images of `shape` (C, H, W), initialised from torch's global RNG; mean: of the data, for the last bias.

    Raises ValueError for a shape that there are no networks for.
    """
    if cfg.nets == "decoder":
        g = networks.published_decoder(shape, cfg.M)
        dims = (math.prod(shape), 1024, 256, 256, 64, cfg.M)
        conv = cfg.encoder == "conv"
        e = networks.ConvEncoder(shape, cfg.M, cfg.prior) if conv else networks.MlpEncoder(dims, cfg.prior)
        networks.start_decoder(g, mean and mean(5000))
    elif cfg.nets == "conv":
        g = networks.ConvDecoder(shape, cfg.M, cfg.width)
        e = networks.ConvEncoder(shape, cfg.M, cfg.prior, cfg.e_width or cfg.width)
    else:
        C, size = shape[0], networks.square(shape)
        g = networks.Generator(size, cfg.M, C, cfg.width, out_bias=cfg.mean_bias)
        networks.initialise(g)
        e = networks.Encoder(size, cfg.M, C, cfg.e_width or cfg.width, cfg.prior, cfg.in_bias, cfg.spectral_norm)
        if cfg.mean_bias and mean is not None:
            g.set_mean(mean(5000).mean((1, 2)))
    e = networks.NoisyCode(e, cfg.noisy_code) if cfg.noisy_code else e
    return {"g": g, "e": with_weight(e, cfg)}


def with_weight(e: nn.Module, cfg: Game) -> nn.Module:
    """`e`, which keeps the adaptive weight w of KL(egz) beside its weights where cfg asks for one."""
    if cfg.adaptive is not None:
        e.register_buffer("kl_fake_weight", torch.tensor(float(cfg.kl_fake_weight)))
    return e


@torch.no_grad()
def adapt(w: Tensor, kl_real: Tensor, kl_fake: Tensor, cfg: Game) -> None:
    """Move the weight w (0-dim, in place) of KL(egz) as the authors' conditional code does (branch cAGE): up by 0.001, and
    where either divergence is above cfg.adaptive times its least value down by 0.02, but not below 0."""
    lost = torch.maximum(kl_real, kl_fake) > cfg.adaptive * losses.kl_released_minimum(cfg.M)
    w.add_(0.001 - 0.02 * lost).clamp_(min=0)


def recon_z(cfg: Game, lam: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The function (egz, z) -> L_Z with weight lam. On the sphere the released cosine form; a Gaussian prior has no unit
    codes, so it takes the squared distance as lam_per_sample weighs it (the released code kept the cosine there)."""
    if cfg.objective == "released" and cfg.prior == "sphere":
        return lambda egz, z: lam * losses.recon_z_cos(egz, z)
    return lambda egz, z: lam * cfg._per_sample * losses.recon_z_l2(egz, z)


def make_step(
    nets: dict[str, nn.Module], cfg: Game, *, fresh: bool = False,
    given: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: (x,),
) -> Step:  # fmt: skip
    """One iteration: an encoder update on the batch x, then cfg.n_g_steps generator updates.

    nets: {"g", "e"} of `build`. The step logs l_x (as cfg.recon_x has it; not where mu is 0), l_z (1 - mean cos on the
    sphere, mean squared distance for a Gaussian prior), kl_real, kl_fake (of the last generator update), the mean over
    coordinates of the batch variance of real and fake codes, var_real and var_fake (at most 1/M on the sphere), and w where
    it adapts, kl_fake_weight; each before the update that it is part of. given: what a batch is made of, x first, then what
    g and e are told beside the code and x (`agelib.conditional`). fresh: generator updates have batches of their own, joined
    with x.
    """
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    precision = hardware.choose_precision(cfg.precision, device)
    divergence, L_X = losses.DIVERGENCES[cfg.divergence][cfg.objective], losses.RECON_X[cfg.recon_x]
    n = 1 + cfg.n_g_steps if fresh else 1
    L_Z, L_Z_in_e = recon_z(cfg, cfg.lam), recon_z(cfg, cfg.recon_z_in_e)
    opt_g, opt_e = (hardware.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, e))  # rates: lr_at
    averages, w = Averages(nets, {"g": cfg.ema, "e": cfg.ema_e}), getattr(e, "kl_fake_weight", cfg.kl_fake_weight)

    def KL(codes: Tensor) -> Tensor:
        return divergence(codes, cfg.prior)

    def encoder_step(x: Tensor, *c: Tensor) -> dict[str, Tensor]:
        g.requires_grad_(False), e.requires_grad_(True)
        z = sphere.sample(len(x), cfg.M, cfg.prior, device=device)
        with hardware.autocast(device, precision):
            ex = e(x, *c)
            gex = g(ex, *c) if cfg.mu else None  # gradient passes through g into e
            egz = e(g(z, *c).detach(), *c)  # the fake batch: its own pass, its own batch statistics
        kl_real, kl_fake = KL(ex), KL(egz)
        gap = kl_real - kl_fake
        if cfg.margin is not None:
            gap = gap.clamp_min(-cfg.margin)
        loss = cfg.adversarial * (w * gap + (1 - w) * kl_real)
        logs = {"kl_real": kl_real.detach(), "var_real": losses.moments(ex.detach())[1].mean()}
        if gex is not None:
            logs["l_x"] = L_X(gex, x)
            loss = loss + cfg.mu_per_pixel_mean * logs["l_x"]
        if cfg.recon_z_in_e:
            loss = loss + L_Z_in_e(egz, z)
        opt_e.zero_grad()
        loss.backward()
        opt_e.step()
        if cfg.adaptive is not None:
            logs["kl_fake_weight"] = w.clone()
            adapt(w, kl_real, kl_fake, cfg)
        return {name: value.detach() for name, value in logs.items()}

    def generator_step(x: Tensor, *c: Tensor) -> dict[str, Tensor]:
        g.requires_grad_(True), e.requires_grad_(False)
        z = sphere.sample(len(x), cfg.M, cfg.prior, device=device)
        with hardware.autocast(device, precision):
            egz = e(g(z, *c), *c)
            gex = g(e(x, *c), *c) if cfg.recon_x_in_g else None
        kl_fake = KL(egz)
        loss = cfg.adversarial * kl_fake + (L_Z(egz, z) if cfg.lam else 0)
        if gex is not None:
            loss = loss + cfg.recon_x_in_g * L_X(gex, x)
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        l_z = 0.5 * losses.recon_z_l2(egz, z) if cfg.prior == "sphere" else losses.recon_z_l2(egz, z)
        return {"kl_fake": kl_fake.detach(), "l_z": l_z.detach(), "var_fake": losses.moments(egz.detach())[1].mean()}

    def update(batch: Tensor) -> dict[str, Tensor]:
        x_and_c = given(batch)
        parts = zip(*(t.unflatten(0, (n, -1)) for t in x_and_c), strict=True) if fresh else [x_and_c] * (1 + cfg.n_g_steps)
        first, *others = parts
        logs = encoder_step(*first)
        for part in others:
            logs |= generator_step(*part)
        averages.update()
        return logs

    return Step(update, {"g": g, "e": e} | averages.modules, {"g": opt_g, "e": opt_e}, cfg.lr_at, precision, n)


def features(
    nets: dict[str, nn.Module], *, layers: Sequence[int] | None = None, pool: int | None = 4, code: bool = True,
    moment: str = "after",
) -> Callable[[np.ndarray], np.ndarray]:  # fmt: skip
    """Outputs of the encoder's hidden layers and the code, uint8 (n, C, H, W) -> (n, D); not published, after ALI and DCGAN.

    F2 by default: maxima over windows that leave pool x pool; F1 with pool None. At 32 px, width 64 and M 64: 7,232 and
    28,736 dimensions. layers: which hidden layers, from 1; None: all. code: whether the code is the last part. moment:
    before or after the nonlinearity.
    """
    e = nets["e"]
    positions = networks.hidden_layers(e, moment)
    layers = range(1, len(positions) + 1) if layers is None else layers
    if not set(layers) <= set(range(1, len(positions) + 1)) or not (layers or code):
        raise ValueError(f"layers are from 1 to {len(positions)}, got {list(layers)}; without any, code must be True")
    return networks.layer_features(e, [positions[i - 1] for i in layers], pool=pool, code=e if code else None)
