"""Arguments that several commands share, and checks of their values."""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import NAMES
from ..data.recipe import Decode
from ..errors import UserError
from ..studies.sizes import AUTO, SIZES, range_of
from ..workspace.configs import CONFIGS
from ..workspace.machine import DEVICES, PRECISIONS, Machine
from ..workspace.runs import CHOICES

if TYPE_CHECKING:
    from ..studies.embedded import EmbeddedStudy
    from ..studies.train import Study


def add_device(parser: argparse._ActionsContainer) -> None:
    """Add --device."""
    parser.add_argument(
        "--device", choices=DEVICES, default="auto", help="auto: a GPU where there is one, else the CPU (default)"
    )


def add_choice(parser: argparse._ActionsContainer, default: str = "best if there is one, else last") -> None:
    """Add --choice: which checkpoint of a folder."""
    parser.add_argument("--choice", choices=CHOICES, help=f"checkpoint of a folder (default: {default})")


def add_binarised(parser: argparse._ActionsContainer) -> None:
    """Add --data: the binarised folder."""
    parser.add_argument(
        "--data", type=Path, metavar="BIN", help="binarised folder (default: what the first RUN was trained on)"
    )


def add_names(parser: argparse._ActionsContainer, inputs: str) -> None:
    """Add --names: labels of the inputs."""
    parser.add_argument("--names", type=split, metavar="A,B", help=f"names of the {inputs} (default: from their paths)")


