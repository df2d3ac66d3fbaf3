"""Notebook 03: scores of generators from what a network says about their samples, as rows for metrics.json."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import agelib
from agelib.metrics import inception
from agelib.training import hardware
from suite import params as parameters

Reading = tuple[np.ndarray, np.ndarray]  # of a set of images: probabilities (N, K), rows summing to 1; features (N, D)


@dataclass(frozen=True)
class Ruler:
    """How a set is measured. prefix: of the metrics' names, "classifier" or "inception"; who: the network, in words; read:
    images -> what it says of them.

    splits: of the score. reference: features (n, D) of real images for the distances, for which the first n of each set
    count. published: images and splits of the published protocol, or None where nothing is published by this ruler;
    same_data: whether the data are those of the published numbers.
    """

    prefix: str
    who: str
    read: Callable[[np.ndarray], Reading]
    splits: int
    reference: np.ndarray
    published: tuple[int, int] | None = None
    same_data: bool = False

    def differences(self, n: int) -> str:
        """What keeps a score of n images from the published protocol, in words; empty if nothing does."""
        if self.published is None:
            return ""
        images, splits = self.published
        found = [] if self.same_data else ["other or incomplete data"]
        found += [f"{n:,} images instead of {images:,}"] if n != images else []
        return "; ".join(found + ([f"{self.splits} splits instead of {splits}"] if self.splits != splits else []))

    def score(self, probs: np.ndarray) -> tuple[float, float]:
        """(mean, deviation over splits) of the score of one set."""
        return inception.inception_score(probs, self.splits)

    def rows(self, name: str, reading: Reading) -> list[dict]:
        """Score, Frechet and kernel distance, precision and recall of one set of images."""
        probs, made = reading[0], reading[1][: len(self.reference)]
        note = self.differences(len(probs))
        protocol = f"{len(probs):,} images in {self.splits} splits, {self.who}; +-: standard deviation over splits"
        first = {"metric": f"{self.prefix}_score", "n": len(probs), "protocol": protocol, "note": note}
        first["comparable"] = self.published is not None and not note
        protocol = f"{len(made):,} images against {len(self.reference):,} real test images, {self.who}"
        values = {"frechet distance": (inception.frechet_distance(made, self.reference), None)}
        values["kernel distance"] = inception.kernel_distance(made, self.reference, subsets=20)
        both = inception.precision_recall(made, self.reference)
        values |= {"precision": (both[0], None), "recall": (both[1], None)}
        rows = [first | dict(zip(("value", "std"), self.score(probs), strict=True))]
        for metric, (value, std) in values.items():
            row = {"metric": f"{self.prefix} {metric}", "value": value, "std": std}
            rows.append(row | {"n": len(made), "protocol": protocol})
        return [{"model": name} | row for row in rows]

    def against_time(self, model: agelib.Model, n: int, seed: int) -> tuple[tuple[float, ...], ...]:
        """(seconds of training, score, deviation over splits) of n samples of each kept snapshot and of the model itself."""
        states = {each.n_steps: each for each in (*(model.at(step) for step in model.steps), model)}
        points = [(each.seconds, *self.score(self.read(each.generate(n, seed))[0])) for each in states.values()]
        return tuple(zip(*points, strict=True))

    def over_trainings(self, name: str, values: list[float]) -> dict:
        """The row of a score over several trainings: mean and sample deviation over seeds, which the split error knows
        nothing of."""
        protocol = f"mean of {len(values)} trainings with different seeds, {self.who}; +-: standard deviation over trainings"
        row = {"model": name, "metric": f"{self.prefix}_score_over_trainings", "n": len(values), "protocol": protocol}
        return row | {"value": float(np.mean(values)), "std": float(np.std(values, ddof=1))}


def by_class(images: np.ndarray, probs: np.ndarray, each: int) -> np.ndarray:
    """Images by their most probable class, (K each, C, H, W): a row of `each` images a class, from the most to the least
    certain, at equal steps through all of that class. A class with fewer images has its row filled up with white."""
    classes, sure = probs.argmax(1), probs.max(1)
    out = np.full((probs.shape[1] * each, *images.shape[1:]), 255, np.uint8)
    for k in range(probs.shape[1]):
        ids = np.flatnonzero(classes == k)
        ids = ids[np.argsort(-sure[ids], kind="stable")]
        if len(ids) > each:
            ids = ids[np.linspace(0, len(ids) - 1, each).round().astype(int)]
        out[k * each : k * each + len(ids)] = images[ids]
    return out


def earlier(source: str, label: str, needs: dict[str, str], shape: tuple[int, ...], device: str = "auto") -> agelib.Model:
    """A model that an earlier run has trained, as it is. source: "run", whose model `label` it is, or "run: label there".

    needs: run -> its folder; shape: (C, H, W) of the images that it must be of. Raises ValueError, or FileNotFoundError.
    """
    run, _, other = source.partition(": ")
    if run not in needs:
        raise ValueError(f"from_runs.{label}: {run!r} is none of the runs that came first: {', '.join(needs) or 'none did'}")
    model = agelib.load(Path(needs[run]) / "models" / parameters.label(other or label), device)
    if model.shape != tuple(shape):
        raise ValueError(f"from_runs.{label}: {model.folder} is of images {model.shape}, the data set's are {tuple(shape)}")
    return model


def network(asked: dict[str, Any] | None, device: str = "auto") -> tuple[Any, int, str]:
    """(Inception of 2015-12-05, images of a set that it shall read, "") as `asked`: {"weights": its file, or None for
    torch's cache or else a download; "n": 50,000}; or (None, 0, why it is left out). Raises ValueError for other keys."""
    if asked is None:
        return None, 0, "not asked for (inception = None)"
    if unknown := sorted(asked.keys() - {"weights", "n"}):
        raise ValueError(f"inception has no setting {', '.join(unknown)}; valid: n, weights")
    try:
        path = inception.find_weights(parameters.from_root(asked.get("weights")))
        return inception.load(path, device=hardware.choose_device(device)), asked.get("n", 50_000), ""
    except inception.WeightsError as error:
        return None, 0, str(error)


def verdict(rows: list[dict]) -> str:
    """What the numbers of one run say of the paper's claim, in sentences."""
    score = {row["model"]: row for row in rows if row["metric"] == "classifier_score"}
    real, said = score["real test images"], []
    made = [row for name, row in score.items() if not name.startswith("real ")]
    if made:
        best = max(made, key=lambda row: row["value"])
        how = "above all samples, as they must" if real["value"] > best["value"] else "NOT above all samples"
        said.append(f"Classifier score: real test images stand {how}: {_told(real)}; best: {best['model']}, {_told(best)}.")
    if {"AGE", "ALI"} <= score.keys():
        above = score["AGE"]["value"] > score["ALI"]["value"]
        how = "above ALI, as in the paper" if above else "NOT above ALI (in the paper it is)"
        said.append(f"AGE is {how}: {_told(score['AGE'])} against {_told(score['ALI'])}.")
    for name, row in score.items():
        if other := score.get(f"{name}, batch statistics"):
            said.append(f"{name}: {_told(row)} with running statistics, {_told(other)} with those of each batch.")
    published = next((row for row in rows if (row["model"], row["metric"]) == ("AGE", "inception_score")), None)
    why = "no Inception Score of AGE" if published is None else published["note"]
    ours = f"nothing stands: {why}" if why else f"stands {_told(published)}"
    return "\n".join([*said, f"Beside the paper's 5.90 ± 0.04 {ours}."])


def _told(row: dict) -> str:
    return f"{row['value']:.2f} ± {row['std']:.2f}"
