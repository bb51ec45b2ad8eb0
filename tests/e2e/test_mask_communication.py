"""`--mask-communication` through the real fairseq-train: what it leaves as it is, and what clipping sees."""

import json
import sys

import pytest
from fairseq_runs import Fairseq, assert_close, assert_same, logged, on_two_processes

FISH = ["--optimizer", "fish_mask", "--fish-density", 0.05, "--fish-updates", 2, "--weight-decay", 0.01]
SPARSE = [*FISH, "--mask-communication"]
# fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
UNUSED = ["--find-unused-parameters"] if sys.version_info < (3, 11) else []


def test_two_processes_train_to_the_same_bits_and_resume(fairseq: Fairseq):
    flags = ["--update-freq", 2, "--log-file", "log"]
    whole = on_two_processes(fairseq, "whole", *FISH, *flags, "--max-update", 5)
    for updates in (3, 5):
        words = [*SPARSE, *flags, *UNUSED, "--max-update", updates]
        sparse = on_two_processes(fairseq, "sparse", *words, backend="c10d")
    assert_same(whole, sparse)
    logged = norms(fairseq)
    ratios = [mine / all_of_it for all_of_it, mine in zip(logged[:5], logged[5:], strict=True)]
    # Of the whole gradient while the mask is estimated, and then, also after the resume, of what is updated.
    assert ratios[:2] == [1, 1] and all(0.1 < ratio < 0.9 for ratio in ratios[2:])


def norms(fairseq: Fairseq) -> list[float]:
    """The logged norms of the gradient, one an update, of all runs so far."""
    lines = (fairseq.folder / "log").read_text().splitlines()
    return [float(json.loads(line)["gnorm"]) for line in lines if '"gnorm"' in line]


def test_one_process_clips_as_several_do(fairseq: Fairseq):
    flags = [*SPARSE, "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 0.01, "--max-update", 5]
    two = on_two_processes(fairseq, "two", *flags)
    assert_same(*two)
    norms = [float(line["gnorm"]) for line in logged(fairseq.train("one", *flags, "--update-freq", 2))]
    assert max(norms[2:]) < 0.8 * min(norms[:2])  # of what is updated, once that is known
    assert_close(fairseq.checkpoint("one")["model"], two[0])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--use-bmuf"], "leave out --use-bmuf"),
        (["--ddp-comm-hook", "fp16"], "leave out --ddp-comm-hook"),
    ],
)
def test_what_does_not_exchange_gradients_is_refused(fairseq: Fairseq, flags, words):
    assert words in fairseq.train("refused", *SPARSE, *flags, "--max-update", 1, ok=False)
