"""Commands of fairseq and of this package, run to their end as processes; a failure is told by its reason."""

import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import hydra_train
from ..errors import UserError
from .machine import environment
from .processes import PACKAGE, Reason, reason, refuse_when_stopping, started


def wff(words: Sequence[Any], threads: int) -> str:
    """What one of this package's own commands prints."""
    words = list(map(str, words))
    with started(
        PACKAGE.name, words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(threads)
    ) as process:
        printed, said = process.communicate()
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(
            f"wff {words[0]} failed: {reason(said, process.returncode)}; type it by hand: wff {shlex.join(words)}"
        )
    return str(printed)


def fairseq(
    command: str,
    words: Sequence[Any],
    log: Path,
    env: Mapping[str, str] | None = None,
    watch: Callable[[str], None] | None = None,
) -> None:
    """One fairseq command with its output in `log`, each line also handed to `watch`; `env`: default, one thread."""
    log.parent.mkdir(parents=True, exist_ok=True)
    module = hydra_train.__name__ if command == "hydra_train" else f"fairseq_cli.{command}"
    why = Reason()
    with started(
        module, words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", errors="replace",
        cwd=log.parent, env=env or environment(1),
    ) as process, log.open("a", encoding="utf-8") as file:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            file.write(line)
            file.flush()
            why.hear(line)
            if watch is not None:
                watch(line)
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(
            f"fairseq-{command.replace('_', '-')} failed: {why.of(process.returncode)}; the whole log is {log}"
        )
