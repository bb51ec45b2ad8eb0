"""The tables of measurements in the pages, from the raw scores in results/ and the costs in benchmarks/."""

import csv
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path

from weighted_freezing_fairseq.scoring.significance import holm, seed_p_value

ROOT = Path(__file__).resolve().parents[1]


def read_rows(path: str | Path) -> list[dict[str, str]]:
    with (ROOT / path).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def tuning(folder: str) -> str:
    """What scripts/lowresource/tune.py measured: a row for each method, its values best first."""
    runs = read_rows(f"results/{folder}/tuning.csv")
    header = "| method | setting | value: validation BLEU (lowest validation nll, training nll there) |"
    lines = [header, "|---|---|---|"]
    for method in dict.fromkeys(run["method"] for run in runs):
        tried = sorted((run for run in runs if run["method"] == method), key=lambda run: -float(run["bleu"]))
        values = [
            f"{run['value']}: {float(run['bleu']):.2f} ({float(run['valid_nll']):.2f}, {float(run['train_nll']):.2f})"
            for run in tried
        ]
        values[0] = f"**{values[0]}**"
        lines.append(f"| `{method}` | `{tried[0]['setting']}` | {', '.join(values)} |")
    return "\n".join(lines)


def over_runs(runs: list[dict[str, str]], column: str) -> str:
    return with_deviation([float(run[column]) for run in runs])


def with_deviation(values: list[float]) -> str:
    return f"{statistics.mean(values):.2f} ± {statistics.stdev(values):.2f}"


def scores(folder: str, test: str) -> str:
    """A row for each method on a test set, the best BLEU first, from the tables of `wff report` in results/."""
    cells = [cell for cell in read_rows(f"results/{folder}/runs.csv") if cell["test"] == test]
    runs = [run for run in read_rows(f"results/{folder}/scores.csv") if run["test"] == test]
    lines = [
        "| method | seeds | BLEU | minus `standard` | p sentences | p seeds | lowercased BLEU | chrF | validation nll "
        "| training nll |",
        "|---" * 10 + "|",
    ]
    for cell in sorted(cells, key=lambda cell: -float(cell["score"])):
        of_method = [run for run in runs if run["method"] == cell["method"]]
        comparison = ["-", "-", "-"]
        if cell["minus_standard"]:
            p_values = [float(cell[f"{name}_holm"]) for name in ("p_bootstrap", "p_seeds")]
            comparison = [f"{float(cell['minus_standard']):+.2f}", *(f"{p:.3f}" for p in p_values)]
        measures = [over_runs(of_method, column) for column in ("bleu_lowercased", "chrf", "valid_nll", "train_nll")]
        row = [f"`{cell['method']}`", cell["seeds"], over_runs(of_method, "bleu"), *comparison, *measures]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def variants(folder: str, head: str, forms: Mapping[str, str]) -> str:
    """Forms of training, TABLE/METHOD, by what stands in the first column: means over seeds 1 to 3."""
    lines = [f"| {head} | BLEU, test_2016 | BLEU, test_2017 | validation nll | training nll |", "|---" * 5 + "|"]
    for name, form in forms.items():
        table, _, method = form.partition("/")
        runs = [run for run in read_rows(f"results/{folder}/{table}.csv") if run["seed"] in ("1", "2", "3")]
        lines.append(f"| {name} | {on_both_tests([run for run in runs if run['method'] == method])} |")
    return "\n".join(lines)


def on_both_tests(runs: list[dict[str, str]]) -> str:
    """The cells of a row: BLEU on either test set, and the losses."""
    first, second = ([run for run in runs if run["test"] == test] for test in ("test_2016_flickr", "test_2017_flickr"))
    measured = [(first, "bleu"), (second, "bleu"), (first, "valid_nll"), (first, "train_nll")]
    return " | ".join(over_runs(of_test, column) for of_test, column in measured)


def freezing(table: str) -> str:
    """A row for each learning rate, depth and method: means over the seeds."""
    runs = read_rows(f"results/{table}.csv")
    lines = [
        "| learning rate | layers | method | BLEU, test_2016 | BLEU, test_2017 | validation nll | training nll |",
        "|---" * 7 + "|",
    ]
    for changed, method in dict.fromkeys((run["changed"], run["method"]) for run in runs):
        settings = dict(assignment.split("=") for assignment in changed.split())
        head = [settings["optimization.lr"].strip("[]"), settings["model.encoder.layers"], f"`{method}`"]
        of_row = [run for run in runs if (run["changed"], run["method"]) == (changed, method)]
        lines.append(f"| {' | '.join(head)} | {on_both_tests(of_row)} |")
    return "\n".join(lines)


