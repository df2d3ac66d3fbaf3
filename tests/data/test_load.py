import hashlib
import multiprocessing
import os
import signal

import numpy as np
import pytest

from agelib import data
from agelib.data import DataError, cache, standins
from agelib.data.__main__ import main
from agelib.data.sets import Source


def load(split="train", **options):
    return data.load("cifar10", split, download=False, **options)


def sha256(images, labels):
    return hashlib.sha256(images.tobytes() + np.array(labels, "<i8").tobytes()).hexdigest()


@pytest.fixture
def pack_of_three(make, root):
    x = make.colours(4)
    make.pack(root / "packs" / "cifar10-part1.npz", x, [0, 0, 0, 1], [2, 0, 1, 9])
    return x.transpose(0, 3, 1, 2)


def test_second_load_maps_the_prepared_file_and_needs_no_source(pack_of_three, root, monkeypatch):
    first, digest = load(), sha256(pack_of_three[:3], [2, 0, 1])
    (root / "packs" / "cifar10-part1.npz").unlink()
    second, two = load(), load(limit=2)
    assert isinstance(second.images, np.memmap) and second.source == first.source
    np.testing.assert_array_equal(second.images, pack_of_three[:3])
    assert first.sha256 == second.sha256 == digest == load(limit=3).sha256
    for array in (second.images, second.labels):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    assert two.sha256 == sha256(pack_of_three[:2], [2, 0]) and two.labels.tolist() == [2, 0] and len(two) == 2
    assert two.source.endswith("; the first 2 of them") and not two.complete
    with pytest.raises(DataError, match="no test images at hand"):
        load("test")
    monkeypatch.setattr(cache, "content_sha256", lambda *arrays: pytest.fail("hashed again in this process"))
    load()


def test_size_and_channels_are_caches_of_their_own(pack_of_three, root):
    big, grey = load(size=48), load(channels=1)
    np.testing.assert_array_equal(big.images, np.broadcast_to(pack_of_three[:3, :, :1, :1], (3, 3, 48, 48)))
    # ITU-R 601 luma of the flat colours, rounded by Pillow
    luma = (pack_of_three[:3, :, 0, 0] @ np.array([0.299, 0.587, 0.114])).round()
    np.testing.assert_allclose(grey.images[:, 0, 5, 5], luma, atol=1)
    assert {p.name for p in (root / "prepared").iterdir()} == {"cifar10-3x48", "cifar10-1x32"}


def test_processes_may_prepare_at_once(make, root):
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(300), [0] * 300, [0] * 300)
    with multiprocessing.get_context("fork").Pool(3) as pool:
        digests = pool.map_async(digest_of, range(3), 1).get(timeout=60)
    assert set(digests) == {sha256(make.colours(300).transpose(0, 3, 1, 2), [0] * 300)}
    assert {p.name for p in (root / "prepared" / "cifar10-3x32").iterdir()} == {"train", ".lock"}


def digest_of(_):
    return load().sha256


def ones(n, kill=False):
    def images(size, channels):
        for i in range(n):
            if kill and i == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield np.ones((channels, size, size), np.uint8)

    return Source(n, images, None, None, "a source")


def test_what_a_killed_writer_left_is_swept_away(root):
    folder = root / "prepared" / "x-3x8" / "train"
    worker = multiprocessing.get_context("fork").Process(target=cache.write, args=(folder, "1", ones(3, kill=True), 8, 3))
    worker.start()
    worker.join(timeout=60)
    assert worker.exitcode == -signal.SIGKILL and cache.read(folder, "1") is None
    assert {p.name for p in folder.parent.iterdir()} == {".train.part", ".lock"}
    cache.write(folder, "1", ones(3), 8, 3)
    assert {p.name for p in folder.parent.iterdir()} == {"train", ".lock"}
    assert cache.read(folder, "1")[0].sum() == 3 * 3 * 64 and cache.read(folder, "2") is None
    cache.write(folder, "2", ones(2), 8, 3)  # another recipe takes its place
    assert len(cache.read(folder, "2")[0]) == 2


