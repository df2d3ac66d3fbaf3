import contextlib
import copy
import functools
import warnings

import numpy as np
import pytest
import torch
from tape import Tape

from agelib import age, bench, conditional, fast, fit, graphs, models, networks
from agelib.baselines import ali, gan, pix2pix, vae
from agelib.run import Run

B = 8
IMAGES = np.random.default_rng(0).integers(0, 256, (3 * B, 3, 32, 32), dtype=np.uint8)


def age_step(spectral_norm=False, **config):
    prior = config.get("prior", "sphere")
    nets = networks.build(32, 6, width=4, prior=prior, in_bias=True, spectral_norm=spectral_norm)
    return age.make_step(nets, age.AgeConfig(M=6, lr=1e-3, drop_lr=1, **config))


def ali_step():
    return ali.make_step(ali.build("svhn", 32, M=6, width=0.125), ali.AliConfig(noise=0.1, ema=0.9, d_lr=1e-4))


METHODS = {
    "age": lambda: age_step(),
    "age, all stabilisers": lambda: age_step(
        margin=0.5, ema=0.9, ema_e=0.8, extra_kl_real=0.3, recon_x_in_g=2.0, recon_x="l2", spectral_norm=True
    ),
    "age, gaussian": lambda: age_step(prior="gaussian", objective="paper"),
    "age, nearest": lambda: age_step(divergence="nearest"),
    "age, bf16": lambda: age_step(precision="bf16"),
    "conditional": lambda: conditional.make_step(
        conditional.build(32, width=4, e_width=4, n_blocks=1), conditional.ConditionalConfig(ema=0.9, drop_lr=1)
    ),
    "pix2pix": lambda: pix2pix.make_step(pix2pix.build(32, width=4, d_width=4), pix2pix.Pix2pixConfig()),
    "ali": ali_step,
    "vae": lambda: vae.make_step(vae.build(32, 6, width=4), vae.VaeConfig()),
    "gan": lambda: gan.make_step(gan.build(32, width=4), gan.GanConfig()),
}


@pytest.fixture
def tapes(monkeypatch):
    """Learning rates in tensors, as on CUDA, and tapes in `fit`; the list fills with those that were made."""
    made = []
    steps = []
    replayed = graphs.Replayed

    def recorder(device):
        made.append(Tape(lambda: graphs._state(steps[-1])))
        return made[-1]

    def follow(step, recorder):
        steps.append(step)
        return replayed(step, recorder)

    monkeypatch.setattr(fast, "lr_on_device", lambda device: True)
    monkeypatch.setattr(graphs, "recorder", recorder)
    monkeypatch.setattr(graphs, "Replayed", follow)
    return made


def train(step, out_dir, **settings):
    settings = {"n_epochs": 4, "batch_size": B, "seed": 0, "log_every": 1, "flip": True} | settings
    return fit.fit(step, IMAGES, run=Run(out_dir, {}, seed=0), **settings)


def without_seconds(rows):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def weights(step):
    return {f"{n}.{k}": v for n, module in step.modules.items() for k, v in module.state_dict().items()}


@pytest.mark.parametrize("name", METHODS)
def test_a_replayed_update_trains_bit_for_bit_as_it_does_when_run(name, tmp_path, tapes, monkeypatch):
    torch.manual_seed(1)
    recorded = METHODS[name]()
    rows = train(recorded, tmp_path / "recorded")
    (tape,) = tapes
    assert tape.n_run == graphs.WARM_UP + graphs.TRIALS
    assert tape.n_replayed == 12 - graphs.WARM_UP  # four epochs of three batches; the lr was halved on the way
    monkeypatch.setattr(graphs, "recorder", lambda device: None)
    torch.manual_seed(1)
    run = METHODS[name]()
    assert without_seconds(train(run, tmp_path / "run")) == without_seconds(rows)
    a, b = weights(recorded), weights(run)
    assert all(torch.equal(a[k], b[k]) for k in b) and a.keys() == b.keys()


