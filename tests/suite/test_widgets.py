"""The sliders without a browser, and with what a browser's sliders do: what moves what, what is painted, what an upload
may be."""

import io
import math
from datetime import datetime
from types import SimpleNamespace

import ipywidgets
import numpy as np
import pytest
import torch
from PIL import Image

import agelib
from agelib import conditional
from suite import widgets

RNG = np.random.default_rng(0)
PICTURE, TARGET = RNG.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8)


class Painter(torch.nn.Module):
    """A generator whose colour is the code's first two coordinates; keeps the last code that it saw."""

    def __init__(self, M):
        super().__init__()
        self.M, self.strength = M, torch.nn.Parameter(torch.tensor(0.3))

    def forward(self, z, L):
        self.seen = z[0].tolist()
        return self.strength * z[:, :2, None, None].expand(-1, -1, *L.shape[2:])


class Browser:
    """A front end `late` moves behind: a slider that the kernel sets is rounded to its step, by noUiSlider's arithmetic on
    percents, and what came out different is sent back."""

    def __init__(self, sliders, late: int):
        self.sliders, self.late, self.queue = sliders, late, []
        for slider in sliders:
            slider.observe(self.was_set, "value")

    def was_set(self, change) -> None:
        slider, span = change.owner, change.owner.max - change.owner.min
        percent, step = (change.new - slider.min) * 100 / span, slider.step * 100 / span
        back = math.floor(percent / step + 0.5) * step * span / 100 + slider.min
        back = round(back) if isinstance(slider, ipywidgets.IntSlider) else back
        if back != change.new:
            self.queue.append([self.late, slider, back])

    def move(self, i: int, value: float) -> None:
        self.sliders[i].value = value
        for waiting in self.queue:
            waiting[0] -= 1
        self.deliver(0)

    def deliver(self, at_most: int) -> None:
        for _ in range(1000):
            due = [waiting for waiting in self.queue if waiting[0] <= at_most]
            if not due:
                return
            self.queue.remove(due[0])
            due[0][1].value = due[0][2]
        raise AssertionError("kernel and browser never agree")


def show(M=3) -> SimpleNamespace:
    """The controls of a colorizer by kind, its generator and model."""
    torch.manual_seed(0)
    nets = {"g": Painter(M), "e": conditional.ColorEncoder(32, M, width=4)}
    model = agelib.Model("conditional", conditional.Config(M=M), PICTURE.shape, nets)
    angles, axes, *more, buttons, said, cards = widgets.colorizer(model, PICTURE, TARGET).children
    views = [card.children[0] for card in cards.children]
    sliders, more = [*angles.children, *axes.children], [*more[0].children] if more else []
    found = {"sliders": sliders, "more": more, "buttons": buttons.children, "said": said, "views": views}
    return SimpleNamespace(**found, g=model.g, model=model)


@pytest.fixture
def parts():
    return show()


def shown(view) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(view.value)).convert("RGB")).transpose(2, 0, 1)


def at(polar: float, azimuth: float) -> list[float]:
    polar, azimuth = math.radians(polar), math.radians(azimuth)
    return [math.sin(polar) * math.cos(azimuth), math.sin(polar) * math.sin(azimuth), math.cos(polar)]


@pytest.mark.parametrize(
    "turns, z, angles",
    [
        ([(0, 0.0)], [0, 0, 1], [0, 0]),
        ([(1, 90.0)], [0, 1, 0], [90, 90]),
        ([(4, 0.6)], [0.8, 0, 0.6], [53.1301, 0]),
        ([(4, 1.0), (4, 0.0)], [0.5**0.5, 0.5**0.5, 0], [90, 45]),  # from the pole the way is open: both get the same
        ([(0, 0.0), (1, 200.0), (0, 90.0)], at(90, 200), [90, 200]),  # an azimuth given at the pole is kept
        ([(1, 200.0), (4, 1.0), (0, 90.0)], at(90, 200), [90, 200]),
        ([(1, 360.0)], [1, 0, 0], [90, 360]),
    ],
)
def test_a_code_by_its_angles_and_its_coordinates(turns, z, angles):
    code = widgets.Code()
    for i, value in turns:
        code.turn(i, value)
    assert code.values == pytest.approx(angles + z, abs=1e-4)


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize(
    "slider, path",
    [(0, range(90, 12, -3)), (1, range(3, 175, 3)), (1, [120]), (2, np.arange(63, -40, -3) / 64), (4, [0.3])],
    ids=["polar drag", "azimuth drag", "azimuth typed", "coordinate drag", "coordinate typed"],
)
def test_a_browser_that_sends_back_what_it_rounds_moves_nothing(parts, slider, path, late):
    parts.sliders[0].value, parts.sliders[1].value = 67, 31
    browser, want = Browser(parts.sliders, late), widgets.Code(67, 31)
    for value in path:
        browser.move(slider, value)
        want.turn(slider, value)
    browser.deliver(late)
    assert parts.g.seen == pytest.approx(want.z.tolist(), abs=1e-6)
    assert want.values[slider] == path[-1]
    for control, value in zip(parts.sliders, want.values, strict=True):
        assert abs(control.value - value) <= control.step / 2


