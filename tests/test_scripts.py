"""The shell scripts: linted, documented, and harmless where there is nothing to do or something in the way."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = (path for folder in ("scripts", ".ci") for path in (ROOT / folder).rglob("*") if path.is_file())
SCRIPTS = sorted(path for path in FILES if path.suffix != ".py")
NAMES = ("setup", "test", "quickstart", "adapt", "self_distill", "prune_iterative", "slurm", "slurm_cell", "wff", "gpu")
NAMES += ("prepare", "train", "evaluate", "reproduce", "iwslt14/reproduce", "lowresource/reproduce", "wmt17/reproduce")
KNOWN = {*(f"scripts/{name}.sh" for name in NAMES), ".ci/run"}
ids = [str(path.relative_to(ROOT)) for path in SCRIPTS]


def bash(script: str, *words: object, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(ROOT / script), *map(str, words)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_known_scripts_are_found():
    assert set(ids) >= KNOWN


@pytest.mark.parametrize("script", SCRIPTS, ids=ids)
def test_shellcheck_has_nothing_to_say(script):
    command = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([command, script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=ids)
def test_a_failing_line_ends_the_script(script):
    code = [line for line in script.read_text().splitlines() if line and not line.startswith("#")]
    assert code[0] == "set -euo pipefail"
    assert script.read_text().startswith("#!/usr/bin/env bash\n")


# What bash 3.2, which macOS has, does not know; and empty arrays, which `set -u` refuses before bash 4.4.
NEWER_THAN_3_2 = {
    "case of a variable": (r"\$\{!?\w+(\[.*?\])?(,|\^|@[A-Za-z]\})", "${name,,}"),
    "lines into an array": (r"\b(mapfile|readarray)\b", "mapfile -t lines"),
    "kinds of variables": (r"\b(declare|local|typeset) -\w*[Angluc]", "declare -A of"),
    "whether a variable is set": (r"\[\[? (! )?-v ", "[[ -v name ]]"),
    "the next child": (r"\bwait -[nfp]", "wait -n"),
    "coprocesses": (r"^\s*coproc\b", "coproc cat"),
    "both streams": (r"\|&|&>>", "make |& tee log"),
    "the clock": (r"%\([^)]*\)T|\bEPOCH(SECONDS|REALTIME)\b", "printf '%(%F)T'"),
    "a file descriptor by name": (r"\bexec \{\w+\}", "exec {lock}>file"),
    "options of the shell": (r"\bshopt -s \w*(globstar|lastpipe|inherit_errexit)", "shopt -s globstar"),
    "negative places": (r"\$\{\w+\[-\d|\$\{\w+:\d+:\s*-\d", "${words[-1]}"),
    "falling through": (r";;?&", "a) ;;&"),
    "a closing bracket of a case in $(": (r"\$\([^()]*\bcase\b", "x=$(case $1 in a) ;; esac)"),
}
_ARRAY = re.compile(r'(?<!\+)"\$\{(\w+)\[@\]\}"')


def newer_than_bash_3_2(script: str) -> list[str]:
    code = "\n".join(line for line in script.splitlines() if not line.lstrip().startswith("#"))
    found = [name for name, (pattern, _) in NEWER_THAN_3_2.items() if re.search(pattern, code, re.MULTILINE)]
    for name in _ARRAY.findall(code):
        if not re.search(rf"\b{name}=\([^)]", code) or f"{name}=()" in code:
            found.append(f'an array that may be empty: type ${{{name}[@]+"${{{name}[@]}}"}}')
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=ids)
def test_nothing_needs_a_bash_newer_than_3_2(script):
    assert newer_than_bash_3_2(script.read_text()) == []


@pytest.mark.parametrize("name", NEWER_THAN_3_2)
def test_what_is_newer_than_bash_3_2_is_seen(name):
    assert name in newer_than_bash_3_2(f"set -u\n{NEWER_THAN_3_2[name][1]}\n")


def test_arrays_that_may_be_empty_are_seen():
    assert newer_than_bash_3_2('a=()\nx "${a[@]}"') and newer_than_bash_3_2('read -ra a <<<"$1"\nx "${a[@]}"')
    assert not newer_than_bash_3_2('a=()\nx ${a[@]+"${a[@]}"}') and not newer_than_bash_3_2('a=("$1")\nx "${a[@]}"')


@pytest.mark.parametrize("script", [name for name in ids if name.endswith(".sh")])
def test_help_comes_from_any_folder(script, tmp_path):
    done = bash(script, "--help", cwd=tmp_path)
    assert done.returncode == 0
    assert f"bash {script}" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("script", "words", "named"),
    [
        ("scripts/setup.sh", ["--no-such-option"], "--no-such-option"),
        ("scripts/setup.sh", ["--python"], "--python"),
        ("scripts/setup.sh", ["--here", "--venv", "x"], "--venv"),
        ("scripts/setup.sh", ["--find", "2.7"], "--find"),
        ("scripts/setup.sh", ["--here", "--python", sys.executable, "--extras", "nonsense"], "nonsense"),
        ("scripts/test.sh", ["--no-such-option"], "--no-such-option"),
        ("scripts/test.sh", ["--venv"], "--venv"),
    ],
)
def test_a_wrong_call_is_one_line_and_status_2(script, words, named):
    done = bash(script, *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert named in done.stderr
    assert f"type: bash {script} --help" in done.stderr


@pytest.mark.slow
def test_setup_has_nothing_to_do_in_a_complete_environment(tmp_path):
    here = ("--here", "--python", sys.executable)
    complete = bash("scripts/setup.sh", *here, "--check", cwd=tmp_path)
    assert complete.returncode == 0, f"this environment lacks what pyproject.toml asks for: {complete.stdout}"
    for stamp in (ROOT / "build").glob("setup-here*/setup.stamp"):
        stamp.unlink()
    compiled = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONPYCACHEPREFIX": str(tmp_path / "cache")}
    first = bash("scripts/setup.sh", *here, cwd=tmp_path, **compiled)
    assert first.returncode == 0, first.stderr
    assert "nothing had to be installed" in first.stdout
    assert any((tmp_path / "cache").rglob("fairseq/trainer.*.pyc"))  # so that later starts need not compile it
    start = time.monotonic()
    second = bash("scripts/setup.sh", *here, cwd=tmp_path)
    assert second.returncode == 0
    assert "nothing to do" in second.stdout
    assert time.monotonic() - start < 10  # one second on an idle machine; minutes if it did install


def test_setup_leaves_alone_what_it_did_not_make(tmp_path):
    folder = tmp_path / "not an environment"
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    done = bash("scripts/setup.sh", "--venv", folder)
    assert done.returncode == 1
    assert "was not made by this script" in done.stderr
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]


def test_setup_refuses_a_python_that_does_not_run(tmp_path):
    broken = tmp_path / "python3.11"
    broken.write_text("#!/bin/sh\nexit 127\n")  # what a shim does whose version is not selected
    broken.chmod(0o755)
    done = bash("scripts/setup.sh", "--venv", tmp_path / "env", "--python", broken)
    assert done.returncode == 1
    assert "--python /path/to/python3.11" in done.stderr
    assert not (tmp_path / "env").exists()


def test_setup_looks_past_a_python_that_does_not_run(tmp_path):
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    for folder in ("shims", "real"):
        (tmp_path / folder).mkdir()
    shim = tmp_path / "shims" / f"python{version}"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    (tmp_path / "real" / f"python{version}").symlink_to(sys.executable)
    path = f"{tmp_path / 'shims'}:{tmp_path / 'real'}:{os.environ['PATH']}"
    done = bash("scripts/setup.sh", "--find", version, PATH=path)
    assert done.returncode == 0
    assert Path(done.stdout.strip()).samefile(sys.executable)


@pytest.mark.parametrize(
    ("log", "cure"),
    [
        ("error: command 'g++' failed: No such file or directory", "install gcc and g++"),
        ("fatal error: Python.h: No such file or directory", "python3-dev"),
        ("OSError: [Errno 28] No space left on device", "the disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", "MAX_JOBS=1"),
        ("error: externally-managed-environment", "leave --here out"),
        ("ERROR: No matching distribution found for torch==9.9", "TORCH_SPEC="),
        ("Max retries exceeded with url", "the network failed"),
        ("something never seen", "the whole log is"),
    ],
)
def test_a_failed_step_is_followed_by_advice(log, cure, tmp_path):
    text = (ROOT / "scripts" / "setup.sh").read_text()
    functions = re.search(r"^advice\(\) \{.*?^\}", text, re.DOTALL | re.MULTILINE)
    (tmp_path / "log").write_text(log + "\n")
    program = (
        f'say() {{ printf "%s\\n" "$*"; }}\nSELF="bash scripts/setup.sh"\nAGAIN=$SELF\n{functions[0]}\nadvice "$1"'
    )
    done = subprocess.run(["bash", "-c", program, "-", tmp_path / "log"], capture_output=True, text=True, timeout=30)
    assert cure in done.stdout
    assert "bash scripts/setup.sh" in done.stdout
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lists_its_targets():
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30)
    declared = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [line.split()[1] for line in done.stdout.splitlines()] == declared[1].split()


FAKE_SBATCH = """#!/usr/bin/env bash
echo "$*" >> "$JOBS"
wc -l < "$JOBS"
"""


def test_a_recipe_works_where_it_was_typed(tmp_path):
    parts = {"scripts/setup.sh": "", ".venv/bin/wff": 'pwd; printf "%s\\n" "$@"\n'}  # so that nothing is set up
    for name, content in parts.items():
        path = tmp_path / "repository" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{content}")
        path.chmod(0o755)
    shutil.copy(ROOT / "scripts/wff.sh", tmp_path / "repository/scripts")
    words = ["repository/scripts/wff.sh", "x", "OUT PAIR", "train", "multi30k", "--seed", "2"]
    done = subprocess.run(
        ["bash", *words], cwd=tmp_path, env={**os.environ, "OUT": "my runs"}, capture_output=True, text=True
    )
    typed = ["train", "multi30k", "--out", "my runs", "--seed", "2"]
    assert done.stdout.splitlines() == [str(tmp_path.resolve()), *typed], done.stderr


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".venv/bin/wff").exists(), reason="needs the environment of scripts/setup.sh")
def test_a_matrix_becomes_arrays_of_jobs_that_wait_for_each_other(tmp_path):
    sbatch = tmp_path / "bin/sbatch"
    sbatch.parent.mkdir()
    sbatch.write_text(FAKE_SBATCH)
    sbatch.chmod(0o755)
    words = ["multi30k", "--methods", "self_distillation", "--seeds", "1,2", "--gpus", 2, "--out", tmp_path / "runs"]
    environment = {"PATH": f"{sbatch.parent}:{os.environ['PATH']}", "JOBS": str(tmp_path / "jobs"), "WFF_AT_ONCE": "8"}
    done = bash("scripts/slurm.sh", *words, **environment)
    assert done.returncode == 0, done.stderr
    first, second, report = (tmp_path / "jobs").read_text().splitlines()
    assert "--array=1-2%8 --gpus=2" in first and "--dependency" not in first
    assert "--dependency=afterany:1 --array=1-2%8" in second and "--dependency=afterany:2" in report
    lists = [Path(line.split()[-1]).read_text() for line in (first, second, report)]
    assert lists[0].count("--method standard") == lists[1].count("--method self_distillation") == 2
    assert lists[2] == f"wff report {tmp_path}/runs\n"
    (tmp_path / "jobs").unlink()
    dry = bash("scripts/slurm.sh", *words, "--dry-run", **environment)
    assert dry.returncode == 0 and dry.stderr.count("sbatch ") == 3 and not (tmp_path / "jobs").exists()
    dry = bash("scripts/slurm.sh", *words, "--device", "cpu", "--choices", "last", "--dry-run", **environment)
    assert dry.returncode == 0 and "--gpus" not in dry.stderr
    cells = [
        path.read_text() for path in (tmp_path / "runs/slurm").glob("cells-*") if "--device cpu" in path.read_text()
    ]
    assert len(cells) == 2 and all(text.count("--choices last --device cpu") == 2 for text in cells)
    assert "type: bash scripts/slurm.sh iwslt14 --dry-run" in bash("scripts/slurm.sh").stderr


@pytest.mark.skipif(not (ROOT / ".venv/bin/wff").exists(), reason="needs the environment of scripts/setup.sh")
def test_a_matrix_with_other_yamls_is_reported_from_the_folder_of_its_runs(tmp_path):
    scripts = tmp_path / "scripts"  # so that runs/ is not that of the repository
    scripts.mkdir()
    shutil.copy(ROOT / "scripts/slurm.sh", scripts)
    (scripts / "setup.sh").touch()
    (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    words = ["iwslt14", "--methods", "standard", "--seeds", "1", "--configs", ROOT / "configs/iwslt14-li", "--dry-run"]
    done = bash(scripts / "slurm.sh", *words)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs/iwslt14-li/slurm/report.txt").read_text() == "wff report runs/iwslt14-li\n"
