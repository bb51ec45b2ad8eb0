"""The measurements that docs/costs.md names start, and one of them runs to its end."""

import re
from pathlib import Path

import pytest
from fairseq_runs import Fairseq

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
BENCHMARKS = sorted(FOLDER.glob("*.py"))


def printed(script, *words):
    process = Fairseq(FOLDER, FOLDER).python(script, *words)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("script", BENCHMARKS, ids=lambda path: path.stem)
def test_a_benchmark_says_what_it_measures(script):
    assert "options:" in printed(script, "--help")


@pytest.mark.slow
def test_per_sample_gradients_are_measured():
    script = next(path for path in BENCHMARKS if path.stem == "per_sample")
    found = printed(script, "--size", "toy", "--samples", 8, "--rounds", 2)
    assert re.search(r"times as fast|\d+\.\d+ \[", found)
    print(found)
