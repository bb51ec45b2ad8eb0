"""Tables of what runs have reached, and the papers' tables with these figures beside the published ones.

A cell that was not run says so, so that a half-finished matrix reports. Every table is written as Markdown, LaTeX, and
CSV (all that is known of each cell). A recipe that lowercases its text is compared by lowercased BLEU, with cased BLEU
in a column of its own; all others by cased BLEU. Left out on purpose: the legacy scores, which are not to be compared.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..data import DATASETS, lowercases
from ..files import write_atomically
from ..scoring.published import BASELINE, TABLES, PublishedTable
from ..scoring.results import Result, compared, results
from ..scoring.scored_runs import CASED, LOWERCASED, Setting, collect
from ..workspace.tables import as_csv
from .cells import NOT_RUN, RUN, Cell, cells_of_paper, spread
from .grids import Grid, as_latex, as_markdown

EVERYTHING = "runs"  # the table of all that is there
HOW_TO_READ = (
    "ours: sacreBLEU's cased BLEU, or lowercased BLEU where the recipe lowercases its text (case:lc in the signature), "
    "or the measure that a task's signature names; mean ± standard deviation over seeds (number of seeds).",
    f"minus {BASELINE}: of means over the seeds that both have, in the same setting; in brackets after a paper's "
    "figure: the same there.",
    "p: paired bootstrap and paired approximate randomisation (sacreBLEU's; of labels scipy's) of one joined test set, "
    "the outputs of all common seeds one after another. They say whether other sentences might have given another "
    "answer, not whether other seeds might: for that there is the ±. Not corrected for the number of comparisons.",
)


@dataclass
class Sheet:
    """One table: as a reader sees it, and its cells as data."""

    name: str
    grids: list[Grid] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)


def sheet_of_everything(all_results: Sequence[Result]) -> Sheet:
    """A grid for each setting, a row for each method."""
    sheet = Sheet(EVERYTHING)
    for setting in dict.fromkeys(result.setting for result in all_results):
        cells = [
            Cell(setting.dataset, setting.recipe, setting.training, setting.pair, result.method).filled(result)
            for result in all_results
            if result.setting == setting
        ]
        rows = [
            [
                f"`{cell.method}`", cell.seeds, _value(cell.score, cell.score_sd),
                *([_value(cell.second, cell.second_sd)] if cell.second_signature else []),
                *([_value(cell.cased, cell.cased_sd)] if cell.cased_signature else []), *_test(cell),
                cell.updates or "-", "-" if cell.hours is None else f"{cell.hours:.2f}", cell.config, cell.commit,
            ]
            for cell in cells
        ]  # fmt: skip
        header = ["method", "seeds", *setting.metrics, *_TEST, "updates", "hours", "config", "commit"]
        how = ", ".join(filter(None, [f"{setting.choice} checkpoint", setting.decode]))
        title = f"{setting.name}: {setting.sentences:,} sentences, {how}"
        signatures = zip(setting.metrics, setting.signatures, strict=False)
        notes = [*(f"{name}: `{signature}`" for name, signature in signatures), *_test_signatures(cells)]
        notes += [f"hours of {cell.method}: {cell.device}" for cell in cells if cell.device and cell.hours is not None]
        sheet.grids += [Grid(title, header, rows, notes), *_set_by_set(setting, all_results)]
        sheet.cells += cells
    return sheet


def _set_by_set(setting: Setting, all_results: Sequence[Result]) -> list[Grid]:
    """The scores of each set, as the languages of XNLI, where the test set of a setting is made of several."""
    rows, names = [], []
    for result in all_results:
        sets = list(zip(*(run.sets for run in result.runs), strict=True))  # for each set: (name, score) of each run
        if result.setting == setting and len(sets) > 1:
            names = [scores[0][0] for scores in sets]
            rows.append([f"`{result.method}`", *(_value(*spread([score for _, score in scores])) for scores in sets)])
    if not rows:
        return []
    return [Grid(f"{setting.name}: {setting.metrics[0]} of each set", ["method", *names], rows)]


def sheet_of_paper(name: str, all_results: Sequence[Result]) -> Sheet:
    """The table called `name`: once for each recipe that its data set was run with, since recipes are never mixed.

    Runs with the paper's training fill it; where there are none, those with each other training.
    """
    table, sheet = TABLES[name], Sheet(name)
    results_of_data = [
        result
        for result in all_results
        if (result.setting.dataset, result.setting.subset) == (table.dataset, table.subset)
    ]
    as_the_paper = [result for result in results_of_data if result.setting.training == table.configs]
    candidates = as_the_paper or results_of_data
    kinds = dict.fromkeys((result.setting.recipe, result.setting.training) for result in candidates)
    for recipe, training in kinds or [(table.recipe, table.configs)]:
        alike = [
            result for result in candidates if (result.setting.recipe, result.setting.training) == (recipe, training)
        ]
        cells = cells_of_paper(table, recipe, training, alike)
        title = f"{table.source}. Data: {table.dataset}, recipe {recipe}; training: {training}"
        notes = [*_on_case(table, recipe), f"The paper: {table.training}.", table.missing]
        if recipe != table.recipe:
            notes.insert(0, f"The paper's data is another ({table.recipe}): compare gains over {BASELINE}, not scores.")
        if training != table.configs:
            notes.insert(0, f"The paper's training is another ({table.configs}).")
        if len(table.pairs) > 1 or table.rows[0].parameters:  # else the lines of its cells are the table
            sheet.grids.append(_as_in_the_paper(table, title, cells, notes))
            shown = [cell for cell in cells if cell.state != NOT_RUN]
            sheet.grids += [_cell_by_cell(f"{title}, cell by cell", shown, ())] if shown else []
        else:
            sheet.grids.append(_cell_by_cell(title, cells, notes))
        sheet.cells += cells
    return sheet


def _on_case(table: PublishedTable, recipe: str) -> list[str]:
    """Which BLEU both figures of a cell are."""
    if table.dataset not in DATASETS:
        return []
    published, ours = (
        LOWERCASED if lowercased else CASED for lowercased in (table.lowercased, lowercases(table.dataset, recipe))
    )
    if published != ours:
        return [f"The paper's figures are {published}, ours {ours}: compare gains over {BASELINE}."]
    reason = "lowercases its text" if table.lowercased else "keeps case"
    return [f"The paper's figures and ours are {ours}: the recipe {reason}."]


def _as_in_the_paper(table: PublishedTable, title: str, cells: Sequence[Cell], notes: Sequence[str]) -> Grid:
    """The paper's own rows and columns, each cell with both figures."""
    parameters = [row.parameters for row in table.rows]
    header = ["paper / ours", *table.pairs, *(["parameters (paper)"] if any(parameters) else [])]
    rows = []
    for row in table.rows:
        figures = [f"{cell.paper:.2f} / {_ours(cell)}" for cell in cells if cell.row == row.label]
        rows.append([row.label, *figures, *filter(None, [row.parameters])])
    return Grid(title, header, rows, notes)


