"""./run_all.sh from outside, on tiny notebooks: what it says, runs, leaves alone, survives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from agelib import decoders

ROOT = Path(__file__).resolve().parents[1]
GIVEN = 'out_dir = "results/x"\nprofile = "none"\nrun_name = "x"\n'
PROFILE = """
profile: tiny
about: four tiny runs
minutes: 0.5
runs:
  second: {notebook: train, minutes: 0.1, needs: [first], params: {value: 2e-1}}
  first: {notebook: train, minutes: 0.1}
  bad: {notebook: train, minutes: 0.1, params: {fail: true}}
  after_bad: {notebook: train, minutes: 0.1, needs: [bad]}
"""
TRAIN = """
import json, os, pathlib, sys, time
began = time.time()
out = pathlib.Path(out_dir)
out.mkdir(parents=True, exist_ok=True)
with open(out / "starts.txt", "a") as file:
    print(os.getpid(), file=file)
if (out / "starts.txt").read_text().count("\\n") == 1:
    time.sleep(hang_first)
record = dict(status="failed" if fail else "ok", value=value, needs=needs, python=sys.executable, cwd=os.getcwd(),
              threads=os.environ["OMP_NUM_THREADS"], began=began, ended=time.time())
(out / "metrics.json").write_text(json.dumps(record))
if fail:
    raise ArithmeticError("the loss is not finite")
"""
SUMMARY = """
import json, pathlib
paths = pathlib.Path(results_dir).glob("*/metrics.json")
found = {path.parent.name: json.loads(path.read_text())["status"] for path in paths}
pathlib.Path(out_dir).mkdir(parents=True, exist_ok=True)
(pathlib.Path(out_dir) / "metrics.json").write_text(json.dumps(dict(status="ok", found=found)))
"""


def notebook(path: Path, *cells: str) -> None:
    parameters, *others = cells
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})]
    cells += [nbformat.v4.new_code_cell(source) for source in others]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


def _mind_ctrl_c() -> None:
    """Undoes what a script's `&` does to its children, and theirs: ignore Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Suite:
    """A results folder, notebooks and a profile of their own; run(...) calls run_all.sh on them from that folder."""

    def __init__(self, folder: Path, profile: str = PROFILE):
        self.folder, self.results = folder, folder / "the results"
        (folder / "notebooks").mkdir()
        notebook(
            folder / "notebooks/train.ipynb", GIVEN + "value = 1.0\nfail = False\nhang_first = 0.0\nneeds = {}", TRAIN
        )
        notebook(folder / "notebooks/99_summary.ipynb", GIVEN + 'results_dir = "results"', SUMMARY)
        (folder / "mine.yaml").write_text(profile)
        # A kernel of the same name that the user has registered for another interpreter must not be taken.
        kernel = folder / "user/kernels/python3"
        kernel.mkdir(parents=True)
        spec = {"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(spec))
        self.env = os.environ | {
            "VIRTUAL_ENV": sys.prefix,
            "AGELIB_NOTEBOOKS": str(folder / "notebooks"),
            "AGELIB_RESULTS": str(self.results),
            "JUPYTER_DATA_DIR": str(folder / "user"),
        }

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [ROOT / "run_all.sh", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=_mind_ctrl_c,
        )  # fmt: skip

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1800)
        return process.returncode, output

    def metrics(self, run: str) -> dict:
        return json.loads((self.results / "tiny" / run / "metrics.json").read_text())

    def starts(self, run: str) -> list[int]:
        path = self.results / "tiny" / run / "starts.txt"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []


