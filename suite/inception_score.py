"""Notebook 03: scores of generators from what a network says about their samples, as rows for metrics.json."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import agelib
from agelib.data import ImageSet
from agelib.metrics import inception
from agelib.plot.figure import SERIES
from agelib.training import hardware
from agelib.training.step import check_names
from suite import params, rows, unconditional
from suite.rows import Rows, told

Reading = tuple[np.ndarray, np.ndarray]  # of a set of images: probabilities (N, K), rows summing to 1; features (N, D)


@dataclass(frozen=True)
class Ruler:
    """How a set is measured."""

    prefix: str  # of the metrics' names, "classifier" or "inception"
    who: str  # the network, in words
    read: Callable[[np.ndarray], Reading]  # images -> what it says of them
    splits: int  # of the score
    reference: np.ndarray  # features (n, D) of real images for the distances, for which the first n of each set count
    published: tuple[int, int] | None = None  # images and splits of the published protocol; None: nothing is published
    same_data: bool = False  # whether the data are those of the published numbers

    def score(self, probs: np.ndarray) -> tuple[float, float]:
        """(mean, deviation over splits) of the score of one set."""
        return inception.inception_score(probs, self.splits)

    def rows(self, name: str, reading: Reading) -> Rows:
        """Score, Frechet and kernel distance, precision and recall of one set of images."""
        probs, made = reading[0], reading[1][: len(self.reference)]
        n, note = len(probs), ""
        if self.published:
            images, splits = self.published
            note = rows.differences(self.same_data, (n, images, "images"), (self.splits, splits, "splits"))
        protocol = f"{n:,} images in {self.splits} splits, {self.who}; +-: standard deviation over splits"
        about = {"note": note, "comparable": self.published is not None and not note}
        score = rows.make(name, {f"{self.prefix}_score": self.score(probs)}, protocol, n, **about)
        found = {"frechet distance": inception.frechet_distance(made, self.reference)}
        found["kernel distance"] = inception.kernel_distance(made, self.reference, subsets=20)
        found |= zip(("precision", "recall"), inception.precision_recall(made, self.reference), strict=True)
        protocol = f"{len(made):,} images against {len(self.reference):,} real test images, {self.who}"
        return score + rows.make(name, {f"{self.prefix} {k}": v for k, v in found.items()}, protocol, len(made))

    def against_time(self, model: agelib.Model, n: int, seed: int) -> tuple[tuple[float, ...], ...]:
        """(seconds of training, score, deviation over splits) of n samples of each kept snapshot and of the model itself."""
        states = {each.n_steps: each for each in (*(model.at(step) for step in model.steps), model)}
        points = [(each.seconds, *self.score(self.read(each.generate(n, seed))[0])) for each in states.values()]
        return tuple(zip(*points, strict=True))

    def over_trainings(self, name: str, scores: list[float]) -> Rows:
        """The row of a score over several trainings: mean and sample deviation, of which the split error knows nothing."""
        protocol = f"mean of {len(scores)} trainings with different seeds, {self.who}; +-: standard deviation over trainings"
        found = {f"{self.prefix}_score_over_trainings": (np.mean(scores), np.std(scores, ddof=1))}
        return rows.make(name, found, protocol, len(scores))


def check(p: Any, train: ImageSet, test: ImageSet) -> None:
    """ValueError, before any training, for parameters `p` of notebook 03 that these sets or a later cell can't take."""
    sizes = {"n_samples": p.n_samples, "n_curve": p.n_curve, "training images": len(train), "test images": len(test)}
    if not 1 <= p.n_splits <= min(sizes.values()):
        told = ", ".join(f"{what} {n}" for what, n in sizes.items())
        raise ValueError(f"n_splits must be from 1 to the least of {told}, is {p.n_splits}")
    if p.n_seeds < 1 or p.n_samples < 4 or len(test) < 8:  # precision and recall ask for the third neighbour
        given = f"{p.n_seeds}, {p.n_samples}, {len(test)}"
        raise ValueError(f"n_seeds must be at least 1, n_samples 4, the test images 8; they are {given}")
    labels = [*p.from_runs, *p.models]
    if not len(set(labels)) == len(labels) <= len(SERIES):
        raise ValueError(f"from_runs and models need labels of their own, {len(SERIES)} at most, got {', '.join(labels)}")
    if p.inception is not None:
        check_names("inception", p.inception, ("n", "weights"))
        n, weights = p.inception.get("n", 50_000), p.inception.get("weights")
        if type(n) is not int or n < max(4, p.n_splits) or not isinstance(weights, str | None):
            need = f"n must be a whole number of at least 4 and n_splits {p.n_splits}, weights a file or None"
            raise ValueError(f"inception: {need}, is {p.inception}")
    unconditional.n_classes(train, test, p.classifier)
    params.trainable({f"models.{label}": settings for label, settings in p.models.items()}, train.images)


