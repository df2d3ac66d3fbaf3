"""./run_all.sh from outside, on tiny notebooks: what it says, runs, leaves alone, survives."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import psutil
import pytest

from suite import runner
from suite.params import ROOT

PROFILE = """
profile: tiny
about: four tiny runs
minutes: 0.5
threads: 1
runs:
  second: {notebook: train, minutes: 0.1, needs: [first], params: {value: 2e-1}}
  first: {notebook: train, minutes: 0.1}
  bad: {notebook: train, minutes: 0.1, params: {fail: true}}
  after_bad: {notebook: train, minutes: 0.1, needs: [bad]}
"""
PARAMETERS = """
out_dir: str = "results/x"  # folder
value: float = 1.0  # a number
fail: bool = False
unfinished: bool = False  # leaves its numbers where they are
hang_first: float = 0.0  # seconds
needs: dict[str, str] = {}
"""
TRAIN = """
import json, os, pathlib, sys, time
began = time.time()
out = pathlib.Path(out_dir)
with open(out / "starts.txt", "a") as file:
    print(os.getpid(), file=file)
if (out / "starts.txt").read_text().count("\\n") == 1:
    time.sleep(hang_first)
if fail:
    raise ArithmeticError("the loss is not finite")
record = dict(value=value, needs=needs, python=sys.executable, cwd=os.getcwd(), began=began, ended=time.time())
record["threads"] = os.environ["OMP_NUM_THREADS"]
record["of"] = {run: json.load(open(f"{folder}/metrics.json"))["value"] for run, folder in needs.items()}
(out / (".new" if unfinished else "") / "metrics.json").write_text(json.dumps(record))
"""
SUMMARY = """
import json, pathlib
found = sorted({path.parent.name for path in pathlib.Path(results_dir).glob("*/metrics.json")} - {"summary"})
(pathlib.Path(out_dir) / "metrics.json").write_text(json.dumps(dict(found=found)))
"""


def notebook(path: Path, parameters: str, source: str) -> None:
    cells = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), nbformat.v4.new_code_cell(source)]
    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.parent.mkdir(exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=metadata), path)


class Suite:
    """A results folder, notebooks and a profile of their own; run(...) calls run_all.sh on them from that folder."""

    def __init__(self, folder: Path, profile: str = PROFILE):
        self.folder, self.results = folder, folder / "the results"
        notebook(folder / "notebooks/train.ipynb", PARAMETERS, TRAIN)
        notebook(folder / "notebooks/99_summary.ipynb", "out_dir: str = 'x'\nresults_dir: str = 'results'", SUMMARY)
        self.plan(profile)
        # A kernel of the same name that the user has registered for another interpreter must not be taken.
        kernel = folder / "user/kernels/python3/kernel.json"
        kernel.parent.mkdir(parents=True)
        kernel.write_text('{"argv": ["/bin/false"], "display_name": "Python 3", "language": "python"}')
        self.env = os.environ | {
            "VIRTUAL_ENV": sys.prefix,
            "AGELIB_NOTEBOOKS": str(folder / "notebooks"),
            "AGELIB_RESULTS": str(self.results),
            "JUPYTER_DATA_DIR": str(folder / "user"),
        }

    def plan(self, profile: str) -> None:
        (self.folder / "mine.yaml").write_text(profile)

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [ROOT / "run_all.sh", "--profile", "mine.yaml", *arguments]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip  # a script's `&` makes its children ignore Ctrl-C

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=1800)
        return process.returncode, output

    def states(self) -> tuple[str, dict[str, str]]:
        """The header's line of counts, and run -> done, elsewhere or "", of --list."""
        code, output = self.run("--list")
        assert code == 0, output
        rows = [line for line in output.splitlines() if line.startswith("  ")]
        (counts,) = [line for line in output.splitlines() if line.startswith("runs ")]
        return counts, {line[12:36].strip(): line[2:11].strip() for line in rows}

    def metrics(self, run: str) -> dict:
        return json.loads((self.results / "tiny" / run / "metrics.json").read_text())

    def starts(self, *runs: str) -> list[int]:
        """How often each has been started."""
        return [len(self.pids(run)) for run in runs]

    def pids(self, run: str) -> list[int]:
        path = self.results / "tiny" / run / "starts.txt"
        return [int(pid) for pid in path.read_text().split()] if path.exists() else []

    def written(self) -> dict[Path, int]:
        """When each of the results was written."""
        return {path: path.stat().st_mtime_ns for path in self.results.glob("tiny/*/metrics.json")}


