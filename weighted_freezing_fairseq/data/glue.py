"""GLUE (Wang et al. 2018): six of its tasks, with their files, sizes and metrics.

Alpha is that of Xu et al. 2022, Table 6. The tests have no labels: dev is what is scored, and predictions for the tests
are written for GLUE's server. MNLI (but see `xnli.py`), QQP, WNLI and AX are left out.
"""

from collections.abc import Callable, Sequence
from types import MappingProxyType

from .sentences import SentenceData, Split, TableFile, Task

_FILES = MappingProxyType({"train": "train", "valid": "dev", "test": "test"})
_SUBSETS = MappingProxyType({"dev": {"dev": "valid"}, "test": {"test": "test"}})


def _splits(name: str, sizes: Sequence[int], files: Callable[[str, str], tuple[TableFile, ...]]) -> tuple[Split, ...]:
    """Train, dev and test with their sizes; `files` takes a split and its file of GLUE. The test may be missing."""
    return tuple(
        Split(split, files(split, f"{name}/{file}.tsv"), size, required=split != "test")
        for (split, file), size in zip(_FILES.items(), sizes, strict=True)
    )


def _with_header(*inputs: str, label: str) -> Callable[[str, str], tuple[TableFile, ...]]:
    """Files with a header; that of the test has no label."""
    return lambda split, file: (TableFile(file, inputs, "" if split == "test" else label),)


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
    name: str, what: str, labels: str, metrics: str, alpha: float, sizes: Sequence[int],
    files: Callable[[str, str], tuple[TableFile, ...]],
) -> Task:  # fmt: skip
    return Task(name, what, tuple(labels.split()), tuple(metrics.split()), alpha, _splits(name, sizes, files), _SUBSETS)


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
)  # fmt: skip

GLUE = SentenceData(
    name="glue",
    what="six tasks of GLUE, from its own TSV files",
    tasks=MappingProxyType({task.name.lower(): task for task in _TASKS}),
    recipes=("roberta", "xlmr"),
    longest=128,  # Xu et al. 2022, appendix A.3
)