def by_class(images: np.ndarray, probs: np.ndarray, each: int) -> np.ndarray:
    """Images by their most probable class, (K each, C, H, W): a row of `each` images a class, from the most to the least
    certain, at equal steps through all of that class. A class with fewer images has its row filled up with white."""
    K, order = probs.shape[1], np.argsort(-probs.max(1), kind="stable")
    out = np.full((K, each, *images.shape[1:]), 255, np.uint8)
    for k in range(K):
        ids = order[probs.argmax(1)[order] == k]
        ids = ids[np.linspace(0, len(ids) - 1, min(each, len(ids))).round().astype(int)]
        out[k, : len(ids)] = images[ids]
    return out.reshape(K * each, *images.shape[1:])


def earlier(source: str, label: str, needs: dict[str, str], shape: tuple[int, ...], device: str = "auto") -> agelib.Model:
    """A model that an earlier run has trained. source: "run", whose model `label` it is, or "run: label there"; needs: run
    -> its folder; shape: (C, H, W) of the images that it must be of. Raises ValueError, or FileNotFoundError."""
    run, _, other = source.partition(": ")
    if run not in needs:
        raise ValueError(f"from_runs.{label}: {run!r} is none of the runs that came first: {', '.join(needs) or 'none did'}")
    model = agelib.load(Path(needs[run]) / "models" / params.label(other or label), device)
    if model.shape != tuple(shape):
        raise ValueError(f"from_runs.{label}: {model.folder} is of images {model.shape}, the data set's are {tuple(shape)}")
    return model


def network(asked: dict[str, Any] | None, device: str = "auto") -> tuple[Any, int, str]:
    """(Inception of 2015-12-05, images of a set that it shall read, "") as `asked`: {"weights": its file, or None for
    torch's cache or else a download; "n": 50,000}; or (None, 0, why it is left out). Raises ValueError for other keys."""
    if asked is None:
        return None, 0, "not asked for (inception = None)"
    check_names("inception", asked, ("n", "weights"))
    try:
        net = inception.load(params.from_root(asked.get("weights")), device=hardware.choose_device(device))
        return net, asked.get("n", 50_000), ""
    except inception.WeightsError as error:
        return None, 0, str(error)


def verdict(found: Rows) -> str:
    """What the numbers of one run say of the paper's claim, in sentences."""
    score, said = rows.of(found, "classifier_score"), []
    real, age, ali = (score.get(name) for name in ("real test images", "AGE", "ALI"))
    if made := [row for name, row in score.items() if not name.startswith("real ")]:
        best = max(made, key=lambda row: row["value"])
        how = "above all samples, as they must" if real["value"] > best["value"] else "NOT above all samples"
        said.append(f"Classifier score: real test images stand {how}: {told(real)}; best: {best['model']}, {told(best)}.")
    if age and ali:
        how = "above ALI, as in the paper" if age["value"] > ali["value"] else "NOT above ALI (in the paper it is)"
        said.append(f"AGE is {how}: {told(age)} against {told(ali)}.")
    for name, row in score.items():
        if other := score.get(f"{name}, batch statistics"):
            said.append(f"{name}: {told(row)} with running statistics, {told(other)} with those of each batch.")
    published = rows.of(found, "inception_score").get("AGE")
    why = "no Inception Score of AGE" if published is None else published["note"]
    ours = f"nothing stands: {why}" if why else f"stands {told(published)}"
    return "\n".join([*said, f"Beside the paper's 5.90 ± 0.04 {ours}."])