def balance(folder: str) -> str:
    """How evenly sensitivity is spread: a row for each method, means over its checkpoints, from `wff sensitivity`."""
    rows = read_rows(f"results/{folder}/balance.csv")
    columns = {"mean": "mean", "standard deviation": "std", "deviation / mean": "std_over_mean", "Gini": "gini"}
    columns["share of the top 20 %"] = "share_top20"
    lines = [f"| method | checkpoints | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    methods = [row["checkpoint"].rpartition("-")[0] for row in rows]
    for method in dict.fromkeys(methods):
        of_method = [row for row, name in zip(rows, methods, strict=True) if name == method]
        means = (statistics.mean(float(row[column]) for row in of_method) for column in columns.values())
        lines.append(f"| `{method}` | {len(of_method)} | {' | '.join(f'{mean:.3g}' for mean in means)} |")
    return "\n".join(lines)


def pruned(folder: str) -> str:
    """BLEU of pruned models: a row for each share of the weights, a column for each checkpoint, from `wff prune`."""
    rows = read_rows(f"results/{folder}/pruning.csv")
    checkpoints = list(dict.fromkeys(row["checkpoint"] for row in rows))
    lines = [f"| pruned | {' | '.join(f'`{name}`' for name in checkpoints)} |", "|---" * (1 + len(checkpoints)) + "|"]
    for fraction in dict.fromkeys(row["fraction"] for row in rows):
        bleu = {row["checkpoint"]: float(row["bleu"]) for row in rows if row["fraction"] == fraction}
        lines.append(f"| {float(fraction):.0%} | {' | '.join(f'{bleu[name]:.2f}' for name in checkpoints)} |")
    return "\n".join(lines)


def zero_shot(folder: str, tuned: bool) -> dict[str, dict[str, list[float]]]:
    """BLEU by alignment (or `parent`), sparsity and seed: on the tuned pair, or the mean over the others."""
    bleu: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in read_rows(f"results/{folder}/table.csv"):
        if (row["pair"] == row["tuned"]) == tuned:
            name = row["prune"] if row["prune"] == "parent" else row["alignreg"]
            seeds = bleu.setdefault(name, {}).setdefault(f"{float(row['sparsity']):.0%}", {})
            seeds.setdefault(row["seed"], []).append(float(row["bleu"]))
    return {
        name: {share: [statistics.mean(pairs) for pairs in seeds.values()] for share, seeds in by_share.items()}
        for name, by_share in bleu.items()
    }


def zero_shot_scores(folder: str, tuned: bool) -> str:
    """A row for each alignment, a column for each sparsity: means over the seeds."""
    bleu = zero_shot(folder, tuned)
    ((start, parent),) = bleu.pop("parent").items()
    shares = list(bleu["none"])
    cells = {f"`{name}`": [with_deviation(by_share[share]) for share in shares] for name, by_share in bleu.items()}
    cells = {"before tuning": [with_deviation(parent) if share == start else "-" for share in shares]} | cells
    return _by_share("alignment", shares, cells)


def zero_shot_gains(folder: str) -> str:
    """What each alignment adds on the pairs that were not tuned on, with the p-value over seeds, corrected by Holm."""
    bleu = zero_shot(folder, tuned=False)
    kept = {name: by_share for name, by_share in bleu.items() if name not in ("parent", "none")}
    tests = {(name, share): seed_p_value(bleu["none"][share], of) for name in kept for share, of in kept[name].items()}
    p_values = dict(zip(tests, holm([p for p in tests.values() if p is not None]), strict=True))
    cells = {
        f"`{name}`": [
            f"{statistics.mean(of) - statistics.mean(bleu['none'][share]):+.2f} ({p_values[name, share]:.3f})"
            for share, of in by_share.items()
        ]
        for name, by_share in kept.items()
    }
    return _by_share("minus `none` (p seeds)", list(bleu["none"]), cells)


def _by_share(head: str, shares: list[str], cells: Mapping[str, list[str]]) -> str:
    lines = [f"| {head} | {' | '.join(f'{share} pruned' for share in shares)} |", "|---" * (1 + len(shares)) + "|"]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(row)} |" for name, row in cells.items())])


def with_quartiles(row: Mapping[str, str], median: str, low: str, high: str, factor: float = 1) -> str:
    middle, lower, upper = (factor * float(row[name]) for name in (median, low, high))
    return f"{middle:.2f} [{lower:.2f}, {upper:.2f}]"


