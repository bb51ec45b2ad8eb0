"""The papers' tables of scores as data, for `wff report` to compare with.

Each figure is copied from the table that its entry names. Tables and columns of tasks that this package does not train
are missing: XTREME other than XNLI and PAWS-X.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from ..data import lowercases

AVERAGE = "average"  # the column that is the mean of the others
BASELINE = "standard"  # the method that all others are compared with


@dataclass(frozen=True)
class PublishedRow:
    """A row of a table: its label in the paper, the method's name here, and its figure for each pair."""

    label: str
    method: str
    figures: Mapping[str, float]
    parameters: str = ""  # as the paper prints them


@dataclass(frozen=True)
class PublishedTable:
    """A table of a paper, and the data and training of its figures."""

    source: str
    dataset: str
    recipe: str
    configs: str  # the folder of the YAMLs with the paper's training
    training: str  # the training in words
    pairs: tuple[str, ...]  # in the order of the paper's columns; AVERAGE may be the last
    rows: tuple[PublishedRow, ...]
    missing: str = ""  # what the paper does not say, or what this table leaves out
    subset: str = "test"  # the set that our runs are scored on
    # Of columns that are no pair scored on `subset`: pair and set.
    other_sets: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def lowercased(self) -> bool:
        """Whether its BLEU is that of lowercased text, because the authors' recipe lowercases."""
        return lowercases(self.dataset, self.recipe)

    def column_of(self, pair: str, subset: str) -> str | None:
        """The column of the scores of a pair on a set."""
        named = (column for column, place in self.other_sets.items() if place == (pair, subset))
        return next(named, pair if subset == self.subset else None)

    def baseline(self, pair: str) -> float:
        """The paper's figure for standard training."""
        return next(row.figures[pair] for row in self.rows if row.method == BASELINE)


def _rows(
    pairs: Sequence[str], *rows: tuple[str, str, str], parameters: Sequence[str] = ()
) -> tuple[PublishedRow, ...]:
    """Rows from (label, method, figures as the paper prints them in a row)."""
    return tuple(
        PublishedRow(label, method, MappingProxyType(dict(zip(pairs, map(float, figures.split()), strict=True))), count)
        for (label, method, figures), count in zip(rows, parameters or [""] * len(rows), strict=True)
    )


_LI = "Li et al. 2023"  # Efficiently Harnessing Parameter Importance for Better Training
_XU = "Xu et al. 2022"  # The Importance of Being Parameters: An Intra-Distillation Method for Serious Gains
_LI_TRAINING = "20,000 updates, 4,000 of them warm-up (appendix C)"
_LI_UNSAID = (
    "The paper says neither how the data was prepared nor which BLEU this is; Hebrew, Spanish and Arabic exist in the "
    "recipe of Xu et al. only, and its German score of standard training is near theirs. Number of seeds: not said."
)
_XU_TRAINING = "50,000 updates, 8,000 of them warm-up (appendix A.1)"
_XU_UNSAID = "Number of seeds: not said."
_XU_SWITCH = "The Switch Transformer has 4 experts; its parameters are those of experts in every layer."

_XU_GLUE = (
    "The paper's figures are those of the official test, scored by GLUE's server; ours are of dev, and start from "
    "RoBERTa-base where the paper starts from BERT-base: compare gains over standard, not scores. mnli is its column "
    "MNLI-m, mnli-mm is MNLI-mm; the average is over all columns. Number of seeds: not said."
)
_LI_GLUE = "The paper prints neither its model, nor the training, nor the split. Number of seeds: not said."
_LI_XNLI = "Ours is the mean accuracy over the fifteen languages of dev. Number of seeds: not said."
_LI_PAWSX = "Ours is the mean accuracy over the seven languages of dev. Number of seeds: not said."
_LI_PAWSX_TRAINING = "XLM-R large, 5 epochs of batches of 16 (appendix B, Table 8)"

_GLUE = ("qnli", "mnli", "mnli-mm", "cola", "qqp", "sts-b", "rte", "sst-2", "mrpc", AVERAGE)
_THREE = ("rte", "cola", "mrpc")
_ENGLISH = ("en",)
_DE = ("de-en",)
_FOUR = ("de-en", "es-en", "he-en", "ar-en")
_EIGHT = ("ar-en", "de-en", "es-en", "fa-en", "he-en", "it-en", "nl-en", "pl-en", AVERAGE)
_EN_DE = ("en-de",)

