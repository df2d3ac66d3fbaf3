"""Live controls for JupyterLab. Everything that they show comes from the same calls as the static figures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import ipywidgets
import numpy as np
import torch
from PIL import Image

from agelib import colorizers, data, sphere

_SHOWN_PX = 192  # a picture's side on the screen


def colorizer(model: colorizers.Colorizer, picture: np.ndarray, target: np.ndarray) -> ipywidgets.VBox:
    """Steer the code of `model` (M = 3) by two angles or three coordinates and see `picture` coloured by it; below, the
    picture's own code carries its colours to `target`. Uploads replace either; files that are no image are named.

    picture, target: uint8 (3, H, W). Raises ValueError for another M.
    """
    if model.g.M != 3:
        raise ValueError(f"the sliders are for M = 3, the model has M = {model.g.M}")
    angle = {"min": 0.0, "step": 1.0, "continuous_update": True}
    theta = ipywidgets.FloatSlider(90.0, max=180.0, description="polar °", **angle)
    phi = ipywidgets.FloatSlider(0.0, max=360.0, description="azimuth °", **angle)
    unit = {"min": -1.0, "max": 1.0, "step": 0.01}
    axes = [ipywidgets.FloatSlider(float(i == 1), description=f"z{i}", **unit) for i in (1, 2, 3)]
    views = [ipywidgets.Image(format="png", width=_SHOWN_PX, height=_SHOWN_PX) for _ in range(5)]
    names = ("picture", "its lightness", "coloured by z", "target's lightness", "in the picture's colours")
    said = ipywidgets.Label()
    now = {"picture": np.asarray(picture), "target": np.asarray(target), "busy": False}

    def code() -> torch.Tensor:
        radians = [torch.tensor(math.radians(slider.value)) for slider in (theta, phi)]
        return sphere.from_angles(*radians)

    def paint() -> None:
        ab = model.paint(now["picture"][None], code()[None])
        views[2].value = _png(colorizers.pictures(now["picture"][None], ab)[0][0, 0])

    def show_all() -> None:
        pair = np.stack([now["picture"], now["target"]])
        grey = colorizers.pictures(pair, np.zeros((2, 1, 2, *pair.shape[2:]), np.float32))[0][:, 0]
        views[0].value, views[1].value, views[3].value = _png(pair[0]), _png(grey[0]), _png(grey[1])
        carried = model.transfer(pair[:1], pair[1:])
        views[4].value = _png(colorizers.pictures(pair[1:], carried)[0][0, 0])
        paint()

    def together(change: Callable[[], None]) -> Callable[[object], None]:
        """Controls follow each other once, and the picture is painted once."""

        def changed(_: object) -> None:
            if not now["busy"]:
                now["busy"] = True
                try:
                    change()
                finally:
                    now["busy"] = False
                paint()

        return changed

    def angles_moved() -> None:
        for slider, value in zip(axes, code().tolist(), strict=True):
            slider.value = value

    def coordinate_moved(i: int) -> None:
        z = torch.tensor([slider.value for slider in axes])
        rest = [k for k in range(3) if k != i]
        length, want = z[rest].norm(), (1 - z[i] ** 2).clamp_min(0).sqrt()
        z[rest] = z[rest] * (want / length) if length > 1e-6 else want / math.sqrt(2)
        for slider, value in zip(axes, z.tolist(), strict=True):
            slider.value = value
        for slider, value in zip((theta, phi), sphere.to_angles(z), strict=True):
            slider.value = math.degrees(value)

    def uploaded(what: str) -> Callable[[dict], None]:
        def arrived(change: dict) -> None:
            for file in change["new"]:
                try:
                    now[what] = data.decode_image(bytes(file["content"]), file["name"], picture.shape[1], 3, say=_say)
                except data.DataError as error:
                    said.value = str(error)
                    return
                show_all()

        return arrived

    def _say(line: str) -> None:
        said.value = line

    for slider in (theta, phi):
        slider.observe(together(angles_moved), "value")
    for i, slider in enumerate(axes):
        slider.observe(together(lambda i=i: coordinate_moved(i)), "value")
    buttons = [ipywidgets.FileUpload(accept="image/*", description=text) for text in ("picture", "target")]
    for button, what in zip(buttons, ("picture", "target"), strict=True):
        button.observe(uploaded(what), "value")
    show_all()
    cards = [ipywidgets.VBox([view, ipywidgets.Label(name)]) for view, name in zip(views, names, strict=True)]
    return ipywidgets.VBox(
        [ipywidgets.HBox([theta, phi]), ipywidgets.HBox(axes), ipywidgets.HBox(buttons), said, ipywidgets.HBox(cards)]
    )


def _png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "png", compress_level=1)
    return buffer.getvalue()