def test_one_failure_stops_no_other_run_and_a_second_call_does_what_is_left(tmp_path):
    suite = Suite(tmp_path)
    code, output = suite.run("--profile", "mine.yaml", "--cores", "1")
    assert code == 1
    assert "profile  tiny: four tiny runs" in output and "why      asked for" in output
    assert "data     embedded: digits" in output
    assert "runs     4 to do, 0 done, then the summary" in output and "time     about 30 s on 2 CPU cores" in output
    assert output.splitlines()[-4:] == [
        "FAILED: 2 of 5 runs of profile tiny",
        "  bad: ArithmeticError: the loss is not finite",
        f"    {suite.results}/tiny/bad/notebook.ipynb",
        "  after_bad: not run, because it needs bad",
    ]
    second = suite.metrics("second")
    assert (second["value"], second["cwd"], second["threads"]) == (0.2, str(ROOT), "1")
    assert Path(second["python"]).parent == Path(sys.executable).parent
    assert second["needs"] == {"first": f"{suite.results}/tiny/first"}
    assert suite.metrics("summary")["found"] == {"first": "ok", "second": "ok", "bad": "failed"}
    assert "the loss is not finite" in (suite.results / "tiny/bad/notebook.ipynb").read_text()
    assert "<html" in (suite.results / "tiny/first/notebook.html").read_text()

    # The failed run alone is tried again; then its parameters are mended, which is seen, and the rest follows.
    mended = PROFILE.replace("{fail: true}", "{fail: false}").replace("[bad]", "[]").replace("  after_bad", "  alone")
    (tmp_path / "mine.yaml").write_text(mended)
    code, output = suite.run("--profile", "mine.yaml", "--cores", "1", "--only", "bad")
    assert code == 0, output
    assert output.splitlines()[-1].startswith("all well: 1 runs and the summary")
    assert [len(suite.starts(run)) for run in ("first", "second", "bad", "alone")] == [1, 1, 2, 0]
    assert suite.metrics("summary")["found"] == {"first": "ok", "second": "ok", "bad": "ok"}

    # Nothing is left of what --only asks for: nothing starts.
    before = {path: path.stat().st_mtime_ns for path in suite.results.glob("tiny/*/metrics.json")}
    code, output = suite.run("--profile", "mine.yaml", "--cores", "1", "--only", "bad", "second")
    assert code == 0, output
    assert "runs     0 to do, 3 done, then the summary" in output
    assert {path: path.stat().st_mtime_ns for path in suite.results.glob("tiny/*/metrics.json")} == before

    code, output = suite.run("--profile", "mine.yaml", "--list")
    assert code == 0
    assert [line.split()[:2] for line in output.splitlines() if line.startswith("  done")] == [
        ["done", "first"], ["done", "second"], ["done", "bad"],
    ]  # fmt: skip
    code, output = suite.run("--profile", "mine.yaml", "--dry-run")
    assert code == 0 and "nothing was started" in output and "tiny/alone/metrics.json" in output
    assert suite.starts("alone") == []


