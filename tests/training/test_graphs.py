"""Recorded and replayed updates, on a recorder for the CPU that keeps to a CUDA graph's rules (`tape`)."""

import contextlib
import copy
import functools
import warnings

import fit_worker
import pytest
import torch
from fit_worker import IMAGES, LABELS, VARIANTS
from tape import Tape

from agelib.metrics import classifier
from agelib.training import checkpoint, fit, graphs, hardware

B = 8
BATCHES = [torch.rand(B, 3, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(8)]


def made(variant):
    """(the Step of a variant, its data)."""
    if variant != "classifier":
        return fit_worker.step(variant), IMAGES
    torch.manual_seed(1)
    net = classifier.Classifier(3, 3, 4)
    return classifier.make_step(net, classifier.Config(width=4, precision="fp32")), (IMAGES, LABELS)


@pytest.fixture
def tapes(monkeypatch):
    """Learning rates in tensors, as on CUDA, and tapes in `fit`; the list fills with those that were made."""
    made, steps, replayed = [], [], graphs.Replayed

    def recorder(device):
        made.append(Tape(lambda: graphs._state(steps[-1])))
        return made[-1]

    def follow(step, recorder):
        steps.append(step)
        return replayed(step, recorder)

    monkeypatch.setattr(hardware, "lr_on_device", lambda device: True)
    monkeypatch.setattr(graphs, "recorder", recorder)
    monkeypatch.setattr(graphs, "Replayed", follow)
    return made


def train(step, data, folder, **settings):
    """The history without its seconds, of four epochs of three batches."""
    schedule = fit.Schedule(**{"n_epochs": 4, "batch_size": B, "log_every": 1, "flip": True} | settings)
    fit.fit(step, data, folder, schedule, about={})
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fit.read_history(folder / fit.HISTORY)]


def weights(step):
    return {f"{n}.{k}": v for n, module in step.modules.items() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("variant", [*VARIANTS, "classifier"])
def test_a_replayed_update_trains_bit_for_bit_as_it_does_when_run(variant, tmp_path, tapes, monkeypatch):
    recorded, data = made(variant)
    rows = train(recorded, data, tmp_path / "recorded")
    (tape,) = tapes
    assert tape.n_run == graphs.WARM_UP + graphs.TRIALS
    assert tape.n_replayed == 12 - graphs.WARM_UP
    monkeypatch.setattr(graphs, "recorder", lambda device: None)
    run, data = made(variant)
    assert train(run, data, tmp_path / "run") == rows
    a, b = weights(recorded), weights(run)
    assert all(torch.equal(a[k], b[k]) for k in b) and a.keys() == b.keys()


def test_a_step_that_reads_from_the_device_is_trained_without_a_recording(tmp_path, tapes):
    rows = [train(*made("age"), tmp_path / "plain")]
    reading, data = made("age")
    update = reading.update
    reading.update = lambda x: update(x * float(x.abs().max() > 0))
    with pytest.warns(UserWarning, match="can't be recorded: aten._local_scalar_dense"):
        rows.append(train(reading, data, tmp_path / "reading"))
    assert rows[0] == rows[1]
    assert tapes[1].n_replayed == 0 and tapes[1].n_run == 12


class Wrong(Tape):
    """A recorder whose replays keep one thing as it was when they were recorded."""

    def __init__(self, state, stuck):
        super().__init__(state)
        self.stuck = stuck

    def record(self, function):
        outputs, replay = super().record(function)
        random = torch.get_rng_state()

        def wrong():
            if self.stuck == "random state":
                torch.set_rng_state(random)
                replay()
            elif self.stuck == "half":
                before = [t.detach().clone() for t in self.state()]
                replay()
                for t, value in zip(self.state(), before, strict=True):
                    t.detach().copy_(value if t.ndim == 4 else t)

        return outputs, wrong


@pytest.mark.parametrize("stuck", ["random state", "half", "everything"])
def test_a_recording_that_ends_elsewhere_is_given_up_and_harms_nothing(stuck):
    results = []
    for recorder in (None, Wrong):
        step = fit_worker.step("age", lam=3000.0)
        torch.manual_seed(2)
        state = functools.partial(graphs._state, step)
        iterate = step if recorder is None else graphs.Replayed(step, recorder(state, stuck))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logs = [{k: v.item() for k, v in iterate(x).items()} for x in BATCHES]
        results.append((logs, copy.deepcopy(weights(step))))
    assert [str(w.message) for w in caught if "without a CUDA graph" in str(w.message)], "no word of it"
    assert iterate.given_up
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][k], v) for k, v in results[1][1].items())


