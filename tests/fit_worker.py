"""Tiny trainings of every method; run as a program, it starts those that the kill tests name, each in a process of its own.

    echo '["age, bf16", "folder", {"max_steps": 40}]' | python tests/fit_worker.py

prints the process's id, and its exit status when it has ended. Python and torch are started once for all of them.
"""

import json
import os
import sys
import traceback

import numpy as np
import torch
import torch._dynamo  # noqa: F401  the first optimizer imports it: here once for all processes

import agelib
from agelib.metrics import classifier
from agelib.model import METHODS
from agelib.training import checkpoint, fit

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 3, 32, 32), dtype=np.uint8)
LABELS = np.arange(24) % 3
SCHEDULE = {"n_epochs": None, "max_steps": 16, "batch_size": 4, "seed": 3, "flip": True, "log_every": 7}
TINY = {
    "age": {"M": 4, "width": 4, "lr": 1e-3, "drop_lr": 1},
    "conditional": {"M": 3, "width": 4, "e_width": 4, "n_blocks": 1},
    "ali": {"M": 6, "width": 0.125},
    "vae": {"M": 6, "width": 4},
    "gan": {"M": 6, "width": 4},
    "pix2pix": {"width": 4, "d_width": 4},
    "regression": {"width": 4, "n_blocks": 1},
}
STABILISERS = {"margin": 0.5, "ema": 0.9, "ema_e": 0.8, "kl_fake_weight": 0.8, "recon_x_in_g": 2.0, "recon_x": "l2"}
STABILISERS |= {"spectral_norm": True, "in_bias": True, "noisy_code": 0.2}
# what is trained: method, and settings beside the tiny ones; every method is there by itself
VARIANTS = {method: (method, {"precision": "fp32"}) for method in METHODS} | {
    "age, bf16": ("age", {"precision": "bf16"}),
    "age, stabilised": ("age", {"precision": "fp32"} | STABILISERS),
    "age, gaussian": ("age", {"precision": "fp32", "prior": "gaussian", "objective": "paper"}),
    "age, nearest": ("age", {"precision": "fp32", "divergence": "nearest"}),
    "conditional, averaged": ("conditional", {"precision": "fp32", "ema": 0.9, "mu": 10, "adaptive": 1.05}),
    "ali, stabilised": ("ali", {"precision": "fp32", "noise": 0.1, "ema": 0.9, "d_lr": 1e-4, "init": "he"}),
    "ali, maxout": ("ali", {"precision": "bf16", "nets": "cifar10"}),
}


def step(variant, **more):
    """The Step of a variant on fresh networks for IMAGES."""
    method, settings = VARIANTS[variant]
    torch.manual_seed(1)
    config = METHODS[method].Config(**TINY.get(method, {}) | settings | more)
    return METHODS[method].make_step(METHODS[method].build(config, IMAGES.shape[1:]), config)


def train(variant, folder, start=None, images=IMAGES, **more):
    if variant == "classifier":
        return classifier.train(IMAGES, LABELS, folder, width=4, device="cpu", **SCHEDULE | more)
    method, settings = VARIANTS[variant]
    settings = TINY.get(method, {}) | settings | SCHEDULE | more
    return agelib.train(method, images, folder, device="cpu", start=start, **settings)


def tensors(folder):
    """Every tensor of a folder's finished weights and kept snapshots."""
    files = [folder / fit.MODEL, *folder.glob(f"{fit.SNAPSHOTS}/*")]
    return {(path.name, name): value for path in files for name, value in checkpoint.load_model(path)[0].items()}


def rows(folder):
    """A folder's history without its seconds."""
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fit.read_history(folder / fit.HISTORY)]


def main():
    for line in sys.stdin:
        variant, folder, more = json.loads(line)
        pid = os.fork()
        if not pid:
            try:
                train(variant, folder, **more)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
