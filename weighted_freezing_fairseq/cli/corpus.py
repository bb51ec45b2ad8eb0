"""`wff corpus`: write the embedded corpus."""

import argparse
import json

from ..data.embedded import KINDS, MANY_TO_ONE, PAIRS, SIZES, write
from .arguments import split

HELP = """\
Write a small parallel corpus of real language: dates, prices, quantities, number words, names of regions, languages,
currencies and cities, from CLDR (Babel) and num2words. DIR gets train.XX, train.en, valid.XX ... test.en, one sentence
a line, and corpus.json, which records the settings. Nothing is downloaded, and the same settings give the same bytes on
every machine. A second call with the same settings changes nothing; other files are never overwritten."""
EXAMPLE = """\
wff corpus --pair de-en --out data/de-en
  wff corpus --pair de-en --out data/de-en-prices --kinds money,percent --train-lines 2000"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pair", required=True, metavar="XX-en", help=f"one of: {' '.join(PAIRS)}; {MANY_TO_ONE}: all")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for train, valid and test files")
    parser.add_argument("--seed", type=int, default=1, help="random seed of the corpus (default: 1)")
    for part, size in SIZES.items():
        parser.add_argument(
            f"--{part}-lines", type=int, default=size, metavar="N", help=f"sentence pairs in {part} (default: {size})"
        )
    parser.add_argument(
        "--kinds", type=split, metavar="A,B,...", help=f"kinds of sentences (default: all): {','.join(KINDS)}"
    )
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def run(args: argparse.Namespace) -> int:
    sizes = {part: getattr(args, f"{part}_lines") for part in SIZES}
    manifest, written = write(args.pair, args.out, args.seed, sizes, args.kinds)
    if args.json:
        print(json.dumps({**manifest, "written": written}, indent=2))
    else:
        counts = ", ".join(f"{size} {part}" for part, size in sizes.items())
        corpus = f"{args.pair} (seed {args.seed}; {counts})"
        print(f"wrote {corpus} to {args.out}" if written else f"nothing to do: {corpus} is already in {args.out}")
    return 0
