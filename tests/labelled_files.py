"""Miniatures of GLUE's, XNLI's, PAWS-X's and XGLUE's files in their true formats, and of encoders in fairseq's own.

The texts are made of a few words, and their last one tells the label, so that a tiny model learns something.
"""

import argparse
import json
import random
import tarfile
import zipfile
from pathlib import Path

import miniature

from weighted_freezing_fairseq.data import GLUE, XGLUE, XNLI, binary, pawsx
from weighted_freezing_fairseq.data.subwords import dictionary_of, learn_pieces
from weighted_freezing_fairseq.data.xnli import LANGUAGES

WORDS = ["a", "the", '"quoted', "cat's", "dog", "sees", "finds", "no", "grass", "über", "naïve", "dogs"]
COUNTS = {"train": 24, "dev": 10, "test": 5}
_PAIR = ["index", "sentence1", "sentence2", "label"]
_STS = "index genre filename year old_index source1 source2 sentence1 sentence2 score".split()
_NLI = (
    "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse".split()
)
_NLI += ["sentence1", "sentence2"]
_COLUMNS = {  # of the training set, whose names the files have in their first line, but for CoLA
    "RTE": _PAIR,
    "CoLA": ["source", "label", "original", "sentence2"],
    "MRPC": ["label", "#1 ID", "#2 ID", "sentence1", "sentence2"],
    "STS-B": _STS,
    "SST-2": ["sentence2", "label"],
    "QNLI": _PAIR,
    "QQP": ["index", "qid1", "qid2", "sentence1", "sentence2", "label"],
    "MNLI": [*_NLI, "label1", "label"],
}
_TEST = {"CoLA": ["index", "sentence2"], "SST-2": ["index", "sentence2"]}
_TEST |= {"MRPC": ["index", "#1 ID", "#2 ID", "sentence1", "sentence2"], "QQP": _PAIR[:3], "MNLI": _NLI}
_DEV = {"MNLI": [*_NLI, *(f"label{number}" for number in range(1, 6)), "label"]}
_FILES = {"MNLI": ("train", "dev_matched", "dev_mismatched", "test_matched", "test_mismatched")}
_CALLED = {
    "CoLA": {"sentence2": "sentence"},
    "MRPC": {"label": "Quality", "sentence1": "#1 String", "sentence2": "#2 String"},
    "SST-2": {"sentence2": "sentence"},
    "QNLI": {"sentence1": "question", "sentence2": "sentence"},
    "QQP": {"index": "id", "sentence1": "question1", "sentence2": "question2", "label": "is_duplicate"},
    "MNLI": {"label": "gold_label"},
}


def values(number: int, label: str, seed: int) -> dict[str, str]:
    """A row by the names of its columns; the second sentence ends with a word of its label."""
    rng = random.Random(f"{seed} {number}")
    one, other = (" ".join(rng.choices(WORDS, k=rng.randint(2, 6))) for _ in range(2))
    found = {"index": str(number), "sentence1": one, "sentence2": f"{other} {label[0]}", "label": label, "score": label}
    return {**found, "#1 ID": str(number), "#2 ID": str(number + 1000), "original": "" if label == "1" else "*"}


def glue_file(task: str, file: str, count: int) -> str:
    """train.tsv, dev.tsv or test.tsv of a task, or dev_matched.tsv and so on of MNLI."""
    without_label = _TEST.get(task, [c for c in _COLUMNS[task] if c not in ("label", "score")])
    kinds = {"train": _COLUMNS[task], "dev": _DEV.get(task, _COLUMNS[task]), "test": without_label}
    columns = kinds[file.partition("_")[0]]
    labels = GLUE.tasks[task.lower()].labels
    lines = [] if task == "CoLA" and file != "test" else [[_CALLED.get(task, {}).get(c, c) for c in columns]]
    for number in range(count):
        label = labels[number % len(labels)] if labels else f"{number % 11 / 2:.3f}"
        row = values(number, label, seed=len(file))
        lines.append([row.get(column, "x") for column in columns])
    start = "\ufeff" if task == "MRPC" else ""
    return start + "".join("\t".join(line) + "\n" for line in lines)


