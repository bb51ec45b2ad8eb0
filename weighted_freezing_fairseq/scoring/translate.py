"""Translate a whole test set with fairseq-generate, detokenised and in the order of the set.

fairseq drops the last sentences of a set whose size does not suit it, so the count is checked. Its own scores are
ignored, since they are computed against the binarised reference.
"""

import glob
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.recipe import Decode
from ..data.subwords import text_of_bytes
from ..errors import UserError
from ..files import write_atomically
from ..workspace.contents import MANIFEST, manifest_of
from ..workspace.machine import Machine
from ..workspace.processes import USER_DIR, failure_reason, refuse_when_stopping, start_module
from ..workspace.progress import Progress, say, trace
from ..workspace.runs import Run
from .scores import all_scores, read_lines, refuse_processed


@dataclass(frozen=True)
class Pieces:
    """How the pieces of a binarised set become text.

    Args:
        remove_bpe, tokenizer: fairseq's options.
        bytes_to_text: whether some pieces are bytes of letters, which fairseq leaves as they are.
    """

    remove_bpe: str = "sentencepiece"
    tokenizer: str | None = None
    bytes_to_text: bool = False

    def text(self, line: str) -> str:
        """What fairseq wrote, with bytes as letters."""
        return text_of_bytes(line) if self.bytes_to_text else line


def pieces_of(manifest: Mapping[str, Any]) -> Pieces:
    """How the subwords of prepared data become text."""
    generate = manifest["generate"]
    return Pieces(generate["remove_bpe"], generate["tokenizer"], generate.get("bytes", False))


def raw_text_of(data: Path, subset: str) -> Path:
    """The raw target side of a test set of a binarised folder that `wff prepare` made."""
    folder = data.resolve().parent
    tests = manifest_of(folder)["tests"] if (folder / MANIFEST).is_file() else {}
    if subset not in tests:
        raise UserError(
            f"there is no raw text of {subset} beside {data}; give --reference its target side, one sentence a line"
        )
    return folder / tests[subset]


def refuse_missing(data: Path) -> None:
    """Raise UserError if the binarised folder is missing."""
    if not data.is_dir():
        raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")


def refuse_missing_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}")


def raw_reference(
    data: Path,
    subset: str,
    reference: Path,
    remedy: str = "type --reference with the raw file that the set was made from",
) -> list[str]:
    """The lines of a reference; UserError if it is not raw text or has not as many lines as the set has sentences."""
    from ..data.binary import sentences_in  # numpy

    lines = read_lines(reference)
    refuse_processed(lines, reference)
    files = sorted(data.glob(f"{glob.escape(subset)}.*-*.*"))
    if not files:
        subsets = ",".join(sorted({path.name.partition(".")[0] for path in data.glob("*.*-*.*")}))
        remedy = (
            f"type --subset with one of: {subsets}" if subsets else "give --data a folder that fairseq-preprocess made"
        )
        raise UserError(f"{data} has no set {subset!r}; {remedy}")
    counts = {sentences_in(path) for path in files if path.suffix == ".idx"}  # fairseq chooses where there are several
    if counts and counts.isdisjoint({None, len(lines)}):
        numbers = " or ".join(map(str, sorted(filter(None, counts))))
        raise UserError(f"{reference} has {len(lines)} lines, and {subset} of {data} has {numbers} sentences; {remedy}")
    return lines


def run_module(module: str, words: Sequence[Any], machine: Machine, watch: Callable[[str], None], failure: str) -> None:
    """Run `python -m MODULE WORDS`, with each line of its output given to `watch`.

    Raises:
        UserError: the process failed; `failure` with the reason.
    """
    last_line = ""
    with (
        machine.environment() as env,
        tempfile.TemporaryFile() as errors,
        start_module(module, words, stdout=subprocess.PIPE, stderr=errors, env=env) as process,
    ):
        assert process.stdout is not None
        for raw_line in process.stdout:  # bytes, which are split at line feeds only
            line = raw_line.decode("utf-8").removesuffix("\n")
            last_line = line.strip() or last_line
            trace(line)
            watch(line)
        process.wait()
        errors.seek(0)
        stderr = errors.read().decode("utf-8", errors="replace").strip()
    trace(stderr)
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(f"{failure}: {failure_reason(stderr or last_line, process.returncode)}")


