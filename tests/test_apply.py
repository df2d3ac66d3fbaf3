import numpy as np
import pytest
import torch

from agelib import apply, networks, sphere


def test_uint8_round_trip_is_exact():
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    x = apply.to_float(images)
    assert x.min() == -1 and x.max() == 1
    assert np.array_equal(apply.to_uint8(x), images)


def test_rounding_and_clipping():
    x = torch.tensor([-1.5, -1.0, 0.0, 0.996, 2.0]).view(1, 1, 1, 5)
    assert apply.to_uint8(x).flatten().tolist() == [0, 0, 128, 254, 255]  # 127.5 rounds to even 128


def test_batch_size_does_not_matter_and_modes_are_restored():
    torch.manual_seed(0)
    nets = networks.build(32, 4, width=4)
    nets["g"](sphere.sample(8, 4))
    z = sphere.sample(10, 4)
    assert np.abs(apply.generate(nets["g"], z, 3).astype(int) - apply.generate(nets["g"], z, 10)).max() <= 1
    images = apply.generate(nets["g"], z)
    assert torch.allclose(apply.encode(nets["e"], images, 3), apply.encode(nets["e"], images, 10), atol=1e-5)
    assert nets["g"].training and nets["e"].training
    assert apply.reconstruct(nets["g"], nets["e"], images).shape == images.shape


def test_float_images_are_refused():
    with pytest.raises(ValueError, match="uint8"):
        apply.to_float(np.zeros((1, 1, 2, 2), np.float32))