COST_COLUMNS: Mapping[str, Callable[[Mapping[str, str]], str]] = {
    "update time": lambda row: with_quartiles(row, "time_ratio", "time_low", "time_high"),
    "by count": lambda row: f"{float(row['bound_ratio']):.3f}",
    "step": lambda row: f"{float(row['step_ratio']):.2f}",
    "on top, % of an update": lambda row: with_quartiles(
        row, "step_share_added", "step_share_low", "step_share_high", 100
    ),
    "peak memory": lambda row: f"{float(row['memory_ratio']):.3f}",
    "transient": lambda row: f"{float(row['transient_ratio']):.3f}",
    "state, bytes": lambda row: f"{int(row['state_bytes']):,}",
}


def size_of(row: Mapping[str, str]) -> str:
    return f"{row['size'].partition(',')[0]} ({int(row['parameters']) / 1e6:.1f} M)"


def costs(table: str, *columns: str) -> str:
    """A row for each size and method of benchmarks/cpu."""
    lines = [f"| size | method | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    for row in read_rows(f"benchmarks/cpu/{table}/bench.csv"):
        if row["method"] != "standard":
            cells = [size_of(row), f"`{row['method']}`", *(COST_COLUMNS[column](row) for column in columns)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def growth(table: str, second: str) -> str:
    """A row for each method, a column for each size or value of benchmarks/cpu; cells: update time, column `second`."""
    rows = read_rows(f"benchmarks/cpu/{table}/bench.csv")
    heads = {row["size"]: f"{row['varied']} = {int(row['value']):,}" if row["varied"] else size_of(row) for row in rows}
    lines = [f"| time, {second} | {' | '.join(heads.values())} |", "|---" * (1 + len(heads)) + "|"]
    for method in dict.fromkeys(row["method"] for row in rows if row["method"] != "standard"):
        cells = [
            f"{COST_COLUMNS['update time'](row)}, {COST_COLUMNS[second](row)}"
            for row in rows
            if row["method"] == method
        ]
        lines.append(f"| `{method}` | {' | '.join(cells)} |")
    return "\n".join(lines)


TABLES: Mapping[str, Callable[[], str]] = {
    "tuning lowresource-3000": lambda: tuning("lowresource-3000"),
    **{
        f"scores {folder} {test}": lambda folder=folder, test=test: scores(folder, f"{test}_flickr")
        for folder in ("lowresource-3000", "lowresource-10000", "multi30k")
        for test in ("test_2016", "test_2017")
    },
    "passes lowresource-3000": lambda: variants(
        "lowresource-3000",
        "K",
        {
            "1 (`standard`)": "scores/standard",
            "2": "scores/intra_distillation_2",
            "3": "scores/intra_distillation",
            "4": "scores/intra_distillation_4",
            "5": "scores/intra_distillation_5",
        },
    ),
    "longer lowresource-3000": lambda: variants(
        "lowresource-3000",
        "training",
        {
            "`standard`, 1,000 updates": "scores/standard",
            "`standard`, 3,000 updates": "longer/standard",
            "`intra_distillation`, 1,000 updates of three passes": "scores/intra_distillation",
        },
    ),
    "alpha lowresource-3000": lambda: variants(
        "lowresource-3000",
        "alpha",
        {
            "0 (`standard`)": "scores/standard",
            "1": "scores/intra_distillation",
            "adaptive, up to 5": "scores/intra_distillation_adaptive",
            "5": "scores/intra_distillation_constant",
        },
    ),
    "freezing lowresource-3000": lambda: freezing("lowresource-3000/freezing"),
    "balance lowresource-3000": lambda: balance("lowresource-3000"),
    "pruned lowresource-3000": lambda: pruned("lowresource-3000"),
    "zero-shot tuned": lambda: zero_shot_scores("zero-shot", tuned=True),
    "zero-shot others": lambda: zero_shot_scores("zero-shot", tuned=False),
    "zero-shot gains": lambda: zero_shot_gains("zero-shot"),
    "costs quick": lambda: costs(
        "quick", "update time", "by count", "step", "peak memory", "transient", "state, bytes"
    ),
    "costs steps": lambda: costs("steps", "step", "on top, % of an update", "by count", "peak memory", "state, bytes"),
    "costs modes": lambda: costs("modes", "update time", "by count", "transient"),
    "costs pruning": lambda: costs("pruning", "update time", "by count", "peak memory", "state, bytes"),
    "costs memory": lambda: costs("memory", "update time", "peak memory", "state, bytes"),
    "costs batch": lambda: growth("batch", "peak memory"),
    "costs parameters": lambda: growth("parameters", "peak memory"),
    "costs passes": lambda: growth("passes", "peak memory"),
    "costs vocabulary": lambda: growth("vocabulary", "transient"),
    "costs processes": lambda: growth("processes", "peak memory"),
}
