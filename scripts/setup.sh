#!/usr/bin/env bash
# Make the Python environment of this repository: torch, then fairseq, then this package.
#
# The script installs only what is missing. An environment is complete when every requirement of pyproject.toml is fully
# installed and `wff doctor` has passed with these versions; then a stamp is written. So a killed run is resumed by the
# next one, and a run with nothing to do takes a second.
#
# It needs no sudo, installs no system packages and uses pip's own index settings. The only folder that it deletes is an
# environment that it made and marked.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
SELF="bash scripts/setup.sh"
AGAIN=$SELF # this call, for messages that say what to type
(($# == 0)) || AGAIN+=$(printf ' %q' "$@")

usage() {
    cat <<END
usage: $SELF [--here | --venv DIR] [--python PATH] [--extras LIST] [--full] [--check]

Make .venv in the repository root with torch, fairseq and this package (editable). A few minutes; a second or two when
nothing is missing. After a kill the same call resumes. The wheel of fairseq is kept in ~/.cache for the next environment.

  --here           use the active environment instead of .venv (its torch is kept)
  --venv DIR       folder of the environment (default: .venv)
  --python PATH    interpreter to make .venv with, or with --here, that of the environment to use
                   (default: the first of python3.11, python3.12, python3.10, python3 that runs)
  --extras LIST    comma-separated extras of the package: dev, recipes, plot, parquet, examples, or none (default: dev,
                   which includes the others; quickstart.sh and test.sh need it)
  --full           also compile fairseq's extensions libbase, libnat and alignment_train (minutes): its BASE layers,
                   Levenshtein Transformer and simultaneous translation need them, and no command of this package
  --check          only print what is missing; exit status 1 if something is
  --find X.Y       only print the path of a usable Python X.Y; exit status 1 if there is none

TORCH_SPEC: arguments of pip that install torch (default torch==2.13.0; torch==2.4.1 on Python 3.10, for its older
fairseq). They may include options: TORCH_SPEC="torch==2.13.0 --no-index --find-links /my/wheels" $SELF

Then: source .venv/bin/activate
END
}

say() { printf '%s\n' "$*"; }
wrong_call() {
    printf 'setup.sh: %s; type: %s --help\n' "$1" "$SELF" >&2
    exit 2
}
die() {
    printf 'setup.sh: %s\n' "$@" >&2
    exit 1
}

# ---------------------------------------------------------------- the interpreter

SUPPORTED=(3.11 3.12 3.10) # versions that fairseq has a release for, in order of preference

# runs PYTHON X.Y...: print the real path of an interpreter if it runs and has one of these versions. (A pyenv shim may
# exist without running.)
runs() {
    "$1" -c '
import sys
if "%d.%d" % sys.version_info[:2] not in sys.argv[1:]:
    sys.exit(1)
print(sys.executable)' "${@:2}" 2>/dev/null
}

# usable PYTHON X.Y...: the same, if it can make environments (a separate package in Debian).
usable() { runs "$@" && "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# find_python X.Y...: print the first usable interpreter of these versions: pythonX.Y on PATH, then python3, then pyenv.
find_python() {
    local version path
    for version in "$@"; do
        while IFS= read -r path; do
            usable "$path" "$version" && return 0
        done < <(type -aP "python$version" || true)
    done
    while IFS= read -r path; do
        usable "$path" "$@" && return 0
    done < <(type -aP python3 || true)
    for version in "$@"; do
        for path in "${PYENV_ROOT:-$HOME/.pyenv}/versions/$version".*/bin/python; do
            usable "$path" "$version" && return 0
        done
    done
    return 1
}

# active_python: print the interpreter of the active virtualenv or conda environment, else python3.
active_python() {
    local prefix
    for prefix in "${VIRTUAL_ENV:-}" "${CONDA_PREFIX:-}"; do
        if [[ -n $prefix && -x $prefix/bin/python ]]; then
            printf '%s\n' "$prefix/bin/python"
            return 0
        fi
    done
    command -v python3
}

# ---------------------------------------------------------------- what is installed, what is missing

# look: set FACTS to what scripts/installed.py prints about the environment.
look() {
    FACTS=$("$PY" "$ROOT/scripts/installed.py" "$ROOT" "$EXTRAS" ${FULL:+"$FULL"}) || die "could not inspect the environment of $PY"
    [[ -z $(fact unknown) ]] || wrong_call "pyproject.toml has no extra called $(fact unknown)"
}

# fact KEY: print the values of KEY in FACTS, one per line.
fact() { sed -n "s/^$1 //p" <<<"$FACTS"; }

# sweep PYTHON: remove distributions that a killed pip installed in part, so that pip installs them again. Only for
# environments that this script made: pip installed everything in them, and it lists INSTALLER last.
sweep() {
    "$1" -I - <<'PYTHON'
import shutil
import sysconfig
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    if not record.is_file() or "INSTALLER" not in record.read_text():
        print(f"installed in part, will be installed again: {info.name}")
        shutil.rmtree(info)
for path in site.glob("~*"):
    shutil.rmtree(path) if path.is_dir() else path.unlink()
PYTHON
}

# ---------------------------------------------------------------- running a step

CHILD=""
stop_child() {
    if [[ -n $CHILD ]]; then kill -TERM -- "-$CHILD" 2>/dev/null || true; fi
}
trap 'stop_child; say "stopped; to resume, type: $AGAIN"; exit 130' INT TERM

# advice LOG: print one line that says what to type after this failure.
advice() {
    local again="then: $AGAIN"
    if grep -qiE 'no space left on device' "$1"; then
        say "the disk is full: free some space (torch for CUDA takes 6 GB), $again"
    elif grep -qE 'Python\.h: No such file' "$1"; then
        say "the headers of Python are missing: install python3-dev (Debian, Ubuntu) or python3-devel (Fedora), $again"
    elif grep -qiE "command '[^']*(cc|\+\+|clang)[^']*' failed: No such file|(gcc|g\+\+|c\+\+|cc): (command )?not found|unable to execute|No such file or directory: '[^']*(gcc|g\+\+|c\+\+|cc)'" "$1"; then
        say "the compiler is missing: install gcc and g++ (Debian, Ubuntu: build-essential; Fedora: gcc-c++), $again"
    elif grep -qiE 'Killed signal|internal compiler error: Killed|cannot allocate memory' "$1"; then
        say "out of memory: type: MAX_JOBS=1 $AGAIN"
    elif grep -qi 'externally-managed-environment' "$1"; then
        say "this Python is managed by the system: leave --here out, type: $SELF"
    elif grep -qiE 'connection|timed out|temporary failure|network is unreachable|max retries' "$1"; then
        say "the network failed: check the connection and pip's index settings (pip config list), $again"
    elif grep -qiE 'no matching distribution|could not find a version' "$1"; then
        say "pip found no such version: check pip's index settings (pip config list) or choose a torch: TORCH_SPEC=torch==2.13.0 $AGAIN"
    else
        say "the whole log is $1; correct the error, then: $AGAIN"
    fi
}

# logged NAME COMMAND...: run a step with its output in a log; print a line every 15 seconds.
logged() {
    local name=$1 log="$STATE/setup-$1.log" start=$SECONDS next=15 status=0
    shift
    # In its own process group (set -m), so that an interrupt also ends the compilers that pip started.
    set -m
    "$@" >"$log" 2>&1 </dev/null &
    CHILD=$!
    set +m
    while kill -0 "$CHILD" 2>/dev/null; do
        sleep 0.3
        if ((SECONDS - start >= next)); then
            say "    ... $name, $((SECONDS - start)) s; log: $log"
            next=$((next + 15))
        fi
    done
    wait "$CHILD" || status=$?
    CHILD=""
    if ((status != 0)); then
        say "    FAILED after $((SECONDS - start)) s; the last lines of $log:" >&2
        { grep -v "is ignored: it is" "$log" || true; } | tail -n 15 | sed 's/^/    | /' >&2
        die "step $name failed (exit status $status)" "$(advice "$log")"
    fi
    say "    done in $((SECONDS - start)) s"
}

# choose_installer: set INSTALL to the command that installs. Modules are compiled when they are first imported. uv is
# faster than pip, but knows none of pip's settings (an index, a folder of wheels), and so is used only where there are none.
choose_installer() {
    INSTALL=("$PY" -m pip install --no-input --no-compile)
    local settings='index|find-links|constraint|cert|proxy'
    if command -v uv >/dev/null && [[ ! $("$PY" -m pip config list) =~ $settings ]]; then
        INSTALL=(uv pip install --python "$PY")
    fi
}

# ---------------------------------------------------------------- the environment

MARK=.made-by-setup.sh

# ours DIR: whether this script made DIR at this path. (A copied environment still points to its old path.)
ours() { [[ -f $1/$MARK && ! -L $1 ]] && grep -qxF "place $1" "$1/$MARK"; }

# remove_ours DIR: delete an environment that this script made; the mark is checked here.
remove_ours() {
    [[ -f $1/$MARK && ! -L $1 ]] || die "$1 was not made by this script and is not deleted; move it away or use --venv DIR"
    local attempt
    # The mark is deleted last, so that a killed deletion can be repeated. Processes of a killed setup may still write
    # here for a moment; hence several attempts.
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        find "$1" -mindepth 1 -maxdepth 1 ! -name "$MARK" -exec rm -rf -- {} + 2>/dev/null && rm -rf -- "$1" && return 0
        sleep "$attempt"
    done
    die "$1 cannot be removed: is a program still running in it? Stop it, then: $AGAIN"
}

# choose_base: set BASE to the interpreter that makes the environment.
choose_base() {
    if [[ -n $PYTHON ]]; then
        BASE=$(usable "$PYTHON" "${SUPPORTED[@]}") ||
            die "$PYTHON does not run, or is not Python 3.10 to 3.12 with venv; type: $SELF --python /path/to/python3.11"
    else
        BASE=$(find_python "${SUPPORTED[@]}") ||
            die "no Python 3.10, 3.11 or 3.12 with venv here; install one (Debian: python3.11-venv), or type: $SELF --python /path/to/python3.11"
    fi
}

# make_environment DIR: make a virtual environment; "whole" in the mark means that it is complete.
make_environment() {
    say "==> making $1 with $BASE ($("$BASE" -V)): about 5 seconds"
    mkdir -p "$1"
    printf 'place %s\n' "$1" >"$1/$MARK"
    printf '*\n' >"$1/.gitignore"
    logged venv "$BASE" -m venv "$1"
    printf 'whole\n' >>"$1/$MARK"
}

# ensure_environment DIR: make the environment DIR unless a usable one exists; stop if DIR holds other files.
ensure_environment() {
    if [[ -f $1/$MARK ]]; then
        if ours "$1" && grep -qx whole "$1/$MARK" && "$1/bin/python" -m pip --version >/dev/null 2>&1; then
            if [[ -n $PYTHON && $("$PYTHON" -V 2>&1) != "$("$1/bin/python" -V 2>&1)" ]]; then
                die "$1 has $("$1/bin/python" -V), not that of $PYTHON; for a second one: $SELF --venv DIR --python $PYTHON"
            fi
            return 0
        fi
        choose_base
        say "==> $1 is incomplete, was moved, or its Python is missing: making it again"
        remove_ours "$1"
    elif [[ -d $1 && -n $(ls -A "$1") ]]; then
        [[ -n $(runs "$1/bin/python" "${SUPPORTED[@]}") ]] ||
            die "$1 exists, was not made by this script and has no usable Python; move it away or use --venv DIR"
        say "==> using $1, which this script did not make"
        return 0
    else
        choose_base
    fi
    make_environment "$1"
}

# lock: allow one setup at a time in this checkout. pip inherits the lock, so the next setup also waits for a pip that
# outlived a killed setup.
lock() {
    mkdir -p "$ROOT/build"
    exec 9>"$ROOT/build/setup.lock"
    command -v flock >/dev/null || return 0
    local waited=0
    until flock -n 9; do
        ((waited++ % 15)) || say "    ... waiting for another setup in this folder, or for the pip of a killed one"
        sleep 1
    done
}

# ---------------------------------------------------------------- the command line

HERE="" VENV="" PYTHON="" EXTRAS=dev CHECK="" FULL=""
while (($#)); do
    case $1 in
    --here | --check | --full) ;;
    --help | -h)
        usage
        exit 0
        ;;
    --venv | --python | --extras | --find) (($# > 1)) || wrong_call "$1 needs a value" ;;
    *) wrong_call "unknown option $1" ;;
    esac
    case $1 in
    --here) HERE=1 ;;
    --check) CHECK=1 ;;
    --full) FULL=--full ;;
    --venv) VENV=$2 && shift ;;
    --python) PYTHON=$2 && shift ;;
    --extras) EXTRAS=$2 && shift ;;
    --find)
        [[ $2 =~ ^3\.1[0-2]$ ]] || wrong_call "--find takes 3.10, 3.11 or 3.12"
        find_python "$2" && exit 0
        die "no Python $2 with venv that runs, neither on PATH nor in pyenv"
        ;;
    esac
    shift
