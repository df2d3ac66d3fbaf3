import subprocess
import sys

import pytest
import torch

from agelib import tv

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


def test_torchvision_imports_whatever_the_builds():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.stdout.strip() == "(3, 8, 8) SVHN", done.stderr


@pytest.mark.parametrize(("cuda", "message"), [(None, "something else"), ("13.0", "operator torchvision::nms")])
def test_other_failures_pass_through(monkeypatch, cuda, message):
    def fail(name):
        raise RuntimeError(message)

    monkeypatch.setattr(tv.importlib, "import_module", fail)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    with pytest.raises(RuntimeError, match=message):
        tv.import_torchvision()
