# Sourced by run_all.sh and run_tests.sh: setup_python ROOT finds or makes an environment with everything that
# pyproject.toml asks for, and sets PYTHON (its interpreter) and PYTHONPATH (ROOT first). Silent when nothing is to do.

# fits PYTHON ROOT [--installed]: 0 if that interpreter has all that pyproject.toml asks for; else says what it lacks.
fits() { "$1" "$2/tools/check_env.py" "$2/pyproject.toml" "${@:3}"; }

# The first interpreter on PATH that is a supported Python. The plain name comes first: it is the one the user chose.
find_python() {
    local name
    for name in python3 python python3.13 python3.12 python3.11; do
        if "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}

# make_venv ROOT: makes or completes ROOT/.venv. Also goes on with one whose making was cut off.
make_venv() {
    local root=$1 venv=$1/.venv base pip
    if ! "$venv/bin/python" -c '' 2>/dev/null; then
        base=$(find_python) || {
            echo "setup: no Python 3.11, 3.12 or 3.13 on PATH (tried python3, python and the three by name)." >&2
            echo "setup: install one of them, or activate an environment that has it, and call again." >&2
            return 1
        }
        echo "setup: making .venv with $base ($("$base" -c 'import platform; print(platform.python_version())'))"
        rm -rf "$venv"
        # Some systems ship Python without ensurepip; the pip that is there can then fill the environment from outside.
        if "$base" -c 'import ensurepip' 2>/dev/null; then
            "$base" -m venv "$venv"
        else
            "$base" -m venv --without-pip "$venv"
            "$base" -m pip --python "$venv/bin/python" install --quiet pip
        fi
    fi
    pip=("$venv/bin/python" -m pip install --disable-pip-version-check)
    echo "setup: installing the pins of requirements.lock into .venv (once; some minutes)"
    # torch first and by itself: a build chosen through pip's own settings is in place before anything asks for it.
    "${pip[@]}" "$(grep -m 1 '^torch==' "$root/requirements.lock")"
    "${pip[@]}" --quiet --no-deps "$(grep -m 1 '^torchvision==' "$root/requirements.lock")"
    "${pip[@]}" --quiet -r "$root/requirements.lock"
    "${pip[@]}" --quiet --no-deps -e "$root"
}

setup_python() {
    local root=$1 candidate active=""
    # Notebook kernels start in other folders: agelib must be found without an install, too.
    export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
    for candidate in "${VIRTUAL_ENV:+$VIRTUAL_ENV/bin/python}" "${CONDA_PREFIX:+$CONDA_PREFIX/bin/python}"; do
        [ -n "$candidate" ] || continue
        active=$candidate
        if fits "$candidate" "$root" >/dev/null 2>&1; then PYTHON=$candidate && return; fi
    done
    candidate=$root/.venv/bin/python
    if fits "$candidate" "$root" --installed >/dev/null 2>&1; then PYTHON=$candidate && return; fi
    if candidate=$(find_python) && fits "$candidate" "$root" >/dev/null 2>&1; then PYTHON=$candidate && return; fi
    if [ -n "$active" ]; then
        echo "setup: the active environment ($active) is left as it is:"
        fits "$active" "$root" || true
    fi
    make_venv "$root"
    PYTHON=$root/.venv/bin/python
    fits "$PYTHON" "$root" --installed
}
