"""The measurements that docs/costs.md names start, and one of them runs to its end."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq_runs import environment

BENCHMARKS = sorted((Path(__file__).resolve().parents[1] / "benchmarks").glob("*.py"))


def printed(script, *words):
    command = [sys.executable, script, *map(str, words)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_measures(script):
    assert "options:" in printed(script, "--help")


def test_per_sample_gradients_are_measured():
    script = next(path for path in BENCHMARKS if path.stem == "per_sample")
    found = printed(script, "--size", "toy", "--samples", 8, "--rounds", 2)
    assert re.search(r"times as fast|\d+\.\d+ \[", found)
    print(found)
