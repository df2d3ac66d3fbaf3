import json
import os

import numpy as np
import pytest
import torch

from agelib.training import checkpoint


def damaged(data, damage):
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
    return {"flip": flipped, "truncate": data[:-50], "empty": b""}[damage]


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
    newest.write_bytes(damaged(newest.read_bytes(), damage))
    with pytest.warns(RuntimeWarning, match=newest.name):
        state, _ = checkpoint.read_latest(tmp_path)
    assert state["step"] == 1


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    for function in (checkpoint.load_model, checkpoint.read):
        with pytest.raises(checkpoint.CheckpointError, match="model.safetensors: not a plain file"):
            function(tmp_path / "model.safetensors")


def test_all_damaged_is_an_error(tmp_path):
    checkpoint.save(tmp_path, 1, {"step": 1}).write_bytes(b"junk")
    with pytest.warns(RuntimeWarning), pytest.raises(checkpoint.CheckpointError, match="none of its 1"):
        checkpoint.read_latest(tmp_path)


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("state", [{"step": 1, "evil": Evil()}, [1, 2], torch.zeros(3)], ids=["code", "list", "tensor"])
def test_what_is_no_plain_state_is_named_in_one_line_and_its_code_not_run(tmp_path, state, capsys):
    path = checkpoint.save(tmp_path, 1, state)
    with pytest.raises(checkpoint.CheckpointError) as error:
        checkpoint.read(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value) and "executed" not in capsys.readouterr().out


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


MODULES = {
    "g": {"layers.0.weight": torch.ones(2, 3).t(), "count": torch.tensor(4)},
    "e": {"w": torch.zeros(500, dtype=torch.bfloat16)},
}


def test_weights_carry_what_they_are(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, MODULES, {"M": 10, "name": "a"}, {"step": 3})
    states, about, facts = checkpoint.load_model(path)
    assert about == {"M": 10, "name": "a"} and facts == {"step": 3} and checkpoint.model_about(path) == (about, facts)
    assert states.keys() == MODULES.keys()
    for name, state in MODULES.items():
        assert all(torch.equal(states[name][k], v) and states[name][k].dtype == v.dtype for k, v in state.items())


def test_each_flipped_byte_of_a_tensor_is_found(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save_model(path, MODULES, {}, {})
    data = path.read_bytes()
    for at in np.random.default_rng(0).integers(len(data) - 1000, len(data), 20):
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        with pytest.raises(checkpoint.CheckpointError, match=f"{path}: damaged, its tensors do not have the checksum"):
            checkpoint.load_model(path)
