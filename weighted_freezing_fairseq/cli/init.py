"""`wff init`: a YAML to edit for own files, and the commands to type."""

import argparse
from pathlib import Path

from ..studies.init import init
from ..studies.sizes import SIZES, range_of

HELP = """\
Write the YAML of a method for own files, for you to edit, and print the commands that prepare, train, evaluate and
translate by it. A method that starts from another run gets the YAML of that run, too. Nothing is overwritten."""
EXAMPLE = """wff init --pair fr-en
  wff init --pair fr-en --method weighted_freeze --size tiny --out my-configs"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pair", required=True, metavar="SRC-TGT", help="languages, as fr-en")
    parser.add_argument("--method", default="standard", help="default standard")
    parser.add_argument(
        "--size", choices=SIZES, default="small",
        help="; ".join(f"{size}: for {range_of(size)}" for size in SIZES) + " (default small)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the YAML (default configs-PAIR)")


def run(args: argparse.Namespace) -> int:
    yamls, commands = init(args.pair, args.method, args.size, args.out or Path(f"configs-{args.pair}"))
    print(f"wrote {' and '.join(map(str, yamls))} (size {args.size}, for {range_of(args.size)}); edit what you like.")
    print("With your own files in place of train.* and letter.*, type:")
    print("".join(f"  {command}\n" for command in commands), end="")
    return 0
