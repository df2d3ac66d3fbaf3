"""Adversarial Generator-Encoder Networks: the two updates of one training iteration, on one screen.

Symbols, as in the paper: x image batch (B, C, H, W) in [-1, 1]; z ~ prior, (B, M); g, e networks; ex = e(x), gz = g(z),
egz = e(g(z)), gex = g(e(x)); KL the divergence of a batch of codes to the prior (eq. 7); mu weighs L_X (eq. 3) in the
encoder's update (eq. 6), lam weighs L_Z (eq. 4) in the generator's (eq. 5). L_X never trains g and L_Z never trains e,
unless `recon_x_in_g` asks for the experiment that shows why.

    encoder:    minimise  KL(ex) - KL(egz) + mu L_X        gz from a generator that receives no gradient
    generator:  minimise  KL(egz) + lam L_Z                n_g_steps times, fresh z each

Weights. mu and lam are the *released* numbers (mu 10, lambda 500 to 2000), where L_X is a mean over all pixels and L_Z is
2 - cos/M. On the squared distance |z - egz|^2 of one code lam counts lam/(2M). objective="paper" trains eq. 7 and the
printed losses with the weights that keep this balance: its KL is half as steep, so lam/(4M) and mu/2 on the pixel mean
(mu/(2D) on the printed sum over D pixels).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

from torch import Tensor, nn

from agelib import fast, losses, sphere
from agelib.step import Step

OBJECTIVES = ("released", "paper")
DIVERGENCES = ("gaussian", "nearest")
RECON_X = {"l1": losses.recon_x_l1, "l2": losses.recon_x_l2}


@dataclass(frozen=True)
class AgeConfig:
    """Settings of one AGE training; the defaults are the released CIFAR-10 command's."""

    M: int = 128  # dimensions of z
    prior: str = "sphere"  # law of z: sphere | gaussian
    objective: str = "released"  # released: kl_released, cosine L_Z | paper: eq. 7, squared L2 (module docstring)
    divergence: str = "gaussian"  # gaussian: fitted diagonal Gaussian | nearest: Kozachenko-Leonenko
    lam: float = 1000.0  # released scale; lam_per_sample is its weight on |z - egz|^2
    mu: float = 10.0  # on the mean absolute (recon_x l2: squared) pixel difference, pixels in [-1, 1]
    recon_x: str = "l1"  # L_X: l1: mean absolute difference, eq. 3 | l2: mean squared, another choice of the released code
    n_g_steps: int = 2  # generator updates per encoder update
    lr: float = 2e-4  # Adam, both networks
    drop_lr: int = 40  # halve lr when epoch % drop_lr == drop_lr - 1, 0-based; 0: never
    beta1: float = 0.5
    beta2: float = 0.999
    recon_x_in_g: float = 0.0  # weight of L_X in the generator's loss; the paper's answer is 0
    margin: float | None = None  # stabiliser: the encoder's KL(ex) - KL(egz) stops counting below -margin
    extra_kl_real: float = 0.0  # stabiliser: KL(ex) once more in the encoder's loss, with this weight, outside the margin
    ema: float = 0.0  # stabiliser: decay a step of an averaged generator "g_ema" for samples; 0: none
    ema_e: float = 0.0  # stabiliser: decay a step of an averaged encoder "e_ema" for reconstructions; 0: none
    precision: str = "auto"  # fp32 | bf16 | auto: bf16 where the processor multiplies it natively

    def __post_init__(self):
        choices = {"objective": OBJECTIVES, "divergence": DIVERGENCES, "prior": sphere.PRIORS, "recon_x": tuple(RECON_X)}
        for name, valid in choices.items():
            if getattr(self, name) not in valid:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; valid: {', '.join(valid)}")
        if self.n_g_steps < 1 or self.drop_lr < 0 or self.M < 1 or self.extra_kl_real < 0:
            raise ValueError("need M >= 1, n_g_steps >= 1, drop_lr >= 0 and extra_kl_real >= 0")
        if not (0 <= self.ema < 1 and 0 <= self.ema_e < 1):
            raise ValueError("need 0 <= ema < 1 and 0 <= ema_e < 1")

    @property
    def lam_per_sample(self) -> float:
        """Weight of the squared distance |z - e(g(z))|^2 of one code: lam/(2M) as released, lam/(4M) beside eq. 7."""
        return self.lam / (2 * self.M) / (2 if self.objective == "paper" else 1)

    @property
    def mu_per_pixel_mean(self) -> float:
        """Weight of the mean pixel difference of L_X: mu as released, mu/2 beside eq. 7."""
        return self.mu / (2 if self.objective == "paper" else 1)

    def lr_at(self, epoch: int) -> float:
        """Learning rate of 0-based `epoch`: halved at the start of every epoch with epoch % drop_lr == drop_lr - 1."""
        return halved(self.lr, epoch, self.drop_lr)


