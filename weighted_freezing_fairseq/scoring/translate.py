"""A whole test set translated by fairseq-generate, detokenised, in the order of the set.

fairseq drops the last sentences of a set whose size does not suit it, so the count is asserted. Its own scores are
ignored, since they compare with the binarised reference.
"""

import glob
import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..data.recipe import Decode
from ..errors import UserError
from ..files import write_atomically
from ..workspace.machine import Machine
from ..workspace.processes import USER_DIR, failure_reason, refuse_when_stopping, start_module
from ..workspace.progress import Progress, say
from ..workspace.runs import Run
from .scores import all_scores, read_lines, refuse_processed


@dataclass(frozen=True)
class Pieces:
    """How the pieces of a binarised set become text again: fairseq's own settings."""

    remove_bpe: str = "sentencepiece"
    tokenizer: str | None = None


REMEDY = "type --reference with the raw file that the set was made from"


def raw_reference(data: Path, subset: str, reference: Path, remedy: str = REMEDY) -> list[str]:
    """The lines that the translations of a set are scored against; refused if they cannot be that, before any work."""
    from ..data.binary import sentences_in  # numpy, for which the table of data sets does not wait

    lines = read_lines(reference)
    refuse_processed(lines, reference)
    files = sorted(data.glob(f"{glob.escape(subset)}.*-*.*"))
    if not files:
        known = ",".join(sorted({path.name.partition(".")[0] for path in data.glob("*.*-*.*")}))
        remedy = f"type --subset with one of: {known}" if known else "give --data a folder that fairseq-preprocess made"
        raise UserError(f"{data} has no set {subset!r}; {remedy}")
    counts = {sentences_in(path) for path in files if path.suffix == ".idx"}  # fairseq chooses where there are several
    if counts and counts.isdisjoint({None, len(lines)}):
        told = " or ".join(map(str, sorted(filter(None, counts))))
        raise UserError(f"{reference} has {len(lines)} lines, and {subset} of {data} has {told} sentences; {remedy}")
    return lines


def refuse_missing_checkpoint(checkpoint: Path) -> None:
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}")


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
        data, "--user-dir", USER_DIR, "--path", checkpoint, "--gen-subset", subset,
        *(word for key, value in asdict(decode).items() for word in ("--" + key.replace("_", "-"), str(value))),
        *(f"--{k.replace('_', '-')}={value}" for k, value in asdict(pieces).items() if value is not None),
        "--required-batch-size-multiple", "1", "--max-tokens", "4000", "--num-workers", "0", "--log-format", "none",
    ]  # fmt: skip
    if machine.device == "cpu":
        words.append("--cpu")
    found: dict[int, str] = {}
    last = ""
    with (
        machine.environment() as env,
        tempfile.TemporaryFile() as errors,
        start_module("fairseq_cli.generate", words, stdout=subprocess.PIPE, stderr=errors, env=env) as process,
    ):
        assert process.stdout is not None
        for raw in process.stdout:  # bytes: a line ends at a line feed, whatever is inside
            line = raw.decode("utf-8").removesuffix("\n")
            last = line.strip() or last
            if line.startswith("D-"):
                name, _, text = line.split("\t", 2)
                found[int(name[2:])] = text
                watch(1)
        process.wait()
        errors.seek(0)
        said = errors.read().decode("utf-8", errors="replace").strip()
    if process.returncode != 0:
        refuse_when_stopping()
        raise UserError(f"fairseq-generate failed on {checkpoint}: {failure_reason(said or last, process.returncode)}")
    missing = sorted(set(range(max(found, default=-1) + 1)) - found.keys())
    if missing:
        raise UserError(f"fairseq-generate left out sentences {missing[:3]} of {subset}")
    return [found[index] for index in range(len(found))]


def translated(
    run: Run, machine: Machine, data: Path, split: str, reference: Path, language: str, about: Mapping[str, Any],
    pieces: Pieces = Pieces(),  # noqa: B008
) -> None:  # fmt: skip
    """Translate one set with one checkpoint, and leave translations and scores in the run's folder.

    about: subset (what the set is called), choice (of the checkpoint), decode; all of it is written with the scores.
    """
    lines = raw_reference(data, split, reference)
    subset, choice = about["subset"], about["choice"]
    checkpoint = run.folder / f"checkpoints/checkpoint_{choice}.pt"
    say(f"{run.name}: translating {subset} ({len(lines):,} sentences) with the {choice} checkpoint")
    with Progress(desc=run.name, total=len(lines), unit="sentence", lines=True) as bar:
        made = generate(checkpoint, data, split, Decode(**about["decode"]), machine, pieces, bar.update)
    found = {
        **about, "checkpoint": str(checkpoint.relative_to(run.folder)), "reference": str(reference),
        **all_scores(made, lines, language),
    }  # fmt: skip
    goal = run.folder / "scores" / f"{subset}.{choice}.json"
    write_atomically(goal.with_name(f"{subset}.{choice}.hyp.txt"), "".join(f"{line}\n" for line in made))
    write_atomically(goal, json.dumps(found, indent=2) + "\n")


def as_text(scores: Mapping[str, Any]) -> str:
    """What a user is told about the scores of one set."""
    lines = [
        f"BLEU {scores['bleu']:.2f}  chrF {scores['chrf']:.2f}  {scores['sentences']} sentences",
        f"  BLEU|{scores['bleu_signature']}",
        f"  chrF|{scores['chrf_signature']}",
        f"  lowercased BLEU {scores['bleu_lowercased']:.2f}|{scores['bleu_lowercased_signature']}",
    ]
    if scores.get("lowercased_text"):
        lines.append("  the recipe lowercases its text: beside the papers' figures goes the lowercased BLEU")
    legacy = ", ".join(f"{name} {value:.2f}" for name, value in scores["legacy"].items())
    return "\n".join([*lines, f"  legacy, do not compare: {legacy}"])


def refuse_missing(data: Path) -> None:
    """--data must be what fairseq-preprocess made."""
    if not data.is_dir():
        raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")
