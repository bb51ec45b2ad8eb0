"""Commands of fairseq and of this package, run as child processes; an error states why a command failed."""

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import hydra_train
from ..errors import UserError
from .machine import environment
from .processes import PACKAGE, failure_reason, refuse_when_stopping, start_module
from .progress import trace
from .verbosity import is_verbose


def wff(words: Sequence[Any], threads: int) -> str:
    """Run `wff WORDS` with a number of threads; returns what it prints."""
    words = [*map(str, words), *(["--verbose"] if is_verbose() else [])]
    with start_module(
        PACKAGE.name, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(threads)
    ) as process:
        output, errors = process.communicate()
    trace(errors)
    if process.returncode != 0:
        refuse_when_stopping()
        reason = failure_reason(errors, process.returncode)
        raise UserError(f"wff {words[0]} failed: {reason}; type it by hand: wff {shlex.join(words)}")
    return str(output)


def fairseq(
    command: str,
    words: Sequence[Any],
    log: Path,
    env: Mapping[str, str] | None = None,
    watch: Callable[[str], None] = lambda line: None,
) -> None:
    """Run a command of fairseq, and append its output to `log`.

    Args:
        env: environment variables (default: those of this process, with one thread).
        watch: called with each line of the output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    module = hydra_train.__name__ if command == "hydra_train" else f"fairseq_cli.{command}"
    with start_module(
        module, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        cwd=log.parent, env=env or environment(1),
    ) as process, log.open("a+", encoding="utf-8") as file:  # fmt: skip
        assert process.stdout is not None
        start = file.tell()
        for line in process.stdout:
            file.write(line)
            file.flush()
            trace(line)
            watch(line)
        process.wait()
        file.seek(start)
        reason = failure_reason(file.read(), process.returncode) if process.returncode else ""
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(f"fairseq-{command.replace('_', '-')} failed: {reason}; the whole log is {log}")
