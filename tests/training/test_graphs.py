"""Recorded and replayed updates, on a recorder for the CPU that keeps to a CUDA graph's rules (`tape`)."""

import contextlib
import warnings

import fit_worker
import pytest
import torch
from fit_worker import IMAGES, LABELS, VARIANTS
from tape import Tape

from agelib.metrics import classifier
from agelib.training import fit, graphs, hardware

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
    made = []

    class OnTape(graphs.Replayed):
        def __init__(self, step, recorder):
            made.append(Tape(step))
            super().__init__(step, made[-1])

    monkeypatch.setattr(hardware, "lr_on_device", lambda device: True)
    monkeypatch.setitem(graphs.RECORDERS, "cpu", id)
    monkeypatch.setattr(graphs, "Replayed", OnTape)
    return made


def train(step, data, folder, **settings):
    """The rows of four epochs of three batches, and all weights at the end and on the way."""
    schedule = {"n_epochs": 4, "batch_size": B, "log_every": 1, "flip": True} | settings
    fit.fit(step, data, folder, fit.Schedule(**schedule), about={})
    return fit_worker.rows(folder), fit_worker.tensors(folder)


def assert_same(a, b):
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


@pytest.mark.parametrize("variant", [*VARIANTS, "classifier"])
def test_a_replayed_update_trains_bit_for_bit_as_it_does_when_run(variant, tmp_path, tapes, monkeypatch):
    rows, weights = train(*made(variant), tmp_path / "recorded", snapshots=4)
    assert (tapes[0].n_run, tapes[0].n_replayed) == (graphs.WARM_UP + graphs.TRIALS, 12 - graphs.WARM_UP)
    monkeypatch.delitem(graphs.RECORDERS, "cpu")
    as_run = train(*made(variant), tmp_path / "run", snapshots=4)
    assert len(tapes) == 1 and rows == as_run[0] and len({file for file, _ in weights}) == 5
    assert_same(weights, as_run[1])


def test_a_step_that_reads_from_the_device_is_trained_without_a_recording(tmp_path, tapes):
    plain = train(*made("age"), tmp_path / "plain")
    reading, data = made("age")
    update = reading.update
    reading.update = lambda x: update(x * float(x.abs().max() > 0))
    with pytest.warns(UserWarning, match="can't be recorded: aten._local_scalar_dense"):
        found = train(reading, data, tmp_path / "reading")
    assert plain[0] == found[0] and (tapes[1].n_run, tapes[1].n_replayed) == (12, 0)


class Wrong(Tape):
    """A recorder whose replays keep one thing as it was when they were recorded."""

    def __init__(self, step, stuck):
        super().__init__(step)
        self.stuck = stuck

    def record(self, function):
        outputs, replay = super().record(function)
        random = torch.get_rng_state()

        def wrong():
            before = [t.detach().clone() for t in self.state()]
            if self.stuck == "random state":
                torch.set_rng_state(random)
            replay()
            for t, value in zip(self.state(), before, strict=True):
                if self.stuck == "everything" or (self.stuck == "half" and t.ndim == 4):
                    t.detach().copy_(value)

        return outputs, wrong


@pytest.mark.parametrize("stuck", ["random state", "half", "everything"])
def test_a_recording_that_ends_elsewhere_is_given_up_and_harms_nothing(stuck):
    steps = [fit_worker.step("age", lam=3000.0) for _ in range(2)]
    logs = []
    for iterate in (steps[0], graphs.Replayed(steps[1], Wrong(steps[1], stuck))):
        torch.manual_seed(2)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logs.append([{k: v.item() for k, v in iterate(x).items()} for x in BATCHES])
    assert [str(w.message) for w in caught if "without a CUDA graph" in str(w.message)], "no word of it"
    assert iterate.replay is None and logs[0] == logs[1]
    assert_same(*(torch.nn.ModuleDict(step.modules).state_dict() for step in steps))


def test_another_batch_shape_is_refused():
    step = fit_worker.step("age")
    iterate = graphs.Replayed(step, Tape(step))
    for x in BATCHES[:6]:
        iterate(x)
    with pytest.raises(ValueError, match=r"recorded for batches \[\(8, 3, 32, 32\)\], got \[\(4, 3, 32, 32\)\]"):
        iterate(BATCHES[6][:4])
    assert graphs.replayed(step, torch.device("cpu")) is step


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
        cpu.delitem(graphs.RECORDERS, "cpu")
        step, data = noting()
        train(step, data, tmp_path, max_steps=9)
    assert seen == [1e-3 / 8] * 3 and not step.optimizers["g"].param_groups[0]["capturable"]  # the third epoch's rate
    step, data = noting()
    train(step, data, tmp_path, max_steps=12)
    assert isinstance(seen[-1], torch.Tensor) and seen[-1].item() == pytest.approx(1e-3 / 16)
    assert step.optimizers["g"].param_groups[0]["capturable"]


def test_the_cuda_recorder_works_on_its_own_stream_and_leaves_the_present_one(monkeypatch):
    """Against a stand-in for torch.cuda that notes which stream is the present one."""
    current, log = ["default"], []

    class Stream(str):
        def wait_stream(self, other):
            log.append(f"{self} waits for {other}")

    @contextlib.contextmanager
    def on(stream, fails=False):
        current[0] = stream
        yield
        if fails:
            raise RuntimeError("cudaErrorStreamCaptureInvalidated")  # and no way back, as in torch.cuda.graph
        current[0] = "default"

    fake = {
        "Stream": lambda device: Stream("own"), "stream": on, "current_stream": lambda: Stream(current[0]),
        "set_stream": lambda stream: current.__setitem__(0, stream),
        "CUDAGraph": type("CUDAGraph", (), {"replay": lambda self: log.append("replayed")}),
        "graph": lambda graph, stream, capture_error_mode: on(stream, fails=log[-1] == "next fails"),
    }  # fmt: skip
    for name, value in fake.items():
        monkeypatch.setattr(torch.cuda, name, value)
    recorder = graphs.RECORDERS["cuda"](torch.device("cuda"))
    assert recorder.run(lambda: current[0]) == "own" and current[0] == "default"
    assert log == ["own waits for default", "default waits for own"]
    result, replay = recorder.record(lambda: {"stream": current[0]})
    replay()
    assert result == {"stream": "own"} and current[0] == "default" and log[-1] == "replayed"
    log.append("next fails")
    with pytest.raises(RuntimeError, match="Invalidated"):
        recorder.record(dict)
    assert current[0] == "default"
