"""A run's batch is that of its YAML on any number of GPUs, and no two runs get one GPU while there are enough."""

import os
import platform
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from weighted_freezing_fairseq.errors import UserError
from weighted_freezing_fairseq.workspace.machine import Machine, device_name, share_of_batch


@pytest.mark.parametrize(
    ("batch", "gpus", "at_most", "expected"),
    [
        ((4096, 1), 1, None, (4096, 1)),
        ((4096, 1), 4, None, (1024, 1)),  # one micro-batch, in four parts
        ((4096, 16), 4, None, (4096, 4)),  # the big recipe: fewer rounds
        ((4096, 16), 8, 2048, (2048, 4)),  # small GPUs: more rounds of less
        ((4096, 1), 3, None, (1365, 1)),
        ((10, 1), 4, 1, (1, 2)),  # three rounds would leave nothing for each
    ],
)
def test_processes_share_the_batch_of_one(batch, gpus, at_most, expected):
    assert share_of_batch(*batch, gpus, at_most) == expected


@given(st.integers(1, 10_000), st.integers(1, 64), st.integers(1, 64), st.none() | st.integers(1, 10_000))
def test_the_batch_is_kept(tokens, update_freq, gpus, at_most):
    assume(gpus <= tokens * update_freq)
    each, rounds = share_of_batch(tokens, update_freq, gpus, at_most)
    assert 1 <= each <= (at_most or tokens)
    assert 0 <= tokens * update_freq - each * rounds * gpus < rounds * gpus


def test_more_gpus_than_sentences_in_a_batch_are_refused_with_what_to_type(monkeypatch):
    machine = gpu_machine(monkeypatch, "0,1,2,3,4,5,6,7", 1, 1, 8, "bf16")
    assert machine.settings(4, 2, "batch_size")["dataset"] == {"batch_size": 1}
    with pytest.raises(UserError, match="batch_size 4.*update_freq 1.*8 GPUs.*--gpus 4"):
        machine.settings(4, 1, "batch_size")


def test_a_run_has_its_share_of_the_cores_and_no_more_than_the_environment_says(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(16), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    assert (Machine.of("cpu", None, 2).threads, Machine.of("cpu", 1, 5).threads) == (8, 16)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "4")  # where SLURM does not bind the job to them
    assert (Machine.of("cpu", None, 9).jobs, Machine.of("cpu", None, 9).threads) == (4, 1)
    assert Machine.of("cpu", 1, 9).threads == 4
    for value, threads in (("2", 2), ("3,1", 3), ("64", 4), ("0", 4), ("many", 4), ("", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert Machine.of("cpu", 1, 9).threads == threads, value


def gpu_machine(monkeypatch, names, *words):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    return Machine.of("cuda", *words)


def test_runs_at_once_have_gpus_of_their_own(monkeypatch):
    machine = gpu_machine(monkeypatch, "3,5,6,7", None, 10, 2, "bf16")
    assert machine.jobs == 2
    with machine.environment() as one, machine.environment() as other:
        assert {one["CUDA_VISIBLE_DEVICES"], other["CUDA_VISIBLE_DEVICES"]} == {"3,5", "6,7"}
    with machine.environment() as again:
        assert again["CUDA_VISIBLE_DEVICES"] in ("3,5", "6,7")


def test_more_runs_than_gpus_share_them(monkeypatch):
    machine = gpu_machine(monkeypatch, "0", 3, 10, 1, "bf16")
    with machine.environment() as one, machine.environment() as other:
        assert one["CUDA_VISIBLE_DEVICES"] == other["CUDA_VISIBLE_DEVICES"] == "0"


def test_settings_are_those_of_the_device(monkeypatch):
    assert Machine("cpu", 1, 2).settings(4096, 16) == {
        "common": {"cpu": True},
        "distributed_training": {"distributed_world_size": 1},
    }
    found = gpu_machine(monkeypatch, "0,1,2,3", None, 1, 4, "fp16").settings(4096, 16)
    assert found["optimization"] == {"update_freq": [4]} and found["dataset"] == {"max_tokens": 4096}
    assert found["common"] == {"cpu": False, "fp16": True, "fp16_no_flatten_grads": True}
    assert found["distributed_training"] == {"distributed_world_size": 4}


def test_what_the_machine_has_not_is_refused(monkeypatch):
    with pytest.raises(UserError, match="torch sees 2 GPUs, got --gpus 4; type --gpus 2"):
        gpu_machine(monkeypatch, "0,1", None, 1, 4)
    with pytest.raises(UserError, match="--precision bf16 is for GPUs; type --precision fp32"):
        Machine.of("cpu", None, 1, 1, "bf16")


def test_the_processor_has_a_name(monkeypatch):
    listed = Path("/proc/cpuinfo")
    known = listed.read_text() if listed.is_file() else ""
    assert device_name("cpu") in known or "model name" not in known
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: "processor: 0\n")  # as some ARM systems have it
    assert device_name("cpu") in (platform.processor(), platform.machine())
