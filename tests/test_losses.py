import math

import pytest
import torch

from agelib import losses, sphere


def unit(n, M, seed):
    return sphere.sample(n, M, generator=torch.Generator().manual_seed(seed))


def mean_over(batches, function):
    return torch.stack([function(e) for e in batches]).mean().item()


def test_two_codes_by_hand():
    """codes [-1], [3]: m = 1, var = 4 (divided by B), s = 2."""
    e = torch.tensor([[-1.0], [3.0]])
    m, var = losses.moments(e)
    assert m.item() == 1 and var.item() == 4
    assert losses.kl_eq7(e).item() == pytest.approx(-0.5 + (4 + 1) / 2 - math.log(2))  # 1.306853
    assert losses.kl_released(e).item() == pytest.approx((16 + 1) / 2 - math.log(4) - 0.5)  # 6.613706
    standard = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])  # m = 0, var = 1 in both coordinates
    assert losses.kl_eq7(standard).item() == pytest.approx(0.0, abs=1e-7) == losses.kl_released(standard).item()


@pytest.mark.parametrize(
    "M, eq7, released, eq7_of_64, released_of_64",
    [
        (3, 0.215973, 0.654168, 0.2273, 0.6784),
        (64, 1.587254, 3.659005, 1.6028, 3.6902),
        (128, 1.929921, 4.352061, 1.9456, 4.3834),
    ],
)
def test_least_values_of_the_uniform_sphere_and_what_batches_of_64_add(M, eq7, released, eq7_of_64, released_of_64):
    """K7* = -1/2 + 1/(2M) + log(M)/2, K_rel* = -1/2 + 1/(2 M^2) + log M; and the bias of a batch."""
    assert losses.kl_eq7_minimum(M) == pytest.approx(eq7, abs=1e-6)
    assert losses.kl_released_minimum(M) == pytest.approx(released, abs=1e-6)
    e = unit(100_000, M, 5)
    assert losses.kl_eq7(e).item() == pytest.approx(eq7, abs=1e-3)
    assert losses.kl_released(e).item() == pytest.approx(released, abs=1e-3)
    batches = [unit(64, M, seed) for seed in range(200)]
    assert mean_over(batches, losses.kl_eq7) == pytest.approx(eq7_of_64, abs=3e-3)
    assert mean_over(batches, losses.kl_released) == pytest.approx(released_of_64, abs=6e-3)
    assert eq7 + losses.kl_batch_bias(64, released=False) == pytest.approx(eq7_of_64, abs=5e-3)
    assert released + losses.kl_batch_bias(64) == pytest.approx(released_of_64, abs=1e-2)


@pytest.mark.parametrize("M", [64, 128])
@pytest.mark.parametrize("name", losses.DIVERGENCES)
def test_the_released_form_is_about_twice_as_steep_as_the_papers(name, M):
    raw = torch.randn(200, M, generator=torch.Generator().manual_seed(7)) + 0.5
    gradients = {}
    for objective, kl in losses.DIVERGENCES[name].items():
        leaf = raw.clone().requires_grad_()
        kl(sphere.project(leaf), "sphere").backward()
        gradients[objective] = leaf.grad.flatten()
    paper, released = gradients["paper"], gradients["released"]
    assert torch.cosine_similarity(paper, released, dim=0) > 0.999
    assert (released.norm() / paper.norm()).item() == pytest.approx(2, abs=0.1)


def test_coinciding_codes_stay_finite():
    e = torch.ones(4, 3, requires_grad=True)
    losses.kl_released(e).backward()
    assert torch.isfinite(losses.kl_released(e)) and torch.isfinite(e.grad).all()
    assert losses.kl_released(e).item() > 25  # -log(1e-12) = 27.6


@pytest.mark.parametrize("M", [2, 64, 128])
@pytest.mark.parametrize("B", [3, 64])
def test_cosine_loss_is_affine_in_the_squared_distance(B, M):
    egz, z = unit(B, M, 1).double(), unit(B, M, 2).double()
    expected = 2 - 1 / M + losses.recon_z_l2(egz, z).item() / (2 * M)
    assert losses.recon_z_cos(egz, z).item() == pytest.approx(expected, abs=1e-6)


def test_reconstruction_reductions_by_hand():
    z, egz = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 1.0], [0.0, 1.0]])
    assert losses.recon_z_l2(egz, z).item() == pytest.approx(1.0)  # (2 + 0)/2
    assert losses.recon_z_cos(egz, z).item() == pytest.approx(2 - 0.5 / 2)  # mean cos 1/2
    x, gex = torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2)
    gex[0] = 1.0
    gex[1, 0, 0, 0] = -2.0
    assert losses.recon_x_l1(gex, x).item() == pytest.approx((4 + 2) / 8)
    assert losses.recon_x_l2(gex, x).item() == pytest.approx((4 + 4) / 8)


