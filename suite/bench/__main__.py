"""python -m suite.bench [training | ais | scores] [--repeats N]"""

import argparse

import torch

from agelib.training import hardware
from agelib.training.fit import device_name
from suite.bench import __doc__ as about
from suite.bench import judges, training
from suite.run import environment

REPORTS = {"training": training.report, "ais": judges.report_ais, "scores": judges.report_scores}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m suite.bench", description=about.splitlines()[0])
    parser.add_argument("what", nargs="?", choices=REPORTS, default="training")
    parser.add_argument("--repeats", type=int, default=7, help="timed repetitions of each way (default %(default)s)")
    asked = parser.parse_args()
    if asked.repeats < 1:
        parser.error(f"--repeats must be at least 1, is {asked.repeats}")
    device = hardware.choose_device()
    precision = hardware.choose_precision("auto", device)
    facts = environment(device_name(device), precision)
    print("machine:", ", ".join(f"{k} {facts[k]}" for k in ("device", "cpu", "cpu_capability", "threads", "torch")))
    n, peaks = 8192 if device.type == "cuda" else 2048, {}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        a, b = torch.randn(2, n, n, device=device).to(dtype)
        peaks[name] = 2 * n**3 / min(training.in_turn({"product": lambda a=a, b=b: a @ b}, device, 10)["product"]) / 1e12
    print(f"matrix product: fp32 {peaks['fp32']:.2f} TFLOP/s, bf16 {peaks['bf16']:.2f} TFLOP/s; ours runs in {precision}")
    REPORTS[asked.what](device, peaks, precision, asked.repeats)


if __name__ == "__main__":
    main()
