"""The command line behind ./run_all.sh: choose a profile, say what will happen, let Snakemake run it, report.

Profiles are read by suite/plan.py, one run is in the Snakefile; here is what lies around them. A run is done when
<run>/.done holds the fingerprint of its inputs as they are now, whatever the clock says; its former results stay in place
until it has come to its end.
Exit codes: 0 all done; 1 something failed; 2 nothing was started (a wrong argument or profile, another runner at work);
130 stopped by Ctrl-C, 143 by a plain kill, 129 by a closed terminal.
"""

import argparse
import contextlib
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import filelock
import psutil
import yaml

from suite import plan as plans
from suite.params import ROOT, ParameterError
from suite.plan import RECIPES, SUMMARY, Notebook, Plan, PlanError, duration

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
        only = [name for name in args.only if name != SUMMARY]  # which comes anyway
        names = plan.closure(only if args.only else plan.runs)
        books = plans.notebooks_of(plan, notebooks)
        suite = Suite(plan, books, plans.check(plan, books, path, settings=not args.list), results, args.cores)
        print(suite.header(why, names), flush=True)
        if args.list or args.dry_run:
            print("" if args.list else "dry run: nothing was started; it would be:\n", end="")
            print(suite.listing(plan.runs if args.list else suite.left(names)))
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
    option("--only", metavar="RUN", nargs="+", default=[], help="these runs, what they need, and the summary")
    option("--dry-run", action="store_true", help="check everything and say what would run")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    option("--cores", metavar="N", type=int, default=cores, help="processor cores to use (default: all, %(default)s)")
    option("--list", action="store_true", help="list the profile's runs and stop")
    args = parser.parse_args(argv)
    if args.cores < 1:
        parser.error(f"--cores must be at least 1, is {args.cores}")
    return args


def profiles() -> list[str]:
    """Names of the profiles in config/."""
    return sorted(path.stem for path in (ROOT / "config").glob("*.yaml") if path != RECIPES)


