"""The Switch Transformer through real fairseq commands: resume, generation, processes, precisions, other methods."""

import sys

import pytest
from fairseq_runs import (
    PRECISIONS,
    UNSET_IN_0_12_2,
    USER_DIR,
    Fairseq,
    assert_close,
    assert_same,
    logged,
    on_two_processes,
)

SWITCH = ["--arch", "switch_transformer_iwslt_de_en", "--switch-every", 1, "--optimizer", "adam", "--clip-norm", 1]
LOGGED = {"switch_load_max", "switch_dropped", "switch_entropy", "switch_balance"}


def test_a_resumed_run_equals_an_uninterrupted_one_and_translates(fairseq: Fairseq):
    flags = [*SWITCH, "--update-freq", 2, "--switch-z-weight", 0.01, "--activation-dropout", 0.1]
    flags += ["--save-interval-updates", 3, "--tensorboard-logdir", fairseq.folder / "tb"]
    output = fairseq.train("run", *flags, "--max-update", 6)
    fairseq.train("resumed", *flags, "--max-update", 6, "--restore-file", fairseq.folder / "run/checkpoint_1_3.pt")
    straight, resumed = (fairseq.checkpoint(name) for name in ("run", "resumed"))
    for part in ("model", "last_optimizer_state"):
        assert_same(straight[part], resumed[part])
    assert straight["cfg"]["model"].switch_capacity == 1.25  # whatever the default will be
    last = {key: float(value) for key, value in logged(output)[-1].items() if key in LOGGED}
    assert last.keys() == LOGGED and 0.25 <= last["switch_load_max"] <= 1 and last["switch_dropped"] < 0.75
    assert 0 < last["switch_entropy"] <= 2 and last["switch_balance"] > 0.5
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert set(EventAccumulator(str(fairseq.folder / "tb/train_inner")).Reload().Tags()["scalars"]) >= LOGGED

    generated = fairseq(
        "generate", fairseq.data, "--path", fairseq.folder / "run/checkpoint_last.pt", "--user-dir", USER_DIR, "--cpu",
        "--required-batch-size-multiple", 1, "--beam", 2, "--max-len-b", 9,
    )  # fmt: skip
    assert sum(line.startswith("H-") for line in generated.splitlines()) == 21


def test_two_processes_equal_one_with_twice_the_update_freq(fairseq: Fairseq):
    flags = [*SWITCH, "--dropout", 0, "--switch-jitter", 0, "--lr", 0.003, "--max-update", 8]
    # fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
    unused = ["--find-unused-parameters"] if sys.version_info < (3, 11) else []
    two = on_two_processes(fairseq, "two", *flags, *unused, backend="c10d")
    assert_same(*two)
    fairseq.train("one", *flags, "--update-freq", 2)
    assert_close(fairseq.checkpoint("one")["model"], two[0])


@pytest.mark.parametrize(
    ("mode", "more"),
    [
        (
            "fp16",
            ["--optimizer", "weighted_freeze", "--criterion", "intra_distillation", "--alpha-schedule", "constant"],
        ),
        ("bf16", []),
    ],
)
def test_half_precision_and_the_other_methods_train_on_it(fairseq: Fairseq, mode: str, more):
    lines = logged(fairseq.train(mode, *SWITCH, *more, "--max-update", 12, *PRECISIONS[mode]))
    assert float(lines[-1]["nll_loss"]) < 0.9 * float(lines[0]["nll_loss"]) and lines[-1].keys() >= LOGGED
    assert not more or float(lines[-1]["divergence"]) > 0 and float(lines[-1]["frozen_fraction"]) > 0.05
    model = fairseq.checkpoint(mode)["model"]
    assert all(t.isfinite().all() for name, t in model.items() if not UNSET_IN_0_12_2.search(name))
