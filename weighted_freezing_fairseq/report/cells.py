"""Cells of score tables: a method's published figure on a test set, and the result of the runs."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..scoring.published import AVERAGE, BASELINE, PublishedTable
from ..scoring.results import Result
from ..scoring.significance import holm

RUN, NOT_RUN, APART = "run", "not run", "kept apart"


def mean_and_deviation(values: Iterable[float | None]) -> tuple[float | None, float | None]:
    """The mean, None without values, and the standard deviation, None for fewer than two; skips missing values."""
    present = [value for value in values if value is not None]
    deviation = statistics.stdev(present) if len(present) > 1 else None
    return statistics.mean(present) if present else None, deviation


@dataclass(frozen=True)
class Cell:
    """A method on a test set, published and run; a row of the CSV."""

    dataset: str
    recipe: str
    training: str
    pair: str
    method: str
    row: str = ""  # the paper's name of the method
    paper: float | None = None
    paper_minus_standard: float | None = None
    state: str = NOT_RUN
    test: str = ""
    sentences: int | None = None
    choice: str = ""
    decode: str = ""
    seeds: str = ""
    n: int = 0
    metric: str = ""
    score: float | None = None
    score_sd: float | None = None
    second: float | None = None  # chrF, or the second metric of a task
    second_sd: float | None = None
    cased: float | None = None  # BLEU where `score` is lowercased; never compared with a published figure
    cased_sd: float | None = None
    minus_paper: float | None = None
    minus_standard: float | None = None
    compared_seeds: str = ""
    p_bootstrap: float | None = None
    p_randomisation: float | None = None
    p_seeds: float | None = None
    p_bootstrap_holm: float | None = None  # corrected for the methods of the same table; see `corrected`
    p_randomisation_holm: float | None = None
    p_seeds_holm: float | None = None
    untested: str = ""
    updates: str = ""
    hours: float | None = None
    device: str = ""
    config: str = ""
    commit: str = ""
    signature: str = ""
    second_signature: str = ""
    cased_signature: str = ""
    bootstrap_signature: str = ""
    randomisation_signature: str = ""

    def with_result(self, result: Result) -> "Cell":
        """This cell with the scores, costs and provenance of a result."""
        setting, runs = result.setting, result.runs
        updates = [run.updates for run in runs if run.updates is not None]
        score, score_sd = statistics.mean(run.score for run in runs), mean_and_deviation(run.score for run in runs)[1]
        second, second_sd = mean_and_deviation(run.second for run in runs)
        cased, cased_sd = mean_and_deviation(run.cased for run in runs)
        seconds, _ = mean_and_deviation(run.seconds for run in runs)
        of_setting = ("sentences", "choice", "decode", "signature", "second_signature", "cased_signature")
        cell = replace(
            self,
            **{name: getattr(setting, name) for name in of_setting},
            state=RUN,
            test=setting.test,
            seeds=_joined(result.seeds),
            n=len(runs),
            metric=setting.metrics[0],
            score=score,
            score_sd=score_sd,
            second=second,
            second_sd=second_sd,
            cased=cased,
            cased_sd=cased_sd,
            minus_paper=None if self.paper is None else score - self.paper,
            untested=result.untested,
            updates=" to ".join(f"{limit:,}" for limit in sorted({min(updates), max(updates)})) if updates else "",
            hours=None if seconds is None else seconds / 3600,
            device="; ".join(sorted({run.device for run in runs if run.device})),
            config=result.configuration,
            commit=_joined(sorted({run.commit for run in runs})),
        )
        if (comparison := result.comparison) is None:
            return cell
        return replace(
            cell,
            minus_standard=comparison.difference,
            compared_seeds=_joined(comparison.seeds),
            p_bootstrap=comparison.p.bootstrap,
            p_randomisation=comparison.p.randomisation,
            p_seeds=comparison.p_seeds,
            bootstrap_signature=comparison.p.bootstrap_signature,
            randomisation_signature=comparison.p.randomisation_signature,
        )


TESTS = ("p_bootstrap", "p_randomisation", "p_seeds")


def corrected(cells: Sequence[Cell]) -> list[Cell]:
    """The cells with each test's p-values corrected by Holm for the number of methods tested on the same test set."""
    families: dict[tuple[str, ...], list[int]] = {}
    for number, cell in enumerate(cells):
        family = (cell.dataset, cell.recipe, cell.training, cell.pair, cell.test, cell.choice, cell.decode)
        families.setdefault(family, []).append(number)
    cells = list(cells)
    for numbers in families.values():
        for test in TESTS:
            p_values = {number: p for number in numbers if (p := getattr(cells[number], test)) is not None}
            for number, p in zip(p_values, holm(list(p_values.values())), strict=True):
                cells[number] = replace(cells[number], **{f"{test}_holm": p})
    return cells


