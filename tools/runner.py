"""The command line behind ./run_all.sh: choose a profile, say what will happen, let Snakemake run it, report.

Everything about a profile is in agelib/plan.py, everything about one run in the Snakefile; here is what lies around
them: the choice of the profile, one runner at a time (a lock), the end of what a killed one left behind, the report.
Exit codes: 0 all done; 1 something failed; 2 nothing was started (a wrong argument or profile, another runner at work);
130 stopped by Ctrl-C, 143 by a plain kill, 129 by a closed terminal.
"""

from __future__ import annotations

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
from pathlib import Path

import psutil
import yaml

from agelib import plan as plans
from agelib.plan import SUMMARY, Plan, PlanError

ROOT = Path(__file__).resolve().parents[1]
MARK = "AGELIB_RUNNER"  # set to the results folder in every process that a runner starts


def main(argv: list[str] | None = None) -> int:
    """Runs the command line `argv`; returns the exit code."""
    args = _arguments(argv)
    notebooks = Path(os.environ.get("AGELIB_NOTEBOOKS", ROOT / "notebooks")).resolve()
    results = Path(os.environ.get("AGELIB_RESULTS", ROOT / "results")).resolve()
    try:
        path, why = choose(args.profile)
        plan = plans.read(path)
        if path.parent != ROOT / "config" and plan.name in profiles():
            raise PlanError(f"{path}: profile: {plan.name} is the name of config/{plan.name}.yaml; take another one")
        names = plan.closure(args.only or plan.runs) if args.only != [SUMMARY] else []
        plans.check(plan, notebooks)
        print(header(plan, why, names, results), flush=True)
        if args.list:
            print(listing(plan, results))
            return 0
        with lock(results):
            return run(plan, names, notebooks, results, cores=args.cores, dry=args.dry_run)
    except PlanError as error:
        print(f"run_all: {error}", file=sys.stderr)
        return 2


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    about = "Runs the notebooks of a profile; results are in results/<profile>/. A second call does what is left."
    parser = argparse.ArgumentParser(prog="run_all.sh", description=about)
    option = parser.add_argument
    known = ", ".join(profiles())
    option(
        "--profile", metavar="NAME|FILE", help=f"{known}, or your own file (default: paper with a CUDA GPU, else quick)"
    )
    option("--only", metavar="RUN", nargs="+", help="these runs, what they need, and the summary")
    option("--dry-run", action="store_true", help="check everything and say what would run")
    option(
        "--cores", metavar="N", type=int, default=_cores(), help="processor cores to use (default: all, %(default)s)"
    )
    option("--list", action="store_true", help="list the profile's runs and stop")
    args = parser.parse_args(argv)
    if args.cores < 1:
        parser.error(f"--cores must be at least 1, is {args.cores}")
    if args.only and SUMMARY in args.only and len(args.only) > 1:
        args.only.remove(SUMMARY)  # it comes anyway
    return args


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def profiles() -> list[str]:
    """Names of the profiles in config/."""
    return sorted(path.stem for path in (ROOT / "config").glob("*.yaml"))


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


def header(plan: Plan, why: str, names: list[str], results: Path) -> str:
    """The first lines: which profile and why, the data sets at hand, the time it will take."""
    left = [name for name in names if not done(plan, name, results)]
    minutes = plan.minutes if len(left) == len(plan.runs) else plan.minutes_of(left)
    device = "one GPU" if plan.gpu else "2 CPU cores"
    lines = [
        f"profile  {plan.name}: {plan.about}",
        f"why      {why}; others: {', '.join(name for name in profiles() if name != plan.name)}",
        *_data_lines({str(plan.runs[name].params["dataset"]) for name in left if "dataset" in plan.runs[name].params}),
        f"runs     {len(left)} to do, {len(names) - len(left)} done, then the summary",
        f"time     about {_minutes(minutes)} on {device}" if left else "time     the summary at most: seconds",
        f"results  {_shown(results)}/{plan.name}/",
    ]
    return "\n".join(lines)


