#!/usr/bin/env bash
# Check the whole repository: linters, types, tests. CI runs this script only.
#
# Every step runs even if an earlier one failed, and none changes a file. The tests run last, so that their summary ends
# the output; the results of the other steps are printed just before them.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
SELF="bash scripts/test.sh"

usage() {
    cat <<END
usage: $SELF [--here] [--venv DIR] [--quick] [-- PYTEST OPTIONS]

ruff, shellcheck, mypy, import-linter, mkdocs, then pytest. Runs scripts/setup.sh first, which makes .venv if it is missing.

  --here       use the active environment (see scripts/setup.sh --here)
  --venv DIR   use this environment instead of .venv
  --quick      skip the tests that start fairseq or take a second: some 70 seconds on 2 cores
  --           pass the remaining options to pytest: $SELF --quick -- -k doctor -x

Exit status 1 if any step failed.
END
}

wrong_call() {
    printf 'test.sh: %s; type: %s --help\n' "$1" "$SELF" >&2
    exit 2
}

setup=() pytest=() more=1
venv="$ROOT/.venv" here=""
while (($#)); do
    case $1 in
    --help | -h)
        usage
        exit 0
        ;;
    --here) here=1 setup+=(--here) ;;
    --venv)
        (($# > 1)) || wrong_call "$1 needs a value"
        venv=$2 setup+=(--venv "$2")
        shift
        ;;
    --quick) pytest+=(-m "not slow") more=0 ;;
    --)
        shift
        pytest+=("$@")
        break
        ;;
    *) wrong_call "unknown option $1 (options of pytest come after --)" ;;
    esac
    shift
done

bash "$ROOT/scripts/setup.sh" ${setup[@]+"${setup[@]}"}
if [[ -n $here ]]; then
    bin=$(dirname -- "$(command -v python3)")
    [[ -z ${VIRTUAL_ENV:-${CONDA_PREFIX:-}} ]] || bin="${VIRTUAL_ENV:-$CONDA_PREFIX}/bin"
else
    bin=$(cd -- "$venv/bin" && pwd)
fi
cd -- "$ROOT"
export PATH="$bin:$PATH"
unset PYTHONPATH PYTHONDONTWRITEBYTECODE # without bytecode every process compiles what it imports

# One process more than there are cores, up to 4, with one thread each: most of the time is spent in subprocesses, and a
# sixth of it in waiting for what they do, such as ending after a kill. The quick tests start none and do not wait.
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
cores=$(python3 -c 'import os; print(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count())')
workers=$((cores + more < 4 ? cores + more : 4))

# The pages of docs/, into a folder that is removed: a broken link or a page outside the navigation is an error.
build_docs() {
    local site status=0
    site=$(mktemp -d)
    NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir "$site" || status=$?
    rm -rf -- "$site"
    return "$status"
}

failed=() lines=()
# step NAME COMMAND...: run COMMAND, and record its duration and whether it failed.
step() {
    local name=$1 start=$SECONDS verdict=ok
    shift
    printf '==> %s\n' "$name"
    "$@" || {
        verdict=FAILED
        failed+=("$name")
    }
    lines+=("$(printf '%-18s %-7s %3d s' "$name" "$verdict" $((SECONDS - start)))")
    printf '    %s in %d s\n' "$verdict" $((SECONDS - start))
}

scripts=()
while IFS= read -r -d '' file; do scripts+=("$file"); done < <(find scripts .ci -type f ! -name "*.py" -print0)

step "ruff check" ruff check .
step "ruff format" ruff format --check .
step "shellcheck" shellcheck ${scripts[@]+"${scripts[@]}"}
step "mypy" mypy
step "import-linter" lint-imports --no-logo --no-cache
step "mkdocs" build_docs

printf '==> before the tests\n'
printf '    %s\n' ${lines[@]+"${lines[@]}"}
printf '==> pytest, %s at a time\n' "$workers"
# worksteal: distributes the few long end-to-end tests among idle processes.
pytest -n "$workers" --dist worksteal ${pytest[@]+"${pytest[@]}"} || failed+=(pytest)

if ((${#failed[@]})); then
    printf 'test.sh: failed: %s\n' "$(printf '%s, ' ${failed[@]+"${failed[@]}"} | sed 's/, $//')" >&2
    exit 1
fi
