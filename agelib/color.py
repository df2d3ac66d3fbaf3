"""RGB <-> CIE Lab on batches of images, on their device, and the scaling in which the colorization networks see it.

sRGB, illuminant D65, observer 2 degrees, with the constants of scikit-image (skimage.color), which it agrees with to 1e-4.
Lab has L in 0..100 and, for colours of the sRGB gamut, a in about -86..98 and b in -108..95. Networks see L/50 - 1 and
ab/110, both in [-1, 1], as the pix2pix colorization does.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

L_SCALE, AB_SCALE = 50.0, 110.0
_TO_XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE = (0.95047, 1.0, 1.08883)  # XYZ of D65
_GAMUT_SLACK = 1e-4  # a channel this far outside [0, 1] counts as rounding


def rgb_to_lab(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) sRGB in [0, 1] -> (B, 3, H, W) Lab, float32. Raises ValueError for another shape."""
    _check(rgb, 3)
    rgb = rgb.float()
    linear = torch.where(rgb > 0.04045, ((rgb.clamp_min(0.04045) + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    xyz = _mix(linear, _matrix(rgb.device)) / _white(rgb.device)
    f = torch.where(xyz > 0.008856, xyz.clamp_min(0.008856) ** (1 / 3), 7.787 * xyz + 16 / 116)
    x, y, z = f.split(1, 1)
    return torch.cat([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


def lab_to_rgb(lab: Tensor) -> tuple[Tensor, Tensor]:
    """(B, 3, H, W) Lab -> (sRGB in [0, 1], float32 (B, 3, H, W); which pixels were out of gamut and clipped, (B, H, W)).

    Raises ValueError for another shape.
    """
    _check(lab, 3)
    L, a, b = lab.float().split(1, 1)
    y = (L + 16) / 116
    f = torch.cat([y + a / 500, y, y - b / 200], 1)
    negative = f[:, 2] < 0  # scikit-image sets z to 0 here
    f = torch.cat([f[:, :2], f[:, 2:].clamp_min(0)], 1)
    xyz = torch.where(f > 0.2068966, f**3, (f - 16 / 116) / 7.787) * _white(f.device)
    linear = _mix(xyz, torch.linalg.inv(_matrix(f.device).double()).float())
    rgb = torch.where(linear > 0.0031308, 1.055 * linear.clamp_min(0.0031308) ** (1 / 2.4) - 0.055, 12.92 * linear)
    outside = negative | ((rgb < -_GAMUT_SLACK) | (rgb > 1 + _GAMUT_SLACK)).any(1)
    return rgb.clamp(0, 1), outside


def split(x: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, 3, H, W) in [-1, 1] -> (L/50 - 1 (B, 1, H, W), ab/110 (B, 2, H, W)), as the networks see them."""
    lab = rgb_to_lab((x + 1) / 2)
    return lab[:, :1] / L_SCALE - 1, lab[:, 1:] / AB_SCALE


def join(L: Tensor, ab: Tensor) -> tuple[Tensor, Tensor]:
    """The way back: L (B, 1, H, W) and ab (B, 2, H, W) in the networks' scale -> (images (B, 3, H, W) in [-1, 1], which
    pixels were out of gamut and clipped (B, H, W)). Raises ValueError for other shapes."""
    _check(L, 1), _check(ab, 2)
    rgb, outside = lab_to_rgb(torch.cat([(L + 1) * L_SCALE, ab * AB_SCALE], 1))
    return 2 * rgb - 1, outside


def swatches(ab: Tensor, L: float = 60.0) -> Tensor:
    """Colours (..., 2) in Lab units, as seen at lightness L: sRGB uint8 (..., 3), clipped to the gamut."""
    flat = ab.float().reshape(-1, 2, 1, 1)
    rgb = lab_to_rgb(torch.cat([torch.full_like(flat[:, :1], L), flat], 1))[0]
    return (rgb * 255).round().to(torch.uint8).reshape(*ab.shape[:-1], 3)


def is_grey(x: Tensor, tolerance: float = 2.0) -> Tensor:
    """Which images (B, 3, H, W) in [-1, 1] have no colour: every pixel within `tolerance` of the grey axis in ab; (B,)."""
    ab = split(x)[1] * AB_SCALE
    return ab.square().sum(1).amax((1, 2)) <= tolerance**2


def _check(x: Tensor, channels: int) -> None:
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"need (B, {channels}, H, W), got {tuple(x.shape)}")


@functools.cache  # copied to a device once: a recorded update (`agelib.graphs`) copies nothing there
def _matrix(device: torch.device) -> Tensor:
    return torch.tensor(_TO_XYZ, device=device)


@functools.cache
def _white(device: torch.device) -> Tensor:
    return torch.tensor(_WHITE, device=device).view(1, 3, 1, 1)


def _mix(x: Tensor, matrix: Tensor) -> Tensor:
    return torch.einsum("ij,bjhw->bihw", matrix, x)
