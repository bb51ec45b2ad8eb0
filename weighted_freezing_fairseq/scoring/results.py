"""Scored runs, collected from their folders: which of them may be compared, and what each method got over its seeds.

Scores are compared within one `Setting`, never across. Significance is that of one joined test set: the translations
or labels of all seeds that a method has in common with standard training, one after another, against as many copies of
the reference. Left out on purpose: how results are laid out (`report/tables.py`).
"""

import functools
import hashlib
import re
import shlex
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..data import DATASETS, NAMES, SENTENCES, lowercases
from ..errors import UserError
from ..forms import NUMBER, Content, read_json
from ..workspace.progress import say
from ..workspace.runs import CHOICES, PROVENANCE, Run, read_provenance
from .published import BASELINE
from .scores import read_lines
from .sentences.measures import MEASURES
from .sentences.significance import Labels
from .significance import Bleu, PValues, Scorer, kept_p_values

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
class Scored:
    """One run, and its score in one setting."""

    folder: Path
    setting: Setting
    method: str
    config: str
    changed: tuple[str, ...]  # settings that were given beside it
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


@dataclass(frozen=True)
class Comparison:
    """One method beside the baseline, over the seeds that both have."""

    seeds: tuple[int, ...]
    difference: float  # of the means over these seeds
    p: PValues


@dataclass(frozen=True)
class Result:
    """One method in one setting, with one configuration: a run for each seed."""

    setting: Setting
    method: str
    config: str
    changed: tuple[str, ...]
    runs: tuple[Scored, ...]
    comparison: Comparison | None = None
    untested: str = ""  # why there is no comparison

    @property
    def way(self) -> str:
        """How it was trained, for a reader."""
        return " ".join((self.config, *self.changed))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


# From folders to scored runs ----------------------------------------------------------------------------------------


def collect(roots: Iterable[Path], choice: str | None, data: Path | None) -> tuple[list[Scored], list[str]]:
    """Every scored run under `roots`, and notes on those that are not."""
    found, unscored, unfinished = [], [], []
    for folder in _run_folders(roots):
        mine = list(_scores_of(folder, choice, data))
        found += mine
        if not mine:
            # what is not of these its own recipe trains and scores
            own = _about(folder)["dataset"] in NAMES
            (unscored if own and Run.of(folder).trained else unfinished).append(folder)
    notes = []
    if unscored:
        without = f"without a score of choice {choice}" if choice else "trained and not scored"
        notes.append(f"{without}: {len(unscored)} runs; type: wff evaluate {shlex.join(map(str, unscored))}")
    if unfinished:
        command = _about(unfinished[0])["command"]
        notes.append(f"not done to the end: {len(unfinished)} runs, {unfinished[0]} is one; to go on type: {command}")
    return found, notes


def _run_folders(roots: Iterable[Path]) -> list[Path]:
    """What `wff train` made, each once."""
    found: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise UserError(
                f"there is no folder {root}; type the one that wff train put its runs into, as: runs/multi30k"
            )
        found |= {path.parent.resolve() for path in root.rglob(PROVENANCE)}
    if not found:
        where = " or ".join(map(str, roots))
        raise UserError(f"there is no run in {where}; make one with: wff train multi30k --method standard --seed 1")
    return sorted(found)


def _scores_of(folder: Path, choice: str | None, data: Path | None) -> Iterator[Scored]:
    """One score for each test set: that of `choice`, or of the first choice that is there."""
    about = _about(folder)
    scores: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = {}
    for path in sorted((folder / "scores").glob("*.json")):
        remedy = f"score the run again: {_evaluate_again([str(folder)])}"
        score = read_json(path, SCORE_FORM, remedy)
        scores.setdefault(score["subset"], {})[score["choice"]] = path, score
    for subset in scores:
        taken = next((name for name in ([choice] if choice else CHOICES) if name in scores[subset]), None)
        if taken is not None:
            yield _scored(folder, about, *scores[subset][taken], data)


