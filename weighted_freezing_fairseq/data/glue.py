"""GLUE (Wang et al. 2018): the eight tasks of Xu et al. 2022, with their files, sizes and metrics.

Alpha is that of Xu et al. 2022, Table 6. The tests have no labels: dev is what is scored, and predictions for the tests
are written for GLUE's server, in files of the names that it wants. WNLI and AX are left out.
"""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from .sentences import SentenceData, Split, TableFile, Task

_Files = Callable[[str, str], tuple[TableFile, ...]]  # from a split and its file of GLUE
_SPLITS = MappingProxyType({"train": "train", "valid": "dev", "test": "test"})  # with their files
_MNLI_SPLITS = MappingProxyType(
    {
        "train": "train",
        "valid": "dev_matched",  # of the genres of the training set
        "dev.mismatched": "dev_mismatched",
        "test": "test_matched",
        "test.mismatched": "test_mismatched",
    }
)


def _is_test(split: str) -> bool:
    """Whether a split has no labels; it may be missing."""
    return split.startswith("test")


def _with_header(*inputs: str, label: str) -> _Files:
    """Files with a header; that of the test has no label."""
    return lambda split, file: (TableFile(file, inputs, "" if _is_test(split) else label),)


def _cola(split: str, file: str) -> tuple[TableFile, ...]:
    """CoLA's train and dev have no header."""
    if split == "test":
        return (TableFile(file, ("sentence",)),)
    return (TableFile(file, ("sentence",), "label", names=("source", "label", "original", "sentence")),)


def _mrpc(split: str, file: str) -> tuple[TableFile, ...]:
    """GLUE's files, or those of the corpus, where dev is the pairs of the training set in dev_ids.tsv."""
    inputs = ("#1 String", "#2 String")
    if split == "test":
        return TableFile(file, inputs), TableFile("msr_paraphrase_test.txt", inputs)
    ids = ("dev_ids.tsv", split == "valid")
    return TableFile(file, inputs, "Quality"), TableFile("msr_paraphrase_train.txt", inputs, "Quality", ids=ids)


def _task(
    name: str, what: str, labels: str, metrics: str, alpha: float, sizes: Sequence[int], files: _Files,
    splits: Mapping[str, str] = _SPLITS, subsets: Mapping[str, Mapping[str, str]] | None = None,
) -> Task:  # fmt: skip
    """A task: its splits with their sizes and files, and what is scored on dev and predicted for the server."""
    return Task(
        name, what, tuple(labels.split()), tuple(metrics.split()), alpha,
        tuple(
            Split(split, files(split, f"{name}/{file}.tsv"), size, required=not _is_test(split))
            for (split, file), size in zip(splits.items(), sizes, strict=True)
        ),
        subsets or {"dev": {"dev": "valid"}, "test": {name: "test"}},
    )  # fmt: skip


_PAIR = ("sentence1", "sentence2")
_TASKS = (
    _task("RTE", "entailment of a sentence by another", "entailment not_entailment", "accuracy", 1.0,
          (2490, 277, 3000), _with_header(*_PAIR, label="label")),
    _task("CoLA", "whether a sentence is grammatical", "0 1", "mcc accuracy", 0.5, (8551, 1043, 1063), _cola),
    _task("MRPC", "whether two sentences say the same", "0 1", "f1 accuracy", 1.5, (3668, 408, 1725), _mrpc),
    _task("STS-B", "how near two sentences are, from 0 to 5", "", "pearson spearman", 1.0,
          (5749, 1500, 1379), _with_header(*_PAIR, label="score")),
    _task("SST-2", "the sentiment of a sentence", "0 1", "accuracy", 0.5,
          (67_349, 872, 1821), _with_header("sentence", label="label")),
    _task("QNLI", "whether a sentence answers a question", "entailment not_entailment", "accuracy", 0.5,
          (104_743, 5463, 5463), _with_header("question", "sentence", label="label")),
    _task("QQP", "whether two questions ask the same", "0 1", "f1 accuracy", 0.5,
          (363_846, 40_430, 390_965), _with_header("question1", "question2", label="is_duplicate")),
    _task("MNLI", "entailment, neutrality or contradiction of two sentences", "contradiction entailment neutral",
          "accuracy", 0.5, (392_702, 9815, 9832, 9796, 9847), _with_header(*_PAIR, label="gold_label"), _MNLI_SPLITS,
          {"dev": {"dev": "valid"}, "dev_mismatched": {"dev_mismatched": "dev.mismatched"},
           "test": {"MNLI-m": "test", "MNLI-mm": "test.mismatched"}}),
)  # fmt: skip

GLUE = SentenceData(
    name="glue",
    what="eight tasks of GLUE, from its own TSV files",
    tasks=MappingProxyType({task.name.lower(): task for task in _TASKS}),
    recipes=("roberta", "xlmr"),
    longest=128,  # Xu et al. 2022, appendix A.3
)
