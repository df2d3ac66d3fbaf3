"""A results folder while its notebook runs: what is written where and when, and what the numbers are told."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import agelib
from agelib.plot import images as plot
from agelib.training.fit import Diverged
from suite import params
from suite.run import Run

IMAGES = np.random.default_rng(0).integers(0, 256, (16, 1, 8, 8), dtype=np.uint8)
TINY = {"nets": "decoder", "encoder": "mlp", "M": 2, "batch_size": 8}


def run_of(folder, notebook="01_unconditional", **values) -> Run:
    values = {"seed": 0, "device": "cpu"} | values
    return Run(folder, params.check({name: type(value) for name, value in values.items()}, values), notebook=notebook)


def written(run: Run) -> dict:
    return json.loads((run.new / "metrics.json").read_text())


def tree(folder) -> dict:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def model(status="ok", stabilisers="", seconds=5.0, precision="bf16"):
    """What `Run` reads of an `agelib.Model`."""
    facts = {"status": status, "stabilisers": stabilisers, "seconds": seconds, "precision": precision}
    return SimpleNamespace(ok=status == "ok", method="age", n_steps=3, trained_on="cpu", **facts)


def test_metrics_hold_every_number_with_its_circumstances(tmp_path):
    run = run_of(tmp_path / "smoke" / "r", M=10, seed=4)
    draws = torch.randn(3)
    run_of(tmp_path / "smoke" / "r", M=10, seed=4)
    assert torch.equal(torch.randn(3), draws)  # the run's seed is torch's
    run.save_metrics([{"metric": "L1", "value": torch.tensor(0.5), "n": 8, "protocol": "held out"}], extra_fact=1)
    run.finish()
    content = json.loads((run.dir / "metrics.json").read_text())
    assert content["rows"] == [
        {"experiment": "unconditional", "model": "", "dataset": "", "metric": "L1", "value": 0.5, "std": None, "n": 8,
         "protocol": "held out", "seed": 4, "comparable": False, "note": ""}
    ]  # fmt: skip
    assert (content["run"], content["profile"], content["notebook"]) == ("r", "smoke", "01_unconditional")
    assert content["status"] == "ok" and content["config"] == {"M": 10, "seed": 4, "device": "cpu"}
    assert content["extra_fact"] == 1 and "reason" not in content and content["wall_time_s"] >= 0
    environment = content["environment"]
    assert (environment["torch"], environment["device"], environment["precision"]) == (torch.__version__, "cpu", "fp32")
    assert environment["numpy"] == np.__version__ and environment["cpu"] and environment["threads"] >= 1
    assert json.loads((run.dir / "config.json").read_text()) == content["config"]
    assert not run.new.exists()


def test_former_results_stay_until_the_run_has_come_to_its_end(tmp_path):
    def start(name):
        run = run_of(tmp_path)
        (run.new / "notebook.ipynb").write_text("what papermill writes")
        run.save_figure(name, plot.grid(IMAGES))
        run.save_metrics([{"metric": name, "value": 1.0}])
        return run

    first = start("old")
    first.save_history([{"step": 1}])
    first.finish()
    before = tree(tmp_path)
    second = start("new")
    assert tree(tmp_path).items() >= before.items()
    assert written(second)["status"] == "failed" and "did not come to its end" in written(second)["reason"]
    third = run_of(tmp_path)  # the second one was killed: of what it wrote only papermill's file is kept
    assert set(tree(third.new)) == {"notebook.ipynb", "config.json"}
    start("new").finish()
    assert set(tree(tmp_path)) == {"config.json", "figures/new.png", "metrics.json", ".new/notebook.ipynb"}
    assert json.loads((tmp_path / "metrics.json").read_text())["status"] == "ok"
    with pytest.raises(RuntimeError, match="finish comes after save_metrics"):
        run_of(tmp_path).finish()


@pytest.mark.parametrize("number", [math.nan, -math.inf, np.float32("nan"), torch.tensor(math.inf)])
def test_a_number_that_is_not_finite_is_null_and_says_so(tmp_path, number):
    run = run_of(tmp_path)
    run.save_metrics([{"value": number, "note": "odd"}, {"value": 1, "std": number}, {"value": None}])
    found = [(row["value"], row["std"], row["note"]) for row in written(run)["rows"]]
    assert found == [(None, None, "odd; not finite"), (1.0, None, "std not finite"), (None, None, "")]


def test_the_registered_models_say_device_precision_seconds_and_stabilisers(tmp_path):
    run = run_of(tmp_path)
    run.register("AGE", model(stabilisers="margin 0.5"))
    run.register("AGE, Gaussian prior", model(stabilisers="margin 0.1", precision="fp32", seconds=7.0))
    run.register("ALI", model("diverged: d_loss at step 3", precision="other"))
    notes = {
        "AGE": "a; stabilisers: margin 0.5",
        "AGE, batch statistics": "stabilisers: margin 0.5",
        "AGE, Gaussian prior, batch statistics": "stabilisers: margin 0.1",
        "ALI": "diverged: d_loss at step 3",
        "AGE-10": "",
        "real images": "",
    }
    run.save_metrics([{"model": model, "value": 1.0, "note": "a" * (model == "AGE")} for model in notes])
    content = written(run)
    assert {row["model"]: row["note"] for row in content["rows"]} == notes
    assert (content["environment"]["device"], content["environment"]["precision"]) == ("cpu", "bf16; fp32")
    assert content["training_seconds"] == 17.0 and content["wall_time_s"] < 10
    assert content["models"]["ALI"]["status"].startswith("diverged") and content["models"]["AGE"]["seconds"] == 5.0
    with pytest.raises(Diverged, match="AGE: diverged: l_x"):  # a lost model that is needed ends the run
        run.register("AGE", model("diverged: l_x"), needed=True)
    assert written(run)["status"] == "diverged" and written(run)["reason"] == "AGE: diverged: l_x"
    assert not (tmp_path / "metrics.json").exists()


def test_training_has_the_runs_seed_and_folder_and_goes_on_from_a_model(tmp_path):
    run = run_of(tmp_path / "quick" / "r", seed=3)
    first = run.train("AGE", IMAGES, TINY)
    assert first.folder == tmp_path / "quick" / "r" / "models" / "AGE" and first.n_steps == 2
    assert agelib.load(first.folder).about["seed"] == 3
    tuned = run.train("AGE", IMAGES, TINY | {"seed": 5, "mu": 1.0}, start=first)
    assert tuned.folder.name == "AGE, finetuned" and tuned.about["seed"] == 5 and tuned.n_steps == 4
    run.save_metrics([])
    assert run.models["AGE"] is tuned and tuned.seconds > first.seconds  # the first stage's are in it
    assert written(run)["training_seconds"] == round(tuned.seconds, 1)
    ali = {"nets": "decoder", "batch_size": 8}
    assert run.train("ALI", IMAGES, ali, method="ali").method == "ali"
    assert run.train("VAE", IMAGES, ali | {"method": "vae"}, method="ali").method == "vae"


def test_in_an_interactive_run_a_changed_setting_has_a_folder_of_its_own(tmp_path):
    inside = run_of(tmp_path / "interactive" / "01_unconditional")
    first = inside.train("AGE", IMAGES, TINY)
    assert first.folder.name.startswith("AGE-") and inside.train("AGE", IMAGES, TINY).folder == first.folder
    changes = [{"M": 3}, {"lam": 5.0}, {"in_bias": True}, {"seed": 1}, {"n_epochs": 2}]
    others = [inside.train("AGE", IMAGES, TINY | change).folder for change in changes]
    others.append(inside.train("AGE", IMAGES[::-1].copy(), TINY).folder)  # other images
    assert len({first.folder, *others}) == 7
    assert inside.place("ais", "AGE", {"n": 1}, IMAGES) != inside.place("ais", "AGE", {"n": 2}, IMAGES)
    assert run_of(tmp_path / "quick" / "r").place("ais", "AGE", 1) == tmp_path / "quick/r/checkpoints/ais/AGE"


@pytest.mark.parametrize("label", ["../AGE", "a\\b", "AGE\n"])  # more of them: test_params.py
def test_a_label_is_a_safe_part_of_a_path(tmp_path, label):
    run = run_of(tmp_path / "r")
    before = set(tree(tmp_path))
    for call in (
        lambda: run.place("models", label),
        lambda: run.train(label, IMAGES, TINY),
        lambda: run.save_figure(label, None),
        lambda: run.register(label, model()),
    ):
        with pytest.raises(ValueError, match="is no label"):
            call()
    assert set(tree(tmp_path)) == before


def test_a_table_stands_beside_the_papers_numbers(tmp_path):
    run = run_of(tmp_path, notebook="03_inception_score")
    run.dataset = {"name": "cifar10"}
    text = run.table([{"model": "AGE", "metric": "inception_score", "value": 5.0, "comparable": True}]).data
    assert "5.9 ± 0.04" in text and "5.000" in text and 'class="miss"' in text


def test_saved_pictures_have_a_palette(tmp_path):
    """A third of the bytes of 24-bit colour also for what compresses worst, and colours close to the original's."""
    figure = plot.grid(np.random.default_rng(0).integers(0, 256, (64, 3, 64, 64), dtype=np.uint8), ncols=8)
    path = run_of(tmp_path).save_figure("noise", figure)
    figure.savefig(tmp_path / "full.png", dpi=110, bbox_inches="tight", facecolor="white")
    with Image.open(path) as small, Image.open(tmp_path / "full.png") as full:
        assert small.mode == "P" and small.size == full.size
        difference = np.asarray(small.convert("RGB"), float) - np.asarray(full.convert("RGB"), float)
    assert path.stat().st_size < 0.5 * (tmp_path / "full.png").stat().st_size and abs(difference.mean()) < 3