def halved(lr: float, epoch: int, drop_lr: int) -> float:
    """lr, halved at the start of every 0-based epoch with epoch % drop_lr == drop_lr - 1; drop_lr 0: never."""
    return lr * 0.5 ** ((epoch + 1) // drop_lr if drop_lr else 0)


def divergence(cfg: AgeConfig):
    """The function codes (B, M) -> scalar that `cfg` trains. Nearest-neighbour estimates are in eq. 7's units and are
    doubled beside the released weights, as the released form doubles eq. 7."""
    if cfg.divergence == "nearest":
        scale = 2.0 if cfg.objective == "released" else 1.0
        return lambda e: scale * losses.kl_nearest(e, cfg.prior)
    return losses.kl_released if cfg.objective == "released" else losses.kl_eq7


def recon_z(cfg: AgeConfig):
    """The function (egz, z) -> weighted L_Z. On the sphere the released cosine form; a Gaussian prior has no unit codes,
    so it takes the squared distance with the weight lam_per_sample (the released code kept the cosine there)."""
    if cfg.objective == "released" and cfg.prior == "sphere":
        return lambda egz, z: cfg.lam * losses.recon_z_cos(egz, z)
    return lambda egz, z: cfg.lam_per_sample * losses.recon_z_l2(egz, z)


def make_step(
    nets: dict[str, nn.Module],
    cfg: AgeConfig,
    *,
    given: Callable[[Tensor], tuple[Tensor, ...]] = lambda x: (x,),
    adversarial: bool = True,
) -> Step:
    """One iteration: an encoder update on the batch x, then cfg.n_g_steps generator updates.

    nets: {"g", "e"} from `networks.build`. The step logs l_x (as cfg.recon_x has it), l_z (1 - mean cos on the sphere, mean
    squared distance for a Gaussian prior), kl_real, kl_fake (of the last generator update), and the mean over coordinates
    of the batch variance of real and fake codes, var_real and var_fake (at most 1/M on the sphere); each before the
    update that it is part of. given: what a batch is made of, x first, then what g and e are told beside the code and x
    (`agelib.conditional`). adversarial: False leaves both divergences out of the losses: an experiment's control.
    """
    g, e = nets["g"], nets["e"]
    device = next(g.parameters()).device
    precision = fast.choose_precision(cfg.precision, device)
    KL, L_Z, L_X = divergence(cfg), recon_z(cfg), RECON_X[cfg.recon_x]
    opt_g, opt_e = (fast.adam(net, cfg.lr, (cfg.beta1, cfg.beta2)) for net in (g, e))
    averages = fast.Averages(nets, {"g": cfg.ema, "e": cfg.ema_e})

    def encoder_step(x: Tensor, *c: Tensor) -> dict[str, Tensor]:
        g.requires_grad_(False), e.requires_grad_(True)
        z = sphere.sample(len(x), cfg.M, cfg.prior, device=device)
        with fast.autocast(device, precision):
            ex = e(x, *c)
            gex = g(ex, *c)  # gradient passes through g into e
            egz = e(g(z, *c).detach(), *c)  # the fake batch: its own pass, its own batch statistics
        kl_real, kl_fake, l_x = KL(ex), KL(egz), L_X(gex, x)
        gap = kl_real - kl_fake
        if cfg.margin is not None:
            gap = gap.clamp_min(-cfg.margin)
        opt_e.zero_grad()
        (adversarial * (gap + cfg.extra_kl_real * kl_real) + cfg.mu_per_pixel_mean * l_x).backward()
        opt_e.step()
        return {"l_x": l_x.detach(), "kl_real": kl_real.detach(), "var_real": losses.moments(ex.detach())[1].mean()}

    def generator_step(x: Tensor, *c: Tensor) -> dict[str, Tensor]:
        g.requires_grad_(True), e.requires_grad_(False)
        z = sphere.sample(len(x), cfg.M, cfg.prior, device=device)
        with fast.autocast(device, precision):
            egz = e(g(z, *c), *c)
            gex = g(e(x, *c), *c) if cfg.recon_x_in_g else None
        kl_fake = KL(egz)
        loss = adversarial * kl_fake + L_Z(egz, z)
        if gex is not None:
            loss = loss + cfg.recon_x_in_g * L_X(gex, x)
        opt_g.zero_grad()
        loss.backward()
        opt_g.step()
        l_z = 0.5 * losses.recon_z_l2(egz, z) if cfg.prior == "sphere" else losses.recon_z_l2(egz, z)
        return {"kl_fake": kl_fake.detach(), "l_z": l_z.detach(), "var_fake": losses.moments(egz.detach())[1].mean()}

    def update(batch: Tensor) -> dict[str, Tensor]:
        x_and_c = given(batch)
        logs = encoder_step(*x_and_c)
        for _ in range(cfg.n_g_steps):
            logs |= generator_step(*x_and_c)
        averages.update()
        return logs

    modules = {"g": g, "e": e} | averages.modules
    return Step(update, modules, {"g": opt_g, "e": opt_e}, cfg.lr_at, asdict(cfg) | {"precision": precision})
