"""The command line behind ./run_all.sh: choose a profile, say what will happen, let Snakemake run it, report.

Everything about a profile is in suite/plan.py, everything about one run in the Snakefile; here is what lies around them:
the choice of the profile, what is done already, one runner at a time (a lock), the end of what a killed one left behind, the
report. A run is done when <run>/.done holds the fingerprint of its inputs as they are now, whatever the clock says; its
former results stay in place until it has come to its end.
Exit codes: 0 all done; 1 something failed; 2 nothing was started (a wrong argument or profile, another runner at work);
130 stopped by Ctrl-C, 143 by a plain kill, 129 by a closed terminal.
"""

import argparse
import contextlib
import fcntl
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import yaml

from suite import plan as plans
from suite.params import ROOT, ParameterError
from suite.plan import RECIPES, SUMMARY, Notebook, Plan, PlanError

MARK = "AGELIB_RUNNER"  # set to the results folder in every process that a runner starts


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`; returns the exit code."""
    args = _arguments(argv)
    notebooks = Path(os.environ.get("AGELIB_NOTEBOOKS", ROOT / "notebooks")).resolve()
    results = Path(os.environ.get("AGELIB_RESULTS", ROOT / "results")).resolve()
    try:
        path, why = choose(args.profile)
        plan = plans.read(path)
        if path.parent != ROOT / "config" and plan.profile in profiles():
            raise PlanError(f"{path}: profile: {plan.profile} is the name of config/{plan.profile}.yaml; take another one")
        names = plan.closure(args.only or plan.runs) if args.only != [SUMMARY] else []
        books = plans.notebooks_of(plan, notebooks)
        suite = Suite(plan, books, plans.check(plan, books, path, settings=not args.list), results, args.cores)
        print(suite.header(why, names), flush=True)
        if args.list or args.dry_run:
            print("" if args.list else "dry run: nothing was started; it would be:\n", end="")
            print(suite.listing(plan.runs if args.list else [name for name in names if suite.state(name) != "done"]))
            return 0
        with lock(results):
            return suite.run(names)
    except (PlanError, ParameterError) as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    about = "Runs the notebooks of a profile; results are in results/<profile>/. A second call does what is left."
    parser = argparse.ArgumentParser(prog="run_all.sh", description=about)
    option = parser.add_argument
    known = f"{', '.join(profiles())}, or your own file (default: paper with a CUDA GPU, else quick)"
    option("--profile", metavar="NAME|FILE", help=known)
    option("--only", metavar="RUN", nargs="+", help="these runs, what they need, and the summary")
    option("--dry-run", action="store_true", help="check everything and say what would run")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    option("--cores", metavar="N", type=int, default=cores, help="processor cores to use (default: all, %(default)s)")
    option("--list", action="store_true", help="list the profile's runs and stop")
    args = parser.parse_args(argv)
    if args.cores < 1:
        parser.error(f"--cores must be at least 1, is {args.cores}")
    if args.only and SUMMARY in args.only and len(args.only) > 1:
        args.only.remove(SUMMARY)  # it comes anyway
    return args


def profiles() -> list[str]:
    """Names of the profiles in config/."""
    return sorted(path.stem for path in (ROOT / "config").glob("*.yaml") if path != RECIPES)


def choose(profile: str | None) -> tuple[Path, str]:
    """The profile's file, and why, in words. `profile` is a name, a file or None. PlanError if there is none such."""
    if profile is None:
        gpu = cuda_gpu()
        name = "paper" if gpu else "quick"
        return ROOT / "config" / f"{name}.yaml", f"a CUDA GPU is visible ({gpu})" if gpu else "no CUDA GPU is visible"
    if profile in profiles():
        return ROOT / "config" / f"{profile}.yaml", "asked for"
    if Path(profile).is_file():
        return Path(profile).resolve(), "asked for"
    raise PlanError(f"--profile {profile}: neither a file nor one of: {', '.join(profiles())}")


@functools.cache
def cuda_gpu() -> str | None:
    """The name of the GPU that PyTorch would use, or None. Asks PyTorch (seconds) only where a driver is present."""
    if shutil.which("nvidia-smi") is None:
        return None
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() or None


@dataclass(frozen=True)
class Suite:
    """A checked profile, and where its results go. prints: run -> fingerprint of its inputs."""

    plan: Plan
    books: dict[str, Notebook]
    prints: dict[str, str]
    results: Path
    cores: int

    def folder(self, name: str) -> Path:
        """The results of run `name`."""
        return self.results / self.plan.profile / name

    def state(self, name: str) -> str:
        """"done"; "elsewhere": results are there, rendered by another machine or with other inputs, and stay until the run
        has come to its end; "" without results."""
        folder = self.folder(name)
        if not all((folder / file).is_file() for file in ("metrics.json", "notebook.html")):
            return ""
        try:
            found = json.loads((folder / ".done").read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        return "done" if found == self.print_of(name) else "elsewhere"

    def print_of(self, name: str) -> str:
        """The fingerprint of a run's inputs; the summary's are the other runs' results as they are now."""
        if name != SUMMARY:
            return self.prints[name]
        return plans.summary_print(self.folder(name).parent, self.books[SUMMARY], self.plan.runs)

    def header(self, why: str, names: list[str]) -> str:
        """The first lines: which profile and why, the data sets at hand, the time it will take."""
        states = [self.state(name) for name in names]
        left = [name for name, state in zip(names, states, strict=True) if state != "done"]
        old = f" ({states.count('elsewhere')} of them rendered elsewhere)" if "elsewhere" in states else ""
        minutes = self.plan.time if len(left) == len(self.plan.runs) else self.plan.minutes_of(left) if left else 0
        device = "one GPU" if self.plan.gpu else "2 CPU cores"
        lines = [
            f"profile  {self.plan.profile}: {self.plan.about}",
            f"why      {why}; others: {', '.join(name for name in profiles() if name != self.plan.profile)}",
            *_data_lines({str(self.plan.runs[name].params.get("dataset", "")) for name in left}),
            f"runs     {len(left)} to do{old}, {len(names) - len(left)} done, then the summary",
            f"time     about {_minutes(minutes)} on {device}" if left else "time     the summary at most: seconds",
            f"results  {_shown(self.results)}/{self.plan.profile}/",
        ]
        return "\n".join(lines)

    def listing(self, names: list[str]) -> str:
        """One line a run: done, rendered elsewhere, or neither; name, notebook, minutes, needs, parameters."""
        rows = []
        for name in names:
            spec = self.plan.runs[name]
            params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
            needs = f"; needs {', '.join(spec.needs)}" if spec.needs else ""
            rows.append((name, _minutes(spec.time), f"{spec.notebook}({params}){needs}"))
        rows.append((SUMMARY, "", plans.SUMMARY_NOTEBOOK))
        return "\n".join(f"  {self.state(name):9} {name:<24} {time:>8}  {text}" for name, time, text in rows)

    def run(self, names: list[str]) -> int:
        """Runs what of `names` is not done, then the summary of everything that has numbers; returns the exit code."""
        start = time.monotonic()
        end_leftovers(self.results)
        ends = [signum for signum in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(signum) != signal.SIG_IGN]
        before = {signum: signal.signal(signum, _stop) for signum in ends}  # a closed terminal, but not under nohup
        left = [name for name in names if self.state(name) != "done"]
        try:
            status = self.snakemake(left) if left else 0
            failed = [name for name in left if self.state(name) != "done"]
            ended = [run for run in self.plan.runs if (self.folder(run) / "metrics.json").is_file()]
            asked = [*names, SUMMARY] if ended else names
            # A call in which nothing came to its end leaves an older summary as it is.
            stays = bool(left) and failed == left and bool(self.state(SUMMARY))
            if ended and not stays and self.state(SUMMARY) != "done":
                status = self.snakemake([SUMMARY]) or status
        except KeyboardInterrupt:
            print("\nrun_all: stopped; the same command goes on from here", file=sys.stderr)
            return 130
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler)
        problems = self.report([name for name in asked if not (name == SUMMARY and stays)])
        took = _minutes((time.monotonic() - start) / 60)
        well = f"all well: {len(names)} runs and the summary, in {took}: {_shown(self.results)}/{self.plan.profile}/"
        print("\n".join(problems) if problems else well)
        if status and not problems:
            print(f"Snakemake ended with exit code {status}; its messages are above")
        return 1 if status or problems else 0

    def snakemake(self, names: list[str]) -> int:
        """Runs all of `names`, each after those of them that it needs. Returns Snakemake's exit code."""
        plan, place = self.plan, self.results / ".plan" / self.plan.profile
        place.mkdir(parents=True, exist_ok=True)
        runs = {}
        for name in names:
            (self.folder(name) / ".done").unlink(missing_ok=True)
            given = plans.given(plan, name, _shown(self.results), self.books[name])
            (place / f"{name}.yaml").write_text(yaml.safe_dump(given, sort_keys=False), encoding="utf-8")
            needs = [need for need in (plan.runs[name].needs if name in plan.runs else ()) if need in names]
            notebook = os.path.relpath(self.books[name].path, self.results)
            runs[name] = {"notebook": notebook, "needs": needs, "fingerprint": self.print_of(name)}
        config = {"profile": plan.profile, "root": str(ROOT), "python": sys.executable, "runs": runs}
        config |= {"threads": min(plan.threads or self.cores, self.cores), "gpu": int(cuda_gpu() is not None)}
        (place / "runs.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.results), "--configfile", str(place / "runs.json")]
        command += ["--cores", str(self.cores), "--resources", "gpu=1", "--keep-going", "--rerun-incomplete"]
        command += ["--profile", "none", "--workflow-profile", "none"]  # nothing of the user's own Snakemake settings
        # What runs is settled here, by content. This script's lock stands for Snakemake's, which outlives a kill.
        command += ["--rerun-triggers", "params", "--nolock", "--latency-wait", "1"]
        # Runs longer than the average start first, so that no long one is left alone at the end.
        minutes = {name: plan.runs[name].time for name in names if name in plan.runs}
        longer = [name for name, taken in minutes.items() if taken > sum(minutes.values()) / len(minutes)]
        command += ["--prioritize", *(f"{plan.profile}/{name}/.done" for name in longer)] if longer else []
        # This interpreter's kernel before any that the user or the system has registered under the same name.
        jupyter = [str(Path(sys.prefix) / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
        env = os.environ | {MARK: str(self.results), "JUPYTER_PATH": os.pathsep.join(filter(None, jupyter))}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        # In a session of its own: a Ctrl-C reaches it once, from here, and no signal among its jobs can hit this process.
        process = subprocess.Popen(command, env=env, cwd=ROOT, start_new_session=True)
        try:
            return process.wait()
        except KeyboardInterrupt:
            with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt, ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # the terminal's Ctrl-C reached this process alone
                process.wait(timeout=15)
            raise
        finally:
            end_leftovers(self.results)

    def report(self, names: list[str]) -> list[str]:
        """A line or two for each of `names` that is not done: what happened, where the traceback is. Empty if all are."""
        lines, bad = [], set()
        for name in names:
            needs = self.plan.runs[name].needs if name in self.plan.runs else ()
            state, blocked = self.state(name), [need for need in needs if need in bad]
            if state == "done":
                continue
            bad.add(name)
            notebook = self.folder(name) / ".new" / "notebook.ipynb"
            kept = "; its results of before are still there" if state else ""
            why = f"not run, because it needs {', '.join(blocked)}{kept}" if blocked else f"{_error(notebook)}{kept}"
            lines.append(f"  {name}: {why}" + ("" if blocked else f"\n    {_shown(notebook)}"))
        return [f"FAILED: {len(lines)} of {len(names)} runs of profile {self.plan.profile}", *lines] if lines else []


def _data_lines(used: set[str]) -> list[str]:
    """What agelib.data says is at hand, a line for each kind of source, and one for each of `used` that is missing."""
    from agelib import data

    groups: dict[str, list[str]] = {}
    state = data.available()
    for name, source in state.items():
        groups.setdefault(source.split(":")[0], []).append(name)
    lines = [f"data     {source}: {', '.join(names)}" for source, names in groups.items()]
    absent = [(name, state[name]) for name in sorted(used) if state.get(name, "").startswith("missing")]
    return lines + [f"data     to fetch: {name} ({why.removeprefix('missing').lstrip(': ')})" for name, why in absent]


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{round(minutes * 60)} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _shown(path: Path) -> str:
    """`path`, relative if it is inside the repository: results that are shared shall hold no machine's paths."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


@contextlib.contextmanager
def lock(results: Path) -> Iterator[None]:
    """One runner for a results folder. The lock ends with the process, however that ends. PlanError if it is taken."""
    path = results / ".plan" / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError as error:
        raise PlanError(f"{results}: results cannot be written there: {error.strerror}") from None
    with open(path, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise PlanError(f"another run_all.sh is at work in {results} (process {file.read().strip()})") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def end_leftovers(results: Path) -> None:
    """Ends what a runner for this results folder left behind: a killed runner's Snakemake and notebooks work on.

    Only called with the lock held, so no other runner owns these processes; the mark in their environment tells them.
    """
    own = {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    left = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid not in own and process.environ().get(MARK) == str(results):
                process.kill()
                left.append(process)
    psutil.wait_procs(left, timeout=10)


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _error(notebook: Path) -> str:
    """The first error in an executed notebook, in one line."""
    if not notebook.is_file():
        return "did not start"
    text = notebook.read_text(encoding="utf-8")
    for cell in json.loads(text)["cells"] if text else ():
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0][:200]
    return "ended without a traceback (killed, or its metrics.json or HTML page was not written)"


if __name__ == "__main__":
    sys.exit(main())
