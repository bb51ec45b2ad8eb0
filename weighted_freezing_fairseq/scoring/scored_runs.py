"""Scored runs, collected from their folders: the score of each, and the setting in which it may be compared.

Left out on purpose: what each method got over its seeds (`results.py`).
"""

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ..data import DATASETS, NAMES, SENTENCES, lowercases
from ..errors import UserError
from ..forms import NUMBER, Content, read_json
from ..workspace.runs import CHOICES, PROVENANCE, Run, read_provenance
from .sentences.measures import MEASURES
from .sentences.significance import Labels
from .significance import Bleu, Scorer

LOWERCASED, CASED = "lowercased BLEU", "cased BLEU"  # BLEU alone is cased where nothing else stands beside it

# Of a file of scores; of translations, and of labels.
SCORE_FORM = {
    **dict.fromkeys(("subset", "choice", "reference", "bleu_signature", "chrf_signature", "metric", "signature"), str),
    "bleu_lowercased": NUMBER,
    "bleu_lowercased_signature": str,
    "sentences": int,
    "bleu": NUMBER,
    "chrf": NUMBER,
    "decode": dict,
    "legacy": {str: NUMBER},
    "scores": {str: NUMBER},
    "sets": {str: NUMBER},
}


def read_scores(path: Path) -> Content:
    """The scores that a run folder keeps at `path`, one file for each SUBSET.CHOICE."""
    return read_json(path, SCORE_FORM, f"to score it again, type: rm {path.parents[1]}/.scoring-*")


