"""The published cost tables in benchmarks/ and docs/costs.md, which `wff bench --table NAME` measures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class CostTable:
    """The methods and sizes of a table.

    Args:
        about: a description in one line.
        methods: methods and variants, standard training first.
        vary: the varied number and its values, as NAME=A,B.
    """

    name: str
    about: str
    methods: Sequence[str]
    sizes: Sequence[str] = ("small",)
    vary: str | None = None
    rounds: int = 7


_GUIDED = "weighted_freeze sage fish_mask lfr_cm".split()
_LATER_ROWS = "cautious cautious_decay magma gmt lisa mofo spg".split()
_CRITERIONS = "ewc alignreg r_drop intra_distillation intra_distillation_recompute".split()
_PASSES = "intra_distillation intra_distillation_loop intra_distillation_recompute".split()

TABLES: Mapping[str, CostTable] = {
    table.name: table
    for table in (
        CostTable(
            "quick", "every method in a minute or two", ["standard", *_GUIDED, *_LATER_ROWS, *_CRITERIONS], rounds=5
        ),
        CostTable(
            "steps",
            "optimizer steps beside fairseq's Adam and the fastest plain one",
            ["standard", "adamw_of_torch", *_GUIDED],
            sizes=("small", "iwslt", "iwslt4096"),
            rounds=15,
        ),
        CostTable(
            "modes",
            "K passes in each mode, R-Drop, and fairseq's own R-Drop",
            ["standard", *_PASSES, "r_drop", "r_drop_of_fairseq"],
            sizes=("small", "iwslt"),
        ),
        CostTable(
            "pruning",
            "alignment during pruning",
            ["standard", "alignreg", "alignreg_frobenius"],
            sizes=("iwslt", "iwslt4096"),
            rounds=11,
        ),
        CostTable(
            "parameters",
            "how cost grows with the model",
            ["standard", "weighted_freeze", "sage", "intra_distillation"],  # at size "big", these fit into 24 GB
            sizes=("toy", "small", "iwslt", "big"),
        ),
        CostTable(
            "memory",
            "what methods for fine-tuning keep",
            "standard fish_mask lisa mofo".split(),
            sizes=("iwslt", "big"),
            rounds=5,
        ),
        CostTable(
            "batch",
            "how cost grows with the sentences of a batch",
            ["standard", *_GUIDED, *_CRITERIONS],
            vary="sentences=20,80,320",
        ),
        CostTable(
            "vocabulary",
            "how cost grows with the vocabulary, and what K passes written out cost",
            "standard weighted_freeze sage r_drop intra_distillation intra_distillation_plain".split(),
            vary="vocabulary=4000,12000,40000",
        ),
        CostTable(
            "passes", "how cost grows with the number K of passes", ["standard", *_PASSES], vary="passes=2,3,4,5"
        ),
        CostTable(
            "processes",
            "how cost grows with processes that average their gradients",
            ["standard", *_GUIDED, "intra_distillation"],
            vary="processes=1,2",
            rounds=9,
        ),
    )
}
