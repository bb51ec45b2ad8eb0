"""`wff user-dir`: the folder for fairseq's --user-dir, wherever this package is installed."""

import argparse

from ..workspace.processes import USER_DIR

HELP = "Print the path to give to fairseq's --user-dir."
EXAMPLE = 'fairseq-train DATA --user-dir "$(wff user-dir)" --optimizer weighted_freeze ...'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    print(USER_DIR)
    return 0
