"""The steps that the studies on the embedded corpus share: data, scores, and the options of their commands.

Raw text -> SentencePiece learnt on train only -> fairseq-preprocess; after training, fairseq-generate -> sacreBLEU
against the raw reference.
"""

import argparse
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..data import embedded as corpus
from ..data import subwords
from ..data.recipe import Decode
from ..errors import UserError
from ..files import whole_folder, write_atomically
from ..forms import read_json
from ..scoring.results import SCORE_FORM
from ..scoring.scores import Score, read_lines
from ..scoring.translate import translated
from ..workspace.commands import fairseq
from ..workspace.configs import CONFIGS, methods_in
from ..workspace.machine import Machine
from ..workspace.progress import say
from ..workspace.provenance import EMBEDDED
from ..workspace.runs import Run
from ..workspace.steps import once

PIECES = 2000
DECODE = Decode(beam=4, max_len_a=1.2, max_len_b=10)


def prepare(
    pair: str, folder: Path, fraction: float, kinds: Sequence[str] | None = None, like: Path | None = None
) -> None:
    """Corpus, subwords, binarised data in `folder`; with subwords and dictionary of the folder `like`, if given.

    fraction: of the corpus's size, in every split.
    """
    source, target = pair.split("-")
    raw = folder / "raw"
    say(f"{folder.name}: writing the corpus")
    corpus.write(pair, raw, sizes={split: round(fraction * size) for split, size in corpus.SIZES.items()}, kinds=kinds)
    versions = {"pieces": PIECES, "corpus": read_lines(raw / corpus.MANIFEST)}
    if like is not None:
        versions["like"] = read_lines(like / "raw" / corpus.MANIFEST)
    once(folder, "subwords", versions, lambda: _segment(folder, raw, (source, target), like))
    once(folder, "binarised", versions, lambda: _binarise(folder, source, target, like))


def _binarise(folder: Path, source: str, target: str, like: Path | None) -> None:
    """fairseq-preprocess, into a folder that appears when it is whole: fairseq refuses to go on in a half-made one."""
    if (folder / "bin").is_dir():
        return
    with whole_folder(folder / "bin") as half:
        words = ["--source-lang", source, "--target-lang", target, "--joined-dictionary", "--destdir", half]
        if like is not None:
            words += ["--srcdict", like / "bin" / f"dict.{source}.txt"]
        words += [w for split in corpus.SIZES for w in (f"--{split}pref", folder / "pieces" / split)]
        fairseq("preprocess", words, folder / "preprocess.log")


def _segment(folder: Path, raw: Path, languages: Sequence[str], like: Path | None) -> None:
    """Text in pieces of SentencePiece, which is learnt on the two sides of train unless another folder has it."""
    model = (like or folder) / "spm.model"
    if like is None:
        say(f"{folder.name}: learning {PIECES} subwords on train")
        subwords.learn_pieces([raw / f"train.{name}" for name in languages], model, PIECES, split_digits=True)
    for name in (f"{split}.{language}" for split in corpus.SIZES for language in languages):
        lines = subwords.pieces_of(str(model), model.stat().st_mtime_ns, read_lines(raw / name))
        write_atomically(folder / "pieces" / name, "".join(f"{line}\n" for line in lines))


def evaluate(run: Run, data: Path, reference: Path, machine: Machine, name: str = "test") -> Score:
    """Translate and score the test set of `data` with the last weights of `run`; `name` is for several sets."""
    about = {"subset": name, "choice": "last", "decode": asdict(DECODE)}
    language = reference.suffix.lstrip(".")

    def work() -> None:
        translated(run, machine, data, "test", reference, language, about)

    once(run.folder, f"scoring-{name}.last", about, work)
    found = read_json(run.folder / f"scores/{name}.last.json", SCORE_FORM, f"type: rm {run.folder}/.scoring-*")
    return Score(**{field.name: found[field.name] for field in fields(Score)})


def note_on(found: Score) -> list[str]:
    """What a table of scores must say to be compared with another, as lines of Markdown."""
    return [
        "",
        f"BLEU: `{found.bleu_signature}`  ",
        f"chrF: `{found.chrf_signature}`  ",
        f"{found.sentences} test sentences, beam {DECODE.beam}, last checkpoint.",
    ]


def add_run_arguments(parser: argparse.ArgumentParser, seeds: str, out: str, configs: str) -> None:
    """What every recipe on the embedded corpus is told: the pair, how often, where, and how much at once."""
    parser.add_argument("--pair", default="de-en", help=f"one of {', '.join(corpus.PAIRS)} (default de-en)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=f"{seeds} (default 1)")
    parser.add_argument("--out", type=Path, default=Path(out), help=f"default {out}")
    parser.add_argument(
        "--configs", type=Path, default=CONFIGS / configs,
        help=f"folder of METHOD.yaml (default: configs/{configs} of the repository)",
    )  # fmt: skip
    parser.add_argument(
        "--corpus-fraction", type=float, default=1.0, metavar="F",
        help="use this share of the corpus, to see in less time that everything works (default 1)",
    )  # fmt: skip
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")
    parser.add_argument("--jobs", type=int, help="trainings at once (default: one a core, or one a GPU)")


def refuse_unknown_methods(methods: Iterable[str], *folders: Path) -> None:
    """Each method must have a YAML in one of `folders`."""
    known = methods_in(*folders)
    for method in methods:
        if method not in known:
            raise UserError(f"no method {method!r} in {folders[0]}; type --methods with some of: {','.join(known)}")


def refuse_wrong(args: argparse.Namespace) -> None:
    """What `add_run_arguments` cannot know by itself."""
    if args.pair not in corpus.PAIRS:
        raise UserError(f"unknown pair {args.pair!r}; type --pair with one of: {', '.join(corpus.PAIRS)}")
    if args.seeds < 1:
        raise UserError("--seeds must be at least 1; type --seeds 1")
    if not 0.05 <= args.corpus_fraction <= 1:
        raise UserError(f"--corpus-fraction {args.corpus_fraction:g} is no share from 0.05 to 1; type 0.1")
    if args.jobs is not None and args.jobs < 1:
        raise UserError("--jobs must be at least 1; type --jobs 1, or leave it out")


def on_embedded(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """`about` for `note`, of a recipe on the embedded corpus; `folder`: its raw text and binarised data."""
    return {
        "dataset": EMBEDDED, "recipe": "generated", "pair": args.pair, "data": str(folder), "changed": [],
        "command": shlex.join(["wff", *args.words]),
    }  # fmt: skip