def test_another_batch_shape_is_refused():
    step = fit_worker.step("age")
    iterate = graphs.Replayed(step, Tape(lambda: graphs._state(step)))
    for x in BATCHES[:6]:
        iterate(x)
    with pytest.raises(ValueError, match=r"recorded for batches \[\(8, 3, 32, 32\)\], got \[\(4, 3, 32, 32\)\]"):
        iterate(BATCHES[6][:4])


def test_a_run_whose_rate_is_a_tensor_resumes_where_it_is_a_number_and_back(tmp_path, tapes, monkeypatch):
    """A checkpoint of a GPU goes on on a CPU, and the other way round."""
    train(*made("age"), tmp_path, max_steps=6)
    seen = []

    def noting():
        step, data = made("age")
        update = step.update
        step.update = lambda x: seen.append(step.optimizers["g"].param_groups[0]["lr"]) or update(x)
        (tmp_path / fit.MODEL).unlink()
        return step, data

    monkeypatch.setattr(fit, "_compare", lambda *_: None)  # more iterations than it was made for
    with monkeypatch.context() as cpu:
        cpu.setattr(hardware, "lr_on_device", lambda device: False)
        cpu.setattr(graphs, "recorder", lambda device: None)
        step, data = noting()
        train(step, data, tmp_path, max_steps=9)
    assert seen == [1e-3 / 8] * 3 and not step.optimizers["g"].param_groups[0]["capturable"]  # the third epoch's rate
    step, data = noting()
    train(step, data, tmp_path, max_steps=12)
    assert isinstance(seen[-1], torch.Tensor) and seen[-1].item() == pytest.approx(1e-3 / 16)
    assert step.optimizers["g"].param_groups[0]["capturable"]


def test_weights_kept_on_the_way_are_kept_of_replayed_iterations_too(tmp_path, tapes):
    step, data = made("age")
    train(step, data, tmp_path, max_steps=8, snapshots=4)
    files = sorted((tmp_path / fit.SNAPSHOTS).iterdir())
    assert [int(path.stem) for path in files] == [2, 4, 6, 8] and tapes[0].n_replayed == 5
    kept = [checkpoint.load_model(path)[0]["g"] for path in files]
    assert len({float(state["layers.0.weight"].sum()) for state in kept}) == 4
    assert all(torch.equal(kept[-1][k], v) for k, v in step.modules["g"].state_dict().items())


def test_the_cuda_recorder_works_on_its_own_stream_and_leaves_the_present_one(monkeypatch):
    """Against a stand-in for torch.cuda that notes which stream is the present one."""
    current, log = ["default"], []

    class Stream(str):
        def __new__(cls, name="own"):
            return super().__new__(cls, "own" if name != "default" else name)

        def wait_stream(self, other):
            log.append((str(self), "waits for", str(other)))

    @contextlib.contextmanager
    def on(stream, fails=False):
        current[0] = stream
        yield
        if fails:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")  # and no way back, as in torch.cuda.graph
        current[0] = Stream("default")

    graph = type("CUDAGraph", (), {"replay": lambda self: log.append("replayed")})
    fake = {
        "Stream": Stream, "CUDAGraph": graph, "stream": on, "current_stream": lambda: Stream(current[0]),
        "set_stream": lambda stream: current.__setitem__(0, stream),
        "graph": lambda graph, stream, capture_error_mode: on(stream, fails=log[-1] == "next fails"),
    }  # fmt: skip
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    recorder = graphs.recorder(torch.device("cuda"))
    assert recorder.run(lambda: current[0]) == "own" and current[0] == "default"
    assert log == [("own", "waits for", "default"), ("default", "waits for", "own")]
    result, replay = recorder.record(lambda: {"stream": current[0]})
    assert result == {"stream": "own"} and current[0] == "default"
    replay()
    assert log.pop() == "replayed"
    log.append("next fails")
    with pytest.raises(RuntimeError, match="Invalidated"):
        recorder.record(dict)
    assert current[0] == "default"


def test_no_recorder_on_a_cpu():
    step = fit_worker.step("age")
    assert graphs.replayed(step, torch.device("cpu")) is step
