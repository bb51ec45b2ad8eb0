"""`wff user-dir`: the folder for fairseq's --user-dir, wherever this package is installed.

Not the package's own folder: fairseq would skip that where the package is imported already, see `plugin/user_dir`.
"""

import argparse
from pathlib import Path

HELP = "Print the path to give to fairseq's --user-dir."
EXAMPLE = 'fairseq-train DATA --user-dir "$(wff user-dir)" --optimizer weighted_freeze ...'

PACKAGE = Path(__file__).resolve().parent
USER_DIR = PACKAGE / "plugin" / "user_dir" / "register_weighted_freezing"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    print(USER_DIR)
    return 0
