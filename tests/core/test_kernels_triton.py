"""Triton's kernels, run by its interpreter, whose switch is read when Triton is imported: in a process of its own."""

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

CASES = Path(__file__).with_name("triton_cases.py")


@pytest.mark.slow
def test_the_kernels_of_triton_are_welded_to_those_of_c_and_to_torch():
    pytest.importorskip("triton", reason="Triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(CASES)]
    done = subprocess.run(
        command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]
    assert "passed" in done.stdout


def compiled(kernel, capability, **constants):
    """Machine code for a GPU that need not be there."""
    triton = pytest.importorskip("triton", reason="Triton is not installed")
    from triton.backends.compiler import GPUTarget

    pointers = {"table": "*i64", "owner": "*i32", "bounds": "*i32", "operands": "*fp32", "constants": "*fp32"}
    signature = {name: pointers.get(name, "constexpr") for name in kernel.arg_names}
    source = triton.compiler.ASTSource
    if "constexprs" in inspect.signature(source).parameters:
        given = source(kernel, signature, {(kernel.arg_names.index(name),): to for name, to in constants.items()})
    else:  # Triton 3.0
        given = source(kernel, {name: kind for name, kind in signature.items() if kind != "constexpr"}, constants)
    return triton.compile(given, target=GPUTarget("cuda", capability, 32), options={"enable_fp_fusion": False}).asm


@pytest.mark.slow
@pytest.mark.parametrize("capability", [70, 80, 90])
def test_gpus_compute_as_the_kernels_say(capability, monkeypatch, tmp_path):
    pytest.importorskip("triton", reason="Triton is not installed")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from weighted_freezing_fairseq.core import triton_source

    for metric in range(3):
        assert compiled(triton_source.ranges, capability, METRIC=metric, SHARED=metric == 1, BLOCK=1024)["cubin"]
    for scales, variant in ((False, 0), (False, 1), (False, 2), (False, 3), (True, 0), (True, 1), (True, 2)):
        ways = {"METRIC": min(variant, 2), "SHARED": variant == 0, "VARIANT": variant, "HALF": variant == 0}
        code = compiled(triton_source.guide, capability, SCALES=scales, BLOCK=1024, **ways)
        assert code["cubin"] and not re.search(r"\bfma|div\.(full|approx)", code["ptx"])
        # rounded once, to the nearest, as on a CPU; Triton 3.0 has 0 for denormal numbers
        assert scales == bool(re.search(r"\bdiv\.rn(\.ftz)?\.f32", code["ptx"]))
