"""`--mask-communication` through the real fairseq-train: what it leaves as it is, and what clipping sees."""

import json
import sys

from fairseq_runs import Fairseq, assert_close, assert_same, logged, on_two_processes

FISH = ["--optimizer", "fish_mask", "--fish-density", 0.05, "--fish-updates", 2, "--weight-decay", 0.01]
SPARSE = [*FISH, "--mask-communication"]
# fairseq 0.12.2 has parameters without gradients, which torch's own wrapper must be told.
UNUSED = ["--find-unused-parameters"] if sys.version_info < (3, 11) else []


def test_two_processes_go_on_to_the_same_bits(fairseq: Fairseq):
    flags = ["--update-freq", 2, "--max-update", 5, "--log-file", "log"]
    whole = on_two_processes(fairseq, "whole", *FISH, *flags, "--save-interval-updates", 3)
    saved = ["--restore-file", fairseq.folder / "whole/checkpoint_1_3.pt"]
    sparse = on_two_processes(fairseq, "sparse", *SPARSE, *flags, *saved, *UNUSED, backend="c10d")
    assert_same(whole, sparse)
    *whole_norms, fourth, fifth = norms(fairseq)
    assert 0.1 < fourth / whole_norms[3] < 0.9 and 0.1 < fifth / whole_norms[4] < 0.9  # of what is updated


def norms(fairseq: Fairseq) -> list[float]:
    """The logged norms of the gradient, one an update, of all runs so far."""
    lines = (fairseq.folder / "log").read_text().splitlines()
    return [float(json.loads(line)["gnorm"]) for line in lines if '"gnorm"' in line]


def test_one_process_clips_as_several_do(fairseq: Fairseq):
    flags = [*SPARSE, "--dropout", 0, "--attention-dropout", 0, "--clip-norm", 0.01, "--max-update", 4]
    two = on_two_processes(fairseq, "two", *flags)
    assert_same(*two)
    norms = [float(line["gnorm"]) for line in logged(fairseq.train("one", *flags, "--update-freq", 2))]
    assert max(norms[2:]) < 0.8 * min(norms[:2])  # of what is updated, once that is known
    assert_close(fairseq.checkpoint("one")["model"], two[0])
