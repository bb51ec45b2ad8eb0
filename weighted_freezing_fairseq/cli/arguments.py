"""Arguments that several commands share, and the checks of their values that need no file."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..workspace.configs import CONFIGS

if TYPE_CHECKING:
    from ..studies.embedded import EmbeddedStudy


def add_device(parser: argparse._ActionsContainer) -> None:
    """--device: where to compute."""
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: a GPU where there is one")


def add_names(parser: argparse._ActionsContainer, of: str) -> None:
    """--names: labels for the inputs, comma-separated."""
    parser.add_argument("--names", type=split, metavar="A,B", help=f"what to call the {of} (default: by their paths)")


def add_batches(parser: argparse._ActionsContainer) -> None:
    """The random batches on which importance by gradients is measured."""
    parser.add_argument("--split", default="train", help="set to measure on (default train)")
    parser.add_argument("--batches", type=int, default=100, metavar="N", help="random batches of it (default 100)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="longest of them, padding included (default 4000)")


def split(text: str) -> list[str]:
    """The words of a comma-separated list."""
    return text.split(",")


def check_at_least(args: argparse.Namespace, names: Sequence[str], least: int = 1) -> None:
    """Refuse options whose value is below `least`; options that were not given are skipped."""
    for name in names:
        if (value := getattr(args, name)) is not None and value < least:
            option = f"--{name.replace('_', '-')}"
            raise UserError(f"{option} must be at least {least}, got {value}; type {option} {least}, or leave it out")


def add_embedded_study(parser: argparse.ArgumentParser, seeds: str, out: str, configs: str) -> None:
    """What every study on the embedded corpus is told: the pair, how often, where, and how much at once."""
    from ..data.embedded import PAIRS

    parser.add_argument("--pair", default="de-en", help=f"one of {', '.join(PAIRS)} (default de-en)")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help=f"{seeds} (default 1)")
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
        help="use this share of the corpus, to see in less time that everything works (default 1)",
    )
    add_device(parser)
    parser.add_argument("--jobs", type=int, help="trainings at once (default: one a core, or one a GPU)")


def embedded_study(args: argparse.Namespace) -> "EmbeddedStudy":
    """The study that `add_embedded_study` asked for; impossible values are refused."""
    from ..data.embedded import PAIRS
    from ..studies.embedded import EmbeddedStudy

    if args.pair not in PAIRS:
        raise UserError(f"unknown pair {args.pair!r}; type --pair with one of: {', '.join(PAIRS)}")
    check_at_least(args, ("seeds", "jobs"))
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