done
[[ -z $HERE || -z $VENV ]] || wrong_call "--here and --venv exclude each other"
# Packages on these paths are not in the environment, and would hide what is missing there.
unset PYTHONPATH PYTHONHOME
# The check at the end imports torch and fairseq: their compiled bytecode, left in the environment, nearly halves the
# processor time of every later start, also where this variable is set, as in many containers.
unset PYTHONDONTWRITEBYTECODE

if [[ -n $HERE ]]; then
    PY=${PYTHON:-$(active_python || true)}
    [[ -n $(runs "$PY" "${SUPPORTED[@]}") ]] ||
        die "the active Python (${PY:-none}) does not run, or is not 3.10 to 3.12; leave --here out: $SELF"
    place=$(dirname -- "$(dirname -- "$PY")")
    STATE="$ROOT/build/setup-here${place//\//_}"
else
    VENV=${VENV:-$ROOT/.venv}
    [[ $VENV == /* ]] || VENV="$PWD/$VENV"
    VENV=${VENV%/}
    PY="$VENV/bin/python" STATE="$VENV"
    active=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    if [[ -n $active && $active != "$VENV" ]]; then
        say "note: $active is active but not used (to use it: $SELF --here); using $VENV"
    fi
fi

if [[ -z $CHECK ]]; then
    lock
    [[ -n $HERE ]] || ensure_environment "$VENV"
    mkdir -p "$STATE"
elif [[ ! -x $PY ]]; then
    die "there is no $PY; type: ${AGAIN/ --check/}"
fi
"$PY" -m pip --version >/dev/null 2>&1 || die "$PY has no pip; type: $PY -m ensurepip"

look
if [[ -n $CHECK ]]; then
    [[ -z $(fact miss) ]] && say "complete: $PY" && exit 0
    say "missing in the environment of $PY:"
    fact miss | sed 's/^/    /'
    say "type: ${AGAIN/ --check/}"
    exit 1
fi

# ---------------------------------------------------------------- the work

STAMP="$STATE/setup.stamp" wheel=""
verify() {
    say "==> checking the installation (wff doctor): about 10 seconds"
    rm -f "$STAMP"
    (cd "$STATE" && "$PY" -m weighted_freezing_fairseq doctor) || {
        [[ -z $wheel ]] || rm -f "$wheel" # in case that it is to blame: the next call builds another
        die "the check failed: follow its advice, then: $AGAIN"
    }
    fact print >"$STAMP.new" && mv "$STAMP.new" "$STAMP"
}
farewell() {
    say "ready: $PY (${1})"
    [[ -n $HERE ]] || say "next: source '$VENV/bin/activate'"
}

if [[ -z $(fact miss) ]]; then
    stamp=$(cat "$STAMP" 2>/dev/null || true) now=$(fact print)
    if [[ $stamp == "$now" ]]; then
        farewell "nothing to do"
        exit 0
    elif [[ -z $stamp || ${stamp% *} == "${now% *}" ]]; then
        # Complete, but not checked with these versions. (After a change of the requirements the package is installed again.)
        verify
        farewell "nothing had to be installed"
        exit 0
    fi
fi

rm -f "$STAMP"
rival=$(fact rival)
[[ -z $rival ]] || die "$rival is installed and has the same files as $(fact fairseq); type: $PY -m pip uninstall -y $rival, then: $AGAIN"
if [[ -z $HERE ]] && ours "$VENV"; then
    sweep "$PY"
    look
fi
cd "$STATE" # in the checkout, pip would take its egg-info for an installed package
version=$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

choose_installer
constraints=(-c "$STATE/setup-constraints.txt")

default=torch==2.13.0
if [[ $version == 3.10 ]]; then
    [[ -z $FULL ]] || die "fairseq 0.12.2 (Python 3.10) comes without the sources that --full compiles; type: $SELF --full --venv DIR --python /path/to/python3.11"
    default=torch==2.4.1
    # fairseq 0.12.2 needs omegaconf 2.0, whose metadata pip 24.1 and later reject. No effect when pip is older.
    say "==> a pip that accepts fairseq 0.12.2 (older than 24.1): a few seconds"
    logged pip "${INSTALL[@]}" "pip<24.1"
fi

if [[ -z $(fact torch) ]]; then
    read -ra spec <<<"${TORCH_SPEC:-$default}"
    say "==> torch (${spec[*]}): a download of 0.2 GB for CPU to 3 GB for CUDA, half a minute to 5 minutes"
    logged torch "${INSTALL[@]}" ${spec[@]+"${spec[@]}"}
    look
elif [[ -n ${TORCH_SPEC:-} ]]; then
    say "note: torch $(fact torch) is installed and kept; TORCH_SPEC is used only where torch is missing"
fi
# The installer chooses torchaudio, which fairseq requires and no text task imports.
printf 'torch==%s\n' "$(fact torch)" >"$STATE/setup-constraints.txt"

if [[ $(fact miss) == *"$(fact fairseq)"* ]]; then
    say "==> build tools of fairseq: a few seconds"
    logged tools "${INSTALL[@]}" "${constraints[@]}" "setuptools>=77" wheel cython numpy ninja
    say "==> $(fact fairseq): seconds from a wheel, half a minute to compile it (minutes with --full)"
    logged wheel "$PY" "$ROOT/scripts/fairseq_wheel.py" "$(fact fairseq)" ${FULL:+"$FULL"}
    wheel=$(tail -n 1 "$STATE/setup-wheel.log")
    # By name: a path would stay in `pip freeze`, and would not count as a release for uv.
    from=(--no-index --find-links "$(dirname -- "$wheel")")
    logged fairseq "$PY" -m pip install --no-input --no-compile --no-deps --force-reinstall "${from[@]}" "$(fact fairseq)"
fi

say "==> this package, editable, with extras: $EXTRAS: about half a minute"
extras="[$EXTRAS]"
[[ $EXTRAS != none ]] || extras=""
logged package "${INSTALL[@]}" "${constraints[@]}" -e "$ROOT$extras"

# torchaudio for CUDA does not load with torch for CPU, and transformers imports torchaudio if it is installed.
if [[ -z $HERE ]] && ours "$VENV" && ! "$PY" -c 'import torchaudio' >/dev/null 2>&1; then
    say "==> torchaudio does not load with this torch, and no text task needs it: uninstalling it"
    logged torchaudio "$PY" -m pip uninstall --yes torchaudio
fi

look
[[ -z $(fact miss) ]] || die "still missing after the installation: $(fact miss | tr '\n' ' ')" "the logs are in $STATE"
verify
farewell "installed in $SECONDS s"
