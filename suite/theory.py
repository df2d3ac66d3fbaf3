"""Small cases of the paper's theorems in which the answer is known; and AGE, ALI and a GAN for points of the plane.

One-dimensional family (facts for Theorems 1 and 2): X and Z standard normal, g(z) = s z + b, e(x) = w x + c. All
divergences are KL(N || N) in nats.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from agelib import age, networks, sphere
from agelib.rivals import ali, gan
from agelib.training.step import Step, check_names
from suite.rows import Rows, values

METHODS = {"AGE": 3, "ALI": 2, "GAN": 2}  # M of each; AGE's codes lie on the sphere in R^3, a surface as the plane is
CENTRES = np.stack(np.meshgrid(*[(np.arange(5) - 2.0) * 0.4] * 2), -1).reshape(-1, 2)  # of the 25 Gaussians, in the plane
STD = 0.02  # of each


def check(p: Any) -> None:
    """ValueError for parameters `p` of notebook 06 that can only fail later."""
    least = {"n_steps": 1, "B": 2, "width": 1}
    given = p.grid | {"n_seeds": p.n_seeds, "reciprocity_steps": p.reciprocity_steps}
    check_names("grid", p.grid, least)
    for name, bound in (least | {"n_seeds": 1, "reciprocity_steps": 1}).items():
        if type(given.get(name)) is not int or given[name] < bound:
            where = f"{'grid: ' * (name in least)}{name}"
            raise ValueError(f"{where} must be a whole number of at least {bound}, is {given.get(name)!r}")


def game1(s: Tensor, b: Tensor, w: Tensor) -> Tensor:
    """V1 = KL(e(g(Z)) || e(X)) in closed form: (s^2 + b^2 - 1 - log s^2)/2 for every w != 0; c cancels."""
    return 0.5 * (s**2 + b**2 - 1 - (s**2).log()) + 0 * w


def game2(s: Tensor, b: Tensor, w: Tensor, c: Tensor) -> Tensor:
    """V2 = KL(e(g(Z)) || Z) - KL(e(X) || Z) in closed form: (w^2 b^2 + 2 w b c + w^2 (s^2 - 1) - log s^2)/2."""
    return 0.5 * (w**2 * b**2 + 2 * w * b * c + w**2 * (s**2 - 1) - (s**2).log())


def measured(s: float, b: float, w: float, c: float, *, n: int = 200_000) -> tuple[float, float]:
    """(V1, V2) from n samples, always the same: the divergences of Gaussians fitted to e(g(z)) and e(x)."""
    z, x = torch.randn(2, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    egz, ex = (Normal(e.mean(), e.std(correction=0)) for e in (w * (s * z + b) + c, w * x + c))
    unit = Normal(0.0, 1.0)
    return kl_divergence(egz, ex).item(), (kl_divergence(egz, unit) - kl_divergence(ex, unit)).item()


def alternate(start: tuple[float, float, float, float], *, n_steps: int, lr: float = 0.02, n_g_steps: int = 2) -> np.ndarray:
    """Alternating gradient steps on V2: e ascends once, then g descends n_g_steps times. Returns (n_steps + 1, 4), a row
    (s, b, w, c) for each iteration, the start first."""
    g, e = (torch.tensor(part, dtype=torch.float64, requires_grad=True) for part in (start[:2], start[2:]))
    rows = [[*start]]
    for _ in range(n_steps):
        for player, step in [(e, lr)] + [(g, -lr)] * n_g_steps:
            (gradient,) = torch.autograd.grad(game2(*g, *e), player)
            with torch.no_grad():
                player += step * gradient
        rows.append([*g.tolist(), *e.tolist()])
    return np.array(rows)


def ellipse(z: Tensor, half: bool = False) -> Tensor:
    """A fixed generator f for Theorem 3: unit vectors z (n, 2) to an ellipse, onto all of it or one to one onto a half."""
    angle = torch.atan2(z[:, 1], z[:, 0]) / (2 if half else 1)
    return torch.stack([angle.cos() + 0.3 * angle.sin(), 0.5 * angle.sin()], 1)


def reciprocity(h: nn.Module, *, half: bool, n_steps: int, lr: float = 3e-3, B: int = 256) -> list[dict]:
    """Train h: (n, 2) -> (n, 2) on L_Z = E|z - h(f(z))|^2 alone, f = `ellipse`, and watch L_X = E|x - f(h(x)/|h(x)|)|^2 for
    x on the whole ellipse, which is never trained. z from torch's global generator; a row every 25 steps."""
    optimizer, rows = torch.optim.Adam(h.parameters(), lr), []
    for step in range(n_steps + 1):
        z = nn.functional.normalize(torch.randn(B, 2), dim=1)
        l_z = (z - h(ellipse(z, half))).square().sum(1).mean()
        if step % 25 == 0:
            x = ellipse(z)
            with torch.no_grad():
                back = ellipse(nn.functional.normalize(h(x), dim=1), half)
            rows.append({"step": step, "l_z": l_z.item(), "l_x": (x - back).square().sum(1).mean().item()})
        optimizer.zero_grad()
        l_z.backward()
        optimizer.step()
    return rows


