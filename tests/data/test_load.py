from __future__ import annotations

import hashlib
import multiprocessing
import sys
from types import SimpleNamespace

import numpy as np
import pytest

import agelib.data
from agelib import data
from agelib.data import DataError, cache
from agelib.data.__main__ import main


@pytest.fixture
def pack_of_three(make, root):
    x = make.colours(4)
    make.pack(root / "packs" / "cifar10-part1.npz", x, [0, 0, 0, 1], labels=np.array([2, 0, 1, 9], np.int16))
    return x.transpose(0, 3, 1, 2)


def prepared(root, name="cifar10-3x32"):
    return root / "prepared" / name


def test_second_load_maps_the_prepared_file_and_needs_no_source(pack_of_three, root):
    first = data.load("cifar10", download=False)
    (root / "packs" / "cifar10-part1.npz").unlink()
    second = data.load("cifar10", download=False, verify=True)
    assert isinstance(second.images, np.memmap)
    np.testing.assert_array_equal(second.images, pack_of_three[:3])
    assert second.source == first.source and second.sha256 == first.sha256
    with pytest.raises(ValueError, match="read-only"):
        second.images[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        second.labels[0] = 0
    with pytest.raises(DataError, match="no test images at hand"):
        data.load("cifar10", "test", download=False)


def test_sha256_is_that_of_image_and_label_bytes(pack_of_three, root):
    labels = np.array([2, 0, 1], "<i8")
    whole = hashlib.sha256(pack_of_three[:3].tobytes() + labels.tobytes()).hexdigest()
    assert data.load("cifar10", download=False).sha256 == whole
    first_two = data.load("cifar10", download=False, limit=2)
    assert first_two.sha256 == hashlib.sha256(pack_of_three[:2].tobytes() + labels[:2].tobytes()).hexdigest()
    assert len(first_two) == 2 and first_two.labels.tolist() == [2, 0]
    assert first_two.source.endswith("; the first 2 of them") and not first_two.complete
    assert data.load("cifar10", download=False, limit=3).sha256 == whole


def test_size_and_channels_are_caches_of_their_own(pack_of_three, root):
    big = data.load("cifar10", size=48, download=False)
    np.testing.assert_array_equal(big.images, np.broadcast_to(pack_of_three[:3, :, :1, :1], (3, 3, 48, 48)))
    grey = data.load("cifar10", channels=1, download=False)
    # ITU-R 601 luma of the flat colours, rounded by Pillow
    luma = (pack_of_three[:3, :, 0, 0] @ np.array([0.299, 0.587, 0.114])).round()
    np.testing.assert_allclose(grey.images[:, 0, 5, 5], luma, atol=1)
    assert {p.name for p in (root / "prepared").iterdir() if p.is_dir()} == {"cifar10-3x48", "cifar10-1x32"}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: _cut(d / "train-images.npy"), "train-images.npy: .* bytes, expected .*truncated or changed"),
        (lambda d: (d / "train-labels.npy").unlink(), "train-labels.npy: not readable"),
        (lambda d: np.save(d / "train-labels.npy", np.zeros(3)), "train-labels.npy: float64"),
        (lambda d: np.save(d / "train-images.npy", np.zeros((3, 32, 3, 32), "u1")), r"train-images.npy: uint8 \(3, 32"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1,'), "manifest.json: damaged"),
        (lambda d: (d / "manifest.json").write_text('{"format": 1, "splits": {"train": 3}}'), "manifest.json: damaged"),
    ],
)
def test_damaged_cache_is_refused_and_named(pack_of_three, root, damage, message):
    data.load("cifar10", download=False)
    damage(prepared(root))
    with pytest.raises(DataError, match=message):
        data.load("cifar10", download=False)


def _cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_one_changed_byte_is_found_by_verify(pack_of_three, root):
    data.load("cifar10", download=False)
    path = prepared(root) / "train-images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    data.load("cifar10", download=False)
    with pytest.raises(DataError, match=r"train-images\.npy: its sha256 differs"):
        data.load("cifar10", download=False, verify=True)


