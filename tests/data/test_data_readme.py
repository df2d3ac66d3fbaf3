"""data/README.md says what the code does."""

import re
from pathlib import Path

import numpy as np

from agelib import data
from agelib.data import official, sets
from agelib.metrics import inception

README = (Path(__file__).parents[2] / "data" / "README.md").read_text("utf-8")


def test_files_checksums_counts_and_folders_are_those_of_the_code():
    named = dict(re.findall(r"`([\w.-]+)` ([0-9a-f]{32})", README))
    assert named == {file: md5 for file, (md5, *_) in official.SUMS.items()}
    for name, spec in sets.REAL.items():
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        said = [f"{spec.size}x{spec.size}", *(f"{count:,}" for count in spec.official.values())]
        said += [f"`{folder}/`" for folder in official.FOLDERS[name] if folder != "."]
        assert [part for part in said if part not in row] == []
        for file in (file for split in spec.official for file in official.needed(name, split)):
            md5, *sha256 = official.SUMS[file]
            assert len(md5) == 32 and [len(s) for s in sha256] == ([] if name == "stanford_cars" else [64])


def test_downloads_go_by_https_first_and_have_a_sha256():
    assert all(urls[0].startswith("https://") for urls in official.URLS.values()) and inception.URL.startswith("https://")
    fetched = {file for name in (*official.URLS, "celeba") for split in sets.REAL[name].official
               for file in official.needed(name, split)}  # fmt: skip
    assert all(len(official.SUMS[file]) == 2 for file in fetched) and len(inception.SHA256) == 64
    assert {*sets.REAL} - {*official.URLS} == {"celeba", "stanford_cars"}  # by torchvision from Google Drive; not at all


def test_the_pack_it_shows_how_to_write_is_read(root):
    exec(re.search(r"```python\n(.*?)```", README, re.S)[1], scope := {})
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    (root / "packs").mkdir()
    scope["write_part"](root / "packs" / "svhn-part1.npz", x, [3, 0, 0], [0, 8, 9])
    found = data.load("svhn", download=False)
    np.testing.assert_array_equal(found.images, x[1:].transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [8, 9]
    assert data.load("svhn", "extra", download=False).source == "pack, 1 of 531,131 official extra images"
