"""Prepared data, and run folders as `wff train` and `wff evaluate` leave them: real scores and a log, in no time."""

import json
import random

from weighted_freezing_fairseq.data import binary, lowercases
from weighted_freezing_fairseq.scoring.scores import all_scores

WORDS = [f"w{number}" for number in range(60)]
REFERENCE = [" ".join(random.Random(line).choices(WORDS, k=12)).capitalize() + "." for line in range(30)]
SITTING = "[x][fairseq_cli.train][INFO] - num. shared model params: 1,042,048\n"
LOG = '[x][train_inner][INFO] - {"num_updates": "%d", "lr": "1", "train_wall": "1", "wall": "%d"}\n'
EPOCH = '[x][train][INFO] - {"train_num_updates": "200", "train_train_wall": "9", "train_wall": "1800"}\n'


def translations(noise, seed):
    """The reference with a share of its words replaced."""
    rng = random.Random(seed)
    return [" ".join(rng.choice(WORDS) if rng.random() < noise else w for w in line.split()) for line in REFERENCE]


def a_run(
    root, method, seed, noise=0.4, pair="de-en", recipe="clean", configs="iwslt14-li", choices=("best",),
    dataset="iwslt14", **score_keys,
):  # fmt: skip
    """A run folder as `wff train` and `wff evaluate` leave it."""
    prepared = root / "data" / dataset / recipe / pair
    reference = prepared / "raw/test.en"
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text("".join(f"{line}\n" for line in REFERENCE))
    folder = root / "runs" / configs / recipe / pair / f"{method}-{seed}"
    (folder / "scores").mkdir(parents=True)
    about = {
        "dataset": dataset,
        "recipe": recipe,
        "pair": pair,
        "method": method,
        "seed": seed,
        "data": str(prepared),
    }
    about |= {"config": f"configs/{configs}/{method}.yaml", "commit": "abc123", "changed": []}
    about |= {"sittings": [{"device": "a GPU"}, {"device": "a GPU"}]}
    about |= {"command": f"wff train {dataset} --method {method} --seed {seed}"}
    (folder / "provenance.json").write_text(json.dumps(about))
    (folder / ".training.json").touch()
    log = [SITTING, LOG % (100, 900), LOG % (150, 1800), SITTING, LOG % (150, 1700), EPOCH, '[train_inner] - {"num_up']
    (folder / "train.log").write_text("".join(log))  # stopped after an update that was not saved, and gone on
    for choice in choices:
        lines = translations(noise, f"{method} {seed} {pair}")
        if lowercases(dataset, recipe):
            lines = [line.lower() for line in lines]
        found = {"subset": "test", "choice": choice, "decode": {"beam": 5, "lenpen": 1.0}, "recipe": recipe}
        found |= {"reference": str(reference), **all_scores(lines, REFERENCE, "en"), **score_keys}
        (folder / f"scores/test.{choice}.json").write_text(json.dumps(found))
        (folder / f"scores/test.{choice}.hyp.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


def prepared(folder, sentences, **references):
    """Binarised sets of so many sentences each, with raw references of so many lines each."""
    (folder / "bin").mkdir(parents=True)
    (folder / "raw").mkdir()
    (folder / "text").write_text("a\n" * sentences)
    binary.save_dictionary([("a", 1)], folder / "bin/dict.en.txt")
    for subset, lines in references.items():
        for language in ("de", "en"):
            binary.write(folder / "text", folder / "bin/dict.en.txt", folder / f"bin/{subset}.de-en.{language}")
        (folder / f"raw/{subset}.en").write_text("a\n" * lines)
    tests = {subset: f"raw/{subset}.en" for subset in references}
    manifest = {"dataset": "multi30k", "recipe": "clean", "pair": "de-en", "source": "de", "target": "en"}
    manifest |= {"tests": tests, "generate": {"remove_bpe": "sentencepiece", "tokenizer": None}, "sha256": {}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder
