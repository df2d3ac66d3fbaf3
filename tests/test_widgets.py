"""The sliders without a browser: what moves what, what is painted, and what an upload may be."""

import io
from datetime import datetime
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from agelib import colorizers, conditional, widgets

RNG = np.random.default_rng(0)
PICTURE, TARGET = RNG.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)


class Painter(torch.nn.Module):
    """A generator whose colour is the code's first two coordinates."""

    def __init__(self):
        super().__init__()
        self.M, self.strength = 3, torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, z, L):
        return self.strength * z[:, :2, None, None].expand(-1, -1, *L.shape[2:])


@pytest.fixture
def parts():
    torch.manual_seed(0)
    e = conditional.ColorEncoder(32, width=4).eval()
    box = widgets.colorizer(colorizers.Colorizer("age", Painter(), e), PICTURE, TARGET)
    angles, axes, buttons, said, cards = box.children
    views = [card.children[0] for card in cards.children]
    return SimpleNamespace(angles=angles.children, axes=axes.children, buttons=buttons.children, said=said, views=views)


def shown(view) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(view.value)).convert("RGB")).transpose(2, 0, 1)


def test_angles_move_coordinates_and_the_picture(parts):
    before = parts.views[2].value
    assert np.array_equal(shown(parts.views[0]), PICTURE)
    parts.angles[0].value = 0.0  # the pole
    assert [round(axis.value, 6) for axis in parts.axes] == [0, 0, 1]
    assert parts.views[2].value != before
    parts.angles[0].value, parts.angles[1].value = 90.0, 90.0
    assert [round(axis.value, 6) for axis in parts.axes] == [0, 1, 0]


def test_a_coordinate_moves_the_others_along_the_sphere(parts):
    parts.axes[2].value = 0.6
    z = [axis.value for axis in parts.axes]
    assert z == pytest.approx([0.8, 0, 0.6], abs=0.01)
    assert parts.angles[0].value == pytest.approx(53.13, abs=0.6)
    parts.axes[2].value = 1.0
    parts.axes[2].value = 0.0  # from the pole the way is open: both others get the same
    assert parts.axes[0].value == pytest.approx(0.707, abs=0.01) == parts.axes[1].value


def test_uploads_replace_picture_and_target_and_what_is_no_image_is_named(parts):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 60), dtype=np.uint8)).save(buffer, "png")
    before = [view.value for view in parts.views]
    parts.buttons[0].value = ({"name": "mine.png", "type": "image/png", "size": 1, "content": buffer.getvalue(),
                               "last_modified": datetime.now()},)  # fmt: skip
    assert parts.said.value == "mine.png: grey: it has lightness but no colours; 60 x 40 squashed to 32 x 32"
    assert parts.views[0].value != before[0] and parts.views[3].value == before[3]
    parts.buttons[1].value = ({"name": "notes.jpg", "type": "image/jpeg", "size": 1, "content": b"no picture",
                               "last_modified": datetime.now()},)  # fmt: skip
    assert "notes.jpg: not a readable image" in parts.said.value and parts.views[3].value == before[3]


def test_other_dimensions_have_no_sliders():
    nets = conditional.build(32, 5, width=4, e_width=4, n_blocks=1)
    with pytest.raises(ValueError, match="the sliders are for M = 3, the model has M = 5"):
        widgets.colorizer(colorizers.Colorizer("age", nets["g"], nets["e"]), PICTURE, TARGET)
