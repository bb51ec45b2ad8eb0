"""The content of each section of the HTML page: tables, pictures, and commands for what is missing.

Each function returns the variables that `page.html.j2` shows in a section.
"""

import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..analysis import sensitivity
from ..data import DATASETS
from ..figures.drawing import ONE_COLUMN, TWO_COLUMNS, number, read_csv, whole_number
from ..figures.registry import FIGURES, collect
from ..scoring import scored_runs
from ..scoring.compare import best_with_standard
from . import comparison
from .account import Account, compare_settings, joint_label
from .grids import Grid
from .pictures import figure, picture
from .tables import EVERYTHING, score_report

Runs = Mapping[str, Account]
# The names of statistics are those of the columns of importance.csv and sensitivity.csv.
_STATISTICS = ("std", "std_over_mean", "gini", "share_top20", "top20_over_bottom80")
_ABOUT_STATISTICS = (
    "`gini`: 0 where all are equal, 1 where one holds all; `share_top20`: share of the sum that the top 20 % hold; "
    "`top20_over_bottom80`: mean of the top 20 % over the mean of the rest."
)
_MOST_SENTENCES = 5  # of the gains and of the losses of a comparison


def summary(runs: Runs) -> Iterator[str]:
    """The data that the runs were trained on; and the labels of the runs if the title does not have them."""
    data = []
    for account in runs.values():
        settings, provenance = account.settings, account.provenance
        if provenance:
            data.append(f"{provenance['dataset']}, recipe {provenance['recipe']}, {provenance['pair']}")
        else:
            names = ("task.source_lang", "task.target_lang")
            languages = "-".join(settings[name] for name in names) if names[0] in settings else ""
            data.append(", ".join(filter(None, [settings.get("task.data", ""), languages])))
    yield "; ".join(filter(None, dict.fromkeys(data)))
    if len(runs) > 2:
        yield "; ".join(_grouped_by_method(runs))


def scores(runs: Runs, tables: Sequence[str], choice: str | None, data: Path | None, out: Path) -> dict[str, Any]:
    """Score tables of the runs of `wff train`, and the other scores in the folders of all runs.

    Args:
        tables: tables of papers to show after the table of all runs.
        out: the page; the results of significance tests are stored beside it.
    """
    folders = [account.folder for account in runs.values() if account.provenance]
    report = score_report(folders, (EVERYTHING, *tables), choice, data, out.with_name("significance.json"))
    rows = [
        [label, name, *(f"{score[key]:.2f}" for key in ("bleu", "chrf")), f"{score['sentences']:,}",
         f"`{score['bleu_signature']}`"]
        for label, account in runs.items()
        for name, score in account.scores.items()
    ]  # fmt: skip
    header = ["run", "file", "cased BLEU", "chrF", "sentences", "signature of BLEU"]
    gaps = [*report.notes]
    unscored = {label: a for label, a in runs.items() if not a.provenance and not a.scores}
    if unscored:
        remedy = _scoring_command(next(iter(unscored.values())))
        gaps.append(f"No scores of {', '.join(_grouped_by_method(unscored))}; {remedy}")
    return {
        "tables": [grid for sheet in report.sheets.values() for grid in sheet.grids],
        "other": Grid("Scores that lie in the folders of the runs", header, rows) if rows else None,
        "gaps": gaps,
    }


def comparisons(runs: Runs, choice: str | None, data: Path | None, out: Path) -> list[dict[str, Any]]:
    """Sentences in which standard training and the best other method differ most, for each test set."""
    folders = [account.folder for account in runs.values() if account.provenance]
    scored = scored_runs.collect(folders, choice, data)[0] if folders else []
    return [
        {
            "comparison": found,
            "scores": comparison.scores(found),
            "sentences": {
                f"{found.names[1]} gains most": found.gains(_MOST_SENTENCES),
                f"{found.names[1]} loses most": found.losses(_MOST_SENTENCES),
            },
            "command": _command_line(
                ["wff", "compare", *found.folders, "--subset", found.subset, "--choice", found.choice]
                + ([] if data is None else ["--data", data])
                + ["--html", "--out", out.with_name("compare.html")]
            ),
        }
        for found in best_with_standard(scored)
    ]


