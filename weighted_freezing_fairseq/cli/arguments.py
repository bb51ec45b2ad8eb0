"""Arguments that several commands share, and what the rooms below take in their place."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..data import NAMES
from ..data.recipe import Decode
from ..errors import UserError
from ..studies.train import Study
from ..workspace.machine import PRECISIONS, Machine
from ..workspace.runs import CHOICES


def add_device_argument(parser: argparse._ActionsContainer) -> None:
    """What computes."""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")


def at_least(least: int, value: int, option: str) -> int:
    """The value of an option; an error if it is too small."""
    if value < least:
        raise UserError(f"{option} must be at least {least}; type {option} {least}, or leave it out")
    return value


# Search --------------------------------------------------------------------------------------------------------------


def add_decode_arguments(parser: argparse._ActionsContainer) -> None:
    """How to search."""
    parser.add_argument("--beam", type=int, help="beam size")
    parser.add_argument("--lenpen", type=float, help="length penalty")
    parser.add_argument("--max-len-a", type=float, help="longest target: a * source length + b")
    parser.add_argument("--max-len-b", type=int)


def search_of(args: argparse.Namespace) -> dict[str, float]:
    """The fields of `Decode` that `add_decode_arguments` was given."""
    fields = {name: getattr(args, name) for name in Decode.__dataclass_fields__}
    return {name: value for name, value in fields.items() if value is not None}


def choices_of(text: str | None) -> list[str] | None:
    """The checkpoints that --choices names; None: it was left out."""
    choices = text.split(",") if text else None
    for choice in choices or ():
        if choice not in CHOICES:
            raise UserError(f"there is no choice {choice!r}; type --choices with some of {','.join(CHOICES)}")
    return choices


# Studies -------------------------------------------------------------------------------------------------------------


def add_study_arguments(parser: argparse.ArgumentParser) -> None:
    """What a matrix of trainings is about, and what it runs on."""
    parser.add_argument("dataset", choices=NAMES, metavar="DATASET", help=", ".join(NAMES))
    parser.add_argument("--recipe", help="of wff prepare (default: the first of its list)")
    parser.add_argument(
        "--encoder", type=Path, metavar="DIR", help="of glue and xnli: folder whose model.pt training starts from"
    )
    parser.add_argument("--data", type=Path, help="what wff prepare left (default data/DATASET)")
    parser.add_argument(
        "--configs", type=Path, help="folder of METHOD.yaml (default: configs/DATASET of the repository)"
    )
    parser.add_argument("--out", type=Path, metavar="RUNS", help="folder of the runs (default runs/DATASET)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="change a setting of the YAML; repeat for several",
    )  # fmt: skip
    add_device_argument(parser)
    parser.add_argument("--gpus", type=int, default=1, help="for each run; its batch stays that of one (default 1)")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="auto: bf16 or fp16 on a GPU")
    parser.add_argument(
        "--tokens-per-gpu", "--sentences-per-gpu", type=int, metavar="N",
        help="at most so many at once, in the unit of the YAML's batch, which stays",
    )  # fmt: skip


def study_of(args: argparse.Namespace) -> Study:
    """What `add_study_arguments` asked for."""
    return Study.of(
        args.dataset, recipe=args.recipe, encoder=args.encoder, data=args.data, configs=args.configs, runs=args.out,
        changed=args.set,
    )  # fmt: skip


def machine_of(args: argparse.Namespace, jobs: int | None, runs: int) -> Machine:
    """What `add_study_arguments` asked for, for so many `jobs` (None: as many as fit) of so many `runs`."""
    return Machine.of(args.device, jobs, runs, args.gpus, args.precision, args.tokens_per_gpu)


def words_of(add_arguments: Callable[[argparse.ArgumentParser], None], values: Mapping[str, Any]) -> list[str]:
    """`values` as a user types them for a command with these arguments, defaults too; what is not set is left out."""
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    words: list[str] = []
    for action in parser._actions:  # argparse has no other list of them
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
