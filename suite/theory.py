"""Small cases of the paper's theorems in which the answer is known: 1-D Gaussians, four atoms, a grid of 25 Gaussians; and
AGE, ALI and a GAN for points of the plane.

One-dimensional family (facts for Theorems 1 and 2): X and Z standard normal, g(z) = s z + b, e(x) = w x + c. All
divergences are KL(N || N) in nats.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from agelib import age, networks, sphere
from agelib.rivals import ali, gan
from agelib.training.step import Step

METHODS = ("AGE", "ALI", "GAN")  # for points of the plane
M = {"AGE": 3, "ALI": 2, "GAN": 2}  # AGE's codes lie on the sphere in three dimensions, a surface as the plane is


def kl_normal(mean_p: Tensor, std_p: Tensor, mean_q: Tensor, std_q: Tensor) -> Tensor:
    """KL(N(mean_p, std_p^2) || N(mean_q, std_q^2)) in nats, elementwise."""
    ratio = (std_p / std_q) ** 2
    return 0.5 * (ratio + ((mean_p - mean_q) / std_q) ** 2 - 1 - ratio.log())


def game1(s: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """V1 = KL(e(g(Z)) || e(X)) in closed form: (s^2 + b^2 - 1 - log s^2)/2 for every w != 0; c cancels."""
    return 0.5 * (s**2 + b**2 - 1 - (s**2).log()) + 0 * w


def game2(s: Tensor, b: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """V2 = KL(e(g(Z)) || Z) - KL(e(X) || Z) in closed form: (w^2 b^2 + 2 w b c + w^2 (s^2 - 1) - log s^2)/2."""
    return 0.5 * (w**2 * b**2 + 2 * w * b * c + w**2 * (s**2 - 1) - (s**2).log())


def measured(s: float, b: float, w: float, c: float, *, n: int = 200_000, seed: int = 0) -> tuple[float, float]:
    """(V1, V2) from n samples: Gaussians fitted to e(g(z)) and e(x), their divergences by `kl_normal`."""
    generator = torch.Generator().manual_seed(seed)
    z, x = torch.randn(2, n, generator=generator, dtype=torch.float64)
    egz, ex = w * (s * z + b) + c, w * x + c
    fitted = [(e.mean(), e.std(correction=0)) for e in (egz, ex)]
    unit = (torch.tensor(0.0), torch.tensor(1.0))
    v2 = kl_normal(*fitted[0], *unit) - kl_normal(*fitted[1], *unit)
    return kl_normal(*fitted[0], *fitted[1]).item(), v2.item()


def alternate(
    start: tuple[float, float, float, float], *, n_steps: int = 2000, lr: float = 0.02, n_g_steps: int = 2
) -> np.ndarray:
    """Alternating gradient steps on V2 from (s, b, w, c): e ascends once, then g descends n_g_steps times.

    Returns (n_steps + 1, 4), a row (s, b, w, c) for each iteration, the start first.
    """
    g = torch.tensor(start[:2], dtype=torch.float64, requires_grad=True)
    e = torch.tensor(start[2:], dtype=torch.float64, requires_grad=True)
    rows = [[*start]]
    for _ in range(n_steps):
        (gradient,) = torch.autograd.grad(game2(*g, *e), e)
        with torch.no_grad():
            e += lr * gradient
        for _ in range(n_g_steps):
            (gradient,) = torch.autograd.grad(game2(*g, *e), g)
            with torch.no_grad():
                g -= lr * gradient
        rows.append([*g.tolist(), *e.tolist()])
    return np.array(rows)


def four_atoms(n: int) -> Tensor:
    """n points on the circle, as equally many as can be at (1, 0), (0, 1), (-1, 0) and (0, -1): (n, 2)."""
    angle = torch.arange(n) % 4 * (math.pi / 2)
    return torch.stack([angle.cos(), angle.sin()], 1)


def ellipse(z: Tensor, half: bool = False) -> Tensor:
    """A fixed generator f for Theorem 3: unit vectors z (n, 2) to an ellipse, onto all of it or one to one onto a half."""
    angle = torch.atan2(z[:, 1], z[:, 0]) / (2 if half else 1)
    return torch.stack([angle.cos() + 0.3 * angle.sin(), 0.5 * angle.sin()], 1)


def reciprocity(h: torch.nn.Module, *, half: bool, n_steps: int, lr: float = 3e-3, B: int = 256) -> list[dict]:
    """Train h: (n, 2) -> (n, 2) on L_Z = E|z - h(f(z))|^2 alone, f = `ellipse`, and watch L_X, which is never trained.

    L_X = E|x - f(h(x)/|h(x)|)|^2 for x on the whole ellipse. Draws z from torch's global generator; a row every 25 steps.
    """
    optimizer, rows = torch.optim.Adam(h.parameters(), lr), []
    for step in range(n_steps + 1):
        z = torch.nn.functional.normalize(torch.randn(B, 2), dim=1)
        l_z = (z - h(ellipse(z, half))).square().sum(1).mean()
        if step % 25 == 0:
            x = ellipse(z)
            with torch.no_grad():
                back = ellipse(torch.nn.functional.normalize(h(x), dim=1), half)
            rows.append({"step": step, "l_z": l_z.item(), "l_x": (x - back).square().sum(1).mean().item()})
        optimizer.zero_grad()
        l_z.backward()
        optimizer.step()
    return rows


def grid_centres(side: int = 5, spacing: float = 0.4) -> np.ndarray:
    """(side^2, 2) centres of a square grid around the origin; 25 of them within [-0.8, 0.8]^2 by default."""
    at = (np.arange(side) - (side - 1) / 2) * spacing
    return np.stack(np.meshgrid(at, at), -1).reshape(-1, 2)


def grid_of_gaussians(n: int, *, std: float = 0.02, seed: int = 0) -> np.ndarray:
    """n points (n, 2) float32 of the mixture of 25 equal isotropic Gaussians at `grid_centres`."""
    rng = np.random.default_rng(seed)
    centres = grid_centres()
    return (centres[rng.integers(0, len(centres), n)] + std * rng.standard_normal((n, 2))).astype(np.float32)


def modes(points: np.ndarray, *, std: float = 0.02) -> dict[str, float]:
    """What samples (n, 2) cover of the grid.

    covered: centres that are nearest to at least one sample (ALI's protocol: a mode without a sample is dropped); precise:
    centres with a sample within 3 std; quality: share of samples within 3 std of a centre, in 0..1.
    """
    distance = np.linalg.norm(np.asarray(points)[:, None] - grid_centres()[None], axis=2)  # (n, 25)
    nearest, least = distance.argmin(1), distance.min(1)
    close = least < 3 * std
    return {
        "covered": len(np.unique(nearest)),
        "precise": len(np.unique(nearest[close])),
        "quality": float(close.mean()),
    }


def make_step(method: str, width: int, lr: float = 1e-3) -> Step:
    """The Step of one of METHODS for points (B, 2), networks of two hidden layers of `width` units (ReLU; discriminators
    LeakyReLU).

    AGE: released objective, lam 30 at M 3 (5 on the squared distance of one code), mu 50, margin 0.5. ALI without dropout.
    fp32: layers this small gain nothing from bf16. Raises ValueError for another method.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}; valid: {', '.join(METHODS)}")
    hidden, m = (width, width), M[method]
    g = networks.MlpGenerator((m, *hidden, 2), (2,), nn.ReLU, "linear")
    if method == "AGE":
        e = networks.MlpEncoder((2, *hidden, m), "sphere", nn.ReLU)
        cfg = age.Config(M=m, lam=30, mu=50, margin=0.5, drop_lr=0, lr=lr, precision="fp32")
        return age.make_step({"g": g, "e": e}, cfg)
    if method == "ALI":
        e = networks.GaussianCode(networks.MlpEncoder((2, *hidden, 2 * m), "gaussian", nn.ReLU), sampled=True)
        d = ali.MlpDiscriminator((2 + m, *hidden, 1), leak=0.2, dropout=0.0)
        return ali.make_step({"g": g, "e": e, "d": d}, ali.Config(lr=lr, precision="fp32"))
    d = gan.MlpDiscriminator((2, *hidden, 1))
    return gan.make_step({"g": g, "d": d}, gan.Config(lr=lr, precision="fp32"))


