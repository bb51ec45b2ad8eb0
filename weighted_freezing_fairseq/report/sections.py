"""The content of each section of a page (`page.html.j2`): tables, pictures, and commands for what is missing.

A function returns what the template shows, by name. Left out on purpose: HTML.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..analysis import sensitivity
from ..data import DATASETS
from ..figures.drawing import number, read_csv, whole_number
from ..figures.registry import FIGURES, collect
from ..scoring import results, scored_runs
from .account import Account, in_columns, name_of
from .grids import Grid
from .pictures import Pictures
from .tables import EVERYTHING, sheet_of_everything, sheet_of_paper

Runs = Mapping[str, Account]


def summary(runs: Runs) -> Iterator[str]:
    """On what was trained; and which runs these are, where the title does not say it."""
    data = []
    for account in runs.values():
        settings, about = account.settings, account.provenance
        if about:
            data.append(f"{about['dataset']}, recipe {about['recipe']}, {about['pair']}")
        else:
            pair = "task.source_lang" in settings
            languages = f"{settings['task.source_lang']}-{settings['task.target_lang']}" if pair else ""
            data.append(", ".join(filter(None, [settings.get("task.data", ""), languages])))
    yield "; ".join(filter(None, dict.fromkeys(data)))
    if len(runs) > 2:
        yield "; ".join(_by_method(runs))


def scores(runs: Runs, tables: Sequence[str], choice: str | None, data: Path | None, out: Path) -> dict[str, Any]:
    """Scores of `wff evaluate` and of the recipes, compared where they may be; then all others.

    Args:
        tables: papers' tables to show beside the table of all runs.
        out: the page, beside which the results of significance tests are kept.
    """
    known = [account.folder for account in runs.values() if account.provenance]
    scored, missing = scored_runs.collect(known, choice, data) if known else ([], [])
    grouped, apart = results.results(scored)
    compared, untested = results.compared(grouped, out.with_name("significance.json"))
    sheets = [sheet_of_everything(compared)] if compared else []
    sheets += [sheet_of_paper(name, compared) for name in tables if name != EVERYTHING]
    rows = [
        [label, name, *(f"{score[key]:.2f}" for key in ("bleu", "chrf")), f"{score['sentences']:,}",
         f"`{score['bleu_signature']}`"]
        for label, account in runs.items()
        for name, score in account.scores.items()
    ]  # fmt: skip
    header = ["run", "file", "cased BLEU", "chrF", "sentences", "signature of BLEU"]
    gaps = [*missing, *apart, *untested]
    scoreless = {label: a for label, a in runs.items() if not a.provenance and not a.scores}
    if scoreless:
        gaps.append(f"No scores of {', '.join(_by_method(scoreless))}; {_how_to_score(next(iter(scoreless.values())))}")
    return {
        "tables": [grid for sheet in sheets for grid in sheet.grids],
        "other": Grid("Scores that lie in the folders of the runs", header, rows) if rows else None,
        "gaps": gaps,
    }


def training(runs: Runs, pictures: Pictures) -> dict[str, Any]:
    """How far each run got, and its curves."""
    points = collect("curves", {label: log for label, account in runs.items() if (log := account.traces.log)})
    rows = [_progress(label, account, [p for p in points if p["run"] == label]) for label, account in runs.items()]
    header = ["run", "updates", "of", "end", "training loss", "best validation nll", "at update", "best BLEU", "hours"]
    notes = ["Losses in bits; BLEU is that of validation, not of a test set."]
    if all(row[-2] == "-" for row in rows):  # none was trained with --eval-bleu
        header, *rows = [[*line[:-2], line[-1]] for line in (header, *rows)]
        notes = ["Losses in bits."]
    return {
        "progress": Grid("How far each run got", header, rows, notes),
        "drawn": bool(points),
        "curves": pictures.figure("curves", points, runs) if points else None,
        "without_curves": [label for label in runs if label not in {point["run"] for point in points}],
        "remedy": FIGURES["curves"].remedy,
    }


def settings(runs: Runs) -> dict[str, Any]:
    """What differs, and what is the same."""
    columns, differing, shared = in_columns(runs)
    rows = [[f"`{name}`", *values] for name, values in differing.items()]
    rows_shared = [[f"`{name}`", value] for name, value in shared.items()]
    count = f"{len(shared)} settings{' that all runs share' if len(runs) > 1 else ''}"
    return {
        "differing": Grid("Settings that differ", ["setting", *columns], rows) if rows else None,
        "several_runs": len(runs) > 1,
        "shared": Grid(count, ["setting", "value"], rows_shared) if shared else None,
        "in_run_folder": any("RUN" in value for value in [*shared.values(), *sum(differing.values(), [])]),
        "unknown": [label for label, account in runs.items() if not account.settings],
    }


def importance(runs: Runs, pictures: Pictures) -> dict[str, Any]:
    """What --log-importance measured during training; empty where it was never used."""
    paths = {label: path for label, account in runs.items() if (path := account.importance)}
    if not paths:
        return {}
    columns = ("mean", "std", "std_over_mean", "gini", "share_top20", "top20_over_bottom80", "frozen")
    rows = []
    for label, path in paths.items():
        models = [row for row in read_csv(path, torn=True) if row["by"] == "model"]
        first_and_last = [models[0], models[-1]] if len(models) > 1 else models
        rows += [[label, row["update"], *(_short(row[column]) for column in columns)] for row in first_and_last]
    header = ["run", "update", "mean", "std", "std / mean", "Gini", "top 20 % hold", "top 20 % / the rest", "frozen"]
    notes = ["Of abs(theta * grad) of the batch of that update: the first and the last that was measured."]
    return {
        "picture": pictures.figure("importance", collect("importance", paths), paths),
        "table": Grid("Sensitivity of all parameters", header, rows, notes),
        "without": [label for label in runs if label not in paths],
    }


def sensitivity_of(path: Path, pictures: Pictures) -> dict[str, Any]:
    """A table that `wff sensitivity` made of checkpoints."""
    rows = read_csv(path)
    models = [row for row in rows if row["by"] == "model"]
    if not models:
        return {"broken": f"{path} has no row of a whole model; make it again with: wff sensitivity"}
    about = "Sensitivity of the parameters, a violin each, and its standard deviation"
    caption = (
        f"{about} (as Xu et al. 2022, Figures 3, 5 and 9); above as measured, below divided by the mean. "
        f"Measured by `wff sensitivity`, {models[0]['batches']} batches each, in {path.parent.name}/."
    )
    names = [row["checkpoint"] for row in models]
    by_group = {by: [row for row in rows if row["by"] == by] for by in ("type", "layer")}
    return {
        "broken": "",
        "picture": pictures.picture([partial(sensitivity.picture, path.parent)], about, names, caption),
        "models": _sensitivity_grid("Sensitivity of all parameters of each checkpoint", models, "checkpoint"),
        "groups": [
            _sensitivity_grid(f"The same by {by}", members, "checkpoint", "group")
            for by, members in by_group.items()
            if members
        ],
    }


def sensitivity_gap(runs: Runs, place: Path) -> str:
    """What to type where nothing was measured by `wff sensitivity`."""
    weights = {label: best for label, account in runs.items() if (best := account.weights)}
    if not weights:
        return "Not measured, and there is no checkpoint to measure"
    words = ["wff", "sensitivity", *weights.values(), "--names", ",".join(weights), "--data"]
    data = next(iter(runs.values())).settings.get("task.data", "BIN")
    return f"Not measured; type: {_line([*words, data, '--out', place / 'sensitivity'])}"


def cost_of(path: Path, pictures: Pictures) -> dict[str, Any]:
    """A table that `wff bench` made."""
    rows = read_csv(path)
    sizes = dict.fromkeys(row["size"] for row in rows)
    # cost: none without standard training to compare with
    figures = {name: collect(name, {path.parent.name: path}) for name in ("cost", *["growth"] * (len(sizes) > 1))}
    methods = dict.fromkeys(row["method"] for row in rows)
    return {
        "tables": [_cost_grid(size, [row for row in rows if row["size"] == size]) for size in sizes],
        "pictures": [pictures.figure(name, points, methods) for name, points in figures.items() if points],
    }


def cost_command(runs: Runs, place: Path) -> str:
    methods = dict.fromkeys(str(a.provenance["method"]) for a in runs.values() if a.provenance)
    return _line(["wff", "bench", *(["--methods", ",".join(methods)] if methods else []), "--out", place / "cost"])


def provenance(runs: Runs) -> dict[str, Any]:
    """Who trained what, when and with what: a row for each run, then the versions that runs share."""
    known = {label: account.provenance for label, account in runs.items() if account.provenance}
    unknown = _by_method(label for label in runs if label not in known)
    if not known:
        return {"tables": [], "unknown": unknown}
    header = ["run", "configuration", "commit", "begun", "sittings", "machine", "device", "host"]
    rows = [[label, *_origin(about)] for label, about in known.items()]
    origins = Grid("Where each run was trained", header, rows, ["A + after a commit: files differed from it."])
    versions: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for label, about in known.items():
        versions.setdefault(tuple(about.get("versions", {}).items()), []).append(label)
    packages = dict.fromkeys(name for pairs in versions for name, _ in pairs)
    header = ["package", *(name_of(labels) if len(versions) > 1 else "version" for labels in versions.values())]
    rows = [[name, *(dict(pairs).get(name, "-") for pairs in versions)] for name in packages]
    return {"tables": [origins, Grid("Versions", header, rows)], "unknown": unknown}


def again(runs: Runs, tables: Sequence[Path], out: Path) -> dict[str, Any]:
    """The commands that made the runs and their scores, and this page."""
    started = {label: command for label, account in runs.items() if (command := _command(account))}
    commands = list(dict.fromkeys(started.values()))
    scored = [a.folder for a in runs.values() if a.provenance.get("dataset") in DATASETS]
    if scored:
        commands.append(_line(["wff", "evaluate", *scored]))
    inputs = [*(account.path for account in runs.values()), *(table.parent for table in tables)]
    commands.append(_line(["wff", "report", "--html", *inputs, "--out", out.resolve()]))
    return {"commands": commands, "unknown": [label for label in runs if label not in started]}


# Rows and words -----------------------------------------------------------------------------------------------------


def _by_method(labels: Iterable[str]) -> list[str]:
    """The labels of runs, those of one method together."""
    methods: dict[str, list[str]] = {}
    for label in labels:
        methods.setdefault(label.rpartition("-")[0] or label, []).append(label)
    return [name_of(members) for members in methods.values()]


def _line(words: Iterable[Any]) -> str:
    return shlex.join(map(str, words))


def _short(cell: Any, digits: str = ".3g") -> str:
    """A number for a reader; an empty cell becomes a dash."""
    return "-" if cell in ("", None) else format(float(cell), digits)


def _how_to_score(account: Account) -> str:
    """How a run without a recipe gets a score that a page finds."""
    if account.weights is None:
        return "and there is no checkpoint to score"
    words = ["wff", "evaluate", account.weights, "--data", account.settings.get("task.data", "BIN")]
    return f"type: {_line([*words, '--reference', 'RAW.TXT', '--out', account.saved])}"


def _progress(label: str, account: Account, points: Sequence[Mapping[str, Any]]) -> list[str]:
    valid = [point for point in points if point["split"] == "valid" and point["nll_loss"] != ""]
    best = min(valid, key=lambda point: number(point["nll_loss"]), default={"nll_loss": "", "update": 0})
    bleu = max((number(point["bleu"]) for point in valid if point["bleu"] != ""), default=None)
    last = [point["loss"] for point in points if point["split"] == "train"][-1:]
    planned = account.settings.get("optimization.max_update", "0")
    seconds = scored_runs.cost(account.traces.log)[1] if account.traces.log else None
    return [
        label,
        f"{max(whole_number(point['update']) for point in points):,}" if points else "-",
        f"{int(planned):,}" if planned.isdecimal() and planned != "0" else "-",
        "reached" if account.finished else "not reached" if account.traces.log else "unknown",
        _short(last[0], ".3f") if last else "-",
        _short(best["nll_loss"], ".3f"),
        f"{best['update']:,}" if best["update"] else "-",
        _short(bleu, ".2f"),
        "-" if seconds is None else f"{seconds / 3600:.2f}",
    ]


def _sensitivity_grid(title: str, rows: Sequence[Mapping[str, str]], *heads: str) -> Grid:
    columns = {
        "std": "std", "std_over_mean": "std / mean", "gini": "Gini", "share_top20": "top 20 % hold",
        "top20_over_bottom80": "top 20 % / the rest",
    }  # fmt: skip
    cells = [
        [
            *(row[head] for head in heads),
            *(_short(row[name]) for name in columns),
            f"{whole_number(row['parameters']):,}",
        ]
        for row in rows
    ]
    return Grid(title, [*heads, *columns.values(), "parameters"], cells)


def _cost_grid(size: str, rows: Sequence[Mapping[str, str]]) -> Grid:
    counted = "flops" in rows[0]
    cells = [
        [
            f"`{row['method']}`",
            f"{number(row['time_ratio']):.3f} [{number(row['time_low']):.3f}, {number(row['time_high']):.3f}]",
            f"{number(row['memory_ratio']):.3f}", f"{whole_number(row['state_bytes']):,}",
            _short(row["update_seconds"]), *([f"{number(row['flops']) / 1e9:.2f}"] if counted else []),
        ]
        for row in rows
    ]  # fmt: skip
    header = ["method", "update time", "peak memory", "more state (bytes)", "seconds an update"]
    header += ["GFLOP an update"] if counted else []
    about = f"size {size}, {number(rows[0]['parameters']) / 1e6:.1f} M parameters, {rows[0]['rounds']} rounds"
    note = "Update time and peak memory are ratios to standard training, measured side by side: median and quartiles. "
    note += "No cost of these runs themselves, but of their methods, on one batch."
    return Grid(f"Cost of an update ({about})", header, cells, [note])


def _origin(about: Mapping[str, Any]) -> list[str]:
    sittings = about.get("sittings") or [{}]
    return [
        " ".join([about["config"], *about.get("changed", ())]),
        about.get("commit") or "unknown",
        re.sub(r"(\S+)T(\d+:\d+):\d+\+00:00", r"\1 \2 UTC", sittings[0].get("begun", "-")),
        str(len(sittings)),
        *(" and ".join(dict.fromkeys(s.get(key, "-") for s in sittings)) for key in ("machine", "device", "host")),
    ]


def _command(account: Account) -> str:
    """How a run was started; empty where that is not known."""
    if account.provenance:
        return str(account.provenance["command"])
    if (account.folder / "run.yaml").is_file():
        return f"cd {shlex.quote(str(account.folder))} && fairseq-hydra-train --config-dir . --config-name run"
    return ""
