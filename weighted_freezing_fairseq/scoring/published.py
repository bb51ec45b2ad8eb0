"""The papers' tables of scores as data, for `wff report` to compare with.

Each figure is copied from the table that its entry names. Tables and columns of tasks that this package does not train
are missing: XTREME other than XNLI and PAWS-X. NER and POS of XGLUE are there and never run, because the average of
their table counts them.
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
_ONEILL = "O'Neill et al. 2022"  # Aligned Weight Regularizers for Pruning Pretrained Neural Networks
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

_ONEILL_XGLUE = (
    "All rows but No Pruning keep 31 % of the weights. Ours is the mean over all languages of the test, English among "
    "them; of WPR over all queries, where XGLUE takes the mean of the languages' means. NER and POS label words and "
    "are not trained here, so that there is no average. L2-Global-MBP and L2-Gradient-MBP are run without an L2 "
    "penalty. The paper prints no epochs of No Pruning. Number of seeds: not said."
)

_GLUE = ("qnli", "mnli", "mnli-mm", "cola", "qqp", "sts-b", "rte", "sst-2", "mrpc", AVERAGE)
_THREE = ("rte", "cola", "mrpc")
_ENGLISH = ("en",)
_XGLUE = ("xnli", "nc", "ner", "pawsx", "pos", "qam", "qadsm", "wpr", AVERAGE)
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
        # O'Neill et al. 2022, Table 1: "Overall XGLUE Score for Iterative Pruning of XLM-R Base ..."
        "oneill-1": PublishedTable(
            f"{_ONEILL}, Table 1: XGLUE, trained and pruned on English (accuracy; NER F1, WPR nDCG)",
            "xglue", "xlmr", "configs/xglue",
            "XLM-R base, batches of 32; 10 % of what is left pruned every 15 epochs (section 4)", _XGLUE,
            _rows(
                _XGLUE,
                ("No Pruning", "standard", "73.48 80.10 82.60 89.24 80.34 68.56 68.06 73.32 76.96"),
                ("Random", "random", "51.22 70.19 38.19 57.37 52.57 53.85 52.34 70.69 55.80"),
                ("Global-Random", "random_global", "50.97 69.88 38.30 56.74 53.02 54.02 53.49 69.11 55.69"),
                ("L0-MBP", "l0", "64.75 78.98 56.22 72.09 71.38 59.31 53.35 71.70 65.97"),
                ("L2-MBP", "l2", "64.30 78.79 54.43 77.99 70.68 59.24 60.33 71.52 67.16"),
                # DEVIATION: O'Neill et al. do not say what L2 is in L2-Global-MBP and L2-Gradient-MBP of Table 1.
                # Section 4 describes pruning by magnitude over all layers, and by the gradients of a batch, without a
                # penalty, and so they are run.
                ("L2-Global-MBP", "magnitude_global", "64.17 78.64 54.47 75.51 72.27 59.26 60.10 71.50 66.99"),
                ("L2-Gradient-MBP", "gradient", "61.11 73.77 53.25 79.56 65.89 57.35 59.33 71.59 65.23"),
                ("Lookahead", "lookahead", "60.84 79.18 54.44 71.05 68.76 55.94 53.41 71.26 64.36"),
                ("LAMP", "lamp", "58.04 63.64 51.92 66.05 67.43 55.36 52.42 71.09 60.74"),
                ("Cosine-MBP", "cosine", "66.20 79.15 55.62 78.45 71.62 57.56 61.37 72.51 67.81"),
                ("Frobenius-MBP", "frobenius", "65.71 79.84 55.61 78.78 71.62 61.62 61.37 71.48 68.25"),
            ),
            _ONEILL_XGLUE,
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
