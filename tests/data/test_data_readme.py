"""data/README.md says what the code does."""

import re
from pathlib import Path

import numpy as np
import pytest

from agelib import data
from agelib.data import official, sets

README = Path(__file__).parents[2] / "data" / "README.md"


def test_files_and_checksums_are_those_of_the_code():
    named = dict(re.findall(r"`([\w.-]+)` ([0-9a-f]{32})", README.read_text("utf-8")))
    assert named == {file: md5 for file, (md5, *_) in official.SUMS.items()}


@pytest.mark.parametrize("name", list(sets.REAL))
def test_counts_and_folders_are_those_of_the_code(name):
    row = next(line for line in README.read_text("utf-8").splitlines() if line.startswith(f"| `{name}` |"))
    for count in sets.REAL[name].official.values():
        assert f"{count:,}" in row
    assert f"{sets.REAL[name].size}x{sets.REAL[name].size}" in row
    for folder in official.FOLDERS[name]:
        assert folder == "." or f"`{folder}/`" in row or folder in ("CIFAR10", "SVHN", "CelebA")


def test_the_pack_it_shows_how_to_write_is_read(make, root):
    code = re.search(r"```python\n(.*?)```", README.read_text("utf-8"), re.S)[1]
    scope: dict = {}
    exec(code, scope)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (root / "packs").mkdir()
    scope["write_part"](root / "packs" / "svhn-part1.npz", x, [3, 0, 0], [0, 8, 9])
    found = data.load("svhn", download=False)
    np.testing.assert_array_equal(found.images, x[1:].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [8, 9]
    assert data.load("svhn", "extra", download=False).source == "pack, 1 of 531,131 official extra images"