def test_one_failure_stops_no_other_run_and_a_second_call_does_what_is_left(tmp_path):
    suite = Suite(tmp_path)
    nothing = dict.fromkeys(["first", "bad", "second", "after_bad", "summary"], "")
    assert suite.states() == ("runs     4 to do, 0 done, then the summary", nothing)
    code, output = suite.run("--cores", "2")
    assert code == 1, output
    assert "profile  tiny: four tiny runs" in output and "why      asked for" in output
    assert "data     embedded: digits" in output and "time     about 30 s on 2 CPU cores" in output
    assert output.splitlines()[-4:] == [
        "FAILED: 2 of 5 runs of profile tiny",
        "  bad: ArithmeticError: the loss is not finite",
        f"    {suite.results}/tiny/bad/.new/notebook.ipynb",
        "  after_bad: not run, because it needs bad",
    ]
    second = suite.metrics("second")
    assert (second["value"], second["cwd"], second["threads"], second["of"]) == (0.2, str(ROOT), "1", {"first": 1.0})
    assert Path(second["python"]).parent == Path(sys.executable).parent
    assert suite.metrics("summary")["found"] == ["first", "second"]
    assert "the loss is not finite" in (suite.results / "tiny/bad/.new/notebook.ipynb").read_text()
    assert "<html" in (suite.results / "tiny/first/notebook.html").read_text()
    assert not (suite.results / "tiny/first/.new").exists()

    # The failed run is mended, which is seen; one that is done gets another value, which runs it and what needs it again.
    # Clocks do not count: what is done was finished tomorrow, and the notebook was changed a day after that.
    for days, path in [(1, p) for p in suite.results.rglob("*")] + [(2, suite.folder / "notebooks/train.ipynb")]:
        os.utime(path, (time.time() + days * 86400,) * 2)
    mended = PROFILE.replace("fail: true", "fail: false").replace("[bad]", "[]")
    suite.plan(mended.replace("first: {notebook: train, ", "first: {notebook: train, params: {value: 3}, "))
    counts, states = suite.states()
    assert counts == "runs     4 to do (2 of them rendered elsewhere), 0 done, then the summary"
    assert [states[run] for run in ("first", "second", "bad", "after_bad")] == ["elsewhere", "elsewhere", "", ""]
    code, output = suite.run("--cores", "2", "--only", "bad", "second")
    assert code == 0, output
    assert output.splitlines()[-1].startswith("all well: 3 runs and the summary")
    assert suite.starts("first", "second", "bad", "after_bad") == [2, 2, 2, 0]
    assert suite.metrics("second")["of"] == {"first": 3.0}
    assert suite.metrics("summary")["found"] == ["bad", "first", "second"]

    # Nothing is left of what --only asks for: nothing starts, and both say so.
    states = suite.states()[1]
    assert states == dict.fromkeys(["first", "bad", "second", "summary"], "done") | {"after_bad": ""}
    before = suite.written()
    code, output = suite.run("--only", "bad", "second")
    assert code == 0 and "runs     0 to do, 3 done, then the summary" in output and suite.written() == before
    code, output = suite.run("--dry-run")
    told = output.partition("dry run: nothing was started; it would be:\n")[2]
    assert code == 0 and [line.split()[0] for line in told.splitlines()] == ["after_bad", "done"]  # the summary's state
    assert suite.starts("after_bad") == [0]


