"""Score tables: one of all runs, and the papers' tables with the scores of the runs beside the published figures.

Each table is written as Markdown, LaTeX and CSV, and the scores of each run as CSV. A cell that was not run says so, so
that an incomplete matrix can be reported. A recipe that lowercases its text is compared by lowercased BLEU, and has a
column with cased BLEU; all others are compared by cased BLEU.
"""

import json
import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data import DATASETS, lowercases
from ..files import write_atomically
from ..scoring.published import BASELINE, TABLES, PublishedTable
from ..scoring.results import Result, compared, results
from ..scoring.scored_runs import CASED, LOWERCASED, ScoredRun, Setting, collect
from ..workspace.tables import as_csv, mean
from .cells import NOT_RUN, RUN, TESTS, Cell, cells_of_paper, corrected
from .grids import Grid, as_latex, as_markdown
from .raw_scores import raw_scores

EVERYTHING = "runs"  # the name of the table of all runs
HOW_TO_READ = (
    "ours: sacreBLEU's cased BLEU, or lowercased BLEU where the recipe lowercases its text (case:lc in the signature), "
    "or the measure that a task's signature names; mean ± standard deviation over seeds (number of seeds).",
    f"minus {BASELINE}: of means over the seeds that both have, in the same setting; in brackets after a paper's "
    "figure: the same there.",
    "p bootstrap, p randomisation: paired tests (sacreBLEU's; of labels scipy's) over the sentences of one joined test "
    "set, the outputs of all common seeds one after another: might other sentences have given another answer? p seeds: "
    "a paired t test over the scores of the common seeds: might other seeds? All are corrected for the number of "
    "methods of the same table that are compared on a test set (Holm); the CSV has them uncorrected, too.",
)


@dataclass
class Sheet:
    """A score table: as grids to read, and as cells to process."""

    name: str
    grids: list[Grid] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


def sheet_of_everything(all_results: Sequence[Result]) -> Sheet:
    """A grid for each setting, a row for each method."""
    sheet = Sheet(EVERYTHING)
    for setting in dict.fromkeys(result.setting for result in all_results):
        in_setting = [result for result in all_results if result.setting == setting]
        cells = corrected(
            [
                Cell(setting.dataset, setting.recipe, setting.training, setting.pair, result.method).with_result(result)
                for result in in_setting
            ]
        )
        rows = [
            [
                f"`{cell.method}`", cell.seeds, _score(cell.score, cell.score_sd),
                *([_score(cell.second, cell.second_sd)] if cell.second_signature else []),
                *([_score(cell.cased, cell.cased_sd)] if cell.cased_signature else []), *_comparison(cell),
                cell.updates or "-", "-" if cell.hours is None else f"{cell.hours:.2f}", cell.config, cell.commit,
            ]
            for cell in cells
        ]  # fmt: skip
        header = ["method", "seeds", *setting.metrics, *_COMPARISON, "updates", "hours", "config", "commit"]
        scored = ", ".join(filter(None, [f"{setting.choice} checkpoint", setting.decode]))
        title = f"{setting.name}: {setting.sentences:,} sentences, {scored}"
        signatures = zip(setting.metrics, setting.signatures, strict=False)
        notes = [*(f"{name}: `{signature}`" for name, signature in signatures), *_p_signatures(cells)]
        notes += [f"hours of {cell.method}: {cell.device}" for cell in cells if cell.device and cell.hours is not None]
        notes = list(dict.fromkeys(notes))  # configurations of a method share theirs
        sheet.grids += [Grid(title, header, rows, notes), *_grid_of_sets(setting, in_setting)]
        sheet.cells += cells
    return sheet


def _grid_of_sets(setting: Setting, in_setting: Sequence[Result]) -> list[Grid]:
    """The scores of each part of a test set that has several, such as the languages of XNLI."""
    rows, names = [], []
    for result in in_setting:
        scores_by_set = list(zip(*(run.sets for run in result.runs), strict=True))  # (name, score) of each run
        if len(scores_by_set) > 1:
            names = [scores[0][0] for scores in scores_by_set]
            rows.append([f"`{result.method}`", *(mean([score for _, score in scores]) for scores in scores_by_set)])
    return [Grid(f"{setting.name}: {setting.metrics[0]} of each set", ["method", *names], rows)] if rows else []