def train(method: str, X: np.ndarray, *, width: int, n_steps: int, B: int, seed: int, n_samples: int = 10_000) -> np.ndarray:
    """Train on points X (N, 2) and return samples (n_samples, 2); everything random comes from `seed`."""
    torch.manual_seed(seed)
    step, data = make_step(method, width), torch.from_numpy(X)
    for _ in range(n_steps):
        step(data[torch.randint(len(data), (B,))])
    z = sphere.sample(n_samples, M[method], "sphere" if method == "AGE" else "gaussian")
    with torch.no_grad():
        return step.modules["g"](z).numpy()


def verdict(rows: list[dict]) -> str:
    """What the numbers of one run say, in sentences."""
    found = {(row["model"], row["metric"]): row["value"] for row in rows}
    worst = max(value for (_, metric), value in found.items() if "largest |measured - formula|" in metric)
    agrees = "agree" if worst < 0.05 else "do NOT agree"
    said = [f"Formulas and measurements {agrees}: they differ by at most {worst:.3f} nats."]
    for method in METHODS:
        covered, precise, quality = (found[method, f"modes_{metric}"] for metric in ("covered", "precise", "quality"))
        said.append(f"{method} covers {covered:.1f} of 25 Gaussians, {precise:.1f} precisely; {quality:.0%} of its samples do.")
    return "\n".join(said)
