"""Collect the scores of run folders, each with the setting in which it may be compared."""

import hashlib
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ..data import DATASETS, NAMES, lowercases, prepared
from ..errors import UserError
from ..forms import NUMBER, Content, read_json
from ..workspace.runs import CHOICES, PROVENANCE, Run, read_provenance
from .sentences.measures import MEASURES
from .sentences.significance import Labels
from .significance import Bleu, Scorer

LOWERCASED, CASED = "lowercased BLEU", "cased BLEU"  # where both are shown; plain "BLEU" is cased

# The form of a file of scores, of translations or of labels.
SCORE_FORM = {
    **dict.fromkeys(
        ("subset", "test_name", "choice", "reference", "bleu_signature", "chrf_signature", "metric", "signature"), str
    ),
    "lowercased_text": bool,
    "bleu_lowercased": NUMBER,
    "bleu_lowercased_signature": str,
    "sentences": int,
    "bleu": NUMBER,
    "chrf": NUMBER,
    "decode": dict,
    "legacy": {str: NUMBER},
    "scores": {str: NUMBER},
    "sets": {str: NUMBER},
    "labels": [str],
}


def read_scores(path: Path, remedy: str | None = None) -> Content:
    """The scores in a run folder's scores/SUBSET.CHOICE.json; `remedy` is for errors (default: `rescore_hint`)."""
    return read_json(path, SCORE_FORM, remedy or rescore_hint(path.parents[1]))


def rescore_command(folders: Iterable[Path]) -> str:
    """The command that scores runs again; `wff evaluate` skips a run while its stamps are there."""
    folders = list(folders)
    return f"{_remove_stamps(folders)}; wff evaluate {shlex.join(map(str, folders))}"


def rescore_hint(folder: Path) -> str:
    """What to type before the same call scores a run again."""
    return f"to score it again, type: {_remove_stamps([folder])}"


def _remove_stamps(folders: Iterable[Path]) -> str:
    return " ".join(["rm", *(f"{shlex.quote(str(folder))}/.scoring-*" for folder in folders)])


# The updates and seconds in a line of fairseq's log, in JSON, as "wall=9" or as "| wall 9".
_INTERVAL = re.compile(r'\btrain(?:_inner)?\b.*num_updates(?:": "|=| )(\d+)\b.*wall(?:": "|=| )(\d+)(?:"\}|\n)')