def cells_of_paper(table: PublishedTable, recipe: str, training: str, results: Sequence[Result]) -> list[Cell]:
    """A cell for each figure of the table, with the matching result where there is one."""
    cells = []
    for row in table.rows:
        for pair in table.pairs:
            paper = row.figures[pair]
            difference = None if row.method == BASELINE else paper - table.baseline(pair)
            cell = Cell(table.dataset, recipe, training, pair, row.method, row.label, paper, difference)
            matches = [r for r in results if (_column_of(r, table), r.method) == (pair, row.method)]
            if pair == AVERAGE:
                cell = _with_average(cell, table, results)
            elif len(matches) > 1:
                cell = replace(cell, state=APART)
            elif matches:
                cell = cell.with_result(matches[0])
            cells.append(cell)
    return corrected(cells)


def _column_of(result: Result, table: PublishedTable) -> str | None:
    return table.column_of(result.setting.pair, result.setting.subset)


def _with_average(cell: Cell, table: PublishedTable, results: Sequence[Result]) -> Cell:
    """The cell with the mean over all pairs, of the seeds that every pair has.

    There is no significance test, because a test needs a single test set.
    """
    pairs = [pair for pair in table.pairs if pair != AVERAGE]
    of_method, of_baseline = (
        [result for result in results if result.method == method and _column_of(result, table) in pairs]
        for method in (cell.method, BASELINE)
    )
    pairs_run = {_column_of(result, table) for result in of_method}
    if not of_method:
        return cell
    if len(pairs_run) < len(pairs):
        return replace(cell, state=f"{len(pairs_run)} of {len(pairs)} pairs")
    if len(of_method) > len(pairs) or len({result.setting.scoring for result in of_method}) > 1:
        return replace(cell, state=APART)
    means = _means_by_seed(of_method)
    if not means:
        return replace(cell, state="no common seed")
    score, score_sd = statistics.mean(means.values()), mean_and_deviation(means.values())[1]
    setting = of_method[0].setting
    cell = replace(
        cell, state=RUN, test=setting.test, choice=setting.choice, decode=setting.decode, seeds=_joined(means),
        n=len(means), score=score, score_sd=score_sd, minus_paper=score - cell.paper,
        metric=", ".join(dict.fromkeys(result.setting.metrics[0] for result in of_method)),
        signature="; ".join(dict.fromkeys(result.setting.signature for result in of_method)),
    )  # fmt: skip
    baseline_means = _means_by_seed(of_baseline) if len(of_baseline) == len(pairs) else {}
    common = [seed for seed in means if seed in baseline_means]
    same_settings = {result.setting for result in of_method} == {result.setting for result in of_baseline}
    if cell.method == BASELINE or not common or not same_settings:
        return cell
    difference = statistics.mean(means[seed] - baseline_means[seed] for seed in common)
    return replace(cell, minus_standard=difference, compared_seeds=_joined(common))


def _means_by_seed(results: Sequence[Result]) -> dict[int, float]:
    """The mean score over several results, for each seed that all of them have."""
    scores = [{run.seed: run.score for run in result.runs} for result in results]
    return {seed: statistics.mean(s[seed] for s in scores) for seed in scores[0] if all(seed in s for s in scores)}


def _joined(values: Iterable[Any]) -> str:
    return " ".join(map(str, values))
