"""Group scored runs by method, and compare each method with standard training.

Scores are compared within one `Setting` only. Significance over sentences is tested on one concatenated test set: the
translations or labels of all seeds that a method and standard training have in common, against as many copies of the
reference. Significance over seeds is tested on the scores of these seeds.
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
from .scored_runs import ScoredRun, Setting, rescore_command
from .scores import read_lines
from .significance import PValues, cached_p_values, seed_p_value


@dataclass(frozen=True)
class Comparison:
    """A method compared with the baseline, over the seeds that both have."""

    seeds: tuple[int, ...]
    difference: float  # method minus baseline, of the means over these seeds
    p: PValues  # over sentences
    p_seeds: float | None  # over seeds


@dataclass(frozen=True)
class Result:
    """The runs of one method in one setting, with one configuration: one for each seed."""

    setting: Setting
    method: str
    config: str
    changed: tuple[str, ...]
    runs: tuple[ScoredRun, ...]
    comparison: Comparison | None = None
    untested: str = ""  # the reason why there is no comparison

    @property
    def configuration(self) -> str:
        """The YAML and the settings that were changed, as text."""
        return " ".join((self.config, *self.changed))

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.seed for run in self.runs)


def results(scored: Iterable[ScoredRun]) -> tuple[list[Result], list[str]]:
    """A result for each setting, method and configuration, standard training first; and notes on separate ones."""
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
    grouped.sort(key=lambda result: (result.setting, result.method != BASELINE, result.method, result.configuration))
    return grouped, [*_settings_apart(grouped), *_configurations_apart(grouped)]


def _settings_apart(all_results: Sequence[Result]) -> Iterator[str]:
    """Notes on runs that look comparable and have different settings."""
    for place in dict.fromkeys(result.setting.place for result in all_results):
        folders: dict[Setting, list[Path]] = {}
        for result in all_results:
            if result.setting.place == place:
                folders.setdefault(result.setting, []).extend(run.folder for run in result.runs)
        settings = list(folders)
        if len(settings) == 1:
            continue
        differ = [f.name for f in fields(Setting) if len({getattr(setting, f.name) for setting in settings}) > 1]
        remedy = f"score them alike: {rescore_command(min(folders.values(), key=len))}"
        if "choice" in differ:
            remedy = f"type --choice with one of {', '.join(s.choice for s in settings)}, or {remedy}"
        yield (
            f"{settings[0].name}: runs that differ in {', '.join(differ)} are kept apart "
            f"({' and '.join(str(len(of_setting)) for of_setting in folders.values())} of them); {remedy}"
        )


def _configurations_apart(all_results: Sequence[Result]) -> Iterator[str]:
    """Notes on methods that were trained with several configurations."""
    for setting, method in dict.fromkeys((result.setting, result.method) for result in all_results):
        configurations = [r.configuration for r in all_results if (r.setting, r.method) == (setting, method)]
        if len(configurations) > 1:
            yield (
                f"{setting.name}: runs of {method} with different settings are kept apart "
                f"({'; '.join(configurations)}); move those away that are not meant"
            )


# Significance -------------------------------------------------------------------------------------------------------


def compared(all_results: Sequence[Result], cache: Path) -> tuple[list[Result], list[str]]:
    """Each result with its comparison to standard training in the same setting, or why there is none; and notes.

    cache: file of p-values.
    """
    tested, notes = [], []
    for result in all_results:
        if result.method == BASELINE:
            tested.append(result)
            continue
        baseline, untested, remedy = baseline_of(result, all_results)
        if remedy:
            notes.append(f"{result.setting.name}, {result.method}: not tested ({untested}); {remedy}")
        comparison = _comparison(result, baseline, cache) if baseline else None
        tested.append(replace(result, comparison=comparison, untested=untested))
    return tested, list(dict.fromkeys(notes))


def baseline_of(result: Result, all_results: Iterable[Result]) -> tuple[Result | None, str, str]:
    """The standard training that a method is compared with; without one, why, and what to type."""
    baselines = [other for other in all_results if (other.setting, other.method) == (result.setting, BASELINE)]
    # of several configurations, the one with the same changes to its YAML
    baselines = [other for other in baselines if other.changed == result.changed] or baselines
    untested, remedy = _untested(result, baselines)
    return None if untested else baselines[0], untested, remedy


def _untested(result: Result, baselines: Sequence[Result]) -> tuple[str, str]:
    """Why a result cannot be tested, and what to type; two empty strings where it can."""
    setting, command = result.setting, _baseline_command(result)
    by_train = setting.dataset in NAMES  # studies on the embedded corpus train their own baseline
    if not baselines:
        return f"no {BASELINE}", f"train and score it: {command}" if by_train else ""
    if len(baselines) > 1:
        return f"several kinds of {BASELINE}", "move those away that are not meant"
    if not set(result.seeds) & set(baselines[0].seeds):
        return f"no seed in common with {BASELINE}", f"train and score one: {command}" if by_train else ""
    if not result.runs[0].reference.is_file():
        return "no reference", f"there is no {result.runs[0].reference}; add --data, the folder that wff prepare made"
    if setting.signature != setting.scorer.signature:
        return f"other {setting.scorer.package}", (
            f"scored with {setting.signature}, while {setting.scorer.signature} is installed; "
            f"score again: {rescore_command(run.folder for run in result.runs)}"
        )
    return "", ""


def _baseline_command(result: Result) -> str:
    """The command of standard training in the setting of a result."""
    setting = result.setting
    data = SENTENCES.get(setting.dataset)
    words = ["wff", "train", setting.dataset, "--task" if data else "--pair", setting.pair]
    words += ["--recipe", setting.recipe, "--method", BASELINE, "--seed", str(result.seeds[0])]
    if setting.training != f"configs/{setting.dataset}":
        words += ["--configs", setting.training]
    return " ".join([*words, *(["--encoder", "DIR"] if data else [])])


def _comparison(result: Result, baseline: Result, cache: Path) -> Comparison:
    seeds = tuple(seed for seed in result.seeds if seed in baseline.seeds)
    say(f"{result.setting.name}: testing {result.method} against {BASELINE}, seeds {' '.join(map(str, seeds))}")
    baseline_runs, runs = ([run for run in side.runs if run.seed in seeds] for side in (baseline, result))
    baseline_lines, lines = ([line for run in side for line in _lines(run)] for side in (baseline_runs, runs))
    reference = [line for run in runs for line in read_lines(run.reference)]
    baseline_scores, scores = ([run.score for run in side] for side in (baseline_runs, runs))
    return Comparison(
        seeds,
        statistics.mean(scores) - statistics.mean(baseline_scores),
        cached_p_values(baseline_lines, lines, reference, cache, result.setting.scorer),
        seed_p_value(baseline_scores, scores),
    )


@functools.cache
def _lines(run: ScoredRun) -> list[str]:
    """The translations or labels of a run; UserError if they do not give its recorded score."""
    lines, reference = read_lines(run.hypotheses), read_lines(run.reference)
    remedy = f"score the run again: {rescore_command([run.folder])}"
    if not len(lines) == len(reference) == run.setting.sentences:
        raise UserError(
            f"{run.hypotheses} has {len(lines)} lines and {run.reference} {len(reference)}, where "
            f"{run.setting.sentences} were scored; {remedy}"
        )
    if abs((score := run.setting.scorer.score(lines, reference)) - run.score) > 1e-6:
        raise UserError(
            f"{run.hypotheses} scores {score:.2f} against {run.reference}, not {run.score:.2f} as is recorded; {remedy}"
        )
    return lines