def _data_lines(used: set[str]) -> list[str]:
    """What agelib.data says is at hand, a line for each kind of source, and one for each of `used` that is missing."""
    from agelib import data

    groups: dict[str, list[str]] = {}
    state = data.available()
    for name, source in state.items():
        groups.setdefault(source.split(":")[0], []).append(name)
    lines = [f"data     {source}: {', '.join(names)}" for source, names in groups.items()]
    absent = sorted(name for name in used if state.get(name, "").startswith("missing"))
    return lines + [
        f"data     to fetch: {name} ({state[name].removeprefix('missing').lstrip(': ')})" for name in absent
    ]


def listing(plan: Plan, results: Path) -> str:
    """One line a run: done or not, name, notebook, minutes, needs, parameters."""
    rows = []
    for spec in plan.runs.values():
        params = ", ".join(f"{key}={value}" for key, value in spec.params.items())
        needs = f"; needs {', '.join(spec.needs)}" if spec.needs else ""
        state = "done" if done(plan, spec.name, results) else "    "
        rows.append(f"  {state} {spec.name:<24} {_minutes(spec.minutes):>8}  {spec.notebook}({params}){needs}")
    return "\n".join([*rows, f"  {'':4} {SUMMARY:<24} {'':>8}  {plans.SUMMARY_NOTEBOOK}"])


def _minutes(minutes: float) -> str:
    if minutes < 1:
        return f"{round(minutes * 60)} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _shown(path: Path) -> str:
    """`path`, relative if it is inside the repository: results that are shared shall hold no machine's paths."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def done(plan: Plan, name: str, results: Path) -> bool:
    """Has this run's last attempt come to its end? (Whether its inputs changed since is for Snakemake to say.)"""
    folder = results / plan.name / name
    return (folder / "metrics.json").is_file() and (folder / "notebook.html").is_file()


@contextlib.contextmanager
def lock(results: Path) -> Iterator[None]:
    """One runner for a results folder. The lock ends with the process, however that ends. PlanError if it is taken."""
    path = results / ".plan" / "lock"
    path.parent.mkdir(parents=True, exist_ok=True)
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


