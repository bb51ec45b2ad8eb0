"""Runs that are killed at random moments and started again by the same command end as undisturbed ones."""

import random
import signal
import subprocess
import time

import pytest
from fairseq_runs import Fairseq, assert_same

ADAM = ["--optimizer", "adam", "--adam-betas", "(0.9, 0.98)"]
RUNS = {
    "alignreg": ["--prune", "magnitude", "--prune-interval", 5, "--prune-step", 0.1, "--alignreg-lambda", 0.1],
    "alignreg by gates": ["--prune", "l0", "--prune-interval", 5, "--prune-step", 0.1, "--alignreg", "frobenius"],
    "ewc": ["--ewc-lambda", 10],
    "intra_distillation": ["--alpha", 1, "--num-passes", 2],
}
UPDATES = 60
KILLS = 4


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", RUNS)
def test_a_run_killed_at_random_moments_ends_as_an_undisturbed_one(fairseq: Fairseq, name: str, seed: int):
    flags = [*ADAM, "--criterion", name.split()[0], *RUNS[name], "--seed", seed, "--max-update", UPDATES]
    flags += ["--save-interval-updates", 3, "--keep-interval-updates", 1]
    begun = time.monotonic()
    fairseq.train("undisturbed", *flags)
    duration, moments = time.monotonic() - begun, random.Random(f"{name} {seed}")
    killed = 0
    for _ in range(KILLS):
        process = fairseq.start("train", *fairseq.train_words("killed", *flags))
        try:
            process.communicate(timeout=moments.uniform(0.4, 1) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.communicate()
            killed += 1
    fairseq.train("killed", *flags)
    assert killed
    straight, resumed = fairseq.checkpoint("undisturbed"), fairseq.checkpoint("killed")
    for key in ("model", "last_optimizer_state"):
        assert_same(straight[key], resumed[key])
    states = [state["extra_state"].get("guided_criterion", {}) for state in (straight, resumed)]
    assert_same(*states)
    files = [sorted(path.name for path in (fairseq.folder / run).iterdir()) for run in ("undisturbed", "killed")]
    assert files[0] == files[1]