def sheet_of_paper(name: str, all_results: Sequence[Result]) -> Sheet:
    """The table `name` of a paper, once for each recipe and training that its data set was run with.

    If any run has the paper's training, runs with other trainings are left out.
    """
    table, sheet = TABLES[name], Sheet(name)
    candidates = [r for r in all_results if r.setting.dataset == table.dataset]
    candidates = [r for r in candidates if table.column_of(r.setting.pair, r.setting.subset)]
    candidates = [r for r in candidates if r.setting.training == table.configs] or candidates
    kinds = dict.fromkeys((r.setting.recipe, r.setting.training) for r in candidates)
    for recipe, training in kinds or [(table.recipe, table.configs)]:
        of_kind = [r for r in candidates if (r.setting.recipe, r.setting.training) == (recipe, training)]
        cells = cells_of_paper(table, recipe, training, of_kind)
        title = f"{table.source}. Data: {table.dataset}, recipe {recipe}; training: {training}"
        notes = [*_case_note(table, recipe), f"The paper: {table.training}.", table.missing]
        if recipe != table.recipe:
            notes.insert(0, f"The paper's data is another ({table.recipe}): compare gains over {BASELINE}, not scores.")
        if training != table.configs:
            notes.insert(0, f"The paper's training is another ({table.configs}).")
        if len(table.pairs) > 1 or table.rows[0].parameters:
            sheet.grids.append(_grid_as_published(table, title, cells, notes))
            shown = [cell for cell in cells if cell.state != NOT_RUN]
            sheet.grids += [_grid_of_cells(f"{title}, cell by cell", shown, ())] if shown else []
        else:  # the published table has one column, so that the grid of its cells shows all of it
            sheet.grids.append(_grid_of_cells(title, cells, notes))
        sheet.cells += cells
    return sheet


def _case_note(table: PublishedTable, recipe: str) -> list[str]:
    """Whether the published figures and the scores of the runs are cased or lowercased BLEU."""
    if table.dataset not in DATASETS:
        return []
    published, ours = (
        LOWERCASED if lowercased else CASED for lowercased in (table.lowercased, lowercases(table.dataset, recipe))
    )
    if published != ours:
        return [f"The paper's figures are {published}, ours {ours}: compare gains over {BASELINE}."]
    reason = "lowercases its text" if table.lowercased else "keeps case"
    return [f"The paper's figures and ours are {ours}: the recipe {reason}."]


def _grid_as_published(table: PublishedTable, title: str, cells: Sequence[Cell], notes: Sequence[str]) -> Grid:
    """The rows and columns of the published table, with the published figure and ours in each cell."""
    has_parameters = any(row.parameters for row in table.rows)
    header = ["paper / ours", *table.pairs, *(["parameters (paper)"] if has_parameters else [])]
    rows = []
    for row in table.rows:
        figures = [f"{cell.paper:.2f} / {_ours(cell)}" for cell in cells if cell.row == row.label]
        rows.append([row.label, *figures, *filter(None, [row.parameters])])
    return Grid(title, header, rows, notes)


def _grid_of_cells(title: str, cells: Sequence[Cell], notes: Sequence[str]) -> Grid:
    """A row for each cell, with the comparisons and the provenance of its score."""
    distinct = dict.fromkeys(cell.signature for cell in cells if cell.signature)
    signatures = dict(zip(distinct, string.ascii_lowercase, strict=False))
    cased_signatures = dict.fromkeys(cell.cased_signature for cell in cells if cell.cased_signature)
    header = ["", "method", "pair", "paper", "ours", "minus paper", *_COMPARISON, "updates"]
    header += ["signature", "config", "commit", *([CASED] if cased_signatures else [])]
    rows = []
    for cell in cells:
        difference = "" if cell.paper_minus_standard is None else f" ({cell.paper_minus_standard:+.2f})"
        was_run = cell.state == RUN
        rows.append(
            [
                cell.row, f"`{cell.method}`", cell.pair, f"{cell.paper:.2f}{difference}",
                _ours(cell), f"{cell.minus_paper:+.2f}" if was_run else "-", *_comparison(cell), cell.updates or "-",
                signatures[cell.signature] if was_run else "-", cell.config or "-", cell.commit or "-",
                *(["-" if cell.cased is None else _score(cell.cased, cell.cased_sd)] if cased_signatures else []),
            ]
        )  # fmt: skip
    choices = {f"{c.choice} checkpoint" + (f" ({c.decode})" if c.decode else "") for c in cells if c.state == RUN}
    legend = [f"{letter}: `{signature}`" for signature, letter in signatures.items()]
    legend += [f"ours: {choice}" for choice in sorted(choices)]
    legend += [f"{CASED}, for comparison with other work: `{signature}`" for signature in cased_signatures]
    return Grid(title, header, rows, [*legend, *_p_signatures(cells), *notes])


