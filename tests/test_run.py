import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from agelib import plotting
from agelib.run import Run, environment


def test_metrics_hold_every_number_with_its_circumstances(tmp_path):
    run = Run(tmp_path / "r", {"M": 10}, seed=4, profile="smoke", notebook="01_unconditional")
    path = run.save_metrics([{"metric": "L1", "value": torch.tensor(0.5), "n": 8, "protocol": "held out"}], extra_fact=1)
    content = json.loads(path.read_text())
    row = content["rows"][0]
    assert row["value"] == 0.5 and row["n"] == 8 and row["seed"] == 4 and row["comparable"] is False
    assert row["experiment"] == "01_unconditional" and row["std"] is None
    assert content["status"] == "ok" and content["config"] == {"M": 10} and content["extra_fact"] == 1
    assert content["environment"]["torch"] == torch.__version__ and content["wall_time_s"] >= 0
    assert json.loads((tmp_path / "r" / "config.json").read_text()) == {"M": 10}


def test_infinite_values_become_null(tmp_path):
    run = Run(tmp_path, {}, seed=0)
    rows = json.loads(run.save_metrics([{"metric": "x", "value": math.inf}]).read_text())["rows"]
    assert rows[0]["value"] is None


def test_unknown_status_is_refused(tmp_path):
    with pytest.raises(ValueError, match="ok, diverged or failed"):
        Run(tmp_path, {}, seed=0).save_metrics([], status="fine")


def test_seeding_makes_networks_reproducible(tmp_path):
    draws = []
    for _ in range(2):
        Run(tmp_path, {}, seed=9)
        draws.append(torch.randn(3))
    assert torch.equal(*draws)


def test_environment_names_versions_and_device():
    facts = environment("cpu", "bf16")
    assert facts["device"] == "cpu" and facts["precision"] == "bf16" and facts["threads"] >= 1
    assert facts["numpy"] and facts["python"].startswith("3.")


def test_saved_pictures_have_a_palette(tmp_path):
    """A third of the bytes of 24-bit colour also for what compresses worst, and colours close to the original's."""
    images = np.random.default_rng(0).integers(0, 256, (64, 3, 64, 64), dtype=np.uint8)
    figure = plotting.grid(images, ncols=8)
    path = Run(tmp_path, {}, seed=0).save_figure("noise", figure)
    figure.savefig(tmp_path / "full.png", dpi=110, bbox_inches="tight", facecolor="white")
    with Image.open(path) as small, Image.open(tmp_path / "full.png") as full:
        assert small.mode == "P" and small.size == full.size
        difference = np.asarray(small.convert("RGB"), float) - np.asarray(full.convert("RGB"), float)
    assert path.stat().st_size < 0.5 * (tmp_path / "full.png").stat().st_size and abs(difference.mean()) < 3
