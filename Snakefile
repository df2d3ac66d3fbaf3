# One rule: papermill runs a notebook, nbconvert renders it. suite/runner.py (that is, ./run_all.sh) decides which runs there
# are to do and hands them over as results/.plan/<profile>/runs.json. Paths here are relative to the results folder.
#
# A job's only output is <run>/.done, the fingerprint of its inputs: Snakemake removes the outputs of a failed job, and the
# results of an earlier, better one shall stay. The notebook moves its numbers into place by its last cell; while it runs, and
# where it fails, it is <run>/.new/notebook.ipynb, traceback and all.

PROFILE = config["profile"]
RUNS = config["runs"]  # run -> {notebook: path, needs: runs of these that come first, fingerprint}


wildcard_constraints:
    run="|".join(RUNS),


rule all:
    input:
        expand(f"{PROFILE}/{{run}}/.done", run=RUNS),


rule notebook:
    input:
        lambda wildcards: [f"{PROFILE}/{need}/.done" for need in RUNS[wildcards.run]["needs"]],
    output:
        f"{PROFILE}/{{run}}/.done",
    params:
        notebook=lambda wildcards: RUNS[wildcards.run]["notebook"],
        parameters=f".plan/{PROFILE}/{{run}}.yaml",
        done=lambda wildcards: '{"fingerprint": "%s"}' % RUNS[wildcards.run]["fingerprint"],
        run=f"{PROFILE}/{{run}}",
        new=f"{PROFILE}/{{run}}/.new",
    threads: config["threads"]  # all cores, one notebook at a time, unless the profile says otherwise
    resources:
        gpu=config["gpu"],  # 1 where there is a GPU: one notebook at a time holds it
    shell:
        "export OMP_NUM_THREADS={threads}; rm -rf {params.new:q} && mkdir -p {params.new:q} && "
        "{config[python]:q} -m papermill {params.notebook:q} {params.new:q}/notebook.ipynb -f {params.parameters:q} -k python3"
        " --cwd {config[root]:q} --no-progress-bar --log-level ERROR && "
        "{config[python]:q} -m nbconvert {params.new:q}/notebook.ipynb --to html --output notebook.html --log-level ERROR && "
        "test -f {params.run:q}/metrics.json -a ! -e {params.new:q}/metrics.json && "  # its last cell has moved them
        "mv {params.new:q}/notebook.* {params.run:q}/ && rm -rf {params.new:q} && echo {params.done:q} > {output:q}"