def _cell_by_cell(title: str, cells: Sequence[Cell], notes: Sequence[str]) -> Grid:
    """What matters of each cell, a line for each."""
    signatures = list(dict.fromkeys(cell.signature for cell in cells if cell.signature))
    header = ["", "method", "pair", "paper", "ours", "minus paper", *_TEST, "updates"]
    header += ["signature", "config", "commit"]
    cased = [cell.cased_signature for cell in cells if cell.cased_signature]
    header += [CASED] if cased else []
    rows = []
    for cell in cells:
        difference = "" if cell.paper_minus_standard is None else f" ({cell.paper_minus_standard:+.2f})"
        ran = cell.state == RUN
        rows.append(
            [
                cell.row, f"`{cell.method}`", cell.pair, f"{cell.paper:.2f}{difference}",
                _ours(cell), f"{cell.minus_paper:+.2f}" if ran else "-", *_test(cell), cell.updates or "-",
                _letter(signatures.index(cell.signature)) if ran else "-", cell.config or "-", cell.commit or "-",
                *(["-" if cell.cased is None else _value(cell.cased, cell.cased_sd)] if cased else []),
            ]
        )  # fmt: skip
    ran = [cell for cell in cells if cell.state == RUN]
    choices = sorted({f"{c.choice} checkpoint" + (f" ({c.decode})" if c.decode else "") for c in ran})
    legend = [f"{_letter(place)}: `{signature}`" for place, signature in enumerate(signatures)]
    legend += [f"ours: {choice}" for choice in choices]
    legend += [f"{CASED}, for comparison with other work: `{signature}`" for signature in dict.fromkeys(cased)]
    return Grid(title, header, rows, [*legend, *_test_signatures(cells), *notes])