def choose(profile: str | None) -> tuple[Path, str]:
    """The profile's file, and why, in words. `profile` is a name, a file or None. PlanError if there is none such."""
    why = "asked for"
    if profile is None:
        gpu = cuda_gpu()
        profile, why = ("paper", f"a CUDA GPU is visible ({gpu})") if gpu else ("quick", "no CUDA GPU is visible")
    if profile in profiles():
        return ROOT / "config" / f"{profile}.yaml", why
    if Path(profile).is_file():
        return Path(profile).resolve(), why
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

    def needs(self, name: str) -> list[str]:
        return self.plan.runs[name].needs if name in self.plan.runs else []

    def print_of(self, name: str) -> str:
        """The fingerprint of a run's inputs; the summary's are the other runs' results as they are now."""
        if name != SUMMARY:
            return self.prints[name]
        return plans.summary_print(self.folder(name).parent, self.books[SUMMARY], self.plan.runs)

    def state(self, name: str) -> str:
        """"done"; "elsewhere": results are there, but another machine's or of other inputs; "" without results."""
        folder = self.folder(name)
        if not all((folder / file).is_file() for file in ("metrics.json", "notebook.html")):
            return ""
        try:
            found = json.loads((folder / ".done").read_text(encoding="utf-8"))["fingerprint"]
        except (OSError, ValueError, KeyError, TypeError):
            found = None
        return "done" if found == self.print_of(name) else "elsewhere"

    def left(self, names: list[str]) -> list[str]:
        """Those of `names` that are not done."""
        return [name for name in names if self.state(name) != "done"]

    def header(self, why: str, names: list[str]) -> str:
        """The first lines: which profile and why, the data sets at hand, the time it will take."""
        left = self.left(names)
        elsewhere = sum(self.state(name) == "elsewhere" for name in left)
        old = f" ({elsewhere} of them rendered elsewhere)" if elsewhere else ""
        minutes = self.plan.time if len(left) == len(self.plan.runs) else self.plan.minutes_of(left)
        device = "one GPU" if self.plan.gpu else "2 CPU cores"
        lines = [
            f"profile  {self.plan.profile}: {self.plan.about}",
            f"why      {why}; others: {', '.join(name for name in profiles() if name != self.plan.profile)}",
            *_data_lines({str(self.plan.runs[name].params.get("dataset", "")) for name in left}),
            f"runs     {len(left)} to do{old}, {len(names) - len(left)} done, then the summary",
            f"time     about {duration(minutes)} on {device}" if left else "time     the summary at most: seconds",
            f"results  {_shown(self.results)}/{self.plan.profile}/",
        ]
        return "\n".join(lines)

    def listing(self, names: list[str]) -> str:
        """One line a run: done, rendered elsewhere, or neither; name, minutes, notebook, parameters, needs."""
        rows = []
        for name in names:
            spec = self.plan.runs[name]
            params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
            needs = f"; needs {', '.join(spec.needs)}" if spec.needs else ""
            rows.append((name, duration(spec.time), f"{spec.notebook}({params}){needs}"))
        rows.append((SUMMARY, "", plans.SUMMARY_NOTEBOOK))
        return "\n".join(f"  {self.state(name):9} {name:<24} {time:>8}  {text}" for name, time, text in rows)

    def run(self, names: list[str]) -> int:
        """Runs what of `names` is not done, then the summary of everything that has numbers; returns the exit code."""
        start = time.monotonic()
        end_leftovers(self.results)
        left = self.left(names)
        try:
            status = self.snakemake(left) if left else 0
            # A call in which nothing came to its end leaves an older summary as it is.
            stays = left and self.left(left) == left and self.state(SUMMARY)
            ended = any((self.folder(run) / "metrics.json").is_file() for run in self.plan.runs)
            summary = [SUMMARY] if ended and not stays else []
            if self.left(summary):
                status = self.snakemake(summary) or status
        except KeyboardInterrupt:
            print("\nrun_all: stopped; the same command goes on from here", file=sys.stderr)
            return 130
        problems, took = self.report(names + summary), duration((time.monotonic() - start) / 60)
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
            notebook = os.path.relpath(self.books[name].path, self.results)
            needs = [need for need in self.needs(name) if need in names]
            runs[name] = {"notebook": notebook, "needs": needs, "fingerprint": self.print_of(name)}
        config = {"profile": plan.profile, "root": str(ROOT), "python": sys.executable, "runs": runs}
        config |= {"threads": min(plan.threads or self.cores, self.cores), "gpu": int(cuda_gpu() is not None)}
        (place / "runs.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
        command = [sys.executable, "-P", "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(self.results), "--configfile", str(place / "runs.json"), "--cores", str(self.cores)]
        # Nothing of the user's own Snakemake settings. What runs is settled here, by content, and the runner's lock stands
        # for Snakemake's, which outlives a kill.
        command += "--profile none --workflow-profile none --rerun-triggers params --nolock".split()
        command += "--resources gpu=1 --keep-going --rerun-incomplete --latency-wait 1".split()
        # Runs longer than the average start first, so that no long one is left alone at the end.
        minutes = {name: plan.runs[name].time for name in names if name in plan.runs}
        longer = [name for name, taken in minutes.items() if taken > sum(minutes.values()) / len(minutes)]
        command += ["--prioritize", *(f"{plan.profile}/{name}/.done" for name in longer)] if longer else []
        # This interpreter's kernel before any that the user or the system has registered under the same name.
        jupyter = [str(Path(sys.prefix) / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
        env = os.environ | {MARK: str(self.results), "JUPYTER_PATH": os.pathsep.join(filter(None, jupyter))}
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
        lines, bad = [], self.left(names)
        for name in bad:
            notebook = self.folder(name) / ".new" / "notebook.ipynb"
            kept = "; its results of before are still there" if self.state(name) else ""
            if blocked := [need for need in self.needs(name) if need in bad]:
                lines.append(f"  {name}: not run, because it needs {', '.join(blocked)}{kept}")
            else:
                lines.append(f"  {name}: {_error(notebook)}{kept}\n    {_shown(notebook)}")
        return [f"FAILED: {len(bad)} of {len(names)} runs of profile {self.plan.profile}", *lines] if bad else []


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


def _shown(path: Path) -> str:
    """`path`, relative if it is inside the repository: results that are shared shall hold no machine's paths."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def lock(results: Path) -> contextlib.AbstractContextManager:
    """One runner for a results folder. The lock ends with the process, however that ends. PlanError if it is taken."""
    try:
        (results / ".plan").mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(results / ".plan" / "lock").acquire(timeout=0)
    except filelock.Timeout:
        raise PlanError(f"another run_all.sh is at work in {results}") from None
    except OSError as error:
        raise PlanError(f"{results}: results cannot be written there: {error.strerror}") from None


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


def _error(notebook: Path) -> str:
    """The first error in an executed notebook, in one line."""
    text = notebook.read_text(encoding="utf-8") if notebook.is_file() else None
    if text is None:
        return "did not start"
    for cell in json.loads(text)["cells"] if text else ():
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0][:200]
    return "ended without a traceback (killed, or its metrics.json or HTML page was not written)"


if __name__ == "__main__":
    for signum in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(signum) != signal.SIG_IGN:  # as a closed terminal's is under nohup
            signal.signal(signum, lambda signum, _: sys.exit(128 + signum))
    sys.exit(main())