def test_what_a_killed_writer_left_is_swept_away(pack_of_three, root):
    data.load("cifar10", "test", download=False)
    partial = root / "prepared" / ".cifar10-3x32.partial"
    partial.mkdir()
    (partial / "train-images.npy").write_bytes(b"half")
    (prepared(root) / "train-images.npy").write_bytes(b"renamed, but not in the manifest")
    np.testing.assert_array_equal(data.load("cifar10", download=False).images, pack_of_three[:3])
    assert not partial.exists()
    assert data.load("cifar10", "test", download=False).labels.tolist() == [9]


def _prepare(root, queue):
    queue.put(data.load("cifar10", root=root, download=False, verify=True).sha256)


def test_two_processes_may_prepare_at_once(make, root):
    x = make.colours(300)
    make.pack(root / "packs" / "cifar10-part1.npz", x, [0] * 300, labels=np.zeros(300, np.int16))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    workers = [context.Process(target=_prepare, args=(root, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    digests = {queue.get(timeout=60) for _ in workers}
    for worker in workers:
        worker.join(timeout=60)
    expected = x.transpose(0, 3, 1, 2).tobytes() + np.zeros(300, "<i8").tobytes()
    assert digests == {hashlib.sha256(expected).hexdigest()}


def test_a_source_that_lies_leaves_nothing_behind(root, clean):
    def items(size, channels):
        yield 0, np.zeros((3, 8, 8), np.uint8)
        yield slice(1, 3), np.zeros((2, 3, 8, 8), np.uint8)

    def source(n, items=items, labels=None):
        return data.imageset.Source(n, items, labels, None, None, "a source", None)

    where = cache.folder(root, "x", 3, 8)
    for bad, message in [
        (source(4), "1 of 4 images missing"),
        (source(0), "no images"),
        (source(3, lambda s, c: iter([(0, np.zeros((3, 8, 8)))])), "float64"),
        (
            source(3, lambda s, c: iter([(0, np.zeros((3, 8, 9), np.uint8))])),
            r"\(3, 8, 9\), expected uint8 \(3, 8, 8\)",
        ),
        (
            source(2, lambda s, c: iter([(0, np.zeros((3, 8, 8), np.uint8))] * 2)),
            "2 of 2 images missing or given twice",
        ),
    ]:
        with cache.locked(where), pytest.raises(DataError, match=message):
            cache.write(where, "train", "1", bad, 8, 3)
        clean()
    with cache.locked(where):
        cache.write(where, "train", "1", source(3), 8, 3)
    assert cache.read(where, "train", "1").images.shape == (3, 3, 8, 8)
    assert cache.read(where, "train", "2") is None


def test_full_disk_and_unwritable_root_are_clear_errors(pack_of_three, root, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        patch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        with pytest.raises(DataError, match="the disk has 0 MiB free"):
            data.load("cifar10", download=False)
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(DataError, match="cannot be prepared"):
        data.load("cifar10", root=tmp_path / "file", packs=root / "packs", download=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "imagenet"}, "unknown data set 'imagenet': expected one of mnist, "),
        ({"name": "folder:"}, "unknown data set"),
        ({"name": "cifar10", "split": "validation"}, "cifar10 has no split 'validation': expected one of train, test"),
        ({"name": "cifar10", "channels": 4}, "channels must be 1 or 3"),
        ({"name": "cifar10", "size": 0}, "size must be"),
        ({"name": "cifar10", "size": 32.0}, "size must be"),
        ({"name": "cifar10", "limit": 0}, "limit must be"),
    ],
)
def test_invalid_requests_name_the_valid_ones(root, arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


def test_missing_set_says_which_files_checksums_and_folder(root):
    with pytest.raises(DataError) as caught:
        data.load("mnist", download=False)
    text = str(caught.value)
    for part in (
        "train-images-idx3-ubyte.gz (md5 f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz",
        str(root / "MNIST" / "raw"),
        str(root / "packs"),
        "download=False",
    ):
        assert part in text
    with pytest.raises(DataError, match="c3b158d763b6e2245038c8ad08e45376"):
        data.load("stanford_cars")  # never asks the network: there is nothing to ask
    assert not (root / "prepared").exists()


def test_available_has_one_line_a_set_and_does_no_work(make, root):
    lines = data.available()
    assert tuple(lines) == data.NAMES
    assert lines["digits"] == lines["cars"] == "embedded"
    assert lines["svhn"].startswith("missing: ") and "test_32x32.mat" in lines["svhn"]
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(2), [0, 1], labels=np.array([0, 1], np.int16))
    for split in ("train", "t10k"):
        make.idx(root / "MNIST" / "raw" / f"{split}-images-idx3-ubyte.gz", np.zeros((1, 28, 28), np.uint8))
        make.idx(root / "MNIST" / "raw" / f"{split}-labels-idx1-ubyte.gz", np.zeros(1, np.uint8))
    assert data.available()["cifar10"] == "pack"
    assert data.available()["mnist"] == "official files"
    data.load("cifar10", "train", download=False)
    assert data.available()["cifar10"] == "pack"
    data.load("cifar10", "test", download=False)
    assert data.available()["cifar10"] == "prepared"


def test_data_root_is_the_environment_else_beside_pyproject(tmp_path, monkeypatch):
    monkeypatch.setenv("AGELIB_DATA", str(tmp_path / "x"))
    assert data.data_root() == tmp_path / "x"
    monkeypatch.delenv("AGELIB_DATA")
    (tmp_path / "data").mkdir()
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert data.data_root() == tmp_path / "data"


@pytest.fixture
def fake_embedded(monkeypatch):
    calls = []

    def draw(name, split, size, seed=0):
        calls.append((name, split, size))
        x = np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
        return np.broadcast_to(x, (5, 1, size, size)).copy(), np.array([0, 1, 0, 1, 1]), ("no", "yes")

    module = SimpleNamespace(
        SETS={"digits": draw}, STAND_IN_FOR={"digits": "MNIST"}, DEFAULT_SIZE={"digits": 28}, VERSION="1", calls=calls
    )
    monkeypatch.setitem(sys.modules, "agelib.data.embedded", module)
    monkeypatch.setattr(agelib.data, "embedded", module, raising=False)
    return module


def test_embedded_sets_are_drawn_once_a_version(root, fake_embedded):
    found = data.load("digits", "test")
    assert found.images.shape == (5, 1, 28, 28) and found.images[:, 0, 3, 3].tolist() == [0, 50, 100, 150, 200]
    assert found.stand_in_for == "MNIST" and found.class_names == ("no", "yes") and not found.complete
    assert found.source == "embedded, 5 test images, a stand-in for MNIST"
    data.load("digits", "test")
    assert fake_embedded.calls == [("digits", "test", 28)]
    colour = data.load("digits", "test", channels=3, size=16)
    assert colour.images.shape == (5, 3, 16, 16) and (colour.images[1] == 50).all()
    fake_embedded.VERSION = "2"
    data.load("digits", "test")
    assert fake_embedded.calls == [("digits", "test", 28), ("digits", "test", 16), ("digits", "test", 28)]


def test_command_lists_and_prepares(pack_of_three, root, capsys):
    assert main([]) == 0
    assert "cifar10         pack\n" in capsys.readouterr().out
    assert main(["cifar10", "--no-download", "--verify"]) == 0
    out = capsys.readouterr().out
    assert "cifar10 train: 3x3x32x32, pack, 3 of 50,000" in out and "cifar10 test: 1x3x32x32" in out
    assert main(["svhn", "--split", "extra", "--no-download"]) == 1
    assert "extra_32x32.mat" in capsys.readouterr().err
