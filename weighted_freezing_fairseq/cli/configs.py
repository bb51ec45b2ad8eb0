"""`wff configs`: the folder of the YAML files, and a copy of it to change."""

import argparse
import shutil
from pathlib import Path

from ..errors import UserError, did_you_mean
from ..files import atomic_folder
from ..workspace.configs import CONFIGS, config_folders

HELP = "Print the folder that holds the YAML files of all methods, or copy it."
EXAMPLE = """wff configs
  wff configs multi30k --copy my-configs     # then: wff train multi30k --configs my-configs"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which of them, and where to copy them."""
    parser.add_argument(
        "name", nargs="?", default="", metavar="NAME", help="a folder in it, as toy or own/tiny (default: all)"
    )
    parser.add_argument("--copy", type=Path, metavar="DIR", help="copy the folder to DIR, which must not exist yet")


def run(args: argparse.Namespace) -> int:
    names, name = config_folders(), str(Path(args.name))  # `own` for `own/` and `./own`
    if name not in [".", *names]:
        hint = did_you_mean(name, names) or f"choose from: {', '.join(names)}"
        raise UserError(f"there are no configs {name!r}; {hint}")
    folder = CONFIGS / name
    if args.copy is None:
        print(folder)
        return 0
    if args.copy.exists():
        raise UserError(f"{args.copy} exists and is not overwritten; give another folder to --copy")
    with atomic_folder(args.copy) as part:
        shutil.copytree(folder, part, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    print(args.copy)
    return 0
