"""fairseq-interactive as a process that translates chunk after chunk of sentences, one model or an ensemble."""

import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from ..data.recipe import Decode
from ..errors import UserError
from ..workspace.machine import Machine
from ..workspace.processes import failure_reason, refuse_when_stopping, start_module
from ..workspace.progress import trace
from .translate import Pieces, search_words


@dataclass(frozen=True)
class Hypothesis:
    """A translation, and its score: the log2-probability of its words, by the search's length penalty."""

    score: float
    text: str


class Interactive:
    """A running fairseq-interactive, see `interactive`."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", stdin: IO[bytes], stdout: IO[bytes], errors: IO[bytes], chunk: int,
        nbest: int, pieces: Pieces,
    ) -> None:  # fmt: skip
        self._process, self._stdin, self._stdout, self._errors = process, stdin, stdout, errors
        self.chunk, self.nbest, self._pieces = chunk, nbest, pieces

    def translate(self, sentences: Sequence[str]) -> list[list[Hypothesis]]:
        """The best hypotheses of each sentence, best first.

        Args:
            sentences: in subwords, none of them empty. Only the last call may have fewer than `chunk`.
        """
        try:
            self._stdin.write("".join(f"{sentence}\n" for sentence in sentences).encode())
            self._stdin.flush()
            if len(sentences) < self.chunk:
                self._stdin.close()  # it waits for a whole chunk, or the end
        except BrokenPipeError:
            raise self._failure() from None
        hypotheses: list[Hypothesis] = []
        while len(hypotheses) < len(sentences) * self.nbest:
            line = self._stdout.readline()
            if not line:
                raise self._failure()
            if line.startswith(b"D-"):
                _, score, text = line.decode().removesuffix("\n").split("\t", 2)
                hypotheses.append(Hypothesis(float(score), self._pieces.text(text)))
        return [hypotheses[first : first + self.nbest] for first in range(0, len(hypotheses), self.nbest)]

    def _failure(self) -> UserError:
        status = self._process.wait()
        refuse_when_stopping()
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", errors="replace")
        return UserError(f"fairseq-interactive failed: {failure_reason(said, status)}")


@contextmanager
def interactive(
    checkpoints: Sequence[Path],
    data: Path,
    languages: tuple[str, str],
    decode: Decode,
    pieces: Pieces,
    machine: Machine,
    chunk: int,
    nbest: int = 1,
) -> Iterator[Interactive]:
    """Load the models and yield the process; it ends with the block.

    Args:
        checkpoints: several are an ensemble.
        data: binarised folder, for its dictionaries.
        languages: source and target.
        chunk: how many sentences are translated at a time; the last chunk may be smaller.
    """
    words = [
        data, "--path", ":".join(map(str, checkpoints)), "--source-lang", languages[0], "--target-lang", languages[1],
        # Without a tokenizer, which would take the subwords of the input apart.
        *search_words(decode, replace(pieces, tokenizer=None), machine),
        "--nbest", nbest, "--buffer-size", chunk,
    ]  # fmt: skip
    with machine.environment() as environment, tempfile.TemporaryFile() as errors:
        process = start_module(
            "fairseq_cli.interactive", words,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, env={**environment, "PYTHONUTF8": "1"},
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            yield Interactive(process, process.stdin, process.stdout, errors, chunk, nbest, pieces)
        finally:
            process.kill()
            for stream in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):  # of what the process has not read
                    stream.close()
            process.wait()
            errors.seek(0)
            trace(errors.read().decode("utf-8", errors="replace"))