def search_words(decode: Decode, pieces: Pieces, machine: Machine) -> list[str]:
    """What fairseq-generate and fairseq-interactive are told alike: the plugin, the search, the text and the device."""
    return [
        "--user-dir", str(USER_DIR),
        *(word for key, value in asdict(decode).items() for word in ("--" + key.replace("_", "-"), str(value))),
        f"--remove-bpe={pieces.remove_bpe}",
        *([f"--tokenizer={pieces.tokenizer}"] if pieces.tokenizer is not None else []),
        "--required-batch-size-multiple", "1", "--max-tokens", "4000",
        *(["--cpu"] if machine.device == "cpu" else []),
    ]  # fmt: skip


def generate(
    checkpoint: Path,
    data: Path,
    subset: str,
    decode: Decode,
    machine: Machine,
    pieces: Pieces = Pieces(),  # noqa: B008
    watch: Callable[[int], Any] = lambda count: None,
) -> list[str]:
    """The detokenised hypotheses of `subset`, in the order of the set; `watch` gets the number of new ones."""
    refuse_missing_checkpoint(checkpoint)
    words = [
        data, "--path", checkpoint, "--gen-subset", subset, *search_words(decode, pieces, machine),
        "--num-workers", "0", "--log-format", "none",
    ]  # fmt: skip
    hypotheses: dict[int, str] = {}

    def read(line: str) -> None:
        if line.startswith("D-"):
            name, _, text = line.split("\t", 2)
            hypotheses[int(name[2:])] = pieces.text(text)
            watch(1)

    run_module("fairseq_cli.generate", words, machine, read, f"fairseq-generate failed on {checkpoint}")
    missing = sorted(set(range(max(hypotheses, default=-1) + 1)) - hypotheses.keys())
    if missing:
        raise UserError(f"fairseq-generate left out sentences {missing[:3]} of {subset}")
    return [hypotheses[index] for index in range(len(hypotheses))]


def translate_and_score(
    run: Run, machine: Machine, data: Path, split: str, reference: Path, language: str, record: Mapping[str, Any],
    pieces: Pieces = Pieces(),  # noqa: B008
) -> None:  # fmt: skip
    """Translate one set with a checkpoint of a run, and write hypotheses and scores to the run's folder.

    Args:
        data: binarised folder.
        split: name of the set there.
        language: of the target side.
        record: what is written with the scores: subset (name of the set), choice (of the checkpoint), decode, ...
    """
    lines = raw_reference(data, split, reference)
    subset, choice = record["subset"], record["choice"]
    checkpoint = run.folder / f"checkpoints/checkpoint_{choice}.pt"
    name = record.get("test_name", subset)
    say(f"{run.name}: translating {name} ({len(lines):,} sentences) with the {choice} checkpoint")
    with Progress(desc=run.name, total=len(lines), unit="sentence", lines=True) as bar:
        hypotheses = generate(checkpoint, data, split, Decode(**record["decode"]), machine, pieces, bar.update)
    scores = {
        **record, "checkpoint": str(checkpoint.relative_to(run.folder)), "reference": str(reference),
        **all_scores(hypotheses, lines, language),
    }  # fmt: skip
    path = run.folder / "scores" / f"{subset}.{choice}.json"
    write_atomically(path.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in hypotheses))
    write_atomically(path, json.dumps(scores, indent=2) + "\n")


def as_text(scores: Mapping[str, Any]) -> str:
    """The scores of one set, for a terminal."""
    name = "" if scores.get("test_name") in (None, scores.get("subset")) else f"{scores['test_name']}: "
    lines = [
        f"{name}BLEU {scores['bleu']:.2f}  chrF {scores['chrf']:.2f}  {scores['sentences']} sentences",
        f"  BLEU|{scores['bleu_signature']}",
        f"  chrF|{scores['chrf_signature']}",
        f"  lowercased BLEU {scores['bleu_lowercased']:.2f}|{scores['bleu_lowercased_signature']}",
    ]
    if scores.get("lowercased_text"):
        lines.append("  the recipe lowercases its text: compare the papers' figures with the lowercased BLEU")
    legacy = ", ".join(f"{name} {value:.2f}" for name, value in scores["legacy"].items())
    return "\n".join([*lines, f"  legacy, do not compare: {legacy}"])