def add_batches(parser: argparse._ActionsContainer) -> None:
    """Add the options of the random batches on which importance is measured."""
    parser.add_argument("--split", default="train", help="set to measure on (default train)")
    parser.add_argument("--batches", type=int, default=100, metavar="N", help="number of random batches (default 100)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="maximum of a batch, with padding (default 4000)")


MODEL = "run folder, save-dir of fairseq, or checkpoint"


def split(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return text.split(",")


def seeds(text: str) -> list[int]:
    """The seeds of `1,2,3` or `1-3`. A number above 1 on its own is refused, since it might mean a number of seeds."""
    match = re.fullmatch(r"(\d+)-(\d+)", text)
    words = range(int(match[1]), int(match[2]) + 1) if match else text.split(",")
    if not match and text.isdecimal() and int(text) > 1:
        raise argparse.ArgumentTypeError(
            f"{text} is ambiguous: type 1-{text} for {text} seeds, or {text}-{text} for one"
        )
    if not words or not all(str(word).isdecimal() and int(word) > 0 for word in words):
        raise argparse.ArgumentTypeError(f"invalid seeds {text!r}: type positive numbers, as 1,2,3 or 1-3")
    return list(dict.fromkeys(map(int, words)))


def check_at_least(args: argparse.Namespace, names: Sequence[str], least: int = 1) -> None:
    """Raise UserError for an option whose value is below `least`; None is skipped."""
    for name in names:
        if (value := getattr(args, name)) is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least {least}, got {value}; type {option} {least}, or leave it out")


def add_embedded_study(parser: argparse.ArgumentParser, trained: str, out: str, configs: str) -> None:
    """Add the options of a study on the embedded corpus: pair, seeds, folders, device and jobs.

    Args:
        trained: what is trained with each seed.
    """
    from ..data.embedded import PAIRS

    parser.add_argument("--pair", default="de-en", help=f"one of {', '.join(PAIRS)} (default de-en)")
    parser.add_argument(
        "--seeds", type=seeds, default="1", metavar="1-3", help=f"{trained}, as 1,2,3 or 1-3 (default 1)"
    )
    parser.add_argument("--out", type=Path, default=Path(out), help=f"default {out}")
    parser.add_argument(
        "--configs",
        type=Path,
        default=CONFIGS / configs,
        help=f"folder of METHOD.yaml (default: configs/{configs} of the repository)",
    )
    parser.add_argument(
        "--corpus-fraction",
        type=float,
        default=1.0,
        metavar="F",
        help="fraction of the corpus to use, for a quick check (default 1)",
    )
    add_device(parser)
    parser.add_argument("--jobs", type=int, help="trainings in parallel (default: one per core or GPU)")


def embedded_study(args: argparse.Namespace) -> "EmbeddedStudy":
    """The study that the options of `add_embedded_study` describe; UserError for invalid values."""
    from ..data.embedded import PAIRS
    from ..studies.embedded import EmbeddedStudy

    if args.pair not in PAIRS:
        raise UserError(f"unknown pair {args.pair!r}; type --pair with one of: {', '.join(PAIRS)}")
    check_at_least(args, ("jobs",))
    if not 0.05 <= args.corpus_fraction <= 1:
        raise UserError(f"--corpus-fraction must be between 0.05 and 1, got {args.corpus_fraction:g}; type 0.1")
    return EmbeddedStudy(
        args.pair,
        args.seeds,
        args.out.resolve(),
        args.configs.resolve(),
        args.corpus_fraction,
        args.device,
        args.jobs,
        args.words,
    )


# Search --------------------------------------------------------------------------------------------------------------


def add_decode_arguments(parser: argparse._ActionsContainer) -> None:
    """Add the options of the search."""
    parser.add_argument("--beam", type=int, help="beam size")
    parser.add_argument("--lenpen", type=float, help="length penalty")
    parser.add_argument("--max-len-a", type=float, help="maximum target length: a * source length + b")
    parser.add_argument("--max-len-b", type=int)


def search_of(args: argparse.Namespace) -> dict[str, float]:
    """The fields of `Decode` that the user set."""
    fields = {name: getattr(args, name) for name in Decode.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def choices_of(text: str | None) -> list[str] | None:
    """The checkpoints in the value of --choices (None: all)."""
    choices = split(text) if text else None
    for choice in choices or ():
        if choice not in CHOICES:
            raise UserError(f"there is no choice {choice!r}; type --choices with some of {','.join(CHOICES)}")
    return choices


# Studies -------------------------------------------------------------------------------------------------------------


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of a matrix of trainings, and of the machine."""
    parser.add_argument("dataset", choices=NAMES, metavar="DATASET", help=", ".join(NAMES))
    parser.add_argument("--recipe", help="recipe of wff prepare (default: the first of the data set)")
    parser.add_argument(
        "--encoder", type=Path, metavar="DIR", help="for labelled sentences: folder whose model.pt training starts from"
    )
    parser.add_argument("--data", type=Path, help="folder that wff prepare made (default data/DATASET)")
    parser.add_argument(
        "--configs", type=Path, help="folder of METHOD.yaml (default: configs/DATASET of wff configs; own: by --size)"
    )
    parser.add_argument(
        "--size", choices=[AUTO, *SIZES],
        help="for own: YAMLs of configs/own, "
        + "; ".join(f"{size}: {range_of(size)}" for size in SIZES)
        + f" (default {AUTO}: by their number)",
    )  # fmt: skip
    parser.add_argument(
        "--out", type=Path, metavar="RUNS", help="folder of the runs (default: runs/ and the name of --configs)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a setting of the YAML, in a matrix for each method that has it; may be repeated",
    )  # fmt: skip
    add_device(parser)
    parser.add_argument("--gpus", type=int, default=1, help="GPUs per run, which share its batch (default 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 or fp16 on a GPU")
    parser.add_argument(
        "--tokens-per-gpu", "--sentences-per-gpu", type=int, metavar="N",
        help="maximum on a GPU at a time, in the unit of the YAML's batch; the batch itself does not change",
    )  # fmt: skip


def study_of(args: argparse.Namespace) -> "Study":
    """The study that the options of `add_study_arguments` describe."""
    from ..studies.train import Study

    return Study.of(
        args.dataset, recipe=args.recipe, encoder=args.encoder, data=args.data, configs=args.configs, size=args.size,
        pairs=getattr(args, "pairs", None) or [getattr(args, "pair", None)], runs=args.out, assignments=args.set,
        methods=list(dict.fromkeys(["standard", *args.methods])) if "methods" in args else [args.method],
    )  # fmt: skip


def machine_of(args: argparse.Namespace, jobs: int | None, runs: int) -> Machine:
    """The machine of these options, for this number of runs and parallel jobs (None: as many as fit)."""
    return Machine.of(args.device, jobs, runs, args.gpus, args.precision, args.tokens_per_gpu)


def words_of(add_arguments: Callable[[argparse.ArgumentParser], None], values: Mapping[str, Any]) -> list[str]:
    """The command-line words that set `values` in a command with these arguments; None and False are left out."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words: list[str] = []
    for action in parser._actions:  # argparse has no public list
        value = values.get(action.dest)
        if value is None or value is False:
            continue
        option = action.option_strings[:1]
        if action.nargs == 0:  # a switch
            words += option
        elif isinstance(action, argparse._AppendAction):
            words += [word for item in value for word in (*option, str(item))]
        else:
            words += [*option, *map(str, value if isinstance(value, list) else [value])]
    return words
