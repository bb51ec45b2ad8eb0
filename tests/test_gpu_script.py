"""The commands of scripts/gpu.sh, in a repository whose Python and scripts print their words."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from weighted_freezing_fairseq.__main__ import build_parser

ROOT = Path(__file__).resolve().parents[1]
SAYS = """#!/bin/sh
[ "$1" = -c ] && exit "${NO_GPU:-0}"
[ -z "$SLOW" ] || exec sleep 100
echo "$0 $WFF_TEST_DEVICE $*"
"""


@pytest.fixture
def script(tmp_path: Path):
    for name in (".venv/bin/python", "bin/python3", "scripts/setup.sh", "scripts/lowresource/reproduce.sh"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SAYS)
        path.chmod(0o755)
    for name in ("gpu.sh", "wff.sh"):
        (tmp_path / "scripts" / name).write_text((ROOT / "scripts" / name).read_text())
    env = {**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        call = ["bash", "scripts/gpu.sh", *words]
        return subprocess.run(call, cwd=tmp_path, env={**env, **variables}, capture_output=True, text=True, timeout=60)

    return run


def test_every_part_is_a_command_that_exists(script):
    done = script("--archive", "my files")
    assert done.returncode == 0, done.stderr
    setup, *parts = [line for line in done.stdout.splitlines() if not line.startswith("==> ")]
    assert setup.rstrip().endswith("scripts/setup.sh")
    tests, costs, study = parts
    files = re.findall(r"\S+/(tests/\S+\.py)", tests)
    assert " cuda -m pytest " in tests and len(files) > 3 and all((ROOT / name).is_file() for name in files)
    name, *words = costs.partition("weighted_freezing_fairseq ")[2].split()
    args = build_parser(name).parse_args([name, *words])
    assert (args.table, args.device, args.precision, str(args.out)) == (["all"], "cuda", "bf16", "runs/gpu/costs")
    assert study.endswith("--archive my files --device cuda")


def test_the_active_python_is_used_as_it_is(script):
    done = script("costs", "study", "--here", "--archive", "DIR", "--out", "there")
    assert done.returncode == 0, done.stderr
    _, costs, _, study = done.stdout.splitlines()
    assert "/bin/python3 " in costs and costs.endswith("--out there/costs")
    assert "reproduce.sh  --here --archive DIR" in study and "setup.sh" not in done.stdout


@pytest.mark.slow
def test_a_part_that_takes_too_long_is_stopped_and_named(script):
    done = script("costs", "--here", "--minutes", "0.02", SLOW="1")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "gpu.sh: costs was not done after 0.02 minutes; type the same again",
        "gpu.sh: not done: costs",
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["study"], "study needs --archive DIR with the files of Multi30k"),
        (["nonsense"], "there is no part or option nonsense"),
        (["--out"], "--out needs a value"),
        (["--minutes", "few"], "--minutes needs a number, got few"),
    ],
)
def test_a_wrong_call_says_what_to_type(script, words, said):
    done = script(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"gpu.sh: {said}; type: bash scripts/gpu.sh --help\n"


def test_without_a_gpu_nothing_is_run(script):
    done = script("--here", NO_GPU="1")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "gpu.sh: torch sees no GPU (wff doctor says why); type: bash scripts/gpu.sh --help\n"