@dataclass(frozen=True, order=True)
class Setting:
    """All that two scores must share to be compared."""

    dataset: str
    recipe: str
    training: str  # the folder of the YAMLs, which differ in nothing but the method
    pair: str
    subset: str
    choice: str
    decode: str
    sentences: int
    reference: str  # its SHA-256, or its path where it is not there
    signature: str  # of the score
    second_signature: str  # of the one that is shown beside it
    cased_signature: str = ""  # of cased BLEU, where `signature` is that of lowercased BLEU

    @property
    def translated(self) -> bool:
        """Whether the score is BLEU."""
        return self.dataset not in SENTENCES

    @property
    def lowercased(self) -> bool:
        """Whether the score is lowercased BLEU: where the recipe lowercases, case is a fault of no method."""
        return lowercases(self.dataset, self.recipe)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What the scores are called: that which is tested, then those beside it."""
        if self.lowercased:
            return LOWERCASED, "chrF", CASED
        if self.translated:
            return "BLEU", "chrF"
        return tuple(MEASURES[name].title for name in SENTENCES[self.dataset].tasks[self.pair].metrics)

    @property
    def signatures(self) -> tuple[str, ...]:
        """Those of `metrics`."""
        return tuple(filter(None, (self.signature, self.second_signature, self.cased_signature)))

    @property
    def scorer(self) -> Scorer:
        """What scores and tests."""
        return Bleu(self.lowercased) if self.translated else Labels(SENTENCES[self.dataset].tasks[self.pair])

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        """What a reader asks for, in which there should be one setting."""
        return self.dataset, self.recipe, self.training, self.pair, self.subset

    @property
    def scoring(self) -> tuple[str, str, str]:
        """What scores on different data must share to be averaged."""
        return self.choice, self.decode, self.signature

    @property
    def name(self) -> str:
        """For a reader."""
        names = DATASETS[self.dataset].test_names if self.dataset in DATASETS else {}
        test = names.get(self.subset, self.subset)
        return f"{self.dataset}, recipe {self.recipe}, training {self.training}, {self.pair}, {test}"


@dataclass(frozen=True)
class ScoredRun:
    """One run, and its score in one setting."""

    folder: Path
    setting: Setting
    method: str
    config: str
    changed: tuple[str, ...]  # settings that were changed from it
    seed: int
    commit: str
    score: float
    second: float | None
    hypotheses: Path
    reference: Path
    updates: int | None  # of the training, and its seconds, where its log tells
    seconds: int | None
    device: str
    sets: tuple[tuple[str, float], ...] = ()  # the score of each set, where several make one test set
    cased: float | None = None  # BLEU, where `score` is lowercased


def collect(roots: Iterable[Path], choice: str | None, data: Path | None) -> tuple[list[ScoredRun], list[str]]:
    """Every scored run under `roots`, and notes on those that are not."""
    scored, unscored, unfinished = [], [], []
    for folder in _run_folders(roots):
        scores = list(_scores_of(folder, choice, data))
        scored += scores
        if not scores:
            # a run on any other data set is trained and scored by a recipe of its own
            evaluated_apart = _provenance(folder)["dataset"] in NAMES
            (unscored if evaluated_apart and Run.load(folder).trained else unfinished).append(folder)
    notes = []
    if unscored:
        without = f"without a score of choice {choice}" if choice else "trained and not scored"
        notes.append(f"{without}: {len(unscored)} runs; type: wff evaluate {shlex.join(map(str, unscored))}")
    if unfinished:
        command = _provenance(unfinished[0])["command"]
        notes.append(f"not done to the end: {len(unfinished)} runs, {unfinished[0]} is one; to go on type: {command}")
    return scored, notes


def _run_folders(roots: Iterable[Path]) -> list[Path]:
    """The run folders of `wff train`, each once."""
    folders: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(
                f"there is no folder {root}; type the one that wff train put its runs into, as: runs/multi30k"
            )
        folders |= {path.parent.resolve() for path in root.rglob(PROVENANCE)}
    if not folders:
        where = " or ".join(map(str, roots))
        raise UserError(f"there is no run in {where}; make one with: wff train multi30k --method standard --seed 1")
    return sorted(folders)


def _scores_of(folder: Path, choice: str | None, data: Path | None) -> Iterator[ScoredRun]:
    """One score for each test set: that of `choice`, or of the first choice that is there."""
    about = _provenance(folder)
    scores: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = {}
    for path in sorted((folder / "scores").glob("*.json")):
        remedy = f"score the run again: {evaluate_again([str(folder)])}"
        score = read_json(path, SCORE_FORM, remedy)
        scores.setdefault(score["subset"], {})[score["choice"]] = path, score
    for subset in scores:
        counted = next((name for name in ([choice] if choice else CHOICES) if name in scores[subset]), None)
        if counted is not None:
            yield _scored(folder, about, *scores[subset][counted], data)


def _provenance(folder: Path) -> Content:
    """The provenance of a run; a task that its data set does not have is refused."""
    about = read_provenance(folder)
    if about["dataset"] in SENTENCES and about["pair"] not in SENTENCES[about["dataset"]].tasks:
        raise UserError(f"{about.path} names {about['pair']!r}, which is no task of {about['dataset']}; {about.remedy}")
    return about


def _scored(folder: Path, about: Content, path: Path, score: Content, data: Path | None) -> ScoredRun:
    reference = _reference(about, Path(score["reference"]), data)
    updates, seconds = cost(folder / "train.log")
    values, signatures = _values(score, lowercases(about["dataset"], about["recipe"]))
    setting = Setting(
        dataset=about["dataset"],
        recipe=about["recipe"],
        training=str(Path(about["config"]).parent),
        pair=about["pair"],
        subset=score["subset"],
        choice=score["choice"],
        decode=", ".join(f"{name} {value}" for name, value in score["decode"].items()),
        sentences=score["sentences"],
        reference=_fingerprint(reference) if reference.is_file() else str(reference),
        signature=signatures[0],
        second_signature=signatures[1],
        cased_signature=signatures[2],
    )
    return ScoredRun(
        folder=folder,
        setting=setting,
        method=about["method"],
        config=about["config"],
        changed=tuple(about.get("changed", ())),
        seed=about["seed"],
        commit=about["commit"] or "unknown",
        score=values[0],
        second=values[1],
        hypotheses=path.with_suffix(".hyp.txt"),
        reference=reference,
        updates=updates,
        seconds=seconds,
        device=" and ".join(dict.fromkeys(sitting["device"] for sitting in about.get("sittings", ()))),
        sets=tuple(score.get("sets", {}).items()),
        cased=values[2],
    )


def _values(score: Content, lowercased: bool) -> tuple[tuple[float, float | None, float | None], tuple[str, str, str]]:
    """The score, the one beside it, and cased BLEU where the score is lowercased; and their signatures.

    A task of labels may have but one.
    """
    if "metric" not in score:
        names = ("bleu_lowercased", "chrf", "bleu") if lowercased else ("bleu", "chrf")
        scores = [(score[name], score[f"{name}_signature"]) for name in names]
    else:
        if not score["scores"] or not set(score["scores"]) <= set(MEASURES):
            measured = list(score["scores"])
            raise UserError(f"{score.path} has scores of {measured}, not of {list(MEASURES)}; {score.remedy}")
        (_, value), *others = score["scores"].items()
        scores = [(value, score["signature"]), *((value, MEASURES[name].signature) for name, value in others[:1])]
    values, signatures = zip(*scores, *[(None, "")] * (3 - len(scores)), strict=True)
    return values, signatures


def _reference(about: Content, recorded: Path, data: Path | None) -> Path:
    """Where it was when the run was scored; or in the data that was moved, or that lies on another machine."""
    here = (data or Path("data") / about["dataset"]) / about["recipe"] / about["pair"]
    inside = Path(recorded.parent.name, recorded.name)  # raw/test.en, labels/dev.txt
    places = [recorded, Path(about["data"]) / inside, here / inside]
    return next((path for path in places if path.is_file()), places[-1])


def cost(log: Path) -> tuple[int | None, int | None]:
    """Updates, and seconds on the clock, validation and all, of every sitting of a run that was stopped and went on."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    sittings = text.split("num. shared model params")[1:]  # fairseq says that once, and counts its seconds from there
    updates, seconds = None, 0.0
    for sitting in sittings:
        if intervals := re.findall(r'\btrain(?:_inner)?\b.*num_updates": "(\d+)".*wall": "(\d+)"\}', sitting):
            updates, wall = map(int, intervals[-1])
            ends = re.findall(r"done training in ([\d.]+)", sitting)
            # After a resume fairseq's clock may stand at 0; then the end of the sitting tells.
            seconds += wall or float(ends[-1] if ends else 0)
    return updates, None if updates is None else round(seconds)


@cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def evaluate_again(folders: Iterable[str]) -> str:
    """The command that scores runs again: without the stamps, by which `wff evaluate` skips scored runs."""
    folders = [shlex.quote(folder) for folder in folders]
    return f"rm {' '.join(f'{folder}/.scoring-*' for folder in folders)}; wff evaluate {' '.join(folders)}"