def glue(folder: Path, tasks=tuple(_COLUMNS), counts=COUNTS) -> Path:
    """`folder`/RTE/train.tsv and so on."""
    for task in tasks:
        (folder / task).mkdir(parents=True)
        for file in _FILES.get(task, counts):
            text = glue_file(task, file, counts[file.partition("_")[0]])
            (folder / task / f"{file}.tsv").write_text(text, encoding="utf-8", newline="\n")
    return folder


_XNLI = (
    "language gold_label sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse sentence1 "
    "sentence2 promptID pairID genre label1 label2 label3 label4 label5 sentence1_tokenized sentence2_tokenized match"
).split()
_LABELS = XNLI.tasks["en"].labels


def xnli(folder: Path, train: int = 24, each: int = 3) -> list[Path]:
    """XNLI-1.0.zip, with what a Macintosh puts into it, and the English of XNLI-MT-1.0.zip."""
    folder.mkdir(parents=True, exist_ok=True)
    evaluation, translated = folder / "XNLI-1.0.zip", folder / "XNLI-MT-1.0.zip"
    with zipfile.ZipFile(evaluation, "w") as archive:
        for subset in ("dev", "test"):
            lines = [_XNLI]
            for language in LANGUAGES:
                for number in range(each):
                    label = _LABELS[number % 3]
                    row = {**values(number, label, seed=len(subset)), "language": language, "gold_label": label}
                    lines.append([row.get(column, "x") for column in _XNLI])
            text = "".join("\t".join(line) + "\n" for line in lines)
            archive.writestr(f"XNLI-1.0/xnli.{subset}.tsv", text)
            archive.writestr(f"__MACOSX/XNLI-1.0/._xnli.{subset}.tsv", "not this one")
    with zipfile.ZipFile(translated, "w") as archive:
        lines = [["premise", "hypo", "label"]]
        for number in range(train):
            label = _LABELS[number % 3]
            row = values(number, label, seed=9)
            spelt = "contradictory" if label == "contradiction" else label
            lines.append([row["sentence1"], row["sentence2"], spelt])
        text = "".join("\t".join(line) + "\n" for line in lines)
        archive.writestr("XNLI-MT-1.0/multinli/multinli.train.en.tsv", text)
        archive.writestr("XNLI-MT-1.0/multinli/multinli.train.de.tsv", "not this one")
    return [evaluation, translated]


def paws_x(folder: Path, train: int = 24, each: int = 3) -> list[Path]:
    """x-final.tar.gz, with a sentence that was not translated in German dev."""
    folder.mkdir(parents=True, exist_ok=True)
    members: dict[str, bytes | str | tarfile.TarInfo] = {}
    for language in pawsx.LANGUAGES:
        name = "train" if language == "en" else "translated_train"
        for seed, (file, count) in enumerate(((name, train), ("dev_2k", each), ("test_2k", each))):
            lines = [["id", "sentence1", "sentence2", "label"]]
            for number in range(count):
                row = values(number, str(number % 2), seed)
                untranslated = (language, file, number) == ("de", "dev_2k", 0)
                lines.append(
                    [str(number + 1), row["sentence1"], "NS" if untranslated else row["sentence2"], row["label"]]
                )
            members[f"x-final/{language}/{file}.tsv"] = "".join("\t".join(line) + "\n" for line in lines)
    (folder / "x-final.tar.gz").write_bytes(miniature.tgz(members))
    return [folder / "x-final.tar.gz"]


def xglue(folder: Path, train: int = 24, each: int = 3) -> list[Path]:
    """xglue_full_dataset.tar.gz; in WPR, three rows that follow each other have one query."""
    folder.mkdir(parents=True, exist_ok=True)
    members: dict[str, bytes | str | tarfile.TarInfo] = {"xglue_full_dataset/NER/de.dev": "EU B-ORG\n"}
    for key in ("nc", "qam", "qadsm", "wpr", "xnli", "pawsx"):
        task = XGLUE.tasks[key]
        for language in task.subsets["dev"]:
            for seed, subset in enumerate(("train", "dev", "test") if language == "en" else ("dev", "test")):
                count = train if subset == "train" else each
                rows = [
                    _xglue_row(key, number, task.labels[number % len(task.labels)], seed) for number in range(count)
                ]
                name = {
                    "xnli": "XNLI/multinli.train.en.tsv" if subset == "train" else f"XNLI/{language}.{subset}",
                    "pawsx": f"PAWSX/{language}/{subset if subset == 'train' else f'{subset}_2k'}.tsv",
                }.get(key, f"{task.name}/xglue.{key}.{language}.{subset}")
                if name.endswith(".tsv"):
                    rows.insert(0, ["premise", "hypo", "label"] if key == "xnli" else ["id", *_PAIR[1:]])
                members[f"xglue_full_dataset/{name}"] = "".join("\t".join(row) + "\n" for row in rows)
    (folder / "xglue_full_dataset.tar.gz").write_bytes(miniature.tgz(members))
    return [folder / "xglue_full_dataset.tar.gz"]


