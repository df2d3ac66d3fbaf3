# One rule: papermill runs a notebook, nbconvert renders it. The list of runs comes from the profile; tools/runner.py (that is,
# ./run_all.sh) checks it and hands it over as results/.plan/<profile>/runs.json. By hand, after one ./run_all.sh --dry-run:
#   snakemake --directory results --configfile results/.plan/quick/runs.json --cores 2
# Paths here are relative to the results folder.

PROFILE = config["profile"]
RUNS = config["runs"]  # run -> {notebook: path, needs: [metrics.json of the runs that come first]}


wildcard_constraints:
    run="|".join(RUNS),


rule all:
    input:
        expand(f"{PROFILE}/{{run}}/{{file}}", run=config["targets"], file=["metrics.json", "notebook.html"]),


rule notebook:
    input:
        notebook=lambda wildcards: RUNS[wildcards.run]["notebook"],
        parameters=f".plan/{PROFILE}/{{run}}.yaml",
        needs=lambda wildcards: RUNS[wildcards.run]["needs"],
    output:
        metrics=f"{PROFILE}/{{run}}/metrics.json",
        html=f"{PROFILE}/{{run}}/notebook.html",
    log:
        # Not an output: a failed job's notebook holds the traceback and must stay.
        f"{PROFILE}/{{run}}/notebook.ipynb",
    threads: config["threads"]  # all cores, one notebook at a time, unless the profile says otherwise
    resources:
        gpu=config["gpu"],  # 1 where there is a GPU: one notebook at a time holds it
    shell:
        "export OMP_NUM_THREADS={threads}; "
        "{config[python]:q} -m papermill {input.notebook:q} {log:q} -f {input.parameters:q} -k python3 --cwd {config[root]:q}"
        " --no-progress-bar --log-level WARNING && "
        "{config[python]:q} -m nbconvert {log:q} --to html --output notebook.html --log-level ERROR"