def _about(folder: Path) -> Content:
    """Its provenance."""
    about = read_provenance(folder)
    if about["dataset"] in SENTENCES and about["pair"] not in SENTENCES[about["dataset"]].tasks:
        raise UserError(f"{about.path} names {about['pair']!r}, which is no task of {about['dataset']}; {about.remedy}")
    return about


def _scored(folder: Path, about: Content, path: Path, score: Content, data: Path | None) -> Scored:
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
    return Scored(
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
    told = [re.findall(r'\btrain(?:_inner)?\b.*num_updates": "(\d+)".*wall": "(\d+)"\}', each) for each in sittings]
    updates, seconds = None, 0.0
    for each, lines in zip(sittings, told, strict=True):
        if lines:
            updates, wall = map(int, lines[-1])
            ends = re.findall(r"done training in ([\d.]+)", each)
            # After a resume fairseq's clock may stand at 0; then the end of the sitting tells.
            seconds += wall or float(ends[-1] if ends else 0)
    return updates, None if updates is None else round(seconds)


@functools.cache
def _fingerprint(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _evaluate_again(folders: Iterable[str]) -> str:
    """What to type where there is a score and it must be another: its stamp tells `wff evaluate` that it is done."""
    folders = [shlex.quote(folder) for folder in folders]
    return f"rm {' '.join(f'{folder}/.scoring-*' for folder in folders)}; wff evaluate {' '.join(folders)}"


# From scored runs to results ----------------------------------------------------------------------------------------


def results(scored: Iterable[Scored]) -> tuple[list[Result], list[str]]:
    """A result for each setting, method and configuration, standard training first; and notes on what is kept apart."""
    groups: dict[tuple[Setting, str, str, tuple[str, ...]], dict[int, Scored]] = {}
    for run in scored:
        mine = groups.setdefault((run.setting, run.method, run.config, run.changed), {})
        if run.seed in mine:
            raise UserError(
                f"{mine[run.seed].folder} and {run.folder} are the same method, seed and configuration; "
                "type only one of the folders that they are in, or move one away"
            )
        mine[run.seed] = run
    found = [Result(*key, tuple(mine[seed] for seed in sorted(mine))) for key, mine in groups.items()]
    found.sort(key=lambda result: (result.setting, result.method != BASELINE, result.method, result.way))
    return found, [*_settings_apart(found), *_configurations_apart(found)]


def _settings_apart(found: Sequence[Result]) -> Iterator[str]:
    """Runs that a reader would compare, and must not."""
    for place in dict.fromkeys(result.setting.place for result in found):
        settings = list(dict.fromkeys(result.setting for result in found if result.setting.place == place))
        if len(settings) == 1:
            continue
        differ = [f.name for f in fields(Setting) if len({getattr(setting, f.name) for setting in settings}) > 1]
        runs = [[str(r.folder) for result in found if result.setting == s for r in result.runs] for s in settings]
        fewest = min(runs, key=len)
        remedy = f"score them alike: {_evaluate_again(fewest)}"
        if "choice" in differ:
            remedy = f"type --choice with one of {', '.join(s.choice for s in settings)}, or {remedy}"
        yield (
            f"{settings[0].name}: runs that differ in {', '.join(differ)} are kept apart "
            f"({' and '.join(str(len(mine)) for mine in runs)} of them); {remedy}"
        )


def _configurations_apart(found: Sequence[Result]) -> Iterator[str]:
    """One method, trained in several ways."""
    for key in dict.fromkeys((result.setting, result.method) for result in found):
        ways = [result.way for result in found if (result.setting, result.method) == key]
        if len(ways) > 1:
            yield (
                f"{key[0].name}: runs of {key[1]} with different settings are kept apart ({'; '.join(ways)}); "
                "move those away that are not meant"
            )


# Significance -------------------------------------------------------------------------------------------------------


def compared(found: Sequence[Result], kept: Path) -> tuple[list[Result], list[str]]:
    """Each result with its comparison to standard training in the same setting, or why there is none; and notes."""
    done, notes = [], []
    for result in found:
        if result.method == BASELINE:
            done.append(result)
            continue
        baselines = _baselines(result, found)
        untested, remedy = _untested(result, baselines)
        if remedy:
            notes.append(f"{result.setting.name}, {result.method}: not tested ({untested}); {remedy}")
        comparison = None if untested else _comparison(result, baselines[0], kept)
        done.append(replace(result, comparison=comparison, untested=untested))
    return done, list(dict.fromkeys(notes))


def _baselines(result: Result, found: Sequence[Result]) -> list[Result]:
    """Standard training in the same setting; of several kinds the one with the same changes of its YAML."""
    mine = [other for other in found if (other.setting, other.method) == (result.setting, BASELINE)]
    alike = [other for other in mine if other.changed == result.changed]
    return alike or mine


def _untested(result: Result, baselines: Sequence[Result]) -> tuple[str, str]:
    """Why a result cannot be tested, and what to type; two empty strings where it can."""
    setting, train = result.setting, _train_baseline(result)
    known = setting.dataset in NAMES  # a recipe on the embedded corpus trains what it compares itself
    if not baselines:
        return f"no {BASELINE}", f"train and score it: {train}" if known else ""
    if len(baselines) > 1:
        return f"several kinds of {BASELINE}", "move those away that are not meant"
    if not set(result.seeds) & set(baselines[0].seeds):
        return f"no seed in common with {BASELINE}", f"train and score one: {train}" if known else ""
    if not result.runs[0].reference.is_file():
        return "no reference", f"there is no {result.runs[0].reference}; add --data, the folder that wff prepare made"
    if setting.signature != setting.scorer.signature:
        return f"other {setting.scorer.package}", (
            f"scored with {setting.signature}, while {setting.scorer.signature} is installed; "
            f"score again: {_evaluate_again(str(run.folder) for run in result.runs)}"
        )
    return "", ""


def _train_baseline(result: Result) -> str:
    """What to type for standard training in the setting of a result."""
    setting = result.setting
    data = SENTENCES.get(setting.dataset)
    words = ["wff", "train", setting.dataset, "--task" if data else "--pair", setting.pair]
    words += ["--recipe", setting.recipe, "--method", BASELINE, "--seed", str(result.seeds[0])]
    if setting.training != f"configs/{setting.dataset}":
        words += ["--configs", setting.training]
    return " ".join([*words, *(["--encoder", "DIR"] if data else [])])


def _comparison(result: Result, baseline: Result, kept: Path) -> Comparison:
    seeds = tuple(seed for seed in result.seeds if seed in baseline.seeds)
    pairs = [[run for run in each.runs if run.seed in seeds] for each in (baseline, result)]
    say(f"{result.setting.name}: testing {result.method} against {BASELINE}, seeds {' '.join(map(str, seeds))}")
    baseline_lines, lines = ([line for run in runs for line in _lines(run)] for runs in pairs)
    reference = [line for run in pairs[1] for line in read_lines(run.reference)]
    standard, mine = (statistics.mean(run.score for run in runs) for runs in pairs)
    return Comparison(
        seeds, mine - standard, kept_p_values(baseline_lines, lines, reference, kept, result.setting.scorer)
    )


@functools.cache
def _lines(run: Scored) -> list[str]:
    """The translations or labels of a run, if they are what was scored."""
    lines, reference = read_lines(run.hypotheses), read_lines(run.reference)
    again = f"score the run again: {_evaluate_again([str(run.folder)])}"
    if not len(lines) == len(reference) == run.setting.sentences:
        raise UserError(
            f"{run.hypotheses} has {len(lines)} lines and {run.reference} {len(reference)}, where "
            f"{run.setting.sentences} were scored; {again}"
        )
    if abs((found := run.setting.scorer.score(lines, reference)) - run.score) > 1e-6:
        raise UserError(
            f"{run.hypotheses} scores {found:.2f} against {run.reference}, not {run.score:.2f} as is recorded; {again}"
        )
    return lines
