"""Cells of tables of scores: all that is known of one method on one test set, published and run.

Left out on purpose: how tables are laid out (`tables.py`).
"""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..scoring.published import AVERAGE, BASELINE, PublishedTable
from ..scoring.results import Result

RUN, NOT_RUN, APART = "run", "not run", "kept apart"


def spread(values: Sequence[float | None]) -> tuple[float | None, float | None]:
    """Mean, where there are values, and standard deviation, where there are several; None is not a value."""
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None


@dataclass(frozen=True)
class Cell:
    """All that is known of one method on one test set, published and run; a line of the CSV."""

    dataset: str
    recipe: str
    training: str
    pair: str
    method: str
    row: str = ""  # what the paper calls the method
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
    second: float | None = None  # beside it: chrF, or the task's other measure
    second_sd: float | None = None
    cased: float | None = None  # BLEU, where `score` is lowercased: no figure of a paper stands beside it
    cased_sd: float | None = None
    minus_paper: float | None = None
    minus_standard: float | None = None
    compared_seeds: str = ""
    p_bootstrap: float | None = None
    p_randomisation: float | None = None
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

    def filled(self, result: Result) -> "Cell":
        """This cell with what was run."""
        setting, runs = result.setting, result.runs
        updates = sorted({run.updates for run in runs if run.updates is not None})
        score, score_sd = statistics.mean(run.score for run in runs), spread([run.score for run in runs])[1]
        second, second_sd = spread([run.second for run in runs])
        cased, cased_sd = spread([run.cased for run in runs])
        seconds, _ = spread([run.seconds for run in runs])
        shared = ("sentences", "choice", "decode", "signature", "second_signature", "cased_signature")
        cell = replace(
            self,
            **{name: getattr(setting, name) for name in shared},
            state=RUN,
            test=setting.subset,
            seeds=_words(result.seeds),
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
            updates=" to ".join(f"{number:,}" for number in dict.fromkeys((*updates[:1], *updates[-1:]))),
            hours=None if seconds is None else seconds / 3600,
            device="; ".join(sorted({run.device for run in runs if run.device})),
            config=result.configuration,
            commit=_words(sorted({run.commit for run in runs})),
        )
        if (comparison := result.comparison) is None:
            return cell
        return replace(
            cell,
            minus_standard=comparison.difference,
            compared_seeds=_words(comparison.seeds),
            p_bootstrap=comparison.p.bootstrap,
            p_randomisation=comparison.p.randomisation,
            bootstrap_signature=comparison.p.bootstrap_signature,
            randomisation_signature=comparison.p.randomisation_signature,
        )


def cells_of_paper(table: PublishedTable, recipe: str, training: str, results: Sequence[Result]) -> list[Cell]:
    """Every figure of the table, with what was run for it."""
    cells = []
    for row in table.rows:
        for pair in table.pairs:
            paper = row.figures[pair]
            difference = None if row.method == BASELINE else paper - table.baseline(pair)
            cell = Cell(table.dataset, recipe, training, pair, row.method, row.label, paper, difference)
            cells.append(_average(cell, table, results) if pair == AVERAGE else _filled(cell, results))
    return cells


def _filled(cell: Cell, results: Sequence[Result]) -> Cell:
    of_cell = [result for result in results if (result.setting.pair, result.method) == (cell.pair, cell.method)]
    if len(of_cell) > 1:
        return replace(cell, state=APART)
    return cell.filled(of_cell[0]) if of_cell else cell


def _average(cell: Cell, table: PublishedTable, results: Sequence[Result]) -> Cell:
    """The mean over all pairs, of the seeds that all of them have; without a test, which needs one test set."""
    pairs = [pair for pair in table.pairs if pair != AVERAGE]
    of_method, standard = (
        [result for result in results if result.method == method and result.setting.pair in pairs]
        for method in (cell.method, BASELINE)
    )
    if not of_method:
        return cell
    if len({result.setting.pair for result in of_method}) < len(pairs):
        return replace(cell, state=f"{len({result.setting.pair for result in of_method})} of {len(pairs)} pairs")
    if len(of_method) > len(pairs) or len({result.setting.scoring for result in of_method}) > 1:
        return replace(cell, state=APART)
    means = _means_by_seed(of_method)
    if not means:
        return replace(cell, state="no common seed")
    score, score_sd = statistics.mean(means.values()), spread(list(means.values()))[1]
    first = of_method[0].setting
    cell = replace(
        cell, state=RUN, test=first.subset, choice=first.choice, decode=first.decode, seeds=_words(means), n=len(means),
        metric=first.metrics[0], score=score, score_sd=score_sd, minus_paper=score - cell.paper,
        signature=first.signature,
    )  # fmt: skip
    baseline = _means_by_seed(standard) if len(standard) == len(pairs) else {}
    both = [seed for seed in means if seed in baseline]
    if cell.method == BASELINE or not both or {r.setting for r in of_method} != {r.setting for r in standard}:
        return cell
    difference = statistics.mean(means[seed] - baseline[seed] for seed in both)
    return replace(cell, minus_standard=difference, compared_seeds=_words(both))


def _means_by_seed(results: Sequence[Result]) -> dict[int, float]:
    """The mean score of several results, for each seed that all of them have."""
    scores = [{run.seed: run.score for run in result.runs} for result in results]
    return {seed: statistics.mean(s[seed] for s in scores) for seed in scores[0] if all(seed in s for s in scores)}


def _words(values: Iterable[Any]) -> str:
    return " ".join(map(str, values))
