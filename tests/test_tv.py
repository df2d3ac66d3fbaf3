import subprocess
import sys

import pytest
import torch

CODE = """
import warnings
warnings.simplefilter("ignore")
from agelib import tv
torchvision = tv.import_torchvision()
assert tv.import_torchvision() is torchvision
import torch
from torchvision import datasets
from torchvision.transforms import v2
print(tuple(v2.Resize(8)(torch.zeros(3, 16, 16)).shape), datasets.SVHN.__name__)
"""


def test_torchvision_imports_whatever_the_builds(tmp_path):
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.strip() == "(3, 8, 8) SVHN", done.stderr


def test_other_failures_pass_through(monkeypatch):
    from agelib import tv

    def fail(name):
        raise RuntimeError("something else")

    monkeypatch.setattr(tv.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="something else"):
        tv.import_torchvision()
    monkeypatch.setattr(tv.importlib, "import_module", lambda name: fail_operator())
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(RuntimeError, match="nms does not exist"):
        tv.import_torchvision()


def fail_operator():
    raise RuntimeError("operator torchvision::nms does not exist")