def test_a_failing_run_leaves_committed_results_as_they_are(tmp_path):
    """As in a fresh clone: the results are there, what made them is not known, and their data are missing."""
    runs = "  mnist: {notebook: train, minutes: 1, params: {fail: true}}\n  well: {notebook: train, minutes: 1}\n"
    suite = Suite(tmp_path, f"profile: tiny\nabout: real data\nminutes: 2\nthreads: 1\nruns:\n{runs}")
    for run in ("mnist", "well", "summary"):
        for name in ("metrics.json", "notebook.html", "config.json", "figures/figure2.png"):
            path = suite.results / "tiny" / run / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {run}")
    committed = {path: path.read_bytes() for path in suite.results.rglob("*") if path.is_file()}
    counts, states = suite.states()
    assert counts == "runs     2 to do (2 of them rendered elsewhere), 0 done, then the summary"
    assert states == dict.fromkeys(["mnist", "well", "summary"], "elsewhere")
    code, output = suite.run("--only", "mnist")
    assert code == 1 and "runs     1 to do (1 of them rendered elsewhere), 0 done" in output
    assert "  mnist: ArithmeticError: the loss is not finite; its results of before are still there" in output
    assert {path: path.read_bytes() for path in committed} == committed
    assert suite.states() == (counts, states)
    # One that ends without having moved its numbers into place has failed, too; the other one is no longer what it was.
    suite.plan((tmp_path / "mine.yaml").read_text().replace("fail: true", "unfinished: true"))
    code, output = suite.run()
    assert code == 1 and suite.starts("mnist", "well") == [2, 1]
    changed = {path.parent.name for path, was in committed.items() if path.read_bytes() != was}
    assert changed == {"well", "summary"}
    assert suite.states()[1] == {"mnist": "elsewhere", "well": "done", "summary": "done"}


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT], ids=["killed", "ctrl-c"])
def test_the_same_command_goes_on_after_an_end_in_the_middle(tmp_path, signum):
    """Two runs, side by side since the profile gives each one core, hang when they are started for the first time."""
    runs = "".join(f"  {run}: {{notebook: train, minutes: 1, params: {{hang_first: 600}}}}\n" for run in ("first", "other"))
    suite = Suite(tmp_path, f"profile: tiny\nabout: two\nminutes: 1\nthreads: 1\nruns:\n{runs}")
    process = suite.start("--cores", "2")
    deadline = time.monotonic() + 600
    while 0 in suite.starts("first", "other"):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    kernels = [psutil.Process(suite.pids(run)[0]) for run in ("first", "other")]

    def alive() -> list[bool]:
        return [kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels]

    if signum == signal.SIGINT:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 130 and output.splitlines()[-1].endswith("the same command goes on from here")
        assert alive() == [False, False]
        assert suite.states()[0] == "runs     2 to do, 0 done, then the summary"
        return
    code, output = suite.run()  # while it runs, a second one keeps its hands off
    assert code == 2 and f"another run_all.sh is at work in {suite.results}" in output
    process.kill()  # the runner alone: Snakemake and the notebooks live on
    process.stdout.close()
    assert process.wait(timeout=60) == -signal.SIGKILL and alive() == [True, True]
    code, output = suite.run()
    assert code == 0 and alive() == [False, False], output
    assert suite.starts("first", "other") == [2, 2] and suite.metrics("first")["threads"] == "1"
    assert suite.metrics("summary")["found"] == ["first", "other"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--profile", "absent"], "--profile absent: neither a file nor one of: claims, colors, cpu, digits, "),
        (["--only", "frist"], "no run 'frist'; its runs are: first, bad, second, "),
        (["--profile", "wrong.yaml"], "run first: valeu: there is no such name; valid: value, fail, "),
        (["--profile", "quick.yaml"], "quick is the name of config/quick.yaml; take another one"),
        (["--cores", "0"], "--cores must be at least 1, is 0"),
        (["--profile", "recipes"], "--profile recipes: neither a file nor one of: claims"),
    ],
)
def test_a_wrong_call_starts_nothing(tmp_path, arguments, message):
    suite = Suite(tmp_path)
    (tmp_path / "wrong.yaml").write_text(PROFILE.replace("minutes: 0.1}", "minutes: 0.1, params: {valeu: 1}}", 1))
    (tmp_path / "quick.yaml").write_text(PROFILE.replace("profile: tiny", "profile: quick"))
    code, output = suite.run(*arguments)
    assert code == 2 and message in output and not suite.results.exists()


@pytest.mark.parametrize(("head", "threads"), [("threads: 1\n", 1), ("threads: 8\n", 2), ("", 2)])
def test_long_runs_start_first_and_a_run_takes_the_cores_that_the_profile_says(tmp_path, monkeypatch, head, threads):
    runs = "".join(f"  {run}: {{notebook: train, minutes: {n}}}\n" for run, n in (("a", 1), ("b", 9), ("c", 2)))
    suite = Suite(tmp_path, f"profile: tiny\nabout: three\nminutes: 9\n{head}runs:\n{runs}")
    started = []
    monkeypatch.setattr(subprocess, "Popen", lambda command, **_: started.append(command) or SimpleNamespace(wait=lambda: 0))
    for name in ("AGELIB_NOTEBOOKS", "AGELIB_RESULTS"):
        monkeypatch.setenv(name, suite.env[name])
    assert runner.main(["--profile", str(tmp_path / "mine.yaml"), "--cores", "2"]) == 1
    (command,) = started
    assert command[command.index("--prioritize") + 1 :] == ["tiny/b/.done"]
    config = json.loads(Path(command[command.index("--configfile") + 1]).read_text())
    assert config["threads"] == threads and list(config["runs"]) == ["a", "b", "c"]


def test_listing_is_quick_and_loads_no_torch():
    code = "import sys; from suite import runner; runner.main(['--profile', 'quick', '--list']); "
    code += "sys.exit(sorted({'torch', 'papermill', 'snakemake', 'IPython'} & set(sys.modules)) or 0)"
    started = time.monotonic()
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True)
    assert result.returncode == 0 and "digits" in result.stdout, result.stdout + result.stderr
    assert time.monotonic() - started < 4, "2 s on a quiet machine"