def _xglue_row(key: str, number: int, label: str, seed: int) -> list[str]:
    row = values(number, label, seed)
    first = f"which dog {number // 3}" if key == "wpr" else row["sentence1"]
    start = [str(number + 1)] if key == "pawsx" else []
    middle = ["a title"] if key in ("qadsm", "wpr") else []
    return [*start, first, *middle, row["sentence2"], label]


# Encoders ------------------------------------------------------------------------------------------------------------


def roberta(folder: Path, weights: bool = True, **sizes: int) -> Path:
    """roberta.base in small: GPT-2's subwords (every byte, and two merges), and random weights of these sizes."""
    from fairseq.data.encoders.gpt2_bpe_utils import bytes_to_unicode

    folder.mkdir(parents=True)
    symbols = [*bytes_to_unicode().values(), "do", "dog"]
    (folder / "encoder.json").write_text(json.dumps({symbol: number for number, symbol in enumerate(symbols)}))
    (folder / "vocab.bpe").write_text("#version: 0.2\nd o\ndo g\n", encoding="utf-8")
    # As in fairseq's, the dictionary is in the order of frequency, not of the numbers that it lists.
    binary.save_dictionary([(str(number), 1) for number in reversed(range(len(symbols)))], folder / "dict.txt")
    if weights:
        _write_weights(folder, **sizes)
    return folder


def xlmr(folder: Path, weights: bool = True) -> Path:
    """xlmr.base in small: SentencePiece's."""
    folder.mkdir(parents=True)
    text = folder / "text"
    text.write_text("".join(f"{values(n, 'neutral', 1)['sentence1']} e c n\n" for n in range(60)), encoding="utf-8")
    model = folder / "sentencepiece.bpe.model"
    learn_pieces([text], model, 60)
    text.unlink()
    binary.save_dictionary(dictionary_of(model), folder / "dict.txt")
    if weights:
        _write_weights(folder)
    return folder


SMALL = {"encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2}


def _write_weights(folder: Path, **sizes: int) -> None:
    """A checkpoint as fairseq wrote them in 2019: a Namespace, old names, no optimizer's state."""
    import torch
    from fairseq.data import Dictionary
    from fairseq.models.roberta import RobertaModel, base_architecture

    names = Dictionary.load(str(folder / "dict.txt"))
    names.add_symbol("<mask>")
    args = argparse.Namespace(
        arch="roberta_base", task="masked_lm", max_positions=512, tokens_per_sample=512, **(SMALL | sizes)
    )
    base_architecture(args)
    task = argparse.Namespace(source_dictionary=names, dictionary=names)
    torch.manual_seed(5)
    with torch.random.fork_rng():
        state = RobertaModel.build_model(args, task).state_dict()
    old = {name.replace("encoder.", "decoder.", 1): weight for name, weight in state.items()}
    old = {name.replace("layernorm_embedding", "emb_layer_norm"): weight for name, weight in old.items()}
    for layer in range(SMALL["encoder_layers"]):
        for kind in ("weight", "bias"):
            own = f"decoder.sentence_encoder.layers.{layer}.self_attn"
            old[f"{own}.in_proj_{kind}"] = torch.cat([old.pop(f"{own}.{side}_proj.{kind}") for side in "qkv"])
    history = {"criterion_name": "MaskedLmLoss", "optimizer_name": "FP16Optimizer", "num_updates": 500_000}
    history["lr_scheduler_state"] = {"best": None}
    extra = {"train_iterator": {"epoch": 9, "iterations_in_epoch": 3}, "val_loss": 1.5}
    checkpoint = {"args": args, "model": old, "optimizer_history": [history], "extra_state": extra}
    torch.save(checkpoint, folder / "model.pt")
