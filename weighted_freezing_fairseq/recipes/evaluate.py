"""`wff evaluate`: every sentence of a test set translated, detokenised, and scored against the raw reference.

fairseq-generate makes the hypotheses; its own scores are ignored, since they compare with the binarised reference.
fairseq drops the last sentences of a set whose size does not suit it, so the count is asserted. A score carries its
sacreBLEU signature. Left out on purpose: significance between systems and decode profiles of the published recipes.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import UserError
from ..files import write_atomically
from ..user_dir import USER_DIR

HELP = "Translate a whole test set with each checkpoint and score it with sacreBLEU against the raw reference."
EXAMPLE = "wff evaluate runs/a/checkpoint_best.pt --data BIN --reference raw/test.en --out runs/a/test"


@dataclass(frozen=True)
class Decode:
    """How hypotheses are searched: fairseq's own settings, the target at most max_len_a * source + max_len_b long."""

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Decode":
        """What `add_decode_arguments` asked for."""
        return cls(**{name: getattr(args, name) for name in cls.__dataclass_fields__})


@dataclass(frozen=True)
class Score:
    """BLEU (cased, 13a) and chrF of one set of hypotheses, each with its signature."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    sentences: int


def read_lines(path: Path) -> list[str]:
    """Lines as sacreBLEU and fairseq count them: cut at line feeds only, whatever Unicode calls a line end."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); type: iconv -t UTF-8 {path}") from None
    return text.removesuffix("\n").split("\n") if text else []


def refuse_processed(reference: Sequence[str], path: Path) -> None:
    """A reference in subwords or tokens gives a score that cannot be compared with any other."""
    for number, line in enumerate(reference, 1):
        if "▁" in line or "@@ " in line or "&apos;" in line or "&quot;" in line:
            raise UserError(
                f"line {number} of {path} is in subwords or tokens; give --reference the raw, untouched text"
            )


def refuse_missing(data: Path) -> None:
    """--data must be what fairseq-preprocess made."""
    if not data.is_dir():
        raise UserError(f"there is no binarised folder {data}; make it with fairseq-preprocess")


def generate(
    checkpoint: Path, data: Path, subset: str, decode: Decode, device: str, threads: int | None = None
) -> list[str]:
    """The detokenised hypotheses of `subset`, in the order of the set."""
    if not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}")
    command = [
        sys.executable, "-m", "fairseq_cli.generate", str(data), "--user-dir", str(USER_DIR), "--path", str(checkpoint),
        "--gen-subset", subset, "--remove-bpe", "sentencepiece",
        *(word for key, value in asdict(decode).items() for word in ("--" + key.replace("_", "-"), str(value))),
        "--required-batch-size-multiple", "1", "--max-tokens", "4000", "--num-workers", "0", "--log-format", "none",
    ]  # fmt: skip
    if device == "cpu":
        command.append("--cpu")
    environment = os.environ if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise UserError(f"fairseq-generate failed on {checkpoint}: {' '.join(reason)}")
    found: dict[int, str] = {}
    for line in done.stdout.split("\n"):
        if line.startswith("D-"):
            name, _, text = line.split("\t", 2)
            found[int(name[2:])] = text
    if sorted(found) != list(range(len(found))):
        missing = sorted(set(range(max(found) + 1)) - set(found))[:3]
        raise UserError(f"fairseq-generate left out sentences {missing} of {subset}")
    return [found[index] for index in range(len(found))]


def score(hypotheses: Sequence[str], reference: Sequence[str]) -> Score:
    """sacreBLEU's BLEU and chrF with default settings."""
    from sacrebleu.metrics import BLEU, CHRF

    if len(hypotheses) != len(reference):
        raise UserError(
            f"{len(hypotheses)} hypotheses against {len(reference)} reference lines: give the raw file that "
            "the binarised set was made from"
        )
    if not reference:
        raise UserError("the reference is empty: there is nothing to score")
    bleu, chrf = BLEU(), CHRF()
    bleu_score, chrf_score = (m.corpus_score(list(hypotheses), [list(reference)]).score for m in (bleu, chrf))
    return Score(bleu_score, str(bleu.get_signature()), chrf_score, str(chrf.get_signature()), len(reference))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to translate, how, and where to put it."""
    parser.add_argument("checkpoint", nargs="+", type=Path, metavar="CHECKPOINT", help="fairseq checkpoints")
    parser.add_argument("--data", type=Path, required=True, metavar="BIN", help="binarised folder")
    parser.add_argument("--reference", type=Path, required=True, help="raw reference, one sentence a line")
    add_decode_arguments(parser)
    parser.add_argument("--device", choices=["cpu", "cuda"], default=None, help="default: a GPU where there is one")
    parser.add_argument("--out", type=Path, help="folder for NAME.hyp.txt and NAME.score.json of each checkpoint")
    parser.add_argument("--json", action="store_true", help="scores as JSON on standard output")


def add_decode_arguments(parser: argparse._ActionsContainer) -> None:
    """Which set to translate, and how."""
    parser.add_argument("--subset", default="test", help="set to translate (default test)")
    parser.add_argument("--beam", type=int, default=5, help="beam size (default 5)")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty (default 1)")
    parser.add_argument(
        "--max-len-a", type=float, default=0.0, help="longest target: a * source length + b (default 0)"
    )
    parser.add_argument("--max-len-b", type=int, default=200, help="(default 200)")


def run(args: argparse.Namespace) -> int:
    reference = read_lines(args.reference)
    refuse_processed(reference, args.reference)
    refuse_missing(args.data)
    decode = Decode.of(args)
    scores = {}
    for checkpoint in args.checkpoint:
        hypotheses = generate(checkpoint, args.data, args.subset, decode, args.device or a_device())
        scores[str(checkpoint)] = found = score(hypotheses, reference)
        if not args.json:
            print(f"{checkpoint}  BLEU {found.bleu:.2f}  chrF {found.chrf:.2f}  {found.sentences} sentences")
            print(f"  BLEU|{found.bleu_signature}\n  chrF|{found.chrf_signature}")
        if args.out:
            name = checkpoint.stem if len(args.checkpoint) == 1 else f"{checkpoint.parent.name}-{checkpoint.stem}"
            write_atomically(args.out / f"{name}.hyp.txt", "".join(f"{line}\n" for line in hypotheses))
            write_atomically(args.out / f"{name}.score.json", json.dumps(asdict(found), indent=2) + "\n")
    if args.json:
        print(json.dumps({name: asdict(found) for name, found in scores.items()}, indent=2))
    return 0


def a_device() -> str:
    """cuda where torch sees a GPU, else cpu."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