def test_controls_follow_the_code_and_the_picture_is_painted_by_it(parts):
    assert np.array_equal(shown(parts.views[0]), PICTURE)
    parts.sliders[1].value = 90
    assert [slider.value for slider in parts.sliders] == [90, 90, 0, 1, 0]
    ab = np.zeros((1, 1, 2, 32, 32), np.float32) + np.float32([0, 33])[:, None, None]
    assert np.abs(shown(parts.views[2]).astype(int) - conditional.pictures(PICTURE[None], ab)[0][0, 0]).max() <= 1
    parts.sliders[1].value = 40
    before, exact = parts.views[2].value, at(90, 40)[1]
    for share, moves in ((0.49, False), (-0.49, False), (0.51, True)):  # a change within half a step of the code is none
        parts.sliders[3].value = exact + share / 64
        assert (parts.g.seen[1] != pytest.approx(exact, abs=1e-6)) == moves == (parts.views[2].value != before)


def test_uploads_replace_picture_and_target_and_what_is_no_image_is_named(parts):
    buffer = io.BytesIO()
    Image.fromarray(RNG.integers(0, 256, (40, 60), dtype=np.uint8)).save(buffer, "png")
    about = {"type": "image/png", "size": 1, "last_modified": datetime.now()}
    before = [view.value for view in parts.views]
    parts.buttons[0].value = (about | {"name": "mine.png", "content": buffer.getvalue()},)
    assert parts.said.value == "mine.png: grey: it has lightness but no colours; 60 x 40 squashed to 32 x 32"
    assert parts.views[0].value != before[0] and parts.views[3].value == before[3]
    parts.buttons[1].value = (about | {"name": "notes.jpg", "content": b"no picture"},)
    assert "notes.jpg: not a readable image" in parts.said.value and parts.views[3].value == before[3]


def test_longer_codes_are_steered_along_a_code_and_two_chosen_coordinates():
    parts = show(M=5)
    first, second, other = parts.more
    code = parts.model.codes(1, 0)[0]
    assert parts.g.seen == pytest.approx(code.tolist(), abs=1e-6)  # the sliders start at the code that was drawn

    def along(z: torch.Tensor, axis: int) -> torch.Tensor:
        rest = torch.eye(5)[axis] - z[axis] * z
        return rest / rest.norm()

    parts.sliders[1].value = 90
    assert parts.g.seen == pytest.approx(along(code, 0).tolist(), abs=1e-6)
    first.value = 3
    assert parts.g.seen == pytest.approx(along(code, 3).tolist(), abs=1e-6)
    parts.sliders[1].value = 0
    assert parts.g.seen == pytest.approx(code.tolist(), abs=1e-6)
    other.click()
    assert parts.g.seen == pytest.approx(parts.model.codes(1, 1)[0].tolist(), abs=1e-6)
    second.value = 3  # the same coordinate twice: the code stays on the sphere
    parts.sliders[0].value, parts.sliders[1].value = 20, 33
    assert np.linalg.norm(parts.g.seen) == pytest.approx(1, abs=1e-6)


def test_codes_of_two_dimensions_have_no_sliders():
    with pytest.raises(ValueError, match="the sliders are for M of at least 3, the model has M = 2"):
        show(M=2)