HANGING = """
profile: tiny
about: one run that hangs when it is started for the first time
minutes: 1
runs:
  first: {notebook: train, minutes: 1, params: {hang_first: 600}}
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_the_same_command_goes_on_after_an_end_in_the_middle(tmp_path, signum):
    suite = Suite(tmp_path, HANGING)
    process = suite.start("--profile", "mine.yaml")
    deadline = time.monotonic() + 600
    while not suite.starts("first"):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    kernel = psutil.Process(suite.starts("first")[0])
    if signum == signal.SIGKILL:
        # While it runs, a second one keeps its hands off.
        code, output = suite.run("--profile", "mine.yaml")
        assert code == 2 and f"another run_all.sh is at work in {suite.results} (process {process.pid})" in output
        process.kill()  # the runner alone: Snakemake and the notebook live on
        process.stdout.close()
        assert process.wait(timeout=60) == -signal.SIGKILL
        assert kernel.is_running()
    else:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 130 and output.splitlines()[-1].endswith("the same command goes on from here")
        assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    code, output = suite.run("--profile", "mine.yaml")
    assert code == 0, output
    assert not kernel.is_running() or kernel.status() == psutil.STATUS_ZOMBIE
    assert len(suite.starts("first")) == 2
    assert suite.metrics("summary")["found"] == {"first": "ok"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "absent"], "--profile absent: neither a file nor one of: claims, colors, digits, lambda_sweep, "),
        (["--profile", "mine.yaml", "--only", "frist"], "no run 'frist'; its runs are: first, second, bad, "),
        (["--profile", "wrong.yaml"], "run first: notebook train has no parameter 'valeu'; valid: fail, "),
        (["--profile", "quick.yaml"], "quick is the name of config/quick.yaml; take another one"),
        (["--profile", "mine.yaml", "--cores", "0"], "--cores must be at least 1, is 0"),
    ],
)  # fmt: skip
def test_a_wrong_call_starts_nothing(tmp_path, arguments, message):
    suite = Suite(tmp_path)
    (tmp_path / "wrong.yaml").write_text(PROFILE.replace("minutes: 0.1}", "minutes: 0.1, params: {valeu: 1}}", 1))
    (tmp_path / "quick.yaml").write_text(PROFILE.replace("profile: tiny", "profile: quick"))
    code, output = suite.run(*arguments)
    assert code == 2
    assert message in output
    assert not suite.results.exists()


@pytest.mark.parametrize(("head", "threads", "together"), [("threads: 1\n", "1", True), ("", "2", False)])
def test_runs_go_side_by_side_where_the_profile_gives_each_one_core(tmp_path, head, threads, together):
    runs = "".join(f"  {name}: {{notebook: train, minutes: 2, params: {{hang_first: 6}}}}\n" for name in "ab")
    suite = Suite(tmp_path, f"profile: tiny\nabout: two\nminutes: 3\n{head}runs:\n{runs}")
    code, output = suite.run("--profile", "mine.yaml", "--cores", "2")
    assert code == 0, output
    a, b = suite.metrics("a"), suite.metrics("b")
    assert a["threads"] == b["threads"] == threads
    assert (min(a["ended"], b["ended"]) > max(a["began"], b["began"])) == together


def test_long_runs_start_first(tmp_path):
    lengths = {"a": 1, "b": 9, "c": 2}
    runs = "".join(f"  {name}: {{notebook: train, minutes: {minutes}}}\n" for name, minutes in lengths.items())
    suite = Suite(tmp_path, f"profile: tiny\nabout: three\nminutes: 9\nthreads: 1\nruns:\n{runs}")
    for _ in range(2):  # the second time they are done
        code, output = suite.run("--profile", "mine.yaml", "--cores", "1")
        assert code == 0, output
        began = {name: suite.metrics(name)["began"] for name in lengths}
        assert began["b"] < min(began["a"], began["c"])


def test_the_smoke_profile_runs_every_notebook(tmp_path):
    """The real notebooks on embedded data, and every file of a run's folder that the README names."""
    env = os.environ | {"VIRTUAL_ENV": sys.prefix, "AGELIB_RESULTS": str(tmp_path)}
    command = [ROOT / "run_all.sh", "--profile", "smoke"]
    result = subprocess.run(command, env=env, cwd=tmp_path, text=True, capture_output=True, timeout=3000)
    assert result.returncode == 0, result.stdout + result.stderr
    runs = {path.name for path in (tmp_path / "smoke").iterdir() if path.is_dir()}
    every = {"digits", "faces", "colorization", "likelihood", "theory", "inception_score", "svhn_features", "summary"}
    assert runs == every
    for run in ("digits", "faces"):
        folder = tmp_path / "smoke" / run
        for name in (
            "notebook.ipynb",
            "notebook.html",
            "metrics.json",
            "config.json",
            "history.csv",
            "figures",
            "checkpoints",
        ):
            assert (folder / name).exists(), f"{run}/{name}"
        assert list((folder / "figures").glob("*.png"))
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["run"], metrics["profile"], metrics["status"]) == (run, "smoke", "ok")
        assert metrics["rows"]
    numbers = json.loads((tmp_path / "smoke/likelihood/metrics.json").read_text())["rows"]
    estimated = {row["model"] for row in numbers if row["metric"] == "log_likelihood_ais_test" and row["value"] is not None}
    assert estimated == set(decoders.NAMES.values())
    scored = json.loads((tmp_path / "smoke/inception_score/metrics.json").read_text())["rows"]
    ages = {"AGE", "AGE, Gaussian prior"}
    models = ages | {f"{age}, batch statistics" for age in ages} | {"ALI", "DCGAN", "VAE"}
    found = {row["model"] for row in scored if row["metric"] == "classifier_score" and row["value"] is not None}
    assert found == {"real test images", "real training images"} | models
    told = (tmp_path / "smoke/inception_score/notebook.ipynb").read_text()
    assert "Inception Score: left out: not-there.pth: no such file" in told
    judged = json.loads((tmp_path / "smoke/svhn_features/metrics.json").read_text())["rows"]
    errors = {row["model"] for row in judged if row["metric"] == "test_error_percent" and row["value"] is not None}
    assert {"AGE", "AGE, F1", "ALI", "DCGAN", "untrained encoder", "PCA", "raw pixels"} <= errors
    painted = json.loads((tmp_path / "smoke/colorization/metrics.json").read_text())["rows"]
    recalled = {row["model"] for row in painted if row["metric"] == "mode recall" and 0 <= row["value"] <= 1}
    assert recalled == {"AGE", "AGE without the game", "pix2pix + noise", "L1 regression"}
    assert (tmp_path / "smoke/colorization/figures/figure4a.png").is_file()
    assert (tmp_path / "smoke" / "index.html").is_file()
