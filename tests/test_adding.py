"""docs/adding.md, walked: its blocks are put into a copy of the repository, and what they add is used there."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "adding.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
TABLE = dict(re.findall(r"^\| \[(.+?)\]\(#.+?\) \| (.+) \|$", PAGE, re.M))
N_FILES = {"a rival": 3, "a data set": 3, "a divergence": 2, "a hyperparameter of AGE": 2}

USE = """
import json
import numpy as np, torch
import agelib
from agelib import age, data, losses
from suite import plan

images = np.random.default_rng(0).integers(0, 256, (16, 3, 32, 32), dtype=np.uint8)
settings = plan.recipe("ae_narrow") | {"M": 5, "width": 4, "batch_size": 8, "noise": 0.1, "device": "cpu"}
method = settings.pop("method")
agelib.train(method, images, "ae", **settings)
model = agelib.load("ae", "cpu")
codes = torch.tensor([[-1.0, -1], [1, 1], [-0.5, 0.5], [0.5, -0.5]])
nets = agelib.train("age", images, "age", M=3, width=4, batch_size=8, divergence="reverse", clip=1.0, device="cpu")
exec(open("tests/test_age.py").read())
for case in test_gradients_are_clipped.pytestmark[0].args[1]:
    test_gradients_are_clipped(*case)
print(json.dumps({
    "label": model.label, "n_steps": model.n_steps, "made": model.generate(3).shape, "stabilisers": model.stabilisers,
    "again": model.reconstruct(images[:2]).shape, "features": model.features()(images[:2]).shape,
    "kl": losses.DIVERGENCES["reverse"]["paper"](codes, "sphere").item(), "cifar100": "cifar100" in data.NAMES,
    "reverse": plan.recipe("digits_reverse")["divergence"], "age": [nets.status, nets.stabilisers],
}))
"""


def blocks(section):
    """(kind, file, text) of each block; the row for the table of a README has no file's name in it."""
    for kind, text in re.findall(r"^```(\w+)\n(.*?)^```$", section, re.M | re.S):
        first, _, rest = text.partition("\n")
        yield (kind, first.removeprefix("# "), rest) if first.startswith("# ") else (kind, "data/README.md", text)


def put(root, kind, file, text):
    """A block's lines: new ones at the file's end, a diff's in the place of the old ones, which must stand there once."""
    path = root / file
    if kind != "diff":
        path.write_text((path.read_text(encoding="utf-8") if path.exists() else "") + text, encoding="utf-8")
        return
    old, new = ("".join(line[1:] for line in text.splitlines(keepends=True) if line[0] in which) for which in (" -", " +"))
    source = path.read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{file} does not have once: {old}"
    path.write_text(source.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("what", N_FILES)
def test_an_addition_touches_so_few_files_and_the_page_names_them(what):
    touched = list(dict.fromkeys(file for _, file, _ in blocks(SECTIONS[what[0].upper() + what[1:]])))
    assert len(touched) == N_FILES[what] and re.findall(r"`([\w./]+)`", TABLE[what]) == touched
    assert [file for file in touched if not (ROOT / file).exists()] == ["agelib/rivals/ae.py"] * (what == "a rival")


def test_what_the_page_adds_can_be_used_at_once(tmp_path):
    for part in ("agelib", "suite", "config"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("data/README.md", "tests/test_age.py"):
        (tmp_path / file).parent.mkdir()
        shutil.copy(ROOT / file, tmp_path / file)
    for block in (block for section in SECTIONS.values() for block in blocks(section)):
        put(tmp_path, *block)
    env = os.environ | {"PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "label": "Autoencoder", "n_steps": 8, "made": [3, 3, 32, 32], "stabilisers": "noise 0.1 on what e sees",
        "again": [2, 3, 32, 32], "features": [2, 16 * (4 + 8 + 16) + 5], "kl": pytest.approx(0.0650, abs=2e-4),
        "cifar100": True, "reverse": "reverse", "age": ["ok", "gradients clipped at 1"],
    }  # fmt: skip