TABLES: Mapping[str, PublishedTable] = MappingProxyType(
    {
        # Li et al. 2023, Table 2: "BLEU scores on the IWSLT'14 German-English Machine Translation task."
        "li-2": PublishedTable(
            f"{_LI}, Table 2: EWC on a single task",
            "iwslt14", "intra-distillation", "configs/iwslt14-li", _LI_TRAINING, _DE,
            _rows(
                _DE,
                ("Standard Training", "standard", "32.75"),
                ("EWC", "ewc", "33.20"),
            ),
            _LI_UNSAID,
        ),
        # Li et al. 2023, Table 5: "Results on the IWSLT'14 X-En Machine Translation dataset."
        "li-5": PublishedTable(
            f"{_LI}, Table 5: IWSLT'14, X to English",
            "iwslt14", "intra-distillation", "configs/iwslt14-li", _LI_TRAINING, _FOUR,
            _rows(
                _FOUR,
                # with the same amount of compute
                ("Standard Training", "standard", "32.75 38.74 34.30 35.13"),
                ("SAGE*", "sage_light", "32.08 38.63 33.92 35.28"),
                ("Intra-Distillation (1/3)", "intra_distillation_third", "33.10 37.76 34.44 36.21"),
                ("Weighted Freezing", "weighted_freeze", "33.30 39.15 36.02 36.15"),
                # with 2 x additional memory
                ("SAGE (Full)", "sage", "33.24 39.52 34.30 36.68"),
                ("Intra-Distillation (Full)", "intra_distillation", "33.74 39.87 35.71 36.44"),
            ),
            _LI_UNSAID,
        ),
        # Li et al. 2023, Table 6: "Ablation studies on different importance metrics", column IWSLT'14 De-En.
        "li-6": PublishedTable(
            f"{_LI}, Table 6: importance metrics",
            "iwslt14", "intra-distillation", "configs/iwslt14-li", _LI_TRAINING, _DE,
            _rows(
                _DE,
                ("Standard Training", "standard", "32.75"),
                ("WF Magnitude", "weighted_freeze", "33.30"),
                ("WF Loss-preserving", "weighted_freeze_loss_preserving", "32.18"),
                ("WF Fisher", "weighted_freeze_fisher", "32.74"),
                ("SAGE Magnitude", "sage_magnitude", "31.27"),
                ("SAGE Loss-preserving", "sage", "33.24"),
                ("SAGE Fisher", "sage_fisher", "32.15"),
            ),
            f"The column PAWS-X is li-6-pawsx. {_LI_UNSAID}",
        ),
        # Li et al. 2023, Table 4, column XNLI: "... on the development set of two semantic entailment ... tasks".
        "li-4": PublishedTable(
            f"{_LI}, Table 4: XNLI, trained on English (accuracy)",
            "xnli", "xlmr", "configs/xnli", "XLM-R large, 3 epochs of batches of 16 (appendix B, Table 8)", _ENGLISH,
            _rows(
                _ENGLISH,
                ("Standard Training", "standard", "76.4"),
                ("SAGE*", "sage_light", "76.2"),
                ("Intra-Distillation (1/3)", "intra_distillation_third", "77.1"),
                ("Weighted Freezing", "weighted_freeze", "79.1"),
                ("SAGE (Full)", "sage", "78.4"),
                ("Intra-Distillation (Full)", "intra_distillation", "78.1"),
            ),
            _LI_XNLI, "dev",
        ),
        # Li et al. 2023, Table 4, column PAWS-X.
        "li-4-pawsx": PublishedTable(
            f"{_LI}, Table 4: PAWS-X, trained on English (accuracy)",
            "pawsx", "xlmr", "configs/pawsx", _LI_PAWSX_TRAINING, _ENGLISH,
            _rows(
                _ENGLISH,
                ("Standard Training", "standard", "87.6"),
                ("SAGE*", "sage_light", "87.0"),
                ("Intra-Distillation (1/3)", "intra_distillation_third", "88.0"),
                ("Weighted Freezing", "weighted_freeze", "88.2"),
                ("SAGE (Full)", "sage", "87.9"),
                ("Intra-Distillation (Full)", "intra_distillation", "88.6"),
            ),
            _LI_PAWSX, "dev",
        ),
        # Li et al. 2023, Table 6, column PAWS-X.
        "li-6-pawsx": PublishedTable(
            f"{_LI}, Table 6: importance metrics on PAWS-X (accuracy)",
            "pawsx", "xlmr", "configs/pawsx", _LI_PAWSX_TRAINING, _ENGLISH,
            _rows(
                _ENGLISH,
                ("Standard Training", "standard", "87.6"),
                ("WF Magnitude", "weighted_freeze", "88.2"),
                ("WF Loss-preserving", "weighted_freeze_loss_preserving", "88.1"),
                ("WF Fisher", "weighted_freeze_fisher", "87.2"),
                ("SAGE Magnitude", "sage_magnitude", "87.9"),
                ("SAGE Loss-preserving", "sage", "87.9"),
                ("SAGE Fisher", "sage_fisher", "87.4"),
            ),
            _LI_PAWSX, "dev",
        ),
        # Li et al. 2023, Table 7: "Experiment Results of Weighted Freezing on 3 text classification tasks ...".
        "li-7": PublishedTable(
            f"{_LI}, Table 7: GLUE (RTE accuracy, CoLA Matthews, MRPC F1)",
            "glue", "roberta", "configs/glue", "not printed; here that of Xu et al. 2022, appendix A.3", _THREE,
            _rows(
                _THREE,
                ("Standard Training", "standard", "67.9 61.3 89.1"),
                ("SAGE-", "sage_light", "68.2 58.3 88.4"),
                ("Intra-Distillation (K=3)", "intra_distillation_third", "68.1 61.0 89.3"),
                ("Weighted Freezing", "weighted_freeze", "69.0 62.3 90.2"),
                ("SAGE (Full)", "sage", "69.3 60.3 89.0"),
                ("Intra-Distillation (Full)", "intra_distillation", "71.4 62.5 89.9"),
            ),
            _LI_GLUE, "dev",
        ),
        # Xu et al. 2022, Table 1: "SacreBLEU of iterative self-distillation on IWSLT'14 De->En task."
        "xu-1": PublishedTable(
            f"{_XU}, Table 1: iterative self-distillation",
            "iwslt14", "intra-distillation", "configs/iwslt14", _XU_TRAINING, _DE,
            _rows(
                _DE,
                ("Transformer", "standard", "33.07"),
                ("Self-Distillation Iter 1", "self_distillation", "34.87"),
                ("Self-Distillation Iter 2", "self_distillation_twice", "35.03"),
            ),
            _XU_UNSAID,
        ),
        # Xu et al. 2022, Table 2: "Results of 8 language pairs (XX->En) on the IWSLT'14 dataset."
        "xu-2": PublishedTable(
            f"{_XU}, Table 2: IWSLT'14, X to English",
            "iwslt14", "intra-distillation", "configs/iwslt14", _XU_TRAINING, _EIGHT,
            _rows(
                _EIGHT,
                ("Transformer", "standard", "28.62 33.07 38.89 19.64 35.13 32.76 35.90 19.69 30.46"),
                ("SAGE", "sage", "29.76 33.51 39.22 20.01 36.19 32.77 36.12 20.45 31.00"),
                ("R-Drop", "r_drop", "32.58 35.43 41.00 22.80 38.63 34.96 38.01 23.24 33.33"),
                ("Switch Transformer", "switch_transformer", "28.24 33.11 38.43 19.50 34.42 31.93 34.59 19.82 30.00"),
                (
                    "Intra-Distillation (JS)",
                    "intra_distillation_js",
                    "32.68 35.19 41.44 22.78 38.66 34.89 38.16 23.12 33.37",
                ),
                (
                    "Intra-Distillation (X)",
                    "intra_distillation",
                    "33.42 36.10 41.82 23.78 39.31 35.43 38.53 23.61 34.00",
                ),
                parameters=("49.98M", "49.98M", "49.98M", "87.81M", "49.98M", "49.98M"),
            ),
            f"{_XU_UNSAID} {_XU_SWITCH}",
        ),
        # Xu et al. 2022, Table 3: "Results of the WMT'17 En->De task."
        "xu-3": PublishedTable(
            f"{_XU}, Table 3: WMT'17, English to German",
            "wmt17", "intra-distillation", "configs/wmt17", "50,000 updates, 4,000 of them warm-up (appendix A.2)",
            _EN_DE,
            _rows(
                _EN_DE,
                ("Transformer", "standard", "27.56"),
                ("SAGE", "sage", "27.76"),
                ("R-Drop", "r_drop", "28.10"),
                ("Switch Transformer", "switch_transformer", "27.80"),
                ("Intra-Distillation", "intra_distillation", "28.62"),
                parameters=("275M", "275M", "275M", "577M", "275M"),
            ),
            f"{_XU_UNSAID} {_XU_SWITCH}",
        ),
        # Xu et al. 2022, Table 4: "Results of the GLUE benchmark."
        "xu-4": PublishedTable(
            f"{_XU}, Table 4: GLUE (CoLA Matthews, STS-B Pearson, QQP and MRPC F1, else accuracy)",
            "glue", "roberta", "configs/glue", "BERT-base, 20 epochs of batches of 32, Adamax (appendix A.3)", _GLUE,
            _rows(
                _GLUE,
                ("BERT base", "standard", "90.6 84.7 83.6 54.0 71.1 86.6 66.8 93.4 88.6 79.93"),
                ("SAGE", "sage", "90.8 84.9 83.8 54.5 71.3 87.1 69.8 94.1 89.7 80.67"),
                ("R-Drop", "r_drop", "91.2 85.0 84.3 54.0 72.3 87.1 66.6 93.8 88.1 80.27"),
                ("Intra-Distillation", "intra_distillation", "91.7 85.2 84.2 55.1 72.4 87.5 67.5 94.1 89.0 80.74"),
            ),
            _XU_GLUE, "dev", MappingProxyType({"mnli-mm": ("mnli", "dev_mismatched")}),
        ),
    }
)  # fmt: skip
