"""`wff completion`: a script that completes commands, options, choices and paths in bash or zsh."""

import argparse
from pathlib import Path

from ..errors import UserError

HELP = """\
Print a script for bash or zsh that completes commands, options, choices and paths. The shell reads it once: no Python
runs while you type. Make it again after an upgrade."""
EXAMPLE = """\
mkdir -p ~/.local/share/bash-completion/completions
  wff completion bash > ~/.local/share/bash-completion/completions/wff   # read when you first complete wff
  source <(wff completion bash)                                         # in this terminal only
  mkdir -p ~/.zfunc && wff completion zsh > ~/.zfunc/_wff               # a folder of $fpath"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", choices=["bash", "zsh"], metavar="SHELL", help="bash or zsh")


def run(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise UserError("shtab is not installed, which writes the script; type: pip install shtab") from None
    parser = args.build_parser(all_commands=True)
    [commands] = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:  # argparse has no public list
            if action.type is Path or action.metavar in ("FILE", "FILES"):  # some may also be - or NAME=FILE
                action.complete = shtab.FILE
            elif action.choices is not None:
                action.choices = [choice for choice in action.choices if choice]  # without the default of `nargs="*"`
    print(shtab.complete(parser, args.shell))
    return 0
