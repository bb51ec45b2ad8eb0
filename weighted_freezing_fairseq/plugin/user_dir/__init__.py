"""The copy of this package that a --user-dir refers to.

fairseq imports a --user-dir by its last path component, and skips a name that is already imported. So `wff user-dir`
prints the sub-folder here, which has a different name than the package: fairseq then registers the plugin even if a
script has imported the package before.
"""

import re
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2]
_FOLDER = Path("plugin/user_dir/register_weighted_freezing")


def package_of(user_dir: Path) -> Path | None:
    """The package folder of a --user-dir that is the package or the sub-folder here; None for another plugin."""
    user_dir = user_dir.resolve()
    for package in (user_dir, *user_dir.parents[2:3]):
        if package.name == PACKAGE.name and user_dir in (package, package / _FOLDER) and _version_of(package):
            return package
    return None


def refuse_other_version(package: Path) -> None:
    """Raise ImportError if the package in this folder has another version than this package."""
    if (other := _version_of(package)) != (version := _version_of(PACKAGE)):
        raise ImportError(
            f"--user-dir: {package} holds version {other}, but version {version} is imported from {PACKAGE}; type "
            '--user-dir "$(wff user-dir)", or install the other version'
        )


def _version_of(package: Path) -> str | None:
    init = package / "__init__.py"
    text = init.read_text(encoding="utf-8") if init.is_file() else ""
    line = re.search(r'^__version__ = "(.*)"$', text, re.MULTILINE)
    return line and line[1]
