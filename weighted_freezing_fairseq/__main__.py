"""`wff`: one command line for every tool of the package, one module a sub-command.

A sub-command is a row of `COMMANDS` and a module of `cli/`, which holds `HELP`, `EXAMPLE` (what a user would type),
`add_arguments(parser)` and `run(args) -> exit status`. A module is imported only when its command is called, so that
`wff user-dir` does not wait for torch. `UserError` tells the user of a mistake: one line, exit status 2.
"""

from __future__ import annotations  # an older Python must get as far as `wff doctor`

import argparse
import contextlib
import importlib
import io
import logging
import os
import shlex
import signal
import sys
from typing import NoReturn

from . import __version__
from .errors import UserError
from .files import explain, refuse_names_not_in_utf8
from .workspace.processes import Stopped, leave, stoppable

COMMANDS = {
    "quickstart": "train, score and measure methods on the embedded corpus",
    "prepare": "prepare a data set: archives to binarised data, every step counted",
    "adapt": "adapt a model to a new domain and measure what it forgets",
    "self-distill": "teach a model by one of its own kind, round after round",
    "prune-iterative": "prune a model step by step while it trains on, with every method",
    "rules": "print the table of methods",
    "doctor": "check this machine and say what to type where something is wrong",
    "user-dir": "print the path for fairseq's --user-dir",
    "configs": "print the folder of the YAML files, or copy it",
    "pack": "store a tuned checkpoint as what differs from its base",
    "unpack": "give back the checkpoint that pack stored",
    "fisher": "measure the Fisher information of a checkpoint, or make a mask of it",
    "sensitivity": "see how evenly the parameters of checkpoints contribute",
    "prune": "prune a checkpoint once, or draw its score against the weights that remain",
    "plot": "draw the papers' figures from runs and tables, CSV first",
    "train": "train one method of a data set, or fine-tune; called again, go on",
    "reproduce": "prepare, train, evaluate and report a matrix of methods, pairs and seeds",
    "evaluate": "translate test sets, or label them, and score that",
    "compare": "compare two runs sentence by sentence",
    "translate": "translate a text by a run, or by an ensemble of several",
    "average": "write the mean of several checkpoints as one",
    "report": "collect scored runs into the papers' tables, with significance",
    "bench": "measure what each method costs beside standard training",
    "corpus": "write the embedded, generated corpus of one language pair",
}


class _Parser(argparse.ArgumentParser):
    """argparse with one line for a mistake, ending in what to type."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; type: {self.prog} --help\n")


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The whole command line; only `command`'s module is imported."""
    parser = _Parser(
        prog="wff",
        description="Importance-guided training for machine translation on unmodified fairseq.",
        epilog="Type `wff COMMAND --help` for a command's options and an example.",
    )
    parser.add_argument("--version", action="version", version=f"weighted_freezing_fairseq {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, text in COMMANDS.items():
        if name != command:
            commands.add_parser(name, help=text, add_help=False)
            continue
        module = importlib.import_module(f".cli.{name.replace('-', '_')}", __package__)
        sub = commands.add_parser(
            name,
            help=text,
            description=module.HELP,
            epilog=f"example:\n  {module.EXAMPLE}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command; 0 = well, 1 = the work failed, 2 = the call was wrong, 128 + n = stopped by signal n.

    argv: as from a command line, whose signals are left to the caller (default: this process's own).
    """
    if argv is not None:
        return _run(argv)
    # When fairseq is imported, a speech model of its own has every library print its debug messages; not any more once
    # there is a handler.
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        with stoppable():
            return _run(sys.argv[1:])
    except Stopped as stop:
        again = shlex.join(["wff", *sys.argv[1:]])
        print(f"wff: stopped by {signal.Signals(stop.number).name}; to go on, type the same again: {again}",
              file=sys.stderr)  # fmt: skip
        leave(128 + stop.number)


def _run(argv: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # of a stream that calls itself seekable and is not
            sys.stdout.reconfigure(errors="backslashreplace")  # names and letters that the terminal's encoding lacks
    parser = build_parser(next((word for word in argv if word in COMMANDS), None))
    args = parser.parse_args(argv, argparse.Namespace(words=argv))  # for those who write down how they were called
    try:
        refuse_names_not_in_utf8(argv)
        status = int(args.run(args) or 0)
        sys.stdout.flush()  # a reader that is gone shows here, not while Python exits
        return status
    except UserError as error:
        print(f"wff {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where what is left may go
        return 0
    except (OSError, RuntimeError) as error:
        if (reason := explain(error)) is None:
            raise
        print(f"wff {args.command}: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