def test_full_disk_and_unwritable_root_are_clear_errors(pack_of_three, root, monkeypatch, tmp_path):
    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cache.os, "fsync", full)
        with pytest.raises(DataError, match="train: cannot be prepared .*No space left on device"):
            load()
    assert [p.name for p in root.glob("prepared/*/*")] == [".lock"]
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("AGELIB_PACKS", str(root / "packs"))
    monkeypatch.setenv("AGELIB_DATA", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be prepared"):
        load()


def test_missing_set_says_which_files_checksums_and_folder(root):
    with pytest.raises(DataError) as caught:
        data.load("mnist", download=False)
    known = "train-images-idx3-ubyte.gz (md5 f68b3c2dcbeaaa9fbdd348bbdeb94873, https://"
    for part in (known, "train-labels-idx1-ubyte.gz", str(root / "MNIST" / "raw"), str(root / "packs"), "download=False"):
        assert part in str(caught.value)
    with pytest.raises(DataError, match="c3b158d763b6e2245038c8ad08e45376"):
        data.load("stanford_cars")  # never asks the network: there is nothing to ask
    assert not (root / "prepared").exists()


def test_available_has_one_line_a_set_and_does_no_work(make, root, tmp_path, monkeypatch, capsys):
    lines = data.available()
    assert tuple(lines) == data.NAMES and lines["digits"] == lines["cars"] == "embedded"
    assert lines["svhn"].startswith("missing: ") and "test_32x32.mat" in lines["svhn"]
    make.pack(root / "packs" / "cifar10-part1.npz", make.colours(2), [0, 1], [0, 1])
    make.pack(root / "packs" / "svhn-part2.npz", make.colours(2), [0, 1], [0, 1])
    monkeypatch.setenv("AGELIB_PACKS", str(tmp_path / "more"))  # official files may lie beside packs
    for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        make.file(tmp_path / "more" / "MNIST" / "raw" / f"{name}-ubyte.gz", b"")
    lines = data.available()
    assert lines["cifar10"] == "pack" and lines["mnist"] == "official files"
    assert lines["svhn"].startswith("missing: ") and "svhn-part1.npz is missing" in lines["svhn"]
    assert main([]) == main(["--list"]) == 0
    assert capsys.readouterr().out.count("cifar10         pack\n") == 2
    assert main(["--fetch", "cifar10", "--no-download"]) == 0 and data.available()["cifar10"] == "prepared"
    out = capsys.readouterr().out
    assert "cifar10 train: 1x3x32x32, pack, 1 of 50,000" in out and "cifar10 test: 1x3x32x32" in out
    assert main(["--fetch", "tiny_imagenet", "--no-download"]) == 1
    assert "tiny-imagenet-200.zip" in capsys.readouterr().err


def test_data_root_is_the_environment_else_beside_pyproject(tmp_path, monkeypatch):
    monkeypatch.setenv("AGELIB_DATA", str(tmp_path / "x"))
    assert data.data_root() == tmp_path / "x"
    monkeypatch.delenv("AGELIB_DATA")
    for folder in ("data", "notebooks"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert data.data_root() == tmp_path / "data"


def test_stand_ins_are_drawn_once_a_version(root, monkeypatch):
    calls = []

    def draw(name, split, size):
        calls.append((name, split, size))
        x = np.arange(5, dtype=np.uint8)[:, None, None, None] * 50
        return np.broadcast_to(x, (5, 1, size, size)).copy(), np.array([0, 1, 0, 1, 1]), ("no", "yes")

    monkeypatch.setattr(standins, "make", draw)
    found, _, colour = (
        data.load("digits", "test"),
        data.load("digits", "test"),
        data.load("digits", "test", channels=3, size=16),
    )
    assert found.images.shape == (5, 1, 28, 28) and found.images[:, 0, 3, 3].tolist() == [0, 50, 100, 150, 200]
    assert found.class_names == ("no", "yes") and not found.complete and found.caption == "digits, a stand-in for MNIST"
    assert found.source == "embedded, 5 test images, a stand-in for MNIST"
    assert colour.images.shape == (5, 3, 16, 16) and (colour.images[1] == 50).all()
    monkeypatch.setattr(standins, "VERSION", "2")
    data.load("digits", "test")
    assert calls == [("digits", "test", 28), ("digits", "test", 16), ("digits", "test", 28)]