@pytest.mark.parametrize("at, distance", [(0.0, 2.0), (1.0, 2**-12), (1.0, 2**-15)])
def test_kozachenko_leonenko_of_two_points_by_hand(at, distance):
    """On a line, rho apart: H = log rho + log V_1 + log 1 + gamma, V_1 = 2; also closer than products can tell."""
    e = torch.tensor([[at], [at + distance]])
    H = math.log(distance) + math.log(2) + 0.5772157
    assert losses.entropy_kozachenko_leonenko(e).item() == pytest.approx(H, abs=1e-5)
    cross = 0.5 * math.log(2 * math.pi) + 0.5 * e.square().mean().item()
    assert losses.kl_nearest(e).item() == pytest.approx(cross - H, abs=1e-5)


def test_kozachenko_leonenko_on_a_normal_sample():
    e = torch.randn(4000, 2, generator=torch.Generator().manual_seed(3))
    assert losses.entropy_kozachenko_leonenko(e).item() == pytest.approx(1 + math.log(2 * math.pi), abs=0.05)


@pytest.mark.parametrize("M, ambient, sphere_form", [(10, 6.44, -0.5), (64, 88.4, -12.7), (128, 215.9, -30.6)])
def test_nearest_neighbour_kl_on_the_sphere_at_batch_64(M, ambient, sphere_form):
    """Total nats, averaged over batches: the bias at B = 64 is large and known."""
    batches = [unit(64, M, seed) for seed in range(60)]
    assert M * mean_over(batches, lambda e: losses.kl_nearest(e, "sphere")) == pytest.approx(sphere_form, abs=0.35)
    assert M * mean_over(batches, lambda e: losses.kl_nearest(e, "gaussian")) == pytest.approx(ambient, abs=0.5)


def test_four_atoms_fool_eq7_and_not_the_nearest_neighbours():
    angles = torch.rand(4000, generator=torch.Generator().manual_seed(1)) * 2 * math.pi
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    atoms = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]).repeat(1000, 1)
    expected = -0.5 + 0.25 + 0.5 * math.log(2)  # 0.09657
    assert losses.kl_eq7(circle).item() == pytest.approx(expected, abs=2e-3)
    assert losses.kl_eq7(atoms).item() == pytest.approx(expected, abs=1e-6)
    assert losses.kl_nearest(atoms, "sphere") > losses.kl_nearest(circle, "sphere") + 2


def test_the_whole_covariance_by_hand():
    """S = ((0.625, 0.375), (0.375, 0.625)), whose determinant is 1/4; without the dependence it is eq. 7."""
    e = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-0.5, 0.5], [0.5, -0.5]])
    assert losses.kl_full(e).item() == pytest.approx((1.25 + math.log(4)) / 4 - 0.5, abs=1e-6)  # 0.1591
    assert losses.kl_eq7(e).item() == pytest.approx(0.5 * (0.625 - math.log(0.625) - 1), abs=1e-6)  # 0.0475
    shifted = e + torch.tensor([3.0, 4.0])  # m.m = 25
    assert losses.kl_full(shifted).item() == pytest.approx(losses.kl_full(e).item() + 25 / 4, abs=1e-5)
    raw = torch.randn(512, 10, generator=torch.Generator().manual_seed(2)).double()
    raw = raw - raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T @ raw / 512)).T
    scaled = (white * torch.linspace(0.5, 2, 10) + 0.3).float()
    assert losses.kl_full(scaled).item() == pytest.approx(losses.kl_eq7(scaled).item(), abs=1e-6)


E, MAPS, X = torch.ones(4, 4), torch.ones(4, 4, 1, 1), torch.ones(2, 1, 2, 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *((lambda loss=loss: loss(E, MAPS), "shapes differ") for loss in (losses.recon_z_cos, losses.recon_z_l2)),
        *((lambda loss=loss: loss(MAPS, MAPS), r"\(B, M\)") for loss in (losses.recon_z_cos, losses.recon_z_l2)),
        *((lambda loss=loss: loss(X, X[:1]), "shapes differ") for loss in losses.RECON_X.values()),
        *((lambda kl=kl: kl(E[:1], "sphere"), "B >= 2") for forms in losses.DIVERGENCES.values() for kl in forms.values()),
        (lambda: losses.kl_full(torch.ones(4, 4)), "in 4 dimensions needs more than 4 of them, got 4"),
        (lambda: losses.kl_full(torch.ones(9, 4)), "of 9 codes is singular"),
        (lambda: losses.kl_batch_bias(1), "B >= 2 codes, got 1"),
        (lambda: losses.kl_nearest(E, "cube"), "sphere, gaussian"),
        (lambda: losses.kl_nearest(E[:, :1], "sphere"), "M >= 2"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
