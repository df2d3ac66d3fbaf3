"""Train a tiny AGE in the folder given; the resume tests start, kill and restart this process."""

import sys

import numpy as np
import torch

from agelib import age, fit, networks
from agelib.run import Run


def main(out_dir: str, precision: str = "fp32", n_steps: int = 60) -> None:
    torch.set_num_threads(1)
    run = Run(out_dir, {}, seed=3)
    nets = networks.build(32, 4, channels=1, width=4)
    step = age.make_step(nets, age.AgeConfig(M=4, precision=precision, ema=0.9, drop_lr=3))
    images = np.random.default_rng(0).integers(0, 256, (70, 1, 32, 32), dtype=np.uint8)
    fit.fit(
        step, images, run=run, n_epochs=100, max_steps=int(n_steps), batch_size=8, seed=3, flip=True, log_every=7,
        checkpoint_every_s=0.0,
    )  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
