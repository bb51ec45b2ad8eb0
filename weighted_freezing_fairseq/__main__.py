"""`wff`, the command line of the package.

Each command is a row of `COMMANDS` and a module of `cli/` with `HELP`, `EXAMPLE`, `add_arguments(parser)` and
`run(args) -> exit status`. Only the module of the called command is imported, so that `wff user-dir` does not import
torch. A `UserError` is printed as one line, with exit status 2.
"""

from __future__ import annotations  # so that `wff doctor` runs on an older Python

import argparse
import contextlib
import importlib
import io
import logging
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from . import __version__
from .errors import UserError, did_you_mean
from .files import explain, refuse_names_not_in_utf8
from .workspace.processes import Stopped, exit_without_threads, stoppable
from .workspace.verbosity import NORMAL, QUIET, VERBOSE, set_verbosity

COMMANDS = {
    "quickstart": "train, score and measure methods on the embedded corpus",
    "init": "write a YAML to edit for own files, and print what to type",
    "prepare": "prepare a data set: archives to binarised data, every step counted",
    "adapt": "adapt a model to a new domain and measure what it forgets",
    "distribute": "train workers apart under fixed masks, and merge their differences in rounds",
    "self-distill": "train students on the outputs of a model of the same size, in rounds",
    "prune-iterative": "prune a model in steps during further training, with every method",
    "rules": "print the table of methods",
    "doctor": "check this machine and print what to type for each problem",
    "user-dir": "print the path for fairseq's --user-dir",
    "configs": "print the folder of the YAML files, or copy it",
    "pack": "store a tuned checkpoint as its difference from the base checkpoint",
    "unpack": "restore the checkpoint that pack stored",
    "fisher": "measure the Fisher information of a checkpoint, or make a mask of it",
    "sensitivity": "measure how evenly the parameters of checkpoints contribute",
    "prune": "prune a checkpoint once, or plot its score against the remaining weights",
    "plot": "draw the papers' figures from runs and tables, with their data as CSV",
    "train": "train or fine-tune one method on a data set; a second call resumes",
    "reproduce": "prepare, train, evaluate and report a matrix of methods, pairs and seeds",
    "evaluate": "translate or label test sets, and score the result",
    "compare": "compare two runs sentence by sentence",
    "translate": "translate a text by a run, or by an ensemble of several",
    "average": "average several checkpoints into one",
    "report": "collect scored runs into the papers' tables, with significance",
    "bench": "measure the cost of each method against standard training",
    "completion": "print a script that completes wff in bash or zsh",
    "corpus": "write the embedded, generated corpus of a language pair",
}


class _Parser(argparse.ArgumentParser):
    """An argparse parser that prints an error as one line, with the nearest valid word, and ends it in what to type."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; type: {self.prog} --help\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices if choice]  # without the default of `nargs="*"`
            near = did_you_mean(str(value), choices) if len(choices) > 4 else ""  # a few are shown: gpu is not cpu
            hint = near or f"choose from: {', '.join(choices)}"
            raise argparse.ArgumentError(action, f"invalid choice {value!r}; {hint}")

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """End with an error if there are arguments that no option or operand takes."""
        if words:
            options = [option for action in self._actions for option in action.option_strings]
            hint = did_you_mean(words[0].partition("=")[0], options)
            self.error("; ".join(filter(None, [f"unrecognized arguments: {shlex.join(words)}", hint])))


def build_parser(command: str | None = None, all_commands: bool = False) -> argparse.ArgumentParser:
    """The parser of all commands; only the module of `command` is imported, unless `all_commands`."""
    parser = _Parser(
        prog="wff",
        description="Importance-guided training for machine translation on unmodified fairseq.",
        epilog="Type `wff COMMAND --help` for a command's options and an example.",
    )
    parser.add_argument("--version", action="version", version=f"weighted_freezing_fairseq {__version__}")
    _add_verbosity(parser, NORMAL)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, text in COMMANDS.items():
        if name != command and not all_commands:
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
        _add_verbosity(sub, argparse.SUPPRESS)  # not to override what was typed before the command
        sub.set_defaults(run=module.run, parser=sub)
    return parser


def _add_verbosity(parser: argparse.ArgumentParser, default: str) -> None:
    """Add --quiet and --verbose, which every command takes, before and after its name."""
    options = parser.add_mutually_exclusive_group()
    for option, value, text in (
        ("--quiet", QUIET, "print results and errors only: no progress, no notices"),
        ("--verbose", VERBOSE, "also print the commands of fairseq that are run, and their output"),
    ):
        options.add_argument(option, dest="verbosity", action="store_const", const=value, default=default, help=text)


def main(argv: list[str] | None = None) -> int:
    """Run a command; returns 0 for success, 1 if its work failed, 2 for a wrong call, 128 + n if signal n stopped it.

    Args:
        argv: the arguments (default: those of this process, for which SIGINT and SIGTERM are handled).
    """
    if argv is not None:
        return _run(argv)
    # One of fairseq's speech models configures logging at level DEBUG on import, unless there is a handler.
    logging.basicConfig(level=logging.WARNING)
    logging.getLogger().setLevel(logging.WARNING)
    try:
        with stoppable():
            return _run(sys.argv[1:])
    except Stopped as stop:
        signal_name, command = signal.Signals(stop.number).name, shlex.join(["wff", *sys.argv[1:]])
        print(f"wff: stopped by {signal_name}; to continue, type the same again: {command}", file=sys.stderr)
        exit_without_threads(128 + stop.number)


def _run(argv: list[str]) -> int:
    try:
        return _run_command(argv)
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] == __package__:
            raise
        doctor = shlex.join([sys.executable, "-m", str(__package__), "doctor"])
        print(
            f"wff: {sys.executable} has no module {error.name}; activate the environment of this package, or see what "
            f"is missing: {doctor}",
            file=sys.stderr,
        )
        return 2


def _run_command(argv: list[str]) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # a stream may claim to be seekable and fail
            sys.stdout.reconfigure(errors="backslashreplace")  # the terminal's encoding may lack letters
    parser = build_parser(next((word for word in argv if word in COMMANDS), None))
    # Some commands record how they were called, and one needs the parser of all.
    args, unknown = parser.parse_known_args(argv, argparse.Namespace(words=argv, build_parser=build_parser))
    args.parser.refuse_unknown(unknown)
    set_verbosity(args.verbosity)
    if args.verbosity != NORMAL:
        logging.getLogger().setLevel(logging.ERROR if args.verbosity == QUIET else logging.INFO)
    try:
        refuse_names_not_in_utf8(argv)
        status = int(args.run(args) or 0)
        sys.stdout.flush()  # a closed pipe raises here, not while Python exits
        return status
    except UserError as error:
        print(f"wff {args.command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the unwritten rest
        return 0
    except (OSError, RuntimeError) as error:
        if (reason := explain(error)) is None:
            raise
        print(f"wff {args.command}: {reason}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
