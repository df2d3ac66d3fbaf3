import math

import pytest
import torch

from agelib import sphere


def test_samples_are_unit_and_uniform():
    z = sphere.sample(20_000, 10, generator=torch.Generator().manual_seed(1))
    assert z.shape == (20_000, 10)
    assert z.norm(dim=1).sub(1).abs().max() < 1e-5
    assert z.mean(0).abs().max() < 4 / math.sqrt(20_000 * 10)  # coordinate variance is 1/M
    assert z.var(0).sub(0.1).abs().max() < 0.005


def test_gaussian_prior_is_not_normalised():
    z = sphere.sample(5000, 16, "gaussian", generator=torch.Generator().manual_seed(1))
    assert z.square().sum(1).mean() == pytest.approx(16, abs=0.4)


def test_projection_equals_sphere_sampling_in_distribution():
    """g(h/|h|), h normal, is the prior wrap of the likelihood experiment: radii of h do not matter."""
    h = torch.randn(20_000, 3, generator=torch.Generator().manual_seed(2))
    z = sphere.project(h)
    # Archimedes: each coordinate of the uniform law on S^2 is uniform in [-1, 1]: P(|z_1| < 1/2) = 1/2
    assert (z[:, 0].abs() < 0.5).float().mean() == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize("shape", [(64, 64), (5, 64)])  # B = M hides a wrong broadcast
def test_project_normalises_rows_not_columns(shape):
    z = sphere.project(torch.randn(shape, generator=torch.Generator().manual_seed(3)))
    assert z.norm(dim=1).sub(1).abs().max() < 1e-6
    assert sphere.project(torch.tensor([[3.0, 4.0]])).tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]


def test_project_refuses_maps():
    with pytest.raises(ValueError, match=r"\(2, 3, 1, 1\)"):
        sphere.project(torch.ones(2, 3, 1, 1))


def test_slerp_quarter_circle():
    z0, z1 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    middle = sphere.slerp(z0, z1, 0.5)
    assert middle.tolist() == pytest.approx([math.sqrt(0.5)] * 2)
    assert sphere.slerp(z0, z1, 1 / 3).tolist() == pytest.approx([math.cos(math.pi / 6), 0.5])
    path = sphere.slerp(z0.expand(5, 2), z1.expand(5, 2), torch.linspace(0, 1, 5))
    assert path[0].tolist() == pytest.approx([1, 0]) and path[-1].tolist() == pytest.approx([0, 1], abs=1e-6)


def test_slerp_edge_cases():
    z = torch.tensor([[0.6, 0.8]])
    assert sphere.slerp(z, z, 0.3).tolist()[0] == pytest.approx([0.6, 0.8])
    with pytest.raises(ValueError, match="opposite"):
        sphere.slerp(z, -z, 0.5)


def test_unknown_prior_names_the_valid_ones():
    with pytest.raises(ValueError, match="'uniform'.*sphere, gaussian"):
        sphere.sample(2, 2, "uniform")


def test_angles_and_back():
    theta, phi = torch.tensor([0.0, 0.5, 1.5, math.pi]), torch.tensor([0.0, 1.0, 4.0, 0.0])
    z = sphere.from_angles(theta, phi)
    torch.testing.assert_close(z[0], torch.tensor([0.0, 0.0, 1.0]))
    right = torch.tensor(math.pi / 2)
    torch.testing.assert_close(sphere.from_angles(right, right), torch.tensor([0.0, 1.0, 0.0]))
    back = sphere.to_angles(3 * z)
    torch.testing.assert_close(back[0], theta, atol=1e-5, rtol=0)
    torch.testing.assert_close(back[1][:3], phi[:3], atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"points in R\^3"):
        sphere.to_angles(torch.zeros(2, 4))
