import json

import pytest
import torch
from safetensors import safe_open

from agelib import checkpoint


def test_round_trip_and_keep(tmp_path):
    for step in (5, 7, 20):
        checkpoint.save(tmp_path, step, {"w": torch.arange(3.0) + step, "step": step, "names": ["a", None, 1.5]})
    names = [p.name for p in checkpoint.list_files(tmp_path)]
    assert [n[:14] for n in names] == ["step-000000007", "step-000000020"]
    state, path = checkpoint.read_latest(tmp_path)
    assert state["step"] == 20 and state["w"].tolist() == [20, 21, 22] and state["names"] == ["a", None, 1.5]
    assert path.name == names[-1]
    assert not list(tmp_path.glob(".*"))


def test_empty_folder_has_no_checkpoint(tmp_path):
    assert checkpoint.read_latest(tmp_path) is None
    assert checkpoint.read_latest(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damaged_file_is_named_and_the_one_before_it_used(tmp_path, damage):
    checkpoint.save(tmp_path, 1, {"step": 1, "w": torch.zeros(100)})
    newest = checkpoint.save(tmp_path, 2, {"step": 2, "w": torch.zeros(100)})
    data = bytearray(newest.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    newest.write_bytes({"flip": bytes(data), "truncate": bytes(data[:-50]), "empty": b""}[damage])
    with pytest.warns(RuntimeWarning, match=newest.name):
        state, _ = checkpoint.read_latest(tmp_path)
    assert state["step"] == 1


def test_all_damaged_is_an_error(tmp_path):
    checkpoint.save(tmp_path, 1, {"step": 1}).write_bytes(b"junk")
    with pytest.warns(RuntimeWarning), pytest.raises(checkpoint.CheckpointError, match="none of its 1"):
        checkpoint.read_latest(tmp_path)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = checkpoint.save(tmp_path, 1, {"step": 1, "evil": Evil()})
    with pytest.raises(checkpoint.CheckpointError, match=path.name):
        checkpoint.read(path)


def test_write_bytes_leaves_the_old_file_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    checkpoint.write_json(path, {"a": 1})
    monkeypatch.setattr(checkpoint.os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        checkpoint.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_not_a_number_is_refused_in_json(tmp_path):
    with pytest.raises(ValueError):
        checkpoint.write_json(tmp_path / "m.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


def test_weights_carry_their_config(tmp_path):
    path = tmp_path / "g.safetensors"
    checkpoint.save_weights(path, {"w": torch.ones(2, 2).t()}, {"M": 10})
    assert torch.equal(checkpoint.load_weights(path)["w"], torch.ones(2, 2))
    with safe_open(path, "pt") as f:
        assert json.loads(f.metadata()["config"]) == {"M": 10}
    path.write_bytes(b"not weights")
    with pytest.raises(checkpoint.CheckpointError, match="g.safetensors"):
        checkpoint.load_weights(path)
