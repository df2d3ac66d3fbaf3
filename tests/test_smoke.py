"""The real notebooks, by the README's command, on embedded data."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = {"digits", "faces", "colorization", "likelihood", "theory", "inception_score", "svhn_features", "summary"}
FILES = ("notebook.ipynb", "notebook.html", "metrics.json", "config.json", "history.csv", "figures", "models")


def test_the_smoke_profile_runs_every_notebook(tmp_path):
    env = os.environ | {"VIRTUAL_ENV": sys.prefix, "AGELIB_RESULTS": str(tmp_path)}
    command, smoke = [ROOT / "run_all.sh", "--profile", "smoke"], tmp_path / "smoke"
    result = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True, timeout=3000)
    assert result.returncode == 0, result.stdout + result.stderr
    assert {path.name for path in smoke.iterdir() if path.is_dir()} == RUNS and (smoke / "index.html").is_file()
    metrics = {run: json.loads((smoke / run / "metrics.json").read_text()) for run in RUNS}

    def measured(run, metric):
        rows = metrics[run]["rows"]
        return {row["model"] for row in rows if row["metric"] == metric and row["value"] is not None}

    for run, content in metrics.items():
        assert (content["run"], content["profile"], content["status"]) == (run, "smoke", "ok")
        assert not (smoke / run / ".new").exists() and (content["rows"] or run == "summary")
    for run in ("digits", "faces"):
        assert all((smoke / run / name).exists() for name in FILES) and list((smoke / run / "figures").glob("*.png"))
        assert metrics[run]["training_seconds"] > 0 and metrics[run]["models"]["AGE"]["n_steps"] > 0
    assert "stabilisers: " in str(metrics["digits"]["rows"])  # which the run's recipe switches on
    decoders = {"AGE-10", "AGE-10, Gaussian prior", "AGE-10, L_X in g", "ALI-10", "VAE-10", "GAN-10"}
    assert measured("likelihood", "log_likelihood_ais_test") == decoders
    ages = {"AGE", "AGE, Gaussian prior"}
    samples = ages | {f"{age}, batch statistics" for age in ages} | {"ALI", "DCGAN", "VAE"}
    assert measured("inception_score", "classifier_score") == {"real test images", "real training images"} | samples
    told = (smoke / "inception_score" / "notebook.ipynb").read_text()
    assert "Inception Score: left out: not-there.pth: no such file" in told
    controls = {"untrained encoder", "PCA", "raw pixels"}
    assert {"AGE", "AGE, F1", "ALI", "DCGAN"} | controls <= measured("svhn_features", "test_error_percent")
    models = {"AGE", "AGE without the game", "pix2pix + noise", "L1 regression"}
    assert measured("colorization", "mode recall") == models
    assert (smoke / "colorization" / "figures" / "figure4a.png").is_file()
