"""Trainings killed by SIGKILL at any moment and started again end as those that never were, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fit_worker import rows, tensors, train

from agelib.model import METHODS
from agelib.training import checkpoint, fit

TESTS = Path(__file__).resolve().parents[1]
VARIANTS = ["age, bf16", "age, stabilised", "ali, stabilised", "ali, maxout", "classifier"]
KEPT = {"checkpoint_every_s": 0.0, "snapshots": 3}


@pytest.fixture(scope="module")
def run():
    """A function (variant, folder, what differs) -> its process's id; `run.ended()` waits and returns the exit status."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = os.environ | {"PYTHONPATH": str(TESTS.parent), "OMP_NUM_THREADS": "1"}
    worker = subprocess.Popen([sys.executable, TESTS / "fit_worker.py"], env=environment, **pipes)

    def number():
        return int(next(line for line in worker.stdout if line.strip().removeprefix("-").isdigit()))

    def run(variant, folder, **more):
        print(json.dumps([variant, str(folder), KEPT | more]), file=worker.stdin, flush=True)
        return number()

    run.ended = number
    yield run
    worker.stdin.close()
    assert worker.wait(60) == 0


def wait_for(step, folder):
    deadline = time.monotonic() + 60
    while not (files := checkpoint.list_files(folder)) or int(files[-1].name[5:14]) < step:
        assert time.monotonic() < deadline, f"no checkpoint of step {step}"
        time.sleep(0.002)


@pytest.mark.parametrize("variant", [*METHODS, *VARIANTS, "a second stage"])
def test_a_killed_training_ends_with_the_same_weights(run, variant, tmp_path):
    """Train in one folder undisturbed, in another with two kills; all that is left must be equal."""
    whole, killed, chance, more = tmp_path / "whole", tmp_path / "killed", random.Random(variant), {}
    if variant == "a second stage":
        variant = "age, stabilised"
        more = {"start": str(train(variant, tmp_path / "first", max_steps=3).folder)}
    train(variant, whole, **KEPT | more)
    for at in (chance.randint(1, 6), chance.randint(8, 13)):
        process = run(variant, killed, **more)
        wait_for(at, killed)
        time.sleep(chance.random() * 0.02)
        os.kill(process, signal.SIGKILL)
        assert run.ended() == -signal.SIGKILL, "it ended before it could be killed"
    run(variant, killed, **more)
    assert run.ended() == 0
    a, b = tensors(whole), tensors(killed)
    assert a.keys() == b.keys() and len({file for file, _ in a}) == 4
    assert not [key for key in a if not torch.equal(a[key], b[key])]
    assert rows(whole) == rows(killed) and len(rows(whole)) >= 3
    assert not [path for path in killed.rglob(".*") if path.name != ".lock"]


def test_a_second_process_on_a_folder_is_refused_and_a_killed_one_frees_it(run, tmp_path):
    process = run("regression", tmp_path, max_steps=100_000)
    wait_for(1, tmp_path)
    try:
        with pytest.raises(fit.Busy, match=f"{tmp_path}: another process is training here"):
            train("regression", tmp_path, max_steps=100_000)
    finally:
        os.kill(process, signal.SIGKILL)
        run.ended()
    with pytest.raises(fit.ConfigMismatch, match="n_steps was 100000, is 5"):  # no longer busy
        train("regression", tmp_path, max_steps=5)