_TEST = (f"minus {BASELINE}", "p bootstrap", "p randomisation")


def _test(cell: Cell) -> list[str]:
    """The columns `_TEST` of a cell, with the reason where there was no test."""
    if cell.minus_standard is None:
        return [cell.untested or "-", "-", "-"]
    seeds = "" if cell.compared_seeds == cell.seeds else f" (seeds {cell.compared_seeds})"
    p = ["-" if value is None else f"{value:.4f}" for value in (cell.p_bootstrap, cell.p_randomisation)]
    return [f"{cell.minus_standard:+.2f}{seeds}", *p]


def _test_signatures(cells: Sequence[Cell]) -> list[str]:
    signatures = dict.fromkeys(s for c in cells for s in (c.bootstrap_signature, c.randomisation_signature) if s)
    return [f"p: {' and '.join(f'`{signature}`' for signature in signatures)}"] if signatures else []


def _ours(cell: Cell) -> str:
    return f"{_value(cell.score, cell.score_sd)} ({cell.n})" if cell.state == RUN else cell.state


def _value(mean: float | None, deviation: float | None) -> str:
    return f"{mean:.2f}" + ("" if deviation is None else f" ± {deviation:.2f}")


def _letter(place: int) -> str:
    return chr(ord("a") + place)


# Files --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ScoreReport:
    """The tables that were asked for, and what a user should know of the runs."""

    sheets: Mapping[str, Sheet]
    notes: Sequence[str]

    def __str__(self) -> str:
        """Every table in which something was run, how to read them, and what is missing."""
        ran = {name: any(cell.state != NOT_RUN for cell in sheet.cells) for name, sheet in self.sheets.items()}
        tables = as_markdown(grid for name, sheet in self.sheets.items() if ran[name] for grid in sheet.grids)
        notes = [*HOW_TO_READ, *self.notes]
        if not all(ran.values()):
            notes.append(f"nothing was run of: {', '.join(name for name in ran if not ran[name])}")
        return "\n\n".join(filter(None, [tables, "\n".join(f"- {note}" for note in notes)]))

    def as_json(self) -> str:
        """Every cell, and the notes."""
        tables = {name: [asdict(cell) for cell in sheet.cells] for name, sheet in self.sheets.items()}
        return json.dumps({"tables": tables, "notes": list(self.notes)}, indent=2)


def write(
    roots: Sequence[Path],
    out: Path,
    names: Sequence[str] = (),
    choice: str | None = None,
    data: Path | None = None,
) -> ScoreReport:
    """Collect the runs under `roots`, and write the tables `names` (default: all) into `out`, each in every format."""
    scored, missing = collect(roots, choice, data)
    grouped, apart = results(scored)
    tested, untested = compared(grouped, out / "significance.json")
    sheets = {
        name: sheet_of_everything(tested) if name == EVERYTHING else sheet_of_paper(name, tested)
        for name in names or (EVERYTHING, *TABLES)
    }
    report = ScoreReport(sheets, [*missing, *apart, *untested])
    for name, sheet in sheets.items():
        write_atomically(out / f"{name}.md", as_markdown(sheet.grids) + "\n")
        write_atomically(out / f"{name}.tex", as_latex(sheet.grids))
        if sheet.cells:
            write_atomically(out / f"{name}.csv", as_csv([asdict(cell) for cell in sheet.cells]))
    write_atomically(out / "report.md", f"{report}\n")
    return report