def run(plan: Plan, names: list[str], notebooks: Path, results: Path, *, cores: int, dry: bool) -> int:
    """Runs `names`, then the summary of everything that has numbers; returns the exit code."""
    start = time.monotonic()
    if not dry:
        end_leftovers(results)
    ends = [signum for signum in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(signum) != signal.SIG_IGN]
    before = {signum: signal.signal(signum, _stop) for signum in ends}  # a closed terminal, but not under nohup
    try:
        runs = {name: _entry(plan, name, notebooks, results) for name in plan.runs}
        status = snakemake(plan, runs, names, results, cores, dry) if names else 0
        if dry:
            print(f"dry run: nothing was started; the summary ({plans.SUMMARY_NOTEBOOK}) would follow")
            return status
        entry = _entry(plan, SUMMARY, notebooks, results)
        summary = [SUMMARY] if entry["needs"] else []
        if summary:
            status = snakemake(plan, {SUMMARY: entry}, summary, results, cores, dry) or status
    except KeyboardInterrupt:
        print("\nrun_all: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
    problems = report(plan, [*names, *summary], results)
    took = _minutes((time.monotonic() - start) / 60)
    well = f"all well: {len(names)} runs and the summary, in {took}: {_shown(results)}/{plan.name}/"
    print("\n".join(problems) if problems else well)
    if status and not problems:
        print(f"Snakemake ended with exit code {status}; its messages are above")
    return 1 if status or problems else 0


def _stop(signum: int, frame: object) -> None:
    raise SystemExit(128 + signum)


def _entry(plan: Plan, name: str, notebooks: Path, results: Path) -> dict:
    """Writes the run's parameter file where it changed, and returns what the Snakefile must know of the run."""
    stem = plans.SUMMARY_NOTEBOOK if name == SUMMARY else plan.runs[name].notebook
    notebook = notebooks / f"{stem}.ipynb"
    params = plans.parameters(plan, name, _shown(results), notebook)
    _write(results / ".plan" / plan.name / f"{name}.yaml", yaml.safe_dump(params, sort_keys=False))
    needs = [f"{plan.name}/{need}/metrics.json" for need in (plan.runs if name == SUMMARY else plan.runs[name].needs)]
    if name == SUMMARY:
        needs = [need for need in needs if (results / need).is_file()]
    return {"notebook": os.path.relpath(notebook, results), "needs": needs}


def _write(path: Path, text: str) -> None:
    """Leaves a file alone that says this already: its time of change is what Snakemake goes by."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def snakemake(plan: Plan, runs: dict[str, dict], targets: list[str], results: Path, cores: int, dry: bool) -> int:
    """Brings the runs `targets` up to date, starting no others than `runs`. Returns Snakemake's exit code."""
    config = {"profile": plan.name, "root": str(ROOT), "python": sys.executable, "runs": runs, "targets": targets}
    config |= {"threads": plan.threads or cores, "gpu": int(cuda_gpu() is not None)}
    config_file = results / ".plan" / plan.name / ("summary.json" if targets == [SUMMARY] else "runs.json")
    _write(config_file, json.dumps(config, indent=1))
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "--directory", str(results)]
    command += ["--configfile", str(config_file), "--cores", str(cores), "--resources", "gpu=1"]
    command += ["--profile", "none", "--workflow-profile", "none"]  # nothing of the user's own Snakemake settings
    command += ["--keep-going", "--rerun-incomplete", "--rerun-triggers", "mtime", "params", "input"]
    # This script's lock stands for Snakemake's, which outlives a kill. A failed run's metrics.json stays: it says why.
    command += ["--nolock", "--keep-incomplete", "--latency-wait", "1"]
    command += ["--dry-run"] if dry else []
    # Runs longer than the average start first, so that no long one is left alone at the end.
    minutes = {name: plan.runs[name].minutes for name in targets if name in plan.runs}
    longer = [name for name, taken in minutes.items() if taken > sum(minutes.values()) / len(minutes)]
    command += ["--prioritize", *(f"{plan.name}/{name}/metrics.json" for name in longer)] if longer else []
    # This interpreter's kernel before any that the user or the system has registered under the same name.
    jupyter = [str(Path(sys.prefix) / "share" / "jupyter"), os.environ.get("JUPYTER_PATH", "")]
    env = os.environ | {MARK: str(results), "JUPYTER_PATH": os.pathsep.join(filter(None, jupyter))}
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
        end_leftovers(results)


def report(plan: Plan, names: list[str], results: Path) -> list[str]:
    """A line or two for each of `names` that is not well: what happened, where the traceback is. Empty if all are."""
    lines, bad = [], set()
    for name in names:
        folder = results / plan.name / name
        where = f"{_shown(folder)}/notebook.ipynb"
        blocked = [need for need in (plan.runs[name].needs if name in plan.runs else ()) if need in bad]
        if blocked:
            bad.add(name)
            lines.append(f"  {name}: not run, because it needs {', '.join(blocked)}")
        elif not done(plan, name, results):
            bad.add(name)
            lines.append(f"  {name}: {_error(folder / 'notebook.ipynb')}\n    {where}")
        elif (status := json.loads((folder / "metrics.json").read_text(encoding="utf-8")).get("status", "ok")) != "ok":
            lines.append(f"  {name}: came to its end, but its metrics.json says: {status}\n    {where}")
    return [f"FAILED: {len(lines)} of {len(names)} runs of profile {plan.name}", *lines] if lines else []


def _error(notebook: Path) -> str:
    """The first error in an executed notebook, in one line."""
    if not notebook.is_file():
        return "did not start"
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}".strip().splitlines()[0][:200]
    return "ended without a traceback (killed, or its metrics.json or HTML page was not written)"


if __name__ == "__main__":
    sys.exit(main())