def training(runs: Runs) -> dict[str, Any]:
    """The progress of each run, and its learning curves."""
    points = collect("curves", {label: account.path for label, account in runs.items()})
    rows = [_progress_row(label, account, [p for p in points if p["run"] == label]) for label, account in runs.items()]
    header = ["run", "parameters", "updates", "of", "end", "training loss", "best validation nll_loss", "at update"]
    header += ["best BLEU", "hours"]
    notes = ["Losses in bits; BLEU is that of validation, not of a test set."]
    if all(row[-2] == "-" for row in rows):  # no run was trained with --eval-bleu
        header, *rows = [[*line[:-2], line[-1]] for line in (header, *rows)]
        notes = ["Losses in bits."]
    return {
        "progress": Grid("How far each run got", header, rows, notes),
        "has_curves": bool(points),
        "curves": figure("curves", points, runs) if points else None,
        "without_curves": [label for label in runs if label not in {point["run"] for point in points}],
        "remedy": FIGURES["curves"].remedy,
    }


def settings(runs: Runs) -> dict[str, Any]:
    """The settings that differ between runs, and those that are shared."""
    columns, differing, shared = compare_settings(runs)
    rows = [[f"`{name}`", *values] for name, values in differing.items()]
    shared_rows = [[f"`{name}`", value] for name, value in shared.items()]
    title = f"{len(shared)} settings{' that all runs share' if len(runs) > 1 else ''}"
    return {
        "differing": Grid("Settings that differ", ["setting", *columns], rows) if rows else None,
        "several_runs": len(runs) > 1,
        "shared": Grid(title, ["setting", "value"], shared_rows) if shared else None,
        "in_run_folder": any("RUN" in value for values in (shared.values(), *differing.values()) for value in values),
        "unknown": [label for label, account in runs.items() if not account.settings],
    }


def importance(runs: Runs) -> dict[str, Any]:
    """The measurements of --log-importance; empty if no run has any."""
    paths = {label: path for label, account in runs.items() if (path := account.importance)}
    if not paths:
        return {}
    columns = ("mean", *_STATISTICS, "frozen")
    rows = []
    for label, path in paths.items():
        models = [row for row in read_csv(path, torn=True) if row["by"] == "model"]
        first_and_last = [models[0], models[-1]] if len(models) > 1 else models
        rows += [[label, row["update"], *(_rounded(row[column]) for column in columns)] for row in first_and_last]
    header = ["run", "update", *(f"`{name}`" for name in columns)]
    notes = [
        "Of abs(theta * grad) of the batch of that update: the first and the last that was measured. "
        "`frozen`: share of the parameters that were not updated.",
        _ABOUT_STATISTICS,
    ]
    return {
        "picture": figure("importance", collect("importance", paths), paths),
        "table": Grid("Sensitivity of all parameters", header, rows, notes),
        "without": [label for label in runs if label not in paths],
    }


def sensitivity_table(path: Path) -> dict[str, Any]:
    """The violins and tables of a sensitivity.csv, which `wff sensitivity` writes."""
    rows = read_csv(path)
    models = [row for row in rows if row["by"] == "model"]
    if not models:
        return {"broken": f"{path} has no row of a whole model; make it again with: wff sensitivity"}
    about = "Sensitivity of the parameters, a violin each, and its standard deviation"
    caption = (
        f"{about} (as Xu et al. 2022, Figures 3, 5 and 9); above as measured, below divided by the mean. "
        f"Measured by `wff sensitivity`, {models[0]['batches']} batches each, in {path.parent.name}/."
    )
    by_group = {by: [row for row in rows if row["by"] == by] for by in ("type", "layer")}
    return {
        "broken": "",
        "picture": picture(
            [partial(sensitivity.picture, path.parent, width=width) for width in (TWO_COLUMNS, ONE_COLUMN)],
            about,
            [row["checkpoint"] for row in models],
            caption,
        ),
        "models": _sensitivity_grid("Sensitivity of all parameters of each checkpoint", models, "checkpoint"),
        "groups": [
            _sensitivity_grid(f"The same by {by}", group_rows, "checkpoint", "group")
            for by, group_rows in by_group.items()
            if group_rows
        ],
    }