_COMPARISON = (f"minus {BASELINE}", *(test.replace("_", " ") for test in TESTS))


def _comparison(cell: Cell) -> list[str]:
    """The columns `_COMPARISON` of a cell; without a comparison, the first one says why."""
    if cell.minus_standard is None:
        return [cell.untested or "-", *["-"] * len(TESTS)]
    seeds = "" if cell.compared_seeds == cell.seeds else f" (seeds {cell.compared_seeds})"
    p_values = ["-" if (p := getattr(cell, f"{test}_holm")) is None else f"{p:.4f}" for test in TESTS]
    return [f"{cell.minus_standard:+.2f}{seeds}", *p_values]


def _p_signatures(cells: Sequence[Cell]) -> list[str]:
    signatures = dict.fromkeys(s for c in cells for s in (c.bootstrap_signature, c.randomisation_signature) if s)
    return [f"p: {' and '.join(f'`{signature}`' for signature in signatures)}"] if signatures else []


def _ours(cell: Cell) -> str:
    return f"{_score(cell.score, cell.score_sd)} ({cell.n})" if cell.state == RUN else cell.state


def _score(value: float | None, deviation: float | None) -> str:
    return f"{value:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


# Reports ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreReport:
    """Score tables by name, notes on runs that are missing or not compared, and the runs."""

    sheets: Mapping[str, Sheet]
    notes: Sequence[str]
    runs: Sequence[ScoredRun]

    def __str__(self) -> str:
        """The tables with at least one score, how to read them, and the notes."""
        empty = [name for name, sheet in self.sheets.items() if all(cell.state == NOT_RUN for cell in sheet.cells)]
        tables = as_markdown(grid for name, sheet in self.sheets.items() if name not in empty for grid in sheet.grids)
        notes = [*HOW_TO_READ, *self.notes]
        if empty:
            notes.append(f"nothing was run of: {', '.join(empty)}")
        return "\n\n".join(filter(None, [tables, "\n".join(f"- {note}" for note in notes)]))

    def as_json(self) -> str:
        """All cells, and the notes."""
        tables = {name: [asdict(cell) for cell in sheet.cells] for name, sheet in self.sheets.items()}
        return json.dumps({"tables": tables, "notes": list(self.notes)}, indent=2)


def score_report(
    roots: Sequence[Path], names: Sequence[str], choice: str | None, data: Path | None, p_values: Path
) -> ScoreReport:
    """Collect the runs below `roots` and compare them in the tables `names`.

    Args:
        choice, data: options of `wff report`.
        p_values: file that stores the results of significance tests, so that each test is done once.
    """
    scored, missing = collect(roots, choice, data) if roots else ([], [])
    grouped, apart = results(scored)
    tested, untested = compared(grouped, p_values)
    sheets = {
        name: sheet_of_everything(tested) if name == EVERYTHING else sheet_of_paper(name, tested)
        for name in dict.fromkeys(names)
    }
    return ScoreReport(sheets, [*missing, *apart, *untested], scored)


def write(
    roots: Sequence[Path], out: Path, names: Sequence[str] = (), choice: str | None = None, data: Path | None = None
) -> ScoreReport:
    """Write the tables `names` (default: all) of the runs below `roots` into `out`, each in every format.

    scores.csv has the scores of each run that they are computed from.
    """
    report = score_report(roots, names or (EVERYTHING, *TABLES), choice, data, out / "significance.json")
    for name, sheet in report.sheets.items():
        write_atomically(out / f"{name}.md", as_markdown(sheet.grids) + "\n")
        write_atomically(out / f"{name}.tex", as_latex(sheet.grids))
        if sheet.cells:
            write_atomically(out / f"{name}.csv", as_csv([asdict(cell) for cell in sheet.cells]))
    if report.runs:
        write_atomically(out / "scores.csv", as_csv(raw_scores(report.runs)))
    write_atomically(out / "report.md", f"{report}\n")
    return report