def grid_of_gaussians(n: int, seed: int = 0) -> np.ndarray:
    """n points (n, 2) float32 of the mixture of 25 equal Gaussians."""
    rng = np.random.default_rng(seed)
    return (CENTRES[rng.integers(0, len(CENTRES), n)] + STD * rng.standard_normal((n, 2))).astype(np.float32)


def modes(points: np.ndarray) -> dict[str, float]:
    """What samples (n, 2) cover of the grid. covered: centres that are nearest to at least one sample (ALI's protocol);
    precise: centres with a sample within 3 std; quality: share of such samples, in 0..1."""
    distance = np.linalg.norm(points[:, None] - CENTRES, axis=2)  # (n, 25)
    nearest, close = distance.argmin(1), distance.min(1) < 3 * STD
    covered, precise = (len(np.unique(found)) for found in (nearest, nearest[close]))
    return {"covered": covered, "precise": precise, "quality": float(close.mean())}


def make_step(method: str, width: int) -> Step:
    """The Step of one of METHODS for points (B, 2), networks of two hidden layers of `width` units (ReLU; discriminators
    LeakyReLU). AGE: released objective, lam 30 at M 3 (5 on the squared distance of one code), mu 50, margin 0.5. ALI: no
    dropout. fp32: layers this small gain nothing from bf16."""
    hidden, m, adam = (width, width), METHODS[method], {"lr": 1e-3, "precision": "fp32"}
    g = networks.MlpGenerator((m, *hidden, 2), (2,), nn.ReLU, "linear")
    if method == "AGE":
        e = networks.MlpEncoder((2, *hidden, m), "sphere", nn.ReLU)
        return age.make_step({"g": g, "e": e}, age.Config(M=m, lam=30, mu=50, margin=0.5, drop_lr=0, **adam))
    if method == "ALI":
        e = networks.GaussianCode(networks.MlpEncoder((2, *hidden, 2 * m), "gaussian", nn.ReLU), sampled=True)
        d = networks.MlpDiscriminator((2 + m, *hidden, 1), leak=0.2, dropout=0.0)
        return ali.make_step({"g": g, "e": e, "d": d}, ali.Config(**adam))
    return gan.make_step({"g": g, "d": networks.MlpDiscriminator((2, *hidden, 1))}, gan.Config(**adam))


def train(method: str, X: np.ndarray, *, width: int, n_steps: int, B: int, seed: int, n_samples: int = 10_000) -> np.ndarray:
    """Train on points X (N, 2) and return samples (n_samples, 2); everything random comes from `seed`."""
    torch.manual_seed(seed)
    step, data = make_step(method, width), torch.from_numpy(X)
    for _ in range(n_steps):
        step(data[torch.randint(len(data), (B,))])
    z = sphere.sample(n_samples, METHODS[method], "sphere" if method == "AGE" else "gaussian")
    with torch.no_grad():
        return step.modules["g"](z).numpy()


def verdict(rows: Rows) -> str:
    """What the numbers of one run say, in sentences."""
    worst = max(row["value"] for row in rows if "largest |measured - formula|" in row["metric"])
    agrees = "agree" if worst < 0.05 else "do NOT agree"
    said = [f"Formulas and measurements {agrees}: they differ by at most {worst:.3f} nats."]
    for method in METHODS:
        covered, precise, near = (values(rows, f"modes_{k}")[method] for k in ("covered", "precise", "quality"))
        said.append(f"{method} covers {covered:.1f} of 25 Gaussians, {precise:.1f} precisely; {near:.0%} of its samples do.")
    return "\n".join(said)
