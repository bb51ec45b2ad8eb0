"""How much is printed on standard error: --quiet prints errors only, --verbose also what child processes say.

An environment variable holds it, so that worker processes print as much as the process that started them.
"""

import os

QUIET, NORMAL, VERBOSE = "quiet", "normal", "verbose"
_VARIABLE = "_WFF_VERBOSITY"


def set_verbosity(verbosity: str) -> None:
    """Print as much from now on, in this process and in those that it starts."""
    os.environ[_VARIABLE] = verbosity


def is_quiet() -> bool:
    return os.environ.get(_VARIABLE) == QUIET


def is_verbose() -> bool:
    return os.environ.get(_VARIABLE) == VERBOSE
