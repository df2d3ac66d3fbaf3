import json
import os

import numpy as np
import pytest
import torch

from agelib.training import checkpoint


def test_the_newest_are_kept_and_what_was_saved_is_read(tmp_path):
    os.mkfifo(tmp_path / f"step-{1:09}-{0:016}.pt")  # to be opened it would be waited for
    assert checkpoint.read_latest(tmp_path / "missing") is None and checkpoint.read_latest(tmp_path) is None
    for step in (5, 7, 20):
        checkpoint.save(tmp_path, step, {"w": torch.arange(3.0) + step, "step": step, "names": ["a", None, 1.5]})
    assert [p.name[:14] for p in checkpoint.list_files(tmp_path)] == ["step-000000007", "step-000000020"]
    state, path = checkpoint.read_latest(tmp_path)
    assert state["step"] == 20 and state["w"].tolist() == [20, 21, 22] and state["names"] == ["a", None, 1.5]
    assert path == checkpoint.list_files(tmp_path)[-1] and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", [lambda data: data[:500] + b"?" + data[501:], lambda data: data[:-50], lambda data: b""])
def test_a_damaged_file_is_named_and_the_one_before_it_used(tmp_path, damage):
    older, newest = (checkpoint.save(tmp_path, step, {"step": step, "w": torch.zeros(100)}) for step in (1, 2))
    newest.write_bytes(damage(newest.read_bytes()))
    with pytest.warns(RuntimeWarning, match=newest.name):
        assert checkpoint.read_latest(tmp_path)[0]["step"] == 1
    older.write_bytes(b"junk")
    with pytest.warns(RuntimeWarning), pytest.raises(checkpoint.CheckpointError, match="none of its 2"):
        checkpoint.read_latest(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_a_file_with_code_is_named_in_one_line_and_its_code_not_run(tmp_path, capsys):
    path = checkpoint.save(tmp_path, 1, {"step": 1, "evil": Evil()})
    with pytest.warns(RuntimeWarning, match=f"{path}: damaged: [^\n]*$"), pytest.raises(checkpoint.CheckpointError):
        checkpoint.read_latest(tmp_path)
    assert "executed" not in capsys.readouterr().out


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    checkpoint.write_json(path, {"a": 1})
    with pytest.raises(ValueError):
        checkpoint.write_json(path, {"a": float("nan")})
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_weights_carry_what_they_are_and_each_flipped_byte_of_them_is_found(tmp_path):
    path, how = tmp_path / "model.safetensors", ({"M": 10, "name": "a"}, {"step": 3})
    tensors = {"g.layers.0.weight": torch.ones(2, 3).t(), "g.count": torch.tensor(4), "e.w": torch.zeros(500).bfloat16()}
    checkpoint.save_model(path, tensors, *how)
    found, *about = checkpoint.load_model(path)
    assert tuple(about) == how and found.keys() == tensors.keys()
    assert all(torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items())
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(data) - 1000, len(data), 20):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(checkpoint.CheckpointError, match=f"{path}: damaged, its tensors do not have the checksum"):
            checkpoint.load_model(path)
