"""Live controls for JupyterLab. Everything that they show comes from the same calls as the static figures."""

import functools
import io
import itertools
import math

import ipywidgets
import numpy as np
import torch
from PIL import Image

import agelib
from agelib import conditional, data, sphere

SHOWN_PX = 192  # a picture's side on the screen


class Code:
    """A point of the sphere in R^3, by five values: polar angle and azimuth in degrees, then its coordinates z1, z2, z3."""

    def __init__(self, polar: float = 90.0, azimuth: float = 0.0):
        self.angles = [polar, azimuth]
        self.turn(0, polar)

    @property
    def values(self) -> list[float]:
        return [*self.angles, *self.z.tolist()]

    def turn(self, i: int, value: float) -> None:
        """Give value i; of a coordinate's point the other two keep their ratio, equal where they were both zero."""
        if i < 2:
            self.angles[i] = value
            self.z = sphere.from_angles(*torch.tensor(self.angles, dtype=torch.float64).deg2rad())
            return
        rest = [k for k in range(3) if k != i - 2]
        length, want = self.z[rest].norm().item(), math.sqrt(max(0.0, 1 - value**2))
        self.z[i - 2] = value
        self.z[rest] = self.z[rest] * (want / length) if length > 1e-6 else want / math.sqrt(2)
        polar, azimuth = (math.degrees(angle) for angle in sphere.to_angles(self.z))
        at_pole = self.z[:2].norm() < 1e-6  # there any azimuth is true: it stays
        self.angles = [polar, self.angles[1] if at_pole else azimuth]


def colorizer(model: agelib.Model, picture: np.ndarray, target: np.ndarray) -> ipywidgets.VBox:
    """Steer the code of `model` by two angles or three coordinates and see `picture` coloured by it; below, the picture's
    own code carries its colours to `target`. Uploads replace either; files that are no image are named. For M > 3 the three
    are those along a code, which a button draws anew, and two chosen coordinates of z, made orthogonal to it.

    picture, target: uint8 (3, H, W). Raises ValueError for M < 3.
    """
    # The code lives here, not in the sliders. A browser's slider rounds what it is given to its step and sends that back as
    # if it had been dragged, perhaps after the next drag has come. So sliders are given whole steps, of degrees or of 1/64,
    # which its arithmetic keeps to the last bit, and a change within half a step of the code is none.
    if model.M < 3:
        raise ValueError(f"the sliders are for M of at least 3, the model has M = {model.M}")
    code, frame, drawn = Code(), torch.eye(model.M, 3), itertools.count()
    angles = [ipywidgets.IntSlider(90, 0, 180, description="polar °")]
    angles += [ipywidgets.IntSlider(0, 0, 360, description="azimuth °")]
    unit = {"min": -1.0, "max": 1.0, "step": 1 / 64}
    axes = [ipywidgets.FloatSlider(code.values[i + 1], description=f"z{i}", **unit) for i in (1, 2, 3)]
    sliders = angles + axes
    views = [ipywidgets.Image(format="png", width=SHOWN_PX, height=SHOWN_PX) for _ in range(5)]
    names = ("picture", "its lightness", "coloured by z", "target's lightness", "in the picture's colours")
    said = ipywidgets.Label()
    say = functools.partial(setattr, said, "value")
    shown = {"picture": np.asarray(picture), "target": np.asarray(target)}

    def show(i: int, image: np.ndarray) -> None:
        buffer = io.BytesIO()
        Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "png", compress_level=1)
        views[i].value = buffer.getvalue()

    def paint() -> None:
        ab = conditional.paint(model, shown["picture"][None], (frame @ code.z.float())[None])
        show(2, conditional.pictures(shown["picture"][None], ab)[0][0, 0])

    def show_all() -> None:
        pair = np.stack([shown["picture"], shown["target"]])
        grey = conditional.pictures(pair, np.zeros((2, 1, 2, *pair.shape[2:]), np.float32))[0][:, 0]
        carried = conditional.transfer(model, pair[:1], pair[1:])
        for i, image in {0: pair[0], 1: grey[0], 3: grey[1], 4: conditional.pictures(pair[1:], carried)[0][0, 0]}.items():
            show(i, image)
        paint()

    def turn_frame(another: bool = True) -> None:
        columns = [model.codes(1, next(drawn))[0] if another else frame[:, 0]]
        columns += [torch.eye(model.M)[axis.value] for axis in directions]
        q, r = torch.linalg.qr(torch.stack(columns, 1))
        frame.copy_(torch.where(r.diagonal() < 0, -q, q))  # the first column is the code itself
        paint()

    def moved(i: int) -> None:
        if abs(sliders[i].value - code.values[i]) <= sliders[i].step * (0.5 + 1e-9):
            return
        code.turn(i, sliders[i].value)
        for slider, value in zip(sliders, code.values, strict=True):
            slider.value = round(value / slider.step) * slider.step
        paint()

    def uploaded(what: str, files: tuple[dict, ...]) -> None:
        try:
            for file in files:
                shown[what] = data.read_image(bytes(file["content"]), picture.shape[1], 3, say=say, name=file["name"])
                show_all()
        except data.DataError as error:
            say(str(error))

    for i, slider in enumerate(sliders):
        slider.observe(lambda _, i=i: moved(i), "value")
    buttons = [ipywidgets.FileUpload(accept="image/*", description=what) for what in shown]
    for button in buttons:
        button.observe(lambda change: uploaded(change["owner"].description, change["new"]), "value")
    directions = [ipywidgets.Dropdown(options=[(f"z{k + 1}", k) for k in range(model.M)], value=i) for i in (0, 1)]
    other = ipywidgets.Button(description="another code")
    other.on_click(lambda _: turn_frame())
    for axis in directions:
        axis.observe(lambda _: turn_frame(another=False), "value")
    if model.M > 3:
        turn_frame()
    show_all()
    cards = [ipywidgets.VBox([view, ipywidgets.Label(name)]) for view, name in zip(views, names, strict=True)]
    rows = [angles, axes, [*directions, other], buttons, cards] if model.M > 3 else [angles, axes, buttons, cards]
    *controls, of_cards = map(ipywidgets.HBox, rows)
    return ipywidgets.VBox([*controls, said, of_cards])
