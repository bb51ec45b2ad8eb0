"""Scores of a translated test set against its raw reference, with their signatures.

The score to report is sacreBLEU's cased BLEU with its signature. The scorer changes the BLEU of a model by 0.5 to 1.5,
so lowercased BLEU and two scores of older papers are computed too, under names of their own.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Score:
    """BLEU (cased, 13a) and chrF of one set of hypotheses, each with its signature."""

    bleu: float
    bleu_signature: str
    chrf: float
    chrf_signature: str
    sentences: int


def read_lines(path: Path) -> list[str]:
    """The lines of a file, split at line feeds only, as sacreBLEU and fairseq do."""
    if not path.is_file():
        raise UserError(f"there is no file {path}")
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 (byte {error.start}); type: iconv -t UTF-8 {path}") from None
    return text.removesuffix("\n").split("\n") if text else []


def refuse_processed(reference: Sequence[str], path: Path) -> None:
    """Raise UserError for a reference in subwords or tokens, whose scores are not comparable."""
    for number, line in enumerate(reference, 1):
        if "▁" in line or "@@ " in line or "&apos;" in line or "&quot;" in line:
            raise UserError(
                f"line {number} of {path} is in subwords or tokens; give --reference the raw, untouched text"
            )


def _refuse_unequal(hypotheses: Sequence[str], reference: Sequence[str]) -> None:
    if len(hypotheses) != len(reference):
        raise UserError(
            f"{len(hypotheses)} hypotheses against {len(reference)} reference lines: give the raw file that "
            "the binarised set was made from"
        )
    if not reference:
        raise UserError("the reference is empty: there is nothing to score")


def score(hypotheses: Sequence[str], reference: Sequence[str]) -> Score:
    """sacreBLEU's BLEU and chrF with default settings."""
    from sacrebleu.metrics import BLEU, CHRF

    _refuse_unequal(hypotheses, reference)
    bleu, chrf = BLEU(), CHRF()
    bleu_score, chrf_score = (m.corpus_score(list(hypotheses), [list(reference)]).score for m in (bleu, chrf))
    return Score(bleu_score, str(bleu.get_signature()), chrf_score, str(chrf.get_signature()), len(reference))


def all_scores(hypotheses: Sequence[str], reference: Sequence[str], language: str) -> dict[str, Any]:
    """`score`, lowercased BLEU, and as `legacy` the scores of older papers; `language`: of both texts."""
    from sacrebleu.metrics import BLEU

    scores: dict[str, Any] = asdict(score(hypotheses, reference))
    lowercased = BLEU(lowercase=True)
    scores["bleu_lowercased"] = lowercased.corpus_score(list(hypotheses), [list(reference)]).score
    scores["bleu_lowercased_signature"] = str(lowercased.get_signature())
    tokens = [_moses(lines, language) for lines in (hypotheses, reference)]
    lower = [[line.lower() for line in lines] for lines in tokens]
    split = [[_COMPOUND.sub(r"\1 ##AT##-##AT## \2", line) for line in lines] for lines in tokens]
    scores["legacy"] = {
        name: BLEU(tokenize="none", smooth_method="none", force=True).corpus_score(lines, [target]).score
        for name, (lines, target) in {"multi_bleu_lowercased": lower, "compound_split": split}.items()
    }
    return scores


def comet(
    model: Path, sources: Sequence[str], hypotheses: Sequence[str], reference: Sequence[str], gpus: int
) -> dict[str, Any]:
    """COMET by a model on disk, and the model's name; needs the package `unbabel-comet`."""
    if not model.is_file():
        raise UserError(f"there is no COMET model {model}; give --comet the .ckpt that comet-score has downloaded")
    try:
        from comet import load_from_checkpoint
    except ImportError:
        raise UserError("--comet needs the package unbabel-comet; type: pip install unbabel-comet") from None
    _refuse_unequal(hypotheses, reference)
    data = [{"src": src, "mt": mt, "ref": ref} for src, mt, ref in zip(sources, hypotheses, reference, strict=True)]
    prediction = load_from_checkpoint(str(model)).predict(data, batch_size=16, gpus=gpus)
    return {"comet": float(prediction.system_score), "comet_model": model.name}


_COMPOUND = re.compile(r"(\S)-(\S)")


def _moses(lines: Sequence[str], language: str) -> list[str]:
    from sacremoses import MosesTokenizer

    moses = MosesTokenizer(lang=language)
    return [moses.tokenize(line, return_str=True, escape=False) for line in lines]