def sensitivity_gap(runs: Runs, folder: Path) -> str:
    """What to type if `wff sensitivity` has not measured these runs."""
    checkpoints = {label: path for label, account in runs.items() if (path := account.checkpoint)}
    if not checkpoints:
        return "Not measured, and there is no checkpoint to measure"
    data = _data_folder(next(iter(runs.values())))
    words = ["wff", "sensitivity", *checkpoints.values(), "--names", ",".join(checkpoints), "--data", data]
    return f"Not measured; type: {_command_line([*words, '--out', folder / 'sensitivity'])}"


def cost_table(path: Path) -> dict[str, Any]:
    """The tables and figures of a bench.csv, which `wff bench` writes."""
    rows = read_csv(path)
    sizes = dict.fromkeys(row["size"] for row in rows)
    # a table without standard training has no points of the figure "cost"
    points = {name: collect(name, {path.parent.name: path}) for name in ("cost", *["growth"] * (len(sizes) > 1))}
    methods = dict.fromkeys(row["method"] for row in rows)
    return {
        "tables": [_cost_grid(size, [row for row in rows if row["size"] == size]) for size in sizes],
        "pictures": [figure(name, figure_rows, methods) for name, figure_rows in points.items() if figure_rows],
    }


def cost_command(runs: Runs, folder: Path) -> str:
    methods = dict.fromkeys(str(a.provenance["method"]) for a in runs.values() if a.provenance)
    options = ["--methods", ",".join(methods)] if methods else []
    return _command_line(["wff", "bench", *options, "--out", folder / "cost"])


def provenance(runs: Runs) -> dict[str, Any]:
    """Configuration, commit, time and machine of each run, and the versions of packages."""
    recorded = {label: account.provenance for label, account in runs.items() if account.provenance}
    unknown = _grouped_by_method(label for label in runs if label not in recorded)
    if not recorded:
        return {"tables": [], "unknown": unknown}
    header = ["run", "configuration", "commit", "begun", "sittings", "machine", "device", "host"]
    rows = [[label, *_provenance_row(content)] for label, content in recorded.items()]
    origins = Grid("Where each run was trained", header, rows, ["A + after a commit: files differed from it."])
    labels_by_versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for label, content in recorded.items():
        labels_by_versions.setdefault(tuple(content.get("versions", {}).items()), []).append(label)
    packages = dict.fromkeys(name for versions in labels_by_versions for name, _ in versions)
    several = len(labels_by_versions) > 1
    header = ["package", *(joint_label(labels) if several else "version" for labels in labels_by_versions.values())]
    rows = [[name, *(dict(versions).get(name, "-") for versions in labels_by_versions)] for name in packages]
    return {"tables": [origins, Grid("Versions", header, rows)], "unknown": unknown}


def links(runs: Runs, out: Path) -> dict[str, dict[str, str]]:
    """The files of each run by name, as addresses relative to the page."""
    return {
        label: {name: quote(os.path.relpath(path, out.resolve().parent)) for name, path in account.links.items()}
        for label, account in runs.items()
        if account.links
    }


def reproduction(runs: Runs, tables: Sequence[Path], out: Path) -> dict[str, Any]:
    """The commands that trained and scored the runs and wrote this page."""
    training_commands = {label: command for label, account in runs.items() if (command := _training_command(account))}
    commands = list(dict.fromkeys(training_commands.values()))
    scored = [a.folder for a in runs.values() if a.provenance.get("dataset") in DATASETS]
    if scored:
        commands.append(_command_line(["wff", "evaluate", *scored]))
    inputs = [*(account.path for account in runs.values()), *(table.parent for table in tables)]
    commands.append(_command_line(["wff", "report", "--html", *inputs, "--out", out.resolve()]))
    return {"commands": commands, "unknown": [label for label in runs if label not in training_commands]}


# Rows and words -----------------------------------------------------------------------------------------------------


def _grouped_by_method(labels: Iterable[str]) -> list[str]:
    """The labels of runs, with the runs of a method joined to one label."""
    methods: dict[str, list[str]] = {}
    for label in labels:
        methods.setdefault(label.rpartition("-")[0] or label, []).append(label)
    return list(map(joint_label, methods.values()))


def _command_line(words: Iterable[Any]) -> str:
    return shlex.join(map(str, words))


def _rounded(cell: Any, digits: str = ".3g") -> str:
    """A rounded number; a dash for an empty cell."""
    return "-" if cell in ("", None) else format(float(cell), digits)


