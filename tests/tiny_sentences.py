"""A tiny data set of sentence pairs, binarised as fairseq's `sentence_prediction` reads it, and a tiny RoBERTa's words.

A pair's class is that of the words of its second sentence, and its score the share of words of the first sentence that
are in the first half of all words: both can be learned in some tens of updates.
"""

import random
from pathlib import Path
from typing import Any

import torch

from weighted_freezing_fairseq.data import binary
from weighted_freezing_fairseq.plugin.runs import build_trainer, load_config
from weighted_freezing_fairseq.workspace.configs import CONFIGS

WORDS = [f"w{number}" for number in range(24)]
CLASSES = 3
SPLITS = {"train": 120, "valid": 21}  # 21: no multiple of 8

TINY_ROBERTA = """--arch roberta_base --encoder-layers 2 --encoder-embed-dim 32 --encoder-ffn-embed-dim 48
  --encoder-attention-heads 2 --max-positions 40""".split()
# Pairs are `<s> a </s> </s> b </s>`, as RoBERTa has them.
SENTENCE_TASK = "--task sentence_prediction --init-token 0 --separator-token 2".split()
CLASSIFICATION = [*SENTENCE_TASK, "--num-classes", str(CLASSES)]
REGRESSION = [*SENTENCE_TASK, "--num-classes", "1", "--regression-target"]


def write(folder: Path, seed: int = 1, classes: int = CLASSES) -> Path:
    """`folder`/classes, and `folder`/scores with a number in place of the class."""
    rng = random.Random(seed)
    pairs = {split: [_pair(rng, classes) for _ in range(count)] for split, count in SPLITS.items()}
    for kind in ("classes", "scores"):
        columns = {"input0": 0, "input1": 1, **({"label": 2} if kind == "classes" else {})}
        for name, column in columns.items():
            _binarise(folder / kind / name, {split: [row[column] for row in rows] for split, rows in pairs.items()})
    labels = folder / "scores" / "label"
    labels.mkdir()
    for split, rows in pairs.items():
        (labels / f"{split}.label").write_text("".join(f"{row[3]}\n" for row in rows), encoding="utf-8")
    return folder


def trainer(data: Path, method: str = "standard", *overrides: str, regression: bool = False) -> Any:
    """fairseq's own, of a YAML of GLUE on a tiny model, whose head prefers something."""
    given = ["common.cpu=true", "checkpoint.save_dir=unused", "checkpoint.finetune_from_model=unused"]
    given += ["checkpoint.best_checkpoint_metric=loss", f"task.data={data}", "task.max_positions=40"]
    given += [f"task.num_classes={1 if regression else CLASSES}", f"task.regression_target={regression}"]
    given += [f"criterion.regression_target={regression}", "model.encoder_layers=1", "model.encoder_embed_dim=16"]
    given += ["model.encoder_ffn_embed_dim=24", "model.encoder_attention_heads=2", "optimization.max_update=9"]
    torch.manual_seed(1)
    built = build_trainer(load_config(CONFIGS / f"glue/{method}.yaml", [*given, *overrides]))
    for parameter in built.model.classification_heads.parameters():
        parameter.data.normal_(std=0.5)
    return built


def _pair(rng: random.Random, classes: int) -> tuple[str, str, str, str]:
    """Two sentences, their class and their score."""
    label = rng.randrange(classes)
    first = rng.choices(WORDS, k=rng.randint(3, 7))
    second = rng.choices(WORDS[label::classes], k=rng.randint(3, 7))
    score = sum(word in WORDS[: len(WORDS) // 2] for word in first) / len(first)
    return " ".join(first), " ".join(second), str(label), f"{score:.4f}"


def _binarise(folder: Path, texts: dict[str, list[str]]) -> None:
    """What fairseq-preprocess --only-source makes of one column; both sentences have one dictionary."""
    folder.mkdir(parents=True)
    words = sorted({word for lines in texts.values() for line in lines for word in line.split()})
    entries = [(word, 1) for word in (words if folder.name == "label" else WORDS)]
    binary.save_dictionary(entries, folder / "dict.txt")
    for split, lines in texts.items():
        text = folder / f"{split}.txt"
        text.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        binary.write(text, folder / "dict.txt", folder / split)
        text.unlink()
