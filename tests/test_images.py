import numpy as np
import pytest
import torch

from agelib import images


def test_uint8_round_trip_is_exact_and_values_between_are_rounded_and_clipped():
    every = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    x = images.to_float(every)
    assert x.min() == -1 and x.max() == 1 and x.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(images.to_uint8(x), every)
    read_only = np.broadcast_to(every, (3, 1, 16, 16))
    assert torch.equal(images.to_float(read_only)[2], x[0])
    between = torch.tensor([-1.5, -1.0, 0.0, 0.996, 2.0]).view(1, 1, 1, 5)
    assert images.to_uint8(between).flatten().tolist() == [0, 0, 128, 254, 255]  # 127.5 rounds to even 128


def test_an_image_that_is_not_finite_is_no_black_one():
    x = torch.zeros(5, 1, 2, 2)
    x[1, 0, 0, 0] = x[4] = float("nan")
    with pytest.raises(ValueError, match="2 of 5 images are not finite"):
        images.to_uint8(x)


@pytest.mark.parametrize("bad", [np.zeros((1, 1, 2, 2), np.float32), np.zeros((4, 2, 2), np.uint8)])
def test_other_images_are_refused(bad):
    with pytest.raises(ValueError, match=r"uint8 \(N, C, H, W\), got"):
        images.to_float(bad)


@pytest.mark.parametrize("training", [True, False])
def test_a_network_is_in_evaluation_mode_inside_and_as_before_after(training):
    net = torch.nn.Linear(2, 2).train(training)
    with pytest.raises(KeyError), images.evaluating(net):
        assert not net.training and not net(torch.zeros(1, 2)).requires_grad
        raise KeyError
    assert net.training == training and torch.is_grad_enabled()