@dataclass(frozen=True, order=True)
class Setting:
    """What two scores must have in common to be compared."""

    dataset: str
    recipe: str
    training: str  # the folder of the YAMLs
    pair: str
    subset: str
    choice: str
    decode: str
    sentences: int
    reference: str  # its SHA-256, or its path where the file is missing
    signature: str  # of the score
    second_signature: str  # of the score that is shown beside it
    cased_signature: str = ""  # of cased BLEU, where the score is lowercased BLEU
    measures: tuple[str, ...] = ()  # of labels, the first is the score; empty: translations
    classes: tuple[str, ...] = ()  # of labels, in order
    test_name: str = field(default="", compare=False)  # of own files; "": what the data set calls the subset

    @property
    def translated(self) -> bool:
        """Whether the score is BLEU."""
        return not self.measures

    @property
    def lowercased(self) -> bool:
        """Whether the score is lowercased BLEU, because the recipe lowercases its text."""
        return bool(self.cased_signature)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Names of the scores: the one that is tested for significance, then those beside it."""
        if self.lowercased:
            return LOWERCASED, "chrF", CASED
        if self.translated:
            return "BLEU", "chrF"
        return tuple(MEASURES[name].title for name in self.measures)

    @property
    def signatures(self) -> tuple[str, ...]:
        """The signatures of `metrics`."""
        return tuple(filter(None, (self.signature, self.second_signature, self.cased_signature)))

    @property
    def scorer(self) -> Scorer:
        """The scorer of the first metric."""
        return Labels(self.pair, self.classes, self.measures[0]) if self.measures else Bleu(self.lowercased)

    @property
    def place(self) -> tuple[str, str, str, str, str]:
        """What a table of results is about; runs of one place should share one setting."""
        return self.dataset, self.recipe, self.training, self.pair, self.subset

    @property
    def scoring(self) -> tuple[str, str, str]:
        """What scores on different data must have in common to be averaged; the measure of labels is up to the task."""
        return self.choice, self.decode, self.signature if self.translated else ""

    @property
    def name(self) -> str:
        """A name for tables and messages."""
        return f"{self.dataset}, recipe {self.recipe}, training {self.training}, {self.pair}, {self.test}"

    @property
    def test(self) -> str:
        """What the user or the data set calls the test set."""
        names = DATASETS[self.dataset].test_names if self.dataset in DATASETS else {}
        return self.test_name or names.get(self.subset, self.subset)


@dataclass(frozen=True)
class ScoredRun:
    """A run and its score in one setting."""

    folder: Path
    setting: Setting
    method: str
    config: str
    changed: tuple[str, ...]  # settings that the user changed from the YAML's
    seed: int
    commit: str
    score: float
    second: float | None
    hypotheses: Path
    reference: Path
    updates: int | None  # of the training; None: not in its log
    seconds: int | None
    device: str
    sets: tuple[tuple[str, float], ...] = ()  # the score of each set of a test set
    cased: float | None = None  # BLEU, where `score` is lowercased


def collect(roots: Iterable[Path], choice: str | None, data: Path | None) -> tuple[list[ScoredRun], list[str]]:
    """Every scored run under `roots`, and notes on the runs without a score.

    Args:
        choice: of the checkpoint (None: for each run, the first of `CHOICES` that was scored).
        data: prepared data, for references that were moved.
    """
    scored, unscored, unfinished = [], [], []
    for folder in _run_folders(roots):
        scores = list(_scores_of(folder, choice, data))
        scored += scores
        if not scores:
            # a run on any other data set is trained and scored by one command
            scored_by_evaluate = read_provenance(folder)["dataset"] in NAMES
            (unscored if scored_by_evaluate and Run.load(folder).trained else unfinished).append(folder)
    notes = []
    if unscored:
        problem = f"without a score of choice {choice}" if choice else "trained and not scored"
        notes.append(f"{problem}: {len(unscored)} runs; type: wff evaluate {shlex.join(map(str, unscored))}")
    if unfinished:
        command = read_provenance(unfinished[0])["command"]
        notes.append(f"not done to the end: {len(unfinished)} runs, {unfinished[0]} is one; to go on type: {command}")
    return scored, notes


def _run_folders(roots: Iterable[Path]) -> list[Path]:
    """The run folders of `wff train` under `roots`, without duplicates."""
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
    """The scored run of each test set, with `choice` or the first choice that was scored."""
    about = read_provenance(folder)
    scores: dict[str, dict[str, tuple[Path, Content]]] = {}
    for path in sorted((folder / "scores").glob("*.json")):
        score = read_scores(path, f"score the run again: {rescore_command([folder])}")
        scores.setdefault(score["subset"], {})[score["choice"]] = path, score
    for by_choice in scores.values():
        first = next((name for name in ([choice] if choice else CHOICES) if name in by_choice), None)
        if first is not None:
            yield _scored_run(folder, about, *by_choice[first], data)


def _scored_run(folder: Path, about: Content, path: Path, score: Content, data: Path | None) -> ScoredRun:
    reference = _reference(about, Path(score["reference"]), data)
    updates, seconds = cost(folder / "train.log")
    # Scores of earlier versions do not say it.
    lowercased = score.get("lowercased_text", lowercases(about["dataset"], about["recipe"]))
    values, signatures = _values(score, lowercased)
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
        measures=tuple(score.get("scores", ())),
        classes=tuple(score.get("labels", ())),
        test_name=score.get("test_name", ""),
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
    """The score, the second score, and cased BLEU where the score is lowercased (None: missing); and signatures."""
    if "metric" not in score:
        names = ("bleu_lowercased", "chrf", "bleu") if lowercased else ("bleu", "chrf")
        scores = [(score[name], score[f"{name}_signature"]) for name in names]
    else:
        if not score["scores"] or not set(score["scores"]) <= set(MEASURES):
            names = list(score["scores"])
            raise UserError(f"{score.path} has scores of {names}, not of {list(MEASURES)}; {score.remedy}")
        (_, value), *others = score["scores"].items()
        scores = [(value, score["signature"]), *((value, MEASURES[name].signature) for name, value in others[:1])]
    values, signatures = zip(*scores, *[(None, "")] * (3 - len(scores)), strict=True)
    return values, signatures


def _reference(about: Content, recorded: Path, data: Path | None) -> Path:
    """The path of the reference: as recorded, or in the data of the run, or in `data` (default: data/DATASET)."""
    moved = prepared(data or Path("data") / about["dataset"], about["recipe"], about["pair"])
    name = Path(recorded.parent.name, recorded.name)  # raw/test.en, labels/dev.txt
    places = [recorded, Path(about["data"]) / name, moved / name]
    return next((path for path in places if path.is_file()), places[-1])


def cost(log: Path) -> tuple[int | None, int | None]:
    """The updates of a training, and its seconds with validation, summed over the starts of a resumed run."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    sittings = text.split("num. shared model params")[1:]  # logged once a start, when fairseq's clock starts
    updates, seconds = None, 0.0
    for sitting in sittings:
        if intervals := _INTERVAL.findall(sitting):
            updates, wall = map(int, intervals[-1])
            ends = re.findall(r"done training in ([\d.]+)", sitting)
            # After a resume fairseq's clock may stay at 0; the last line of the sitting has the time.
            seconds += wall or float(ends[-1] if ends else 0)
    return updates, None if updates is None else round(seconds)


@cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
