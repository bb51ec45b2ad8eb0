"""Arguments that several commands share, and the checks of their values that need no file."""

import argparse
from collections.abc import Sequence

from ..errors import UserError


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