def _data_folder(account: Account) -> str:
    """The binarised data of a run; a placeholder if it is unknown."""
    return account.settings.get("task.data", "BIN")


def _scoring_command(account: Account) -> str:
    """How to score a run that `wff train` did not train."""
    if account.checkpoint is None:
        return "and there is no checkpoint to score"
    words = ["wff", "evaluate", account.checkpoint, "--data", _data_folder(account)]
    return f"type: {_command_line([*words, '--reference', 'RAW.TXT', '--out', account.save_folder])}"


def _training_command(account: Account) -> str:
    """The command that trained a run; empty if it is unknown."""
    if account.provenance:
        return str(account.provenance["command"])
    if (account.folder / "run.yaml").is_file():
        return f"cd {shlex.quote(str(account.folder))} && fairseq-hydra-train --config-dir . --config-name run"
    return ""


def _progress_row(label: str, account: Account, points: Sequence[Mapping[str, Any]]) -> list[str]:
    validations = [point for point in points if point["split"] == "valid" and point["nll_loss"] != ""]
    best = min(validations, key=lambda point: number(point["nll_loss"]), default={"nll_loss": "", "update": 0})
    best_bleu = max((number(point["bleu"]) for point in validations if point["bleu"] != ""), default=None)
    training_losses = [point["loss"] for point in points if point["split"] == "train"]
    max_update = account.settings.get("optimization.max_update", "0")
    seconds = scored_runs.cost(account.files.log)[1] if account.files.log else None
    return [
        label,
        account.parameters or "-",
        f"{max(whole_number(point['update']) for point in points):,}" if points else "-",
        f"{int(max_update):,}" if max_update.isdecimal() and max_update != "0" else "-",
        "reached" if account.finished else "not reached" if account.files.log else "unknown",
        _rounded(training_losses[-1], ".3f") if training_losses else "-",
        _rounded(best["nll_loss"], ".3f"),
        f"{best['update']:,}" if best["update"] else "-",
        _rounded(best_bleu, ".2f"),
        _rounded(None if seconds is None else seconds / 3600, ".2f"),
    ]


def _sensitivity_grid(title: str, rows: Sequence[Mapping[str, str]], *label_columns: str) -> Grid:
    cells = [
        [*(row[name] for name in label_columns), *(_rounded(row[name]) for name in _STATISTICS),
         f"{whole_number(row['parameters']):,}"]
        for row in rows
    ]  # fmt: skip
    header = [*label_columns, *(f"`{name}`" for name in _STATISTICS), "parameters"]
    return Grid(title, header, cells, [_ABOUT_STATISTICS])


def _cost_grid(size: str, rows: Sequence[Mapping[str, str]]) -> Grid:
    has_flops = "flops" in rows[0]
    cells = [
        [
            f"`{row['method']}`",
            f"{number(row['time_ratio']):.3f} [{number(row['time_low']):.3f}, {number(row['time_high']):.3f}]",
            f"{number(row['memory_ratio']):.3f}", f"{whole_number(row['state_bytes']):,}",
            _rounded(row["update_seconds"]), *([f"{number(row['flops']) / 1e9:.2f}"] if has_flops else []),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["method", "update time", "peak memory", "more state (bytes)", "seconds an update"]
    header += ["GFLOP an update"] if has_flops else []
    about = f"size {size}, {number(rows[0]['parameters']) / 1e6:.1f} M parameters, {rows[0]['rounds']} rounds"
    note = "Update time and peak memory are ratios to standard training, measured side by side: median and quartiles. "
    note += "No cost of these runs themselves, but of their methods, on one batch."
    return Grid(f"Cost of an update ({about})", header, cells, [note])


def _provenance_row(content: Mapping[str, Any]) -> list[str]:
    sittings = content.get("sittings") or [{}]
    return [
        " ".join([content["config"], *content.get("changed", ())]),
        content.get("commit") or "unknown",
        re.sub(r"(\S+)T(\d+:\d+):\d+\+00:00", r"\1 \2 UTC", sittings[0].get("begun", "-")),
        str(len(sittings)),
        *(" and ".join(dict.fromkeys(s.get(key, "-") for s in sittings)) for key in ("machine", "device", "host")),
    ]