def test_a_step_that_reads_from_the_device_is_trained_without_a_recording(tmp_path, tapes):
    def reading(step):
        update = step.update
        step.update = lambda x: update(x * float(x.abs().max() > 0))
        return step

    torch.manual_seed(1)
    plain = age_step()
    rows = [without_seconds(train(plain, tmp_path / "plain"))]
    torch.manual_seed(1)
    with pytest.warns(UserWarning, match="can't be recorded: aten._local_scalar_dense"):
        rows.append(without_seconds(train(reading(age_step()), tmp_path / "reading")))
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
def test_a_recording_that_ends_elsewhere_is_given_up_and_harms_nothing(stuck, monkeypatch):
    batches = [torch.rand(B, 3, 32, 32, generator=torch.Generator().manual_seed(i)) * 2 - 1 for i in range(8)]
    results = []
    for recorder in (None, Wrong):
        torch.manual_seed(1)
        step = age_step(lam=3000.0)
        torch.manual_seed(2)
        state = functools.partial(graphs._state, step)
        iterate = step if recorder is None else graphs.Replayed(step, recorder(state, stuck))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logs = [{k: v.item() for k, v in iterate(x).items()} for x in batches]
        results.append((logs, copy.deepcopy(weights(step))))
    assert [str(w.message) for w in caught if "without a CUDA graph" in str(w.message)], "no word of it"
    assert iterate.given_up
    assert results[0][0] == results[1][0]
    assert all(torch.equal(results[0][1][k], v) for k, v in results[1][1].items())


def test_another_batch_shape_is_refused():
    step = age_step()
    iterate = graphs.Replayed(step, Tape(lambda: graphs._state(step)))
    for _ in range(6):
        iterate(torch.rand(B, 3, 32, 32))
    with pytest.raises(ValueError, match=r"recorded for batches \(8, 3, 32, 32\), got \(4, 3, 32, 32\)"):
        iterate(torch.rand(4, 3, 32, 32))


def test_a_run_whose_rate_is_a_tensor_resumes_where_it_is_a_number_and_back(tmp_path, tapes, monkeypatch):
    """A checkpoint of a GPU goes on on a CPU, and the other way round."""
    torch.manual_seed(1)
    train(age_step(), tmp_path, max_steps=6)
    seen = []

    def noting(step):
        step.after = lambda: seen.append(step.optimizers["g"].param_groups[0]["lr"])
        return step

    monkeypatch.setattr(fit, "_differences", lambda old, new: [])  # more iterations than it was made for
    with monkeypatch.context() as cpu:
        cpu.setattr(fast, "lr_on_device", lambda device: False)
        cpu.setattr(graphs, "recorder", lambda device: None)
        step = noting(age_step())
        train(step, tmp_path, max_steps=9)
    assert seen == [1e-3 / 8] * 3 and not step.optimizers["g"].param_groups[0]["capturable"]  # the third epoch's rate
    step = noting(age_step())
    train(step, tmp_path, max_steps=12)
    assert isinstance(seen[-1], torch.Tensor) and seen[-1].item() == pytest.approx(1e-3 / 16)
    assert step.optimizers["g"].param_groups[0]["capturable"]


def test_weights_kept_on_the_way_are_kept_of_replayed_iterations_too(tmp_path, tapes):
    settings = {"n_steps": 8, "M": 6, "width": 4, "batch_size": B}
    model = models.train("age", "none", IMAGES, tmp_path, snapshots=4, **settings)
    assert sorted(model.snapshots) == [2, 4, 6, 8] and tapes[0].n_replayed == 5
    files = [path.read_bytes() for path in model.snapshots.values()]
    assert len(set(files)) == 4


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


def test_the_benchmark_times_replays_where_there_is_a_recorder(tapes, monkeypatch):
    x = torch.rand(B, 3, 32, 32)
    step = age_step()
    update = bench.as_in_fit(step, x)
    ran = tapes[0].n_run
    update(x)
    assert (tapes[0].n_run, tapes[0].n_replayed) == (ran, graphs.TRIALS + 1)
    monkeypatch.setattr(graphs, "recorder", lambda device: None)
    assert bench.as_in_fit(step, x) is step


def test_no_recorder_on_a_cpu():
    assert graphs.recorder(torch.device("cpu")) is None
