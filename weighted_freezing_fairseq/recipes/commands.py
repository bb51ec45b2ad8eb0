"""fairseq's commands as processes that end with the recipe that started them, however that ends.

Left out on purpose: what is done with their output, which the recipes say.
"""

import os
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from ..user_dir import USER_DIR

# A training whose recipe was killed must die with it, or the next call would train in the same folder beside it.
_UNTIL_PARENT_DIES = """
import ctypes, os, runpy, signal, sys
parent, package, command = int(sys.argv.pop(1)), sys.argv.pop(1), sys.argv[1]
if sys.platform == "linux":
    die_with_parent = lambda: ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    die_with_parent()
    if command == "fairseq_cli.preprocess":  # its processes, too; training forks from threads that end earlier
        os.register_at_fork(after_in_child=die_with_parent)
if os.getppid() != parent:
    sys.exit("killed before it began")
sys.path.append(package)  # last: where it is installed, that copy is found
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


def started(module: str, words: Iterable[Any], **options: Any) -> subprocess.Popen[Any]:
    """`python -m MODULE WORDS`, with `options` of Popen, killed by the system when this process ends."""
    return subprocess.Popen(
        [sys.executable, "-c", _UNTIL_PARENT_DIES, *map(str, (os.getpid(), USER_DIR.parent, module, *words))], **options
    )
