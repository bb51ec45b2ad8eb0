"""What each method got over its seeds, beside standard training: scored runs grouped, compared and tested.

Scores are compared within one `Setting`, never across. Significance is that of one joined test set: the translations
or labels of all seeds that a method has in common with standard training, one after another, against as many copies of
the reference. Left out on purpose: how results are laid out (`report/tables.py`).
"""

import functools
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ..data import NAMES, SENTENCES
from ..errors import UserError
from ..workspace.progress import say
from .published import BASELINE
from .scored_runs import ScoredRun, Setting, evaluate_again
from .scores import read_lines
from .significance import PValues, kept_p_values


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
    runs: tuple[ScoredRun, ...]
    comparison: Comparison | None = None
    untested: str = ""  # why there is no comparison

    @property
    def way(self) -> str:
        """How it was trained, for a reader."""
        return " ".join((self.config, *self.changed))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


def results(scored: Iterable[ScoredRun]) -> tuple[list[Result], list[str]]:
    """A result for each setting, method and configuration, standard training first; and notes on what is kept apart."""
    groups: dict[tuple[Setting, str, str, tuple[str, ...]], dict[int, ScoredRun]] = {}
    for run in scored:
        by_seed = groups.setdefault((run.setting, run.method, run.config, run.changed), {})
        if run.seed in by_seed:
            raise UserError(
                f"{by_seed[run.seed].folder} and {run.folder} are the same method, seed and configuration; "
                "type only one of the folders that they are in, or move one away"
            )
        by_seed[run.seed] = run
    grouped = [Result(*key, tuple(by_seed[seed] for seed in sorted(by_seed))) for key, by_seed in groups.items()]
    grouped.sort(key=lambda result: (result.setting, result.method != BASELINE, result.method, result.way))
    return grouped, [*_settings_apart(grouped), *_configurations_apart(grouped)]


def _settings_apart(all_results: Sequence[Result]) -> Iterator[str]:
    """Runs that a reader would compare, and must not."""
    for place in dict.fromkeys(result.setting.place for result in all_results):
        settings = list(dict.fromkeys(result.setting for result in all_results if result.setting.place == place))
        if len(settings) == 1:
            continue
        differ = [f.name for f in fields(Setting) if len({getattr(setting, f.name) for setting in settings}) > 1]
        runs = [[str(r.folder) for result in all_results if result.setting == s for r in result.runs] for s in settings]
        fewest = min(runs, key=len)
        remedy = f"score them alike: {evaluate_again(fewest)}"
        if "choice" in differ:
            remedy = f"type --choice with one of {', '.join(s.choice for s in settings)}, or {remedy}"
        yield (
            f"{settings[0].name}: runs that differ in {', '.join(differ)} are kept apart "
            f"({' and '.join(str(len(folders)) for folders in runs)} of them); {remedy}"
        )


def _configurations_apart(all_results: Sequence[Result]) -> Iterator[str]:
    """One method, trained in several ways."""
    for key in dict.fromkeys((result.setting, result.method) for result in all_results):
        ways = [result.way for result in all_results if (result.setting, result.method) == key]
        if len(ways) > 1:
            yield (
                f"{key[0].name}: runs of {key[1]} with different settings are kept apart ({'; '.join(ways)}); "
                "move those away that are not meant"
            )


# Significance -------------------------------------------------------------------------------------------------------


def compared(all_results: Sequence[Result], kept: Path) -> tuple[list[Result], list[str]]:
    """Each result with its comparison to standard training in the same setting, or why there is none; and notes."""
    done, notes = [], []
    for result in all_results:
        if result.method == BASELINE:
            done.append(result)
            continue
        baselines = _baselines(result, all_results)
        untested, remedy = _untested(result, baselines)
        if remedy:
            notes.append(f"{result.setting.name}, {result.method}: not tested ({untested}); {remedy}")
        comparison = None if untested else _comparison(result, baselines[0], kept)
        done.append(replace(result, comparison=comparison, untested=untested))
    return done, list(dict.fromkeys(notes))


def _baselines(result: Result, all_results: Sequence[Result]) -> list[Result]:
    """Standard training in the same setting; of several kinds the one with the same changes of its YAML."""
    baselines = [other for other in all_results if (other.setting, other.method) == (result.setting, BASELINE)]
    alike = [other for other in baselines if other.changed == result.changed]
    return alike or baselines


def _untested(result: Result, baselines: Sequence[Result]) -> tuple[str, str]:
    """Why a result cannot be tested, and what to type; two empty strings where it can."""
    setting, train = result.setting, _train_baseline(result)
    by_train = setting.dataset in NAMES  # recipes on the embedded corpus train their own baseline
    if not baselines:
        return f"no {BASELINE}", f"train and score it: {train}" if by_train else ""
    if len(baselines) > 1:
        return f"several kinds of {BASELINE}", "move those away that are not meant"
    if not set(result.seeds) & set(baselines[0].seeds):
        return f"no seed in common with {BASELINE}", f"train and score one: {train}" if by_train else ""
    if not result.runs[0].reference.is_file():
        return "no reference", f"there is no {result.runs[0].reference}; add --data, the folder that wff prepare made"
    if setting.signature != setting.scorer.signature:
        return f"other {setting.scorer.package}", (
            f"scored with {setting.signature}, while {setting.scorer.signature} is installed; "
            f"score again: {evaluate_again(str(run.folder) for run in result.runs)}"
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
    pairs = [[run for run in compared_result.runs if run.seed in seeds] for compared_result in (baseline, result)]
    say(f"{result.setting.name}: testing {result.method} against {BASELINE}, seeds {' '.join(map(str, seeds))}")
    baseline_lines, lines = ([line for run in runs for line in _lines(run)] for runs in pairs)
    reference = [line for run in pairs[1] for line in read_lines(run.reference)]
    standard, score = (statistics.mean(run.score for run in runs) for runs in pairs)
    p_values = kept_p_values(baseline_lines, lines, reference, kept, result.setting.scorer)
    return Comparison(seeds, score - standard, p_values)


@functools.cache
def _lines(run: ScoredRun) -> list[str]:
    """The translations or labels of a run, if they are what was scored."""
    lines, reference = read_lines(run.hypotheses), read_lines(run.reference)
    again = f"score the run again: {evaluate_again([str(run.folder)])}"
    if not len(lines) == len(reference) == run.setting.sentences:
        raise UserError(
            f"{run.hypotheses} has {len(lines)} lines and {run.reference} {len(reference)}, where "
            f"{run.setting.sentences} were scored; {again}"
        )
    if abs((score := run.setting.scorer.score(lines, reference)) - run.score) > 1e-6:
        raise UserError(
            f"{run.hypotheses} scores {score:.2f} against {run.reference}, not {run.score:.2f} as is recorded; {again}"
        )
    return lines
