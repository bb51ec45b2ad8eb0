#!/usr/bin/env bash
# Makes the Python environment in which everything here runs: torch, then fairseq, then this package.
#
# The idea: look first, then do only what is missing. An environment counts as ready when every requirement of
# pyproject.toml is installed to the end and `wff doctor` has passed on exactly these versions; only then is the stamp
# written. So a run that was killed anywhere is continued by the next one, and a run too many costs a second.
#
# Left out on purpose: no sudo, no system packages, no choice of a package index (pip's own settings hold), and
# nothing is ever deleted but an environment that carries this script's mark.
set -euo pipefail

ROOT=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
SELF="bash scripts/setup.sh"
AGAIN=$SELF # the same call once more, for "what to type next"
(($# == 0)) || AGAIN+=$(printf ' %q' "$@")

usage() {
    cat <<END
usage: $SELF [--here | --venv DIR] [--python PATH] [--extras LIST] [--check]

Makes .venv in the repository root with torch, fairseq and this package (editable). About 6 minutes the first time
on Python 3.11, where fairseq is compiled; a second or two when there is nothing to do. Killed? Type it again.

  --here           use the active environment instead of .venv (the torch in it is kept as it is)
  --venv DIR       another place than .venv
  --python PATH    the interpreter to make .venv with, or, after --here, the one of the environment to use
                   (default: the first of python3.11, python3.12, python3.10, python3 that runs)
  --extras LIST    the package's extras: dev, recipes, plot, examples, a list with commas, or none (default: dev,
                   which holds the others; quickstart.sh and test.sh need it)
  --check          only say what is missing; exit status 1 if something is
  --find X.Y       only print the path of a Python X.Y that could be used; exit status 1 if there is none

TORCH_SPEC is what pip is given to install torch (default torch==2.13.0; torch==2.4.1 on Python 3.10, for the older
fairseq there). It may hold pip options: TORCH_SPEC="torch==2.13.0 --no-index --find-links /my/wheels" $SELF

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

SUPPORTED=(3.11 3.12 3.10) # the versions that fairseq has a release for, the best tried first

# runs PYTHON X.Y...: print the real path of an interpreter of these versions that runs (a pyenv shim may only exist).
runs() {
    "$1" -c '
import sys
if "%d.%d" % sys.version_info[:2] not in sys.argv[1:]:
    sys.exit(1)
print(sys.executable)' "${@:2}" 2>/dev/null
}

# usable PYTHON X.Y...: the same, of one that can make environments (Debian has that in a package of its own).
usable() { runs "$@" && "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# find_python X.Y...: the first usable interpreter of these versions: on PATH, then as plain python3, then in pyenv.
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

# active_python: the interpreter of the activated virtualenv or conda environment, else python3.
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

# ---------------------------------------------------------------- what is there, what is missing

# inspect PYTHON: facts about its environment, a line each: "have NAME==VERSION", "miss REQUIREMENT", "torch VERSION",
# "fairseq REQUIREMENT", "rival NAME", "print ASKED INSTALLED" (hashes). Reads pyproject.toml, so no list is kept twice.
inspect() {
    "$1" - "$ROOT" "$EXTRAS" <<'PYTHON'
import hashlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlparse

sys.path = [entry for entry in sys.path if entry]  # the current folder may hold a stray egg-info
from pip._vendor.packaging.requirements import Requirement  # noqa: E402

try:
    import tomllib
except ImportError:  # Python 3.10
    from pip._vendor import tomli as tomllib

root, extras = Path(sys.argv[1]), sys.argv[2]
project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
init = (root / "weighted_freezing_fairseq/__init__.py").read_text(encoding="utf-8")
version = re.search(r'^__version__ = "(.+)"', init, re.MULTILINE)[1]
extras_to_install = [name for name in extras.split(",") if name and name != "none"]
unknown = [name for name in extras_to_install if name not in project["optional-dependencies"]]
if unknown:
    print("unknown", unknown[0])
    sys.exit()


def of_extra(extra):
    """The requirements of an extra, with those of the extras of this package that it lists."""
    for requirement in map(Requirement, project["optional-dependencies"][extra]):
        if requirement.name == project["name"]:
            for other in sorted(requirement.extras):
                yield from of_extra(other)
        else:
            yield requirement


def installed(name):
    """The version of a distribution that pip has installed to the end (its last act is to list INSTALLER)."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    record = found.read_text("RECORD")
    half = record is not None and "INSTALLER" not in record
    return None if half else found.version


def is_this_checkout():
    """Whether the package is installed as an editable link to this very folder."""
    try:
        text = importlib.metadata.distribution(project["name"]).read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return False
    url = json.loads(text or "{}")
    return url.get("dir_info", {}).get("editable") and Path(unquote(urlparse(url["url"]).path)) == root


requirements = list(map(Requirement, project["dependencies"]))
requirements += [requirement for name in extras_to_install for requirement in of_extra(name)]
lines = []
for requirement in requirements:
    if requirement.marker is not None and not requirement.marker.evaluate():
        if requirement.name.startswith("fairseq") and installed(requirement.name):
            print("rival", requirement.name)
        continue
    requirement.marker = None
    present = installed(requirement.name)
    good = present is not None and requirement.specifier.contains(present, prereleases=True)
    lines.append(f"have {requirement.name}=={present}" if good else f"miss {requirement}")
    if requirement.name == "torch" and present:
        print("torch", present)
    if requirement.name.startswith("fairseq"):
        print("fairseq", requirement)
lines.append(f"have {project['name']}=={version}" if is_this_checkout() else f"miss {project['name']}")
print(*lines, sep="\n")
asked = [json.dumps(project), version, str(root), sys.prefix, sys.version, extras]
print("print", *(hashlib.sha256("\n".join(part).encode()).hexdigest() for part in (asked, lines)))
PYTHON
}

# fact KEY: the values of that key in FACTS, a line each.
fact() { sed -n "s/^$1 //p" <<<"$FACTS"; }

# sweep PYTHON: take away what a killed pip left half-installed, so that pip does not believe it to be there.
# Only for environments with our mark: in it everything came from pip, which lists INSTALLER last of all.
sweep() {
    "$1" -I - <<'PYTHON'
import shutil
import sysconfig
from pathlib import Path

site = Path(sysconfig.get_path("purelib"))
for info in site.glob("*.dist-info"):
    record = info / "RECORD"
    if not record.is_file() or "INSTALLER" not in record.read_text():
        print(f"half-installed, will be installed again: {info.name}")
        shutil.rmtree(info)
for left in site.glob("~*"):
    shutil.rmtree(left) if left.is_dir() else left.unlink()
PYTHON
}

# ---------------------------------------------------------------- running a step

CHILD=""
stop_child() {
    if [[ -n $CHILD ]]; then kill -TERM -- "-$CHILD" 2>/dev/null || true; fi
}
trap 'stop_child; say "stopped; to go on: $AGAIN"; exit 130' INT TERM

# advice LOG: the one line that says what to type after this failure.
advice() {
    local again="then: $AGAIN"
    if grep -qiE 'no space left on device' "$1"; then
        say "the disk is full: free some room (torch for CUDA takes 6 GB), $again"
    elif grep -qE 'Python\.h: No such file' "$1"; then
        say "the headers of Python are missing: install python3-dev (Debian, Ubuntu) or python3-devel (Fedora), $again"
    elif grep -qiE "command '[^']*(cc|\+\+|clang)[^']*' failed: No such file|(gcc|g\+\+|c\+\+|cc): (command )?not found|unable to execute|No such file or directory: '[^']*(gcc|g\+\+|c\+\+|cc)'" "$1"; then
        say "the compiler is missing: install gcc and g++ (Debian, Ubuntu: build-essential; Fedora: gcc-c++), $again"
    elif grep -qiE 'Killed signal|internal compiler error: Killed|cannot allocate memory' "$1"; then
        say "out of memory: type: MAX_JOBS=1 $AGAIN"
    elif grep -qi 'externally-managed-environment' "$1"; then
        say "this Python belongs to the system: leave --here out, type: $SELF"
    elif grep -qiE 'connection|timed out|temporary failure|network is unreachable|max retries' "$1"; then
        say "the network failed: look at the connection and at pip's index settings (pip config list), $again"
    elif grep -qiE 'no matching distribution|could not find a version' "$1"; then
        say "pip found no such version: look at pip's index settings (pip config list) or choose a torch: TORCH_SPEC=torch==2.13.0 $AGAIN"
    else
        say "the whole log is $1; when mended: $AGAIN"
    fi
}

# logged NAME COMMAND...: run a step with its output in a log, a sign of life every 15 seconds.
logged() {
    local name=$1 log="$STATE/setup-$1.log" start=$SECONDS next=15 status=0
    shift
    # In a process group of its own (set -m), so that an interrupt can end the compilers under pip too.
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

# pip_install NAME ARGUMENT...: pip with the torch that is there held fast. CUDA_HOME would make fairseq compile
# kernels that no text task uses, and that need a compiler fitting torch's CUDA exactly.
pip_install() {
    local name=$1
    shift
    logged "$name" env -u CUDA_HOME "$PY" -m pip install --no-input "$@"
}

# ---------------------------------------------------------------- the environment

MARK=.made-by-setup.sh

# ours DIR: whether this script made DIR, at this very place (a copied environment still points to the old one).
ours() { [[ -f $1/$MARK && ! -L $1 ]] && grep -qxF "place $1" "$1/$MARK"; }

# remove_ours DIR: the only deletion of a folder; the mark is checked where it happens.
remove_ours() {
    [[ -f $1/$MARK && ! -L $1 ]] || die "$1 was not made by this script and stays; move it away or use --venv DIR"
    local attempt
    # The mark goes last: a deletion that is killed must find its mark again. What a killed setup has left running
    # may still write here for a moment, hence more than one attempt.
    for attempt in 1 2 3 4 5 6 7 8 9 10; do
        find "$1" -mindepth 1 -maxdepth 1 ! -name "$MARK" -exec rm -rf -- {} + 2>/dev/null && rm -rf -- "$1" && return 0
        sleep "$attempt"
    done
    die "$1 cannot be removed: is a program still running in it? End it, then: $AGAIN"
}

# choose_base: set BASE to the interpreter that an environment is made with.
choose_base() {
    if [[ -n $PYTHON ]]; then
        BASE=$(usable "$PYTHON" "${SUPPORTED[@]}") ||
            die "$PYTHON does not run, or is not Python 3.10 to 3.12 with venv; type: $SELF --python /path/to/python3.11"
    else
        BASE=$(find_python "${SUPPORTED[@]}") ||
            die "no Python 3.10, 3.11 or 3.12 with venv here; install one (Debian: python3.11-venv), or type: $SELF --python /path/to/python3.11"
    fi
}

# make_environment DIR: a fresh virtual environment; "whole" in the mark says that it was made to the end.
make_environment() {
    say "==> making $1 with $BASE ($("$BASE" -V)): about 5 seconds"
    mkdir -p "$1"
    printf 'place %s\n' "$1" >"$1/$MARK"
    printf '*\n' >"$1/.gitignore"
    logged venv "$BASE" -m venv "$1"
    printf 'whole\n' >>"$1/$MARK"
}

# settle_environment DIR: leave a usable environment at DIR, whatever is there now.
settle_environment() {
    if [[ -f $1/$MARK ]]; then
        if ours "$1" && grep -qx whole "$1/$MARK" && "$1/bin/python" -m pip --version >/dev/null 2>&1; then
            if [[ -n $PYTHON && $("$PYTHON" -V 2>&1) != "$("$1/bin/python" -V 2>&1)" ]]; then
                die "$1 has $("$1/bin/python" -V), not that of $PYTHON; for a second one: $SELF --venv DIR --python $PYTHON"
            fi
            return 0
        fi
        choose_base
        say "==> $1 is half-made, was moved here, or its Python is gone: making it again"
        remove_ours "$1"
    elif [[ -d $1 && -n $(ls -A "$1") ]]; then
        [[ -n $(runs "$1/bin/python" "${SUPPORTED[@]}") ]] ||
            die "$1 is there, was not made by this script and holds no usable Python; move it away or use --venv DIR"
        say "==> using $1, which this script did not make"
        return 0
    else
        choose_base
    fi
    make_environment "$1"
}

# lock: one setup at a time in this checkout. The lock's file is inherited by pip, so that a pip that outlived a
# killed setup still holds it and the next setup waits for its end.
lock() {
    mkdir -p "$ROOT/build"
    exec 9>"$ROOT/build/setup.lock"
    command -v flock >/dev/null || return 0
    local waited=0
    until flock -n 9; do
        ((waited++ % 15)) || say "    ... another setup is at work in this folder (or pip is still ending one that was killed); waiting"
        sleep 1
    done
}

# ---------------------------------------------------------------- the command line

HERE="" VENV="" PYTHON="" EXTRAS=dev CHECK=""
while (($#)); do
    case $1 in
    --here | --check) ;;
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
# What the user's shell adds to Python's path is not in the environment, and would hide what is missing there.
unset PYTHONPATH PYTHONHOME

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
        say "note: $active is active but not used (for that: $SELF --here); using $VENV"
    fi
fi

if [[ -z $CHECK ]]; then
    lock
    [[ -n $HERE ]] || settle_environment "$VENV"
    mkdir -p "$STATE"
elif [[ ! -x $PY ]]; then
    die "there is no $PY yet; type: ${AGAIN/ --check/}"
fi
"$PY" -m pip --version >/dev/null 2>&1 || die "$PY has no pip; type: $PY -m ensurepip"

look() {
    FACTS=$(inspect "$PY") || die "could not look into the environment of $PY"
    [[ -z $(fact unknown) ]] || wrong_call "pyproject.toml has no extra called $(fact unknown)"
}
look
if [[ -n $CHECK ]]; then
    [[ -z $(fact miss) ]] && say "complete: $PY" && exit 0
    say "missing in the environment of $PY:"
    fact miss | sed 's/^/    /'
    say "type: ${AGAIN/ --check/}"
    exit 1
fi

# ---------------------------------------------------------------- the work

STAMP="$STATE/setup.stamp"
verify() {
    say "==> checking that everything imports (wff doctor): about 10 seconds"
    rm -f "$STAMP"
    (cd "$STATE" && "$PY" -m weighted_freezing_fairseq doctor) || die "the check failed: do what its lines say, then: $AGAIN"
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
        # Complete, but never checked with these versions. (Other requirements are no such case: install again.)
        verify
        farewell "nothing had to be installed"
        exit 0
    fi
fi

rm -f "$STAMP"
rival=$(fact rival)
[[ -z $rival ]] || die "$rival is installed, and holds the same files as $(fact fairseq); type: $PY -m pip uninstall -y $rival, then: $AGAIN"
if [[ -z $HERE ]] && ours "$VENV"; then
    sweep "$PY"
    look
fi
cd "$STATE" # not in the checkout, whose egg-info pip would take for an installed package
version=$("$PY" -c 'import sys; print("%d.%d" % sys.version_info[:2])')

if [[ $version == 3.10 ]]; then
    # fairseq 0.12.2 needs omegaconf 2.0, whose metadata pip refuses from 24.1 on. No effect when pip is older.
    say "==> a pip that still takes fairseq 0.12.2 (older than 24.1): a few seconds"
    pip_install pip "pip<24.1"
fi

if [[ -z $(fact torch) ]]; then
    default=torch==2.13.0
    [[ $version != 3.10 ]] || default=torch==2.4.1
    read -ra spec <<<"${TORCH_SPEC:-$default}"
    say "==> torch (${spec[*]}): a download of 0.2 GB for CPU to 3 GB for CUDA, 1 to 5 minutes"
    pip_install torch ${spec[@]+"${spec[@]}"}
    look
elif [[ -n ${TORCH_SPEC:-} ]]; then
    say "note: torch $(fact torch) is there and is kept; TORCH_SPEC is only used where there is none"
fi
# torchaudio, which fairseq asks for, is left to pip: no text task of fairseq imports it.
printf 'torch==%s\n' "$(fact torch)" >"$STATE/setup-constraints.txt"

if [[ $(fact miss) == *"$(fact fairseq)"* ]]; then
    say "==> what fairseq is built with: a few seconds"
    pip_install tools -c "$STATE/setup-constraints.txt" "setuptools>=77" wheel cython numpy ninja
    if [[ $version == 3.10 ]]; then
        # Built in isolation, where it sees no torch: with torch it wants C++ sources that its archive lacks.
        say "==> $(fact fairseq): compiling it, about 1 minute"
        pip_install fairseq -c "$STATE/setup-constraints.txt" "$(fact fairseq)"
    else
        # Not in isolation, which would download a second torch of several GB just for building.
        say "==> $(fact fairseq): about 4 minutes where it must be compiled (Python 3.11), seconds where there is a wheel"
        pip_install fairseq -c "$STATE/setup-constraints.txt" --no-build-isolation "$(fact fairseq)"
    fi
fi

say "==> this package, editable, with extras: $EXTRAS: about half a minute"
extras="[$EXTRAS]"
[[ $EXTRAS != none ]] || extras=""
pip_install package -c "$STATE/setup-constraints.txt" -e "$ROOT$extras"

# A torchaudio for CUDA cannot be loaded beside a torch for CPU, and transformers tries to where it finds one.
if [[ -z $HERE ]] && ours "$VENV" && ! "$PY" -c 'import torchaudio' >/dev/null 2>&1; then
    say "==> torchaudio does not load beside this torch, and no text task needs it: taking it away"
    logged torchaudio "$PY" -m pip uninstall --yes torchaudio
fi

look
[[ -z $(fact miss) ]] || die "still missing after the installation: $(fact miss | tr '\n' ' ')" "the logs are in $STATE"
verify
farewell "made in $SECONDS s"
