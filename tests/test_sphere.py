import math

import pytest
import torch

from agelib import sphere


def test_samples_of_the_sphere_are_unit_and_uniform_and_gaussian_ones_are_not_normalised():
    z = sphere.sample(20_000, 10, generator=torch.Generator().manual_seed(1))
    assert z.shape == (20_000, 10)
    assert z.norm(dim=1).sub(1).abs().max() < 1e-5
    assert z.mean(0).abs().max() < 4 / math.sqrt(20_000 * 10)  # coordinate variance is 1/M
    assert z.var(0).sub(0.1).abs().max() < 0.005
    z = sphere.sample(20_000, 3, generator=torch.Generator().manual_seed(2))  # Archimedes: z_1 is uniform in [-1, 1]
    assert (z[:, 0].abs() < 0.5).float().mean() == pytest.approx(0.5, abs=0.015)
    z = sphere.sample(5000, 16, "gaussian", generator=torch.Generator().manual_seed(1))
    assert z.square().sum(1).mean() == pytest.approx(16, abs=0.4)


def test_project_normalises_rows_not_columns():
    found = sphere.project(torch.tensor([[3.0, 4.0], [5.0, 12.0]]))  # B = M, where a wrong broadcast would not raise
    torch.testing.assert_close(found, torch.tensor([[3 / 5, 4 / 5], [5 / 13, 12 / 13]]))


def test_slerp_quarter_circle():
    z0, z1 = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert sphere.slerp(z0, z1, 1 / 3).tolist() == pytest.approx([math.cos(math.pi / 6), 0.5])
    path = sphere.slerp(z0.expand(5, 2), z1.expand(5, 2), torch.linspace(0, 1, 5))
    expected = [(math.cos(i * math.pi / 8), math.sin(i * math.pi / 8)) for i in range(5)]
    torch.testing.assert_close(path, torch.tensor(expected), atol=1e-6, rtol=0)
    assert sphere.slerp(z0, z0, 0.3).tolist() == pytest.approx([1, 0])


def test_angles_and_back():
    theta, phi = torch.tensor([0.0, 0.5, 1.5, math.pi]), torch.tensor([0.0, 1.0, 4.0, 0.0])
    z = sphere.from_angles(theta, phi)
    torch.testing.assert_close(z[0], torch.tensor([0.0, 0.0, 1.0]))
    right = torch.tensor(math.pi / 2)
    torch.testing.assert_close(sphere.from_angles(right, right), torch.tensor([0.0, 1.0, 0.0]))
    back = sphere.to_angles(3 * z)
    torch.testing.assert_close(back[0], theta, atol=1e-5, rtol=0)
    torch.testing.assert_close(back[1][:3], phi[:3], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sphere.sample(2, 2, "uniform"), "'uniform'.*sphere, gaussian"),
        (lambda: sphere.project(torch.ones(2, 3, 1, 1)), r"\(2, 3, 1, 1\)"),
        (lambda: sphere.slerp(torch.tensor([0.6, 0.8]), torch.tensor([-0.6, -0.8]), 0.5), "opposite"),
        (lambda: sphere.slerp(torch.ones(1, 2), torch.ones(2, 2), 0.5), r"one shape, got \(1, 2\) and \(2, 2\)"),
        (lambda: sphere.to_angles(torch.zeros(2, 4)), r"points in R\^3"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
